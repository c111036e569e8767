"""The training transform as BLIP's original code runs it: Pillow crops and resizes, numpy and OpenCV augment.

Written from its rules, operation by operation on the same calls of Pillow, numpy and OpenCV, so that its time is
the original's. What is drawn at random comes from ``vlkit``'s generator, in the order of ``vlkit``, so that both sides
do the same work and their outputs can be compared.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import PIL
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as transforms

from vlkit.processors.image import MEAN, STD
from vlkit.processors.randaugment import BLIP_AUGS, RandomAugment
from vlkit.processors.resize import random_box

Fill = Sequence[int]

NAME = f"original's transform, Pillow {PIL.__version__}, OpenCV {cv2.__version__}"


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Each channel stretched to 0..255 (with the wrap-around of the original: ``-low`` of an unsigned byte)."""
    return cv2.merge([_stretched(channel) for channel in cv2.split(image)])


def _stretched(channel: np.ndarray) -> np.ndarray:
    low, high = channel.min(), channel.max()
    if high <= low:
        table = np.arange(256)
    else:
        scale = 255 / (int(high) - int(low))
        with np.errstate(over="ignore"):
            offset = -low * scale  # of type uint8, as in the original
        table = np.arange(256) * scale + offset
    return table.clip(0, 255).astype(np.uint8)[channel]


def equalize(image: np.ndarray) -> np.ndarray:
    """The histogram of each channel flattened."""
    return cv2.merge([_flattened(channel) for channel in cv2.split(image)])


def _flattened(channel: np.ndarray) -> np.ndarray:
    count = cv2.calcHist([channel], [0], None, [256], [0, 256])
    occurring = count[count != 0].reshape(-1)
    step = np.sum(occurring[:-1]) // 255
    if step == 0:
        return channel
    shifted = np.empty_like(count)
    shifted[0], shifted[1:] = step // 2, count[:-1]
    table = (np.cumsum(shifted) // step).clip(0, 255).astype(np.uint8)
    return table[channel]


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Every value multiplied."""
    return (np.arange(256, dtype=np.float32) * factor).clip(0, 255).astype(np.uint8)[image]


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blended with the smoothed image, the border apart; values beyond 0..255 wrap around."""
    kernel = np.ones((3, 3), dtype=np.float32)
    kernel[1][1] = 5
    smooth = cv2.filter2D(image, -1, kernel / 13)
    if factor == 0.0:
        return smooth
    if factor == 1.0:
        return image
    out, base = image.astype(np.float32), smooth.astype(np.float32)[1:-1, 1:-1, :]
    out[1:-1, 1:-1, :] = base + factor * (out[1:-1, 1:-1, :] - base)
    return out.astype(np.int32).astype(np.uint8)


def rotate(image: np.ndarray, degrees: float, fill: Fill) -> np.ndarray:
    """Turned about the center."""
    height, width = image.shape[0], image.shape[1]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(image, matrix, (width, height), borderValue=fill)


def _moved(matrix: Callable[[float], Any]) -> Callable[..., np.ndarray]:
    def operation(image: np.ndarray, amount: float, fill: Fill) -> np.ndarray:
        size = (image.shape[1], image.shape[0])
        values = np.float32(matrix(amount))
        return cv2.warpAffine(image, values, size, borderValue=fill, flags=cv2.INTER_LINEAR).astype(np.uint8)

    return operation


OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    "Identity": lambda image: image,
    "AutoContrast": auto_contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "Equalize": equalize,
    "ShearX": _moved(lambda factor: [[1, factor, 0], [0, 1, 0]]),
    "ShearY": _moved(lambda factor: [[1, 0, 0], [factor, 1, 0]]),
    "TranslateX": _moved(lambda offset: [[1, 0, -offset], [0, 1, 0]]),
    "TranslateY": _moved(lambda offset: [[1, 0, 0], [0, 1, -offset]]),
    "Rotate": rotate,
}


class TrainTransform:
    """RandomResizedCrop, flip, RandomAugment(2, 5), ToTensor, Normalize.

    Args:
        size: pixels a side.
        randaugment: False leaves RandomAugment out.
    """

    def __init__(self, size: int = 224, randaugment: bool = True):
        self.size, self.augment = size, RandomAugment(2 if randaugment else 0, 5, BLIP_AUGS, original=True)

    def __call__(self, source: bytes | Image.Image, rng: np.random.Generator) -> Tensor:
        """float32 [3, size, size] of an encoded file, or of a decoded picture."""
        image = Image.open(io.BytesIO(source)).convert("RGB") if isinstance(source, bytes) else source
        top, left, height, width = random_box(image.height, image.width, (0.5, 1.0), (3 / 4, 4 / 3), rng)
        image = image.crop((left, top, left + width, top + height))
        # In two calls: one call did the width first until Pillow 13 began tall pictures with the height.
        for shape in ((self.size, height), (self.size, self.size)):
            image = image.resize(shape, Image.Resampling.BICUBIC)
        if rng.random() < 0.5:
            image = transforms.hflip(image)
        pixels = np.array(image)
        for name, *arguments in self.augment.draw(rng):
            pixels = OPERATIONS[name](pixels, *arguments)
        return transforms.normalize(transforms.to_tensor(pixels), MEAN, STD)
