"""Which forms pictures and videos may be passed in, and what each holds; nothing is opened here.

Shapes: ``B`` pictures or videos, ``F`` frames, ``S`` pixels a side of preprocessed pictures, ``H``, ``W`` of others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlkit.errors import VlkitError, redacted, shortened
from vlkit.processors.open_image import describe
from vlkit.processors.video import FRAME_SUFFIXES

Items: TypeAlias = "Tensor | list[Any]"
"""Preprocessed pictures [B, 3, S, S] (or videos [B, F, 3, S, S]), or a list with one item each."""

PICTURE = (
    "a PIL image, a path, the bytes of a file, a uint8 array [H, W, 3], a uint8 tensor [3, H, W], or a preprocessed "
    "float tensor [3, S, S] or [B, 3, S, S]; or a list of these"
)
VIDEO = (
    "a path, a list of frames, a uint8 array [F, H, W, 3], a uint8 tensor [F, 3, H, W], or a preprocessed float tensor "
    "[F, 3, S, S] or [B, F, 3, S, S]; or a list of these"
)
_CHANNELS = (1, 3, 4)


def pictures(given: Any, name: str) -> Items:
    """One or several pictures, not yet opened: a float tensor [B, 3, S, S], or a list of single pictures.

    Args:
        given: what :data:`PICTURE` says.
        name: of the argument, for messages.

    Raises:
        VlkitError: it is something else, or holds no picture.
    """
    if isinstance(given, np.ndarray) and given.ndim == 1 and given.dtype.kind in "OU":
        given = given.tolist()
    if torch.is_tensor(given):
        return _of_tensor(given, name)
    if isinstance(given, np.ndarray):
        return _of_array(given, name)
    if isinstance(given, (list, tuple)):
        return _not_empty([_single(item, f"{name}[{i}]", pictures) for i, item in enumerate(given)], name, "picture")
    single = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    if isinstance(given, single) or hasattr(given, "read"):
        return [given]
    raise VlkitError(f"{name} is {described(given)}; give {PICTURE}.")


def videos(given: Any, name: str) -> Items:
    """One or several videos, not yet opened: a float tensor [B, F, 3, S, S], or a list of single videos.

    A flat list of pictures (and of paths of pictures) holds the frames of one video.

    Args:
        given: what :data:`VIDEO` says.
        name: of the argument, for messages.

    Raises:
        VlkitError: it is something else, or holds no video.
    """
    if torch.is_tensor(given) or isinstance(given, np.ndarray):
        return _clips(given, name)
    if isinstance(given, (str, os.PathLike)):
        return [given]
    if not isinstance(given, (list, tuple)):
        raise VlkitError(f"{name} is {described(given)}; give {VIDEO}.")
    frames = [_is_frame(item) for item in given]
    if given and all(frames):
        pictures(given, name)  # raises where a frame is no picture
        return [given]
    if any(frames):
        raise VlkitError(f"{name} mixes single frames with whole videos; give the frames of one, or several videos.")
    return _not_empty([_single(item, f"{name}[{i}]", videos) for i, item in enumerate(given)], name, "video")


def _of_tensor(given: Tensor, name: str) -> Items:
    problem = f"{name} is a tensor {list(given.shape)} of {_dtype(given)}; give"
    if given.is_meta or given.layout != torch.strided:
        raise VlkitError(f"{problem} a dense tensor with values.")
    if given.is_floating_point():
        if given.ndim not in (3, 4) or given.shape[-3] != 3:
            hint = " Channels come first: permute(0, 3, 1, 2)." if given.ndim and given.shape[-1] == 3 else ""
            hint = " Frames of videos are given as 'video'." if given.ndim == 5 else hint
            raise VlkitError(f"{problem} [3, S, S] or [B, 3, S, S] for preprocessed pictures.{hint}")
        return _not_empty(given[None] if given.ndim == 3 else given, name, "picture")
    if given.dtype != torch.uint8:
        raise VlkitError(f"{problem} floats for preprocessed pictures, or uint8 for pixels 0..255.")
    if given.ndim == 2 or (given.ndim == 3 and given.shape[0] in _CHANNELS):
        return [given]
    if given.ndim == 4 and given.shape[1] in _CHANNELS:
        return _not_empty(list(given), name, "picture")
    raise VlkitError(f"{problem} [3, H, W] or [B, 3, H, W]; 1 and 4 channels are read too.")


def _of_array(given: np.ndarray, name: str) -> Items:
    problem = f"{name} is an array {list(given.shape)} of {given.dtype}; give"
    if given.dtype != np.uint8:
        raise VlkitError(
            f"{problem} uint8 for pixels 0..255. Preprocessed pictures are float tensors: torch.from_numpy(...)."
        )
    if given.ndim == 2 or (given.ndim == 3 and given.shape[2] in _CHANNELS):
        return [given]
    if given.ndim == 4 and given.shape[3] in _CHANNELS:
        return _not_empty(list(given), name, "picture")
    first = given.ndim in (3, 4) and given.shape[-3] in _CHANNELS
    hint = " Channels come last: numpy.moveaxis(array, -3, -1)." if first else ""
    raise VlkitError(f"{problem} [H, W, 3] or [B, H, W, 3]; [H, W] and 1 or 4 channels are read too.{hint}")


def _clips(given: Tensor | np.ndarray, name: str) -> Items:
    tensor = torch.is_tensor(given)
    preprocessed = torch.is_tensor(given) and given.is_floating_point()
    axis = -3 if tensor else -1
    channels = (3,) if preprocessed else _CHANNELS
    pixels = _dtype(given) == "uint8"
    if given.ndim not in (4, 5) or given.shape[axis] not in channels or not (preprocessed or pixels):
        kind = "tensor" if tensor else "array"
        raise VlkitError(f"{name} is a {kind} {list(given.shape)} of {_dtype(given)}; give {VIDEO}.")
    if given.shape[-4] == 0:
        raise VlkitError(f"{name} is of shape {list(given.shape)}: it has no frames.")
    if isinstance(given, Tensor) and preprocessed:
        return _not_empty(given[None] if given.ndim == 4 else given, name, "video")
    return [given] if given.ndim == 4 else _not_empty(list(given), name, "video")


def _single(item: Any, name: str, read: Callable[[Any, str], Items]) -> Any:
    """The one picture or video that an item of a list is."""
    if item is None:
        raise VlkitError(f"{name} is None; leave it out, or give {PICTURE if read is pictures else VIDEO}.")
    nested = read is pictures and isinstance(item, (list, tuple))
    found = [] if nested else read(item, name)
    if len(found) != 1:
        shape = getattr(item, "shape", None)
        given = f"a {type(item).__name__}" if shape is None else f"of shape {list(shape)}"
        given += f": {len(found)} in one" if len(found) else ""
        raise VlkitError(f"{name} is {given}; each item of a list must be one picture or video.")
    return found[0]


def _is_frame(item: Any) -> bool:
    if isinstance(item, (str, os.PathLike)):
        text = os.fspath(item)
        return isinstance(text, str) and text.lower().endswith(FRAME_SUFFIXES) and not os.path.isdir(text)
    if torch.is_tensor(item) or isinstance(item, np.ndarray):
        return item.ndim <= 3
    return not isinstance(item, (list, tuple))


def _not_empty(items: Items, name: str, what: str) -> Items:
    if not len(items):
        raise VlkitError(f"{name} is empty; give at least one {what}.")
    return items


def _dtype(given: Any) -> str:
    return str(given.dtype).removeprefix("torch.")


def described(item: Any) -> str:
    """What to call ``item`` in a message."""
    if isinstance(item, (str, os.PathLike, bytes, Image.Image, np.ndarray, Tensor)):
        return _shortened(describe(item))
    if item is None or isinstance(item, (bool, int, float)):
        return shortened(item)
    return f"a {type(item).__name__}"


def _shortened(text: str) -> str:
    text = redacted(text)
    return text if len(text) <= 200 else f"{text[:200]}..."
