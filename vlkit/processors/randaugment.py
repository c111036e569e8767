"""RandAugment as BLIP trains with: operations on uint8 RGB arrays, and the random choice of them.

``OPERATIONS`` maps a name to ``function(image, *arguments)``, which leaves ``image`` as it is;
:func:`arguments` turns a level into arguments. With ``original=True`` the mistakes of the original code are
reproduced: AutoContrast blots out each channel without a black pixel, Color and Contrast weigh red as blue,
Sharpness wraps around beyond 0..255.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vlkit.errors import ConfigError, did_you_mean
from vlkit.processors.warp import rotation, warp_affine

Fill = Sequence[int]
Rng = np.random.Generator | np.random.RandomState

MAX_LEVEL = 10
FILL = (128, 128, 128)
BLIP_AUGS = (
    "Identity",
    "AutoContrast",
    "Brightness",
    "Sharpness",
    "Equalize",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
)

_LUMA_RGB = (0.299, 0.587, 0.114)  # ITU-R 601
_BLACK = (0, 0, 0)


def _luma(original: bool) -> tuple[float, ...]:
    return _LUMA_RGB[::-1] if original else _LUMA_RGB


def value_counts(image: np.ndarray) -> np.ndarray:
    """Count how often each value occurs in each channel, int64 [3, 256].

    Args:
        image: uint8 [H, W, 3].
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.array(picture.histogram(), dtype=np.int64).reshape(3, 256)


def apply_tables(image: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Replace every value by the entry of its table.

    Args:
        image: uint8 [H, W, 3].
        tables: [256] for all channels, or [3, 256]; cut off to 0..255, fractions dropped.

    Returns:
        uint8 [H, W, 3], in memory channel after channel where their tables differ; ``image`` itself where no table
        changes a value.
    """
    tables = tables.clip(0, 255).astype(np.uint8)
    if (tables == np.arange(256)).all():
        return image
    if tables.ndim == 1:
        return _translated(image, tables)
    planes = np.empty((3, *image.shape[:2]), np.uint8)
    for channel, table in enumerate(tables):
        planes[channel] = _translated(image[..., channel], table)
    return planes.transpose(1, 2, 0)


def _translated(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    found = bytearray(values.tobytes()).translate(table.tobytes())
    return np.frombuffer(found, np.uint8).reshape(values.shape)


def identity(image: np.ndarray) -> np.ndarray:
    """Return the image itself."""
    return image


def auto_contrast(image: np.ndarray, cutoff: float = 0, *, original: bool = False) -> np.ndarray:
    """Stretch each channel to 0..255.

    Args:
        image: uint8 [H, W, 3].
        cutoff: percent of a channel's darkest and of its brightest pixels that may saturate.
        original: a channel whose minimum is above 0 turns 255 everywhere (when nothing is cut off).
    """
    cut = int(cutoff * image.shape[0] * image.shape[1] // 100)
    if cut:
        counts = value_counts(image)
        low = np.argmax(np.cumsum(counts, axis=1) > cut, axis=1)
        high = 255 - np.argmax(np.cumsum(counts[:, ::-1], axis=1) > cut, axis=1)
    else:
        channels = [image[..., i] for i in range(3)]
        low, high = (np.array([int(find(each)) for each in channels]) for find in (np.min, np.max))
    return apply_tables(image, np.stack([_stretch(*ends, original and not cut) for ends in zip(low, high)]))


def _stretch(low: int, high: int, original: bool) -> np.ndarray:
    """Return the table that maps ``low`` to 0 and ``high`` to 255."""
    values = np.arange(256)
    if high <= low:
        return values
    scale = 255 / (high - low)
    # The original negates an unsigned byte, so that -low becomes 256 - low.
    offset = (256 - low) % 256 * scale if original else -low * scale
    return values * scale + offset


def equalize(image: np.ndarray) -> np.ndarray:
    """Flatten the histogram of each channel."""
    return apply_tables(image, np.stack([_flatten(count) for count in value_counts(image)]))


def _flatten(count: np.ndarray) -> np.ndarray:
    """Return the table for a channel whose values occur ``count`` times."""
    total = np.cumsum(count)
    step = int(total[-1] - count[np.flatnonzero(count)[-1]]) // 255
    return (step // 2 + total - count) // step if step else np.arange(256)


def solarize(image: np.ndarray, threshold: int = 128) -> np.ndarray:
    """Invert the values from ``threshold`` (0..256) on."""
    values = np.arange(256)
    return apply_tables(image, np.where(values < threshold, values, 255 - values))


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keep the ``bits`` (0..8) highest bits of each value."""
    return image & np.uint8(0xFF << (8 - bits) & 0xFF)


def color(image: np.ndarray, factor: float, *, original: bool = False) -> np.ndarray:
    """Blend with the gray image: 0 is gray, 1 the image, above 1 more colorful.

    Args:
        image: uint8 [H, W, 3].
        factor: at least 0.
        original: the gray image has the weights of red and blue exchanged.
    """
    luma = np.array(_luma(original), dtype=np.float32)[:, None]
    mix = (np.eye(3, dtype=np.float32) - luma) * np.float32(factor) + luma
    return np.matmul(image.astype(np.float32), mix).clip(0, 255).astype(np.uint8)


def contrast(image: np.ndarray, factor: float, *, original: bool = False) -> np.ndarray:
    """Blend with the image's mean gray: 0 is gray, 1 the image, above 1 more contrast.

    Args:
        image: uint8 [H, W, 3].
        factor: at least 0.
        original: the mean has the weights of red and blue exchanged.
    """
    means = value_counts(image) @ np.arange(256) / (image.shape[0] * image.shape[1])
    mean = np.sum(means * np.array(_luma(original)))
    return apply_tables(image, (np.arange(256) - mean) * factor + mean)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply every value: 0 is black, 1 the image."""
    return apply_tables(image, np.arange(256, dtype=np.float32) * np.float32(factor))


def sharpness(image: np.ndarray, factor: float, *, original: bool = False) -> np.ndarray:
    """Blend with a smoothed image: 0 is smooth, 1 the image, above 1 sharper. Border pixels change at 0 only.

    Args:
        image: uint8 [H, W, 3].
        factor: at least 0.
        original: values beyond 0..255 wrap around instead of being clipped.
    """
    if factor == 1.0:
        return image
    smooth = _smooth(image)
    if factor == 0.0:
        return smooth
    inside = (slice(1, -1), slice(1, -1))
    base = smooth[inside].astype(np.float32)
    blend = base + np.float32(factor) * (image[inside].astype(np.float32) - base)
    if not original:
        blend = blend.clip(0, 255)
    out = image.copy()
    out[inside] = blend.astype(np.int32).astype(np.uint8)
    return out


def _smooth(image: np.ndarray) -> np.ndarray:
    """Average each pixel (weight 5) with its eight neighbors (weight 1), mirrored at the border."""
    height, width = image.shape[:2]
    mode: Any = "reflect" if min(height, width) > 1 else "edge"
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode=mode).astype(np.uint16)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * padded[1:-1, 1:-1]
    return ((2 * total + 13) // 26).astype(np.uint8)


def rotate(image: np.ndarray, degrees: float, fill: Fill = _BLACK) -> np.ndarray:
    """Turn counter-clockwise about the center."""
    return warp_affine(image, rotation(degrees, *image.shape[:2]), fill)


def shear_x(image: np.ndarray, factor: float, fill: Fill = _BLACK) -> np.ndarray:
    """Move each row right by ``factor`` times its index."""
    return warp_affine(image, ((1, float(np.float32(factor)), 0), (0, 1, 0)), fill)


def shear_y(image: np.ndarray, factor: float, fill: Fill = _BLACK) -> np.ndarray:
    """Move each column down by ``factor`` times its index."""
    return warp_affine(image, ((1, 0, 0), (float(np.float32(factor)), 1, 0)), fill)


def translate_x(image: np.ndarray, offset: float, fill: Fill = _BLACK) -> np.ndarray:
    """Move left by ``offset`` pixels."""
    return warp_affine(image, ((1, 0, -float(np.float32(offset))), (0, 1, 0)), fill)


def translate_y(image: np.ndarray, offset: float, fill: Fill = _BLACK) -> np.ndarray:
    """Move up by ``offset`` pixels."""
    return warp_affine(image, ((1, 0, 0), (0, 1, -float(np.float32(offset)))), fill)


OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    "Identity": identity,
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Rotate": rotate,
    "Solarize": solarize,
    "Color": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": shear_x,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Posterize": posterize,
    "ShearY": shear_y,
}

# What an operation does at the highest level.
_ENHANCE = {"Color", "Contrast", "Brightness", "Sharpness"}
_GEOMETRIC = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateX": 10.0, "TranslateY": 10.0}
_WHOLE = {"Solarize": 256, "Posterize": 4}
_HAS_ORIGINAL = {"AutoContrast", "Color", "Contrast", "Sharpness"}


def arguments(name: str, level: float, rng: Rng) -> tuple[Any, ...]:
    """Return the arguments of operation ``name`` at ``level``.

    Args:
        name: a key of ``OPERATIONS``.
        level: 0..10.
        rng: draws the direction of rotations, shears and translations (one number; the others draw none).
    """
    share = level / MAX_LEVEL
    if name in _ENHANCE:
        return (share * 1.8 + 0.1,)
    if name in _WHOLE:
        return (int(share * _WHOLE[name]),)
    if name in _GEOMETRIC:
        amount, draw = share * _GEOMETRIC[name], rng.random()
        # Rotations are negative for small draws, the others for large ones: so seeds agree with the original.
        negative = draw < 0.5 if name == "Rotate" else draw > 0.5
        return (-amount if negative else amount, FILL)
    return ()


def operate(name: str, image: np.ndarray, *args: Any, original: bool = False) -> np.ndarray:
    """Apply operation ``name``; ``original`` is passed to the operations that have it."""
    options = {"original": True} if original and name in _HAS_ORIGINAL else {}
    return OPERATIONS[name](image, *args, **options)


class RandomAugment:
    """Apply a few randomly chosen operations, each left out with probability one half.

    Args:
        n: operations drawn per image, with replacement.
        level: strength, 0..10.
        augs: names to draw from (default: all of ``OPERATIONS``).
        original: reproduce the mistakes of the original code.

    Raises:
        ConfigError: a name is unknown, or a number out of range.
    """

    def __init__(self, n: int = 2, level: float = 5, augs: Sequence[str] = (), original: bool = False):
        self.n, self.level, self.original = n, level, original
        self.augs = tuple(augs) or tuple(OPERATIONS)
        problems = [
            f"augs: no operation is named {name!r}.{did_you_mean(name, OPERATIONS)} Known: {', '.join(OPERATIONS)}."
            for name in self.augs
            if name not in OPERATIONS
        ]
        if n < 0:
            problems.append(f"n: {n} operations per image; it must be 0 or more.")
        if not 0 <= level <= MAX_LEVEL:
            problems.append(f"level: {level}; it must lie between 0 and {MAX_LEVEL}.")
        if problems:
            raise ConfigError(problems)

    def draw(self, rng: Rng) -> list[tuple[Any, ...]]:
        """Draw the operations of one image, as (name, \\*arguments), without those left out.

        The draws come in the order of the original: all names, then per name whether it is left out and,
        unless it is, its direction. A ``RandomState`` therefore repeats the original after ``numpy.random.seed``.
        """
        drawn = []
        for index in rng.choice(len(self.augs), self.n):
            if rng.random() > 0.5:
                continue
            name = self.augs[index]
            drawn.append((name, *arguments(name, self.level, rng)))
        return drawn

    def __call__(self, image: np.ndarray, rng: Rng) -> np.ndarray:
        """Return an augmented copy of ``image`` (uint8 [H, W, 3]), or ``image`` itself where nothing changes."""
        for name, *args in self.draw(rng):
            image = operate(name, image, *args, original=self.original)
        return image
