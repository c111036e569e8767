"""Crop images and resize them to squares (antialiased bicubic), exactly as PIL or faster.

``"pil"`` decodes and resizes with Pillow. ``"fast"`` decodes JPEG with torchvision and resizes tensors: within 2
gray levels of Pillow, far less on average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from vlkit.errors import BadSample, ConfigError, did_you_mean
from vlkit.processors.encoded import MAX_PIXELS, jpeg_header
from vlkit.processors.open_image import ImageSource, describe, open_image, pillow_without_limits, read_bytes

if TYPE_CHECKING:
    from torch import Tensor

METHODS: tuple[Literal["pil", "fast"], ...] = ("pil", "fast")
Box = tuple[int, int, int, int]  # top, left, height, width
ChooseBox = Callable[[int, int], Box]


def check_method(method: str) -> None:
    """Raise ConfigError unless ``method`` is one of :data:`METHODS`."""
    if method not in METHODS:
        raise ConfigError(
            f"resize: {method!r} is not a way to resize; give 'pil' (exact) or 'fast'.{did_you_mean(method, METHODS)}"
        )


def square(
    source: ImageSource, size: int, method: str, choose_box: ChooseBox | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Resize ``source``, or the part of it that ``choose_box`` picks, to ``size`` x ``size``.

    Args:
        source: what :func:`~vlkit.processors.open_image.open_image` takes.
        size: pixels a side.
        method: "pil" or "fast".
        choose_box: gives (top, left, height, width) for a height and width in pixels.
        max_pixels: larger image files are refused.

    Returns:
        uint8 [size, size, 3]; ``source`` itself where nothing has to change.

    Raises:
        BadSample: the picture cannot be used.
    """
    if isinstance(source, np.ndarray) and source.dtype == np.uint8 and source.shape == (size, size, 3):
        box = choose_box(size, size) if choose_box else (0, 0, size, size)
        if box == (0, 0, size, size):
            return source
        choose_box = _always(box)
    if method == "fast":
        return _square_fast(open_tensor(source, max_pixels), size, choose_box)
    return _square_pil(open_image(source, max_pixels), size, choose_box)


def _always(box: Box) -> ChooseBox:
    return lambda height, width: box


def _square_pil(image: Image.Image, size: int, choose_box: ChooseBox | None) -> np.ndarray:
    if choose_box is not None:
        top, left, height, width = choose_box(image.height, image.width)
        # Cropped first: with resize(box=...), pixels around the box would shine in.
        with pillow_without_limits():
            image = image.crop((left, top, left + width, top + height))
    # Width first, as Pillow 12 and before (and the original) do it. From Pillow 13 on, a single call starts with the
    # height of tall images, which moves sharp edges by up to 26 gray levels.
    for shape in ((size, image.height), (size, size)):
        image = image.resize(shape, Image.Resampling.BICUBIC)
    return np.array(image)


def _square_fast(image: Tensor, size: int, choose_box: ChooseBox | None) -> np.ndarray:
    import torch
    from torch.nn.functional import interpolate

    if choose_box is not None:
        top, left, height, width = choose_box(image.shape[1], image.shape[2])
        image = image[:, top : top + height, left : left + width]
    if tuple(image.shape[1:]) != (size, size):
        # Pixels whose channels lie together, without gaps between rows, are resized twice as fast as planes.
        pixels = image[None].contiguous(memory_format=torch.channels_last)
        image = interpolate(pixels, (size, size), mode="bicubic", antialias=True)[0]
    return image.permute(1, 2, 0).contiguous().numpy()


def open_tensor(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Return ``source`` as a uint8 tensor [3, H, W], equal to :func:`~vlkit.processors.open_image.open_image`. JPEG
    is decoded by torchvision where that gives the same pixels: upright, RGB, 8 bits.

    Raises:
        BadSample: the picture cannot be used.
    """
    import torch

    if isinstance(source, np.ndarray) and source.dtype == np.uint8 and source.ndim == 3 and source.shape[2] == 3:
        if source.size == 0:
            raise BadSample(describe(source), "has no pixels")
        return torch.from_numpy(np.require(source, requirements=["C", "W"])).permute(2, 0, 1)
    encoded: ImageSource = source
    if not hasattr(source, "shape") and not isinstance(source, Image.Image):
        encoded = read_bytes(source, max_pixels)
        decoded = _decode_jpeg(encoded, describe(source), max_pixels)
        if decoded is not None:
            return decoded
    try:
        return torch.from_numpy(np.array(open_image(encoded, max_pixels))).permute(2, 0, 1)
    except BadSample as error:
        raise type(error)(describe(source), error.reason) from error


def _decode_jpeg(data: bytes, name: str, max_pixels: int) -> Tensor | None:
    """Decode a JPEG file; None leaves it to Pillow, which knows more formats and reports errors better. The other
    decoders of torchvision are not used: that for PNG crashes on some damaged files."""
    import torch
    from torchvision.io import decode_jpeg

    header = jpeg_header(data, name, max_pixels)
    if header is None or header.channels != 3 or header.bits != 8 or header.orientation != 1:
        return None
    try:
        decoded = decode_jpeg(torch.frombuffer(bytearray(header.data), dtype=torch.uint8))
    except (RuntimeError, MemoryError):
        return None
    return decoded if decoded.dtype == torch.uint8 and decoded.shape[0] == 3 else None


def random_box(
    height: int, width: int, scale: Sequence[float], ratio: Sequence[float], rng: np.random.Generator
) -> Box:
    """Choose a random part of an image, as torchvision's RandomResizedCrop chooses it.

    Args:
        height, width: of the image, in pixels.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width / height; drawn evenly on a log scale.
        rng: draws up to ten candidates; if none fits, the largest allowed part in the center is taken.

    Returns:
        (top, left, height, width).
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * rng.uniform(scale[0], scale[1])
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return int(top), int(left), h, w
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return (height - h) // 2, (width - w) // 2, h, w
