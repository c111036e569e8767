"""Tokens of the images that a process has read, for a second pass over them in bounded memory."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from vlkit.errors import ConfigError, VlkitError, did_you_mean

Keep = Literal["auto", "memory", "disk", "recompute"]
Encoded = Iterable[tuple[Sequence[int], Tensor]]
"""Batches of dataset indices and image tokens [b, P, Dv]."""

# What "auto" leaves free on a disk.
_RESERVE = 2**31


def check_keep(keep: str) -> None:
    """Raise a ConfigError unless ``keep`` is a way to keep image tokens."""
    if keep not in get_args(Keep):
        raise ConfigError(
            f"image_tokens: {keep!r} given, {', '.join(get_args(Keep))} allowed.{did_you_mean(keep, get_args(Keep))}"
        )


def as_bytes(tensor: Tensor) -> np.ndarray:
    """What ``tensor`` holds, as bytes: numpy has no bfloat16."""
    return tensor.contiguous().cpu().view(torch.uint8).numpy()


@contextlib.contextmanager
def disk_explained(what: str, folder: Path) -> Iterator[None]:
    """Raises a VlkitError that says what to do where ``what`` cannot be written to ``folder``."""
    try:
        yield
    except OSError as error:
        raise VlkitError(
            f"{what} cannot be kept on disk in {folder}: {error}. Make room there, or set image_tokens to 'recompute'."
        ) from error


class ImageTokens:
    """Keeps batches of image tokens, or makes them again; whichever, iteration gives what was added, in that order.

    A context manager: its file, if there is one, has no name on POSIX systems and vanishes with the process.

    Args:
        keep: "memory", "disk", "recompute" (read and encode the images a second time), or "auto": memory up to
            ``limit``, the rest on disk, and all again if the disk has no room.
        again: gives the same batches once more, for "recompute".
        device: where iteration gives them.
        limit: bytes that "auto" keeps in this process's memory.
        folder: for the file; None: the system's for temporary files.
    """

    def __init__(
        self,
        keep: Keep,
        again: Callable[[], Encoded],
        device: torch.device,
        limit: int = 2**32,
        folder: Path | None = None,
    ):
        check_keep(keep)
        self.keep, self.again, self.device, self.folder = keep, again, device, folder
        self.in_memory = 0
        self._limit = {"auto": limit, "memory": float("inf")}.get(keep, 0)
        self._kept: list[tuple[list[int], Tensor | _Place]] = []
        self._file: IO[bytes] | None = None

    def __enter__(self) -> ImageTokens:
        return self

    def __exit__(self, *error: Any) -> None:
        self._clear()

    def add(self, index: Sequence[int], embeds: Tensor) -> None:
        """Keep the tokens [b, P, Dv] of the images ``index``."""
        if self.keep == "recompute":
            return
        size = embeds.nbytes
        if self.in_memory + size <= self._limit:
            self.in_memory += size
            self._kept.append((list(index), embeds.cpu()))
        elif self.keep == "auto" and self._free() < size + _RESERVE:
            self._clear()
            self.keep = "recompute"
        else:
            self._kept.append((list(index), self._write(embeds)))

    def __iter__(self) -> Iterator[tuple[Sequence[int], Tensor]]:
        if self.keep == "recompute":
            yield from self.again()
            return
        with ThreadPoolExecutor(1) as reader:
            ahead: Future[Tensor] | None = None
            for number, (index, kept) in enumerate(self._kept):
                embeds = ahead.result() if ahead else self._get(kept)
                # The next batch is read while this one is used.
                following = self._kept[number + 1 : number + 2]
                ahead = reader.submit(self._get, following[0][1]) if following else None
                yield index, embeds.to(self.device, non_blocking=True)

    @property
    def _where(self) -> Path:
        return self.folder or Path(tempfile.gettempdir())

    def _free(self) -> int:
        folder = self._where
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def _write(self, embeds: Tensor) -> _Place:
        with disk_explained("image tokens", self._where):
            if self._file is None:
                self._where.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._where)  # noqa: SIM115  # closed by __exit__
            place = _Place(self._file.seek(0, 2), embeds.dtype, embeds.shape)
            self._file.write(as_bytes(embeds).data)
        return place

    def _get(self, kept: Tensor | _Place) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        assert self._file is not None
        # Pinned memory can be copied to a GPU while that computes.
        data = torch.empty(kept.bytes, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        self._file.seek(kept.offset)
        if self._file.readinto(data.numpy()) != kept.bytes:  # type: ignore[attr-defined]
            raise VlkitError(f"image tokens kept on disk in {self._where} are no longer complete.")
        return data.view(kept.dtype).reshape(kept.shape)

    def _clear(self) -> None:
        self._kept.clear()
        self.in_memory = 0
        if self._file is not None:
            self._file.close()
            self._file = None


class _Place:
    """Where a tensor stands in the file."""

    def __init__(self, offset: int, dtype: torch.dtype, shape: torch.Size):
        self.offset, self.dtype, self.shape = offset, dtype, shape
        self.bytes = shape.numel() * dtype.itemsize
