"""Convert pictures and videos as callers have them to tensors: the one place of models that reads files and arrays.

:func:`pictures` and :func:`videos` say which forms are accepted and open nothing; :class:`PictureReader` reads them.

Shapes: ``B`` pictures or videos, ``F`` frames, ``S`` pixels a side of preprocessed pictures, ``H``, ``W`` of others.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlkit.errors import BadSample, VlkitError, redacted, shortened
from vlkit.io.fetch import fetch
from vlkit.processors.open_image import describe

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
_LONGEST_PATH = 4096


class PictureReader:
    """Convert what a caller passes as pictures or videos to preprocessed tensors.

    A float tensor counts as preprocessed and is returned itself. Everything else goes through the image processor,
    uint8 tensors and arrays included, which hold pixels 0..255.

    Args:
        processor: maps a picture to a tensor [3, S, S]; None: only float tensors are accepted.
        frames: F, number of frames that are sampled evenly from a video.
        open_url: returns the file at an http address; None: addresses are rejected.
    """

    def __init__(
        self,
        processor: Callable[[Any], Tensor] | None = None,
        frames: int = 8,
        open_url: Callable[[str], bytes] | None = None,
    ):
        self.processor, self.frames, self.open_url = processor, frames, open_url

    def images(self, given: Any, name: str = "image") -> Tensor:
        """Return [B, 3, S, S] of one or several pictures; see :func:`pictures`."""
        return self.read(pictures(given, name), name)

    def videos(self, given: Any, name: str = "video") -> Tensor:
        """Return [B, F, 3, S, S] of one or several videos; see :func:`videos`. F frames are sampled of each that is no
        float tensor."""
        return self.read(videos(given, name), name)

    def read(self, items: Items, name: str, first: int = 0) -> Tensor:
        """Read what :func:`pictures` or :func:`videos` returned.

        Args:
            items: B pictures or videos, not yet opened.
            name: of the argument; "video" for videos.
            first: number of the first item, for messages.

        Returns:
            [B, 3, S, S], or [B, F, 3, S, S] of videos; ``items`` itself where it is a tensor.

        Raises:
            VlkitError: one cannot be read.
        """
        if isinstance(items, Tensor):
            return items
        read = self._video if name == "video" else self._image
        return _stacked([read(item, f"{name}[{first + i}]") for i, item in enumerate(items)], name)

    def fitted(self, size: int) -> PictureReader:
        """Return a reader whose processor, where its size can be set, makes pictures of ``size`` pixels a side."""
        if getattr(self.processor, "image_size", size) == size:
            return self
        fitted = copy.copy(self)
        fitted.processor = copy.copy(self.processor)
        fitted.processor.image_size = size  # type: ignore[union-attr]
        return fitted

    def _image(self, item: Any, name: str) -> Tensor:
        if torch.is_tensor(item) and item.is_floating_point():
            return item
        if self.processor is None:
            raise VlkitError(
                f"{name} is {described(item)}, and this model has no image processor: its card names none. Give a "
                f"preprocessed float tensor [3, S, S], or call model.use_processor(...) with an image processor."
            )
        try:
            return self.processor(self._source(item, name))
        except BadSample as error:
            source, reason = described(item), error.reason
            raise BadSample(name if source in reason else f"{name} ({source})", reason) from error

    def _video(self, item: Any, name: str) -> Tensor:
        if torch.is_tensor(item) and item.is_floating_point():
            return item
        if isinstance(item, (list, tuple)):
            preprocessed = [torch.is_tensor(frame) and frame.is_floating_point() for frame in item]
            if all(preprocessed):
                return _stacked(list(item), name)
            if any(preprocessed):
                raise VlkitError(f"{name} mixes preprocessed float tensors with other frames; give either.")
        elif torch.is_tensor(item):
            item = list(item)
        elif isinstance(item, (str, os.PathLike)):
            item = self._video_path(item, name)
        from vlkit.processors.video import sample_frames  # pictures need no video reader

        try:
            frames = sample_frames(item, self.frames)
        except BadSample as error:
            raise BadSample(f"{name} ({error.source})", error.reason) from error
        return torch.stack([self._image(frame, f"{name}, frame {i}") for i, frame in enumerate(frames)])

    def _video_path(self, item: Any, name: str) -> Any:
        text = os.fspath(item)
        if "://" not in text:
            return os.path.expanduser(text)
        if text.startswith("package://"):
            return fetch(text)
        raise VlkitError(f"{name} is an address; videos are read from local files alone. Download it, give its path.")

    def _source(self, item: Any, name: str) -> Any:
        """Convert ``item`` to what image processors accept."""
        if isinstance(item, (bytearray, memoryview)):
            return bytes(item)
        if hasattr(item, "read"):
            return _file_content(item, name)
        if not isinstance(item, (str, os.PathLike)):
            return item
        text = os.fspath(item)
        if not isinstance(text, str):
            raise VlkitError(f"{name} is a path of bytes; give a string, or the bytes of a file.")
        if text.startswith("data:") or len(text) > _LONGEST_PATH:
            raise VlkitError(
                f"{name} is a text of {len(text)} characters, not a path. Decode it first: base64.b64decode(text)."
            )
        scheme, separator, _ = text.partition("://")
        return self._address(text, scheme.lower(), name) if separator else os.path.expanduser(text)

    def _address(self, text: str, scheme: str, name: str) -> Any:
        if scheme == "package":
            return fetch(text)
        if scheme not in ("http", "https"):
            raise VlkitError(
                f"{name} is an address with the scheme {scheme!r}; paths, package://, http:// and https:// are read. "
                f"Give the path of a local file."
            )
        if self.open_url is None:
            raise VlkitError(
                f"{name} is an http address, which this model does not open. Load it with "
                f"load_model(..., allow_urls=True), or download the picture and give its path."
            )
        return self.open_url(text)


def _file_content(file: Any, name: str) -> bytes:
    """Read a whole open file and restore its position: it may be given twice."""
    try:
        start = file.tell() if file.seekable() else None
        if start is not None:
            file.seek(0)
        data = file.read()
        if start is not None:
            file.seek(start)
    except (OSError, ValueError) as error:
        raise VlkitError(f"{name} is a file that cannot be read: {error}.") from error
    if not isinstance(data, bytes):
        raise VlkitError(f"{name} is a file opened as text; open it with mode 'rb'.")
    return data


def _stacked(found: Sequence[Tensor], name: str) -> Tensor:
    shapes = {tuple(each.shape) for each in found}
    if len(shapes) > 1:
        listed = ", ".join(str(list(shape)) for shape in sorted(shapes))
        raise VlkitError(f"{name} holds tensors of different shapes: {listed}. Preprocess all to one size.")
    kind, device = found[0].dtype, found[0].device
    return torch.stack([each.to(device, kind) for each in found])


def pictures(given: Any, name: str) -> Items:
    """Split one or several pictures, without opening them: a float tensor [B, 3, S, S], or a list of single pictures.

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
    """Split one or several videos, without opening them: a float tensor [B, F, 3, S, S], or a list of single videos.

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
    """Return the one picture or video in an item of a list."""
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
        from vlkit.processors.video import FRAME_SUFFIXES

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
    """Describe ``item`` for a message."""
    if isinstance(item, (str, os.PathLike, bytes, Image.Image, np.ndarray, Tensor)):
        return _shortened(describe(item))
    if item is None or isinstance(item, (bool, int, float)):
        return shortened(item)
    return f"a {type(item).__name__}"


def _shortened(text: str) -> str:
    text = redacted(text)
    return text if len(text) <= 200 else f"{text[:200]}..."
