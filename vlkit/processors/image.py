"""The image transforms of BLIP: from any picture to a normalized tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vlkit.errors import ConfigError
from vlkit.processors.encoded import MAX_PIXELS
from vlkit.processors.open_image import ImageSource
from vlkit.processors.randaugment import BLIP_AUGS, RandomAugment
from vlkit.processors.resize import Box, check_method, random_box, square
from vlkit.registry import PROCESSORS
from vlkit.registry.bounds import Pixels, Positive, Side, Statistic, UnitInterval

# The statistics of CLIP's training images.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Normalize:
    """uint8 pixels to a float tensor: divided by 255, minus ``mean``, divided by ``std``.

    Args:
        mean, std: one number per channel, or one for all, on the scale 0..1.

    Raises:
        ConfigError: another count of numbers, or ``std`` not above 0.
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]):
        self.mean, self.std = _per_channel("mean", mean), _per_channel("std", std)
        if not bool((self.std > 0).all()):
            raise ConfigError(f"std: {std}; every number must be above 0.")

    def __call__(self, pixels: np.ndarray) -> Tensor:
        """float32 [3, H, W] from uint8 [H, W, 3]."""
        tensor = _as_tensor(pixels).permute(2, 0, 1)
        # Bytes are rearranged and then converted: a fifth faster than both at once.
        return tensor.contiguous().float().div_(255).sub_(self.mean).div_(self.std)


def _as_tensor(pixels: np.ndarray) -> Tensor:
    """Return the same values as a tensor, without a copy where torch allows it."""
    if not pixels.flags.writeable or any(stride < 0 for stride in pixels.strides):
        pixels = pixels.copy()
    return torch.from_numpy(pixels)


def _per_channel(name: str, value: float | Sequence[float]) -> Tensor:
    # On the CPU also where a model is being built on the meta device, with its processor.
    numbers = torch.as_tensor(value, dtype=torch.float32, device="cpu").reshape(-1, 1, 1)
    if len(numbers) not in (1, 3):
        raise ConfigError(f"{name}: {value}; give one number, or three for red, green and blue.")
    return numbers


def _check_range(name: str, low: float, high: float, most: float = float("inf")) -> list[str]:
    if 0 < low <= high <= most:
        return []
    bound = "" if most == float("inf") else f" and not above {most:g}"
    return [f"{name}: from {low} to {high}; both must be above 0{bound}, the smaller one first."]


def check_pixels(image_size: int, max_pixels: int) -> list[str]:
    """List the errors of these two arguments of an image processor."""
    problems = [] if image_size >= 1 else [f"image_size: {image_size} pixels; it must be 1 or more."]
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        problems.append(f"max_pixels: {max_pixels}; give a whole number of pixels, 1 or more (default: {MAX_PIXELS}).")
    return problems


@PROCESSORS.register("blip_image_eval")
class BlipImageEval:
    """Resize to a square (bicubic, the aspect ratio is not kept) and normalize.

    Args:
        image_size: pixels a side.
        mean, std: one number per channel, or one for all, on the scale 0..1.
        resize: "pil" is exact; "fast" stays within 2 gray levels of it.
        max_pixels: image files of more are refused before they are decoded; see docs/datasets.md.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        image_size: Side = 384,
        mean: Statistic | Sequence[Statistic] = MEAN,
        std: Statistic | Sequence[Statistic] = STD,
        resize: Literal["pil", "fast"] = "pil",
        max_pixels: Pixels = MAX_PIXELS,
    ):
        check_method(resize)
        if problems := check_pixels(image_size, max_pixels):
            raise ConfigError(problems)
        self.image_size, self.resize, self.max_pixels = image_size, resize, max_pixels
        self.normalize = Normalize(mean, std)

    def __call__(self, image: ImageSource, rng: np.random.Generator | None = None) -> Tensor:
        """float32 [3, image_size, image_size]. ``rng`` is not used.

        Raises:
            BadSample: the picture cannot be used.
        """
        return self.normalize(square(image, self.image_size, self.resize, max_pixels=self.max_pixels))


@PROCESSORS.register("blip_image_train")
class BlipImageTrain:
    """Resize a random part to a square, flip it half of the time, augment and normalize. Paper: 4.1.

    Args:
        image_size: pixels a side.
        mean, std: one number per channel, or one for all, on the scale 0..1.
        min_scale, max_scale: smallest and largest share of the area that is kept.
        ratio: smallest and largest width / height of the part.
        flip: probability of a horizontal flip, 0..1.
        randaugment: apply two random operations at level 5, each with probability one half.
        randaugment_original: reproduce the mistakes of the original RandAugment.
        resize: "pil" is exact; "fast" stays within 2 gray levels of it.
        max_pixels: image files of more are refused before they are decoded; see docs/datasets.md.

    Raises:
        ConfigError: arguments are out of range.
    """

    def __init__(
        self,
        image_size: Side = 384,
        mean: Statistic | Sequence[Statistic] = MEAN,
        std: Statistic | Sequence[Statistic] = STD,
        min_scale: UnitInterval = 0.5,
        max_scale: UnitInterval = 1.0,
        ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3),
        flip: UnitInterval = 0.5,
        randaugment: bool = True,
        randaugment_original: bool = False,
        resize: Literal["pil", "fast"] = "pil",
        max_pixels: Pixels = MAX_PIXELS,
    ):
        check_method(resize)
        problems = check_pixels(image_size, max_pixels)
        problems += _check_range("min_scale, max_scale", min_scale, max_scale, 1)
        if len(ratio) != 2:
            problems.append(f"ratio: {ratio}; give the smallest and the largest width / height.")
        else:
            problems += _check_range("ratio", *ratio)
        if not 0 <= flip <= 1:
            problems.append(f"flip: {flip}; a probability lies between 0 and 1.")
        if problems:
            raise ConfigError(problems)
        self.image_size, self.resize, self.flip, self.max_pixels = image_size, resize, flip, max_pixels
        self.scale, self.ratio = (min_scale, max_scale), tuple(ratio)
        self.augment = RandomAugment(2, 5, BLIP_AUGS, original=randaugment_original) if randaugment else None
        self.normalize = Normalize(mean, std)

    def __call__(self, image: ImageSource, rng: np.random.Generator | None = None) -> Tensor:
        """float32 [3, image_size, image_size]; all randomness is drawn from ``rng`` (None: a fresh one).

        Raises:
            BadSample: the picture cannot be used.
        """
        rng = np.random.default_rng() if rng is None else rng

        def choose_box(height: int, width: int) -> Box:
            return random_box(height, width, self.scale, self.ratio, rng)

        pixels = square(image, self.image_size, self.resize, choose_box, self.max_pixels)
        if rng.random() < self.flip:
            pixels = _as_tensor(pixels).flip(1).numpy()
        if self.augment is not None:
            pixels = self.augment(pixels, rng)
        return self.normalize(pixels)
