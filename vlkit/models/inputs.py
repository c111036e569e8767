"""Pictures and videos as callers have them, to tensors: the one place of models where files and arrays are read.

Shapes: ``B`` pictures or videos, ``F`` frames, ``S`` pixels a side of preprocessed pictures, ``H``, ``W`` of others.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vlkit.errors import BadSample, VlkitError
from vlkit.io.files import fetch
from vlkit.models.picture_forms import Items, described, pictures, videos
from vlkit.processors.video import sample_frames

_LONGEST_PATH = 4096


class PictureReader:
    """Turns what a caller passes as pictures or videos into preprocessed tensors.

    A float tensor counts as preprocessed and is returned itself. Everything else goes through the image processor,
    uint8 tensors and arrays included, which hold pixels 0..255.

    Args:
        processor: maps a picture to a tensor [3, S, S]; None: only float tensors are taken.
        frames: F, how many frames of a video are sampled, evenly.
        open_url: gives the file at an http address; None: addresses are refused.
    """

    def __init__(
        self,
        processor: Callable[[Any], Tensor] | None = None,
        frames: int = 8,
        open_url: Callable[[str], bytes] | None = None,
    ):
        self.processor, self.frames, self.open_url = processor, frames, open_url

    def images(self, given: Any, name: str = "image") -> Tensor:
        """[B, 3, S, S] of one or several pictures.

        Args:
            given: what :func:`~vlkit.models.picture_forms.pictures` takes.
            name: of the argument, for messages.

        Raises:
            VlkitError: it is something else, or a picture cannot be read.
        """
        return self.read(pictures(given, name), name)

    def videos(self, given: Any, name: str = "video") -> Tensor:
        """[B, F, 3, S, S] of one or several videos; F frames are sampled of each that is no float tensor.

        Args:
            given: what :func:`~vlkit.models.picture_forms.videos` takes.
            name: of the argument, for messages.

        Raises:
            VlkitError: it is something else, or a video cannot be read.
        """
        return self.read(videos(given, name), name)

    def read(self, items: Items, name: str, first: int = 0) -> Tensor:
        """The tensors of what :func:`pictures` or :func:`videos` gave.

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
        """The same reader, whose processor makes pictures of ``size`` pixels a side where it can be set."""
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
        """``item`` as image processors take it."""
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
    """A whole open file, as Pillow reads it, which is left where it stood: it may be given twice."""
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
