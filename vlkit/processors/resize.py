"""Any picture as a square of uint8 pixels: crop and antialiased bicubic resize, exactly as PIL or faster.

``"pil"`` decodes and resizes with Pillow. ``"fast"`` decodes with torchvision and resizes tensors: within 2
grey levels of Pillow, far less on average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from vlkit.errors import BadSample, ConfigError, did_you_mean
from vlkit.processors.open_image import (
    MAX_PIXELS,
    ImageSource,
    check_size,
    describe,
    header,
    open_image,
    orientation,
    read_bytes,
)

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


def square(source: ImageSource, size: int, method: str, choose_box: ChooseBox | None = None) -> np.ndarray:
    """``source``, or the part of it that ``choose_box`` picks, resized to ``size`` x ``size``.

    Args:
        source: what :func:`~vlkit.processors.open_image.open_image` takes.
        size: pixels a side.
        method: "pil" or "fast".
        choose_box: gives (top, left, height, width) for a height and width in pixels.

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
    return _square_fast(source, size, choose_box) if method == "fast" else _square_pil(source, size, choose_box)


def _always(box: Box) -> ChooseBox:
    return lambda height, width: box


def _square_pil(source: ImageSource, size: int, choose_box: ChooseBox | None) -> np.ndarray:
    image = open_image(source)
    if choose_box is not None:
        top, left, height, width = choose_box(image.height, image.width)
        # Cropped first: with resize(box=...), pixels around the box would shine in.
        image = image.crop((left, top, left + width, top + height))
    # Width first, as Pillow 12 and before (and the original) do it. From Pillow 13 on, a single call starts with the
    # height of tall images, which moves sharp edges by up to 26 grey levels.
    for shape in ((size, image.height), (size, size)):
        image = image.resize(shape, Image.Resampling.BICUBIC)
    return np.array(image)


def _square_fast(source: ImageSource, size: int, choose_box: ChooseBox | None) -> np.ndarray:
    import torch
    from torch.nn.functional import interpolate

    image = open_tensor(source)
    if choose_box is not None:
        top, left, height, width = choose_box(image.shape[1], image.shape[2])
        image = image[:, top : top + height, left : left + width]
    if tuple(image.shape[1:]) != (size, size):
        # Pixels whose channels lie together, without gaps between rows, are resized twice as fast as planes.
        pixels = image[None].contiguous(memory_format=torch.channels_last)
        image = interpolate(pixels, (size, size), mode="bicubic", antialias=True)[0]
    return image.permute(1, 2, 0).contiguous().numpy()


def open_tensor(source: ImageSource) -> Tensor:
    """``source`` as a uint8 tensor [3, H, W], decoded by torchvision where that gives what
    :func:`~vlkit.processors.open_image.open_image` would: JPEG and PNG, upright, RGB, 8 bits, not animated.

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
        encoded = read_bytes(source)
        decoded = _decode(encoded, describe(source))
        if decoded is not None:
            return decoded
    try:
        return torch.from_numpy(np.array(open_image(encoded))).permute(2, 0, 1)
    except BadSample as error:
        raise BadSample(describe(source), error.reason) from error


def _decode(data: bytes, name: str) -> Tensor | None:
    """The picture, or None: leave it to Pillow, which knows more formats and says better what is wrong."""
    import torch
    from torchvision.io import decode_jpeg, decode_png

    try:
        image = header(data)
    except Exception:
        return None
    plain = image.mode == "RGB" and "transparency" not in image.info and orientation(image) == 1
    if not plain or image.format not in ("JPEG", "PNG") or getattr(image, "is_animated", False):
        return None
    check_size(image, name, MAX_PIXELS)
    decode = decode_jpeg if image.format == "JPEG" else decode_png
    try:
        decoded = decode(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    except RuntimeError:
        return None
    return decoded if decoded.dtype == torch.uint8 and decoded.shape[0] == 3 else None


def random_box(
    height: int, width: int, scale: Sequence[float], ratio: Sequence[float], rng: np.random.Generator
) -> Box:
    """A random part of an image, as torchvision's RandomResizedCrop chooses it.

    Args:
        height, width: of the image, in pixels.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width / height; drawn evenly on a log scale.
        rng: draws up to ten candidates; if none fits, the largest allowed part in the centre is taken.

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
