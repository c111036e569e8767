"""Convert videos to stacks of frames for image models. Paper: 5.6."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from vlkit.errors import BadSample, ConfigError, did_you_mean
from vlkit.processors.encoded import MAX_PIXELS
from vlkit.processors.image import MEAN, STD, Normalize, check_pixels
from vlkit.processors.open_image import ImageSource, describe
from vlkit.processors.resize import METHODS, square
from vlkit.processors.video_decoding import check_sampling, frame_indices
from vlkit.processors.video_reader import read_video
from vlkit.registry import PROCESSORS
from vlkit.registry.bounds import Frames, Pixels, Side, Statistic

VideoSource: TypeAlias = "str | os.PathLike[str] | Sequence[ImageSource] | np.ndarray"

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
RESIZES = (*METHODS, "decoder")


def sample_frames(
    source: VideoSource, frames: int, sampling: str = "even", size: int | None = None
) -> list[ImageSource]:
    """Choose frames of a video.

    Args:
        source: a video file; a folder of images, in the order of their names (2 before 10); a list of images; or a
            uint8 array [F, H, W, 3].
        frames, sampling: see :func:`~vlkit.processors.video_decoding.frame_indices`.
        size: pixels a side to which the decoder scales frames of a video file; None: as they are.

    Returns:
        ``frames`` images that an image processor takes.

    Raises:
        BadSample: there are no frames.
        ConfigError: an argument is out of range.
        MissingDependency: a video file, and nothing is installed that decodes it.
    """
    check_sampling(frames, sampling)
    if isinstance(source, (str, os.PathLike)):
        if not os.path.isdir(source):
            return list(read_video(source, frames, sampling, size))
        images: Any = frame_files(source)
        name = os.fspath(source)
    else:
        images, name = source, "video"
        if not isinstance(source, (list, tuple)) and getattr(source, "ndim", 0) != 4:
            raise BadSample(describe(source), "not a video: give a path, a list of images or an array [F, H, W, 3]")
    if len(images) == 0:
        raise BadSample(name, "it has no frames")
    return [images[i] for i in frame_indices(len(images), frames, sampling)]


def frame_files(folder: str | os.PathLike[str]) -> list[str]:
    """List the image files in ``folder``, ordered by name, numbers in names by their value."""
    names = [name for name in os.listdir(folder) if name.lower().endswith(FRAME_SUFFIXES)]
    return [str(Path(folder) / name) for name in sorted(names, key=_natural)]


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def stack_frames(frames: Sequence[ImageSource], image_processor: Any, rng: np.random.Generator) -> Tensor:
    """[F, 3, S, S]: each frame through an image processor, which crops and augments all frames alike.

    Args:
        frames: F images.
        image_processor: called with (image, generator).
        rng: one draw is taken from it.
    """
    seed = int(rng.integers(2**63))
    return torch.stack([image_processor(frame, np.random.default_rng(seed)) for frame in frames])


def original_norm(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalize a clip as the original does: pixels are divided by 255 only if one of them is above 1, so an all but
    black clip comes out as if it were bright.

    Args:
        pixels: uint8 or floats on the scale 0..255 [F, 3, H, W].
        mean, std: [3, 1, 1] on the scale 0..1.
    """
    floats = pixels.float()
    return (floats / 255 if bool((floats > 1).any()) else floats).sub(mean).div(std)


@PROCESSORS.register("blip_video_eval")
class BlipVideoEval:
    """Resize frames of a video to squares and normalize them as images.

    Args:
        frames: per video. Paper: 8 for retrieval, 16 for questions.
        image_size: pixels a side.
        mean, std: one number per channel, or one for all, on the scale 0..1.
        resize: "pil" is exact, "fast" stays within 2 gray levels of it; "decoder" has a video's decoder scale the
            frames, as the original does.
        sampling: "even" takes the middles of equal parts, "original" follows the original; see
            :func:`~vlkit.processors.video_decoding.frame_indices`.
        norm_original: do not divide by 255 where all pixels of a clip are 0 or 1, as the original.
        max_pixels: image files and frames of video files of more are refused.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        frames: Frames = 8,
        image_size: Side = 384,
        mean: Statistic | Sequence[Statistic] = MEAN,
        std: Statistic | Sequence[Statistic] = STD,
        resize: Literal["pil", "fast", "decoder"] = "pil",
        sampling: Literal["even", "original"] = "even",
        norm_original: bool = False,
        max_pixels: Pixels = MAX_PIXELS,
    ):
        check_sampling(frames, sampling)
        problems = check_pixels(image_size, max_pixels)
        if resize not in RESIZES:
            problems.append(f"resize: {resize!r}; {', '.join(RESIZES)} allowed.{did_you_mean(resize, RESIZES)}")
        if problems:
            raise ConfigError(problems)
        self.frames, self.image_size, self.sampling = frames, image_size, sampling
        self.resize, self.norm_original, self.max_pixels = resize, norm_original, max_pixels
        self.normalize = Normalize(mean, std)

    def __call__(self, video: VideoSource, rng: np.random.Generator | None = None) -> Tensor:
        """float32 [frames, 3, image_size, image_size] of what :func:`sample_frames` takes. ``rng`` is not used.

        Raises:
            BadSample: the video cannot be used.
        """
        by_decoder = self.resize == "decoder"
        found = sample_frames(video, self.frames, self.sampling, self.image_size if by_decoder else None)
        resize = "pil" if by_decoder else self.resize
        pixels = [square(frame, self.image_size, resize, max_pixels=self.max_pixels) for frame in found]
        if not self.norm_original:
            return torch.stack([self.normalize(each) for each in pixels])
        clip = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        return original_norm(clip, self.normalize.mean, self.normalize.std).contiguous()
