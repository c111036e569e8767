"""Spool tensors that are needed a second time: in memory up to a limit, then in a temporary file."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from vlkit.errors import VlkitError


class _FileSlice(NamedTuple):
    """Position of a tensor in the temporary file."""

    offset: int
    dtype: torch.dtype
    shape: torch.Size

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize


class TensorSpool:
    """Store batches of rows with their indices and iterate over them in the order in which they were added.

    Use as a context manager. The temporary file has no name on POSIX systems, so it disappears with the process.

    Args:
        device: device of the tensors that iteration yields.
        memory_limit: bytes kept in memory; further tensors are written to the file.
        folder: directory of the file; None: the system's temporary directory.
        what: what the tensors are, for messages.
        hint: how to avoid the file, appended to the message of a failed write.

    Attributes:
        in_memory: bytes kept in memory.
    """

    def __init__(
        self,
        device: torch.device,
        memory_limit: int,
        folder: Path | None = None,
        what: str = "tensors",
        hint: str = "",
    ):
        self.device, self.memory_limit, self.what, self.hint = device, memory_limit, what, hint
        self.folder = folder or Path(tempfile.gettempdir())
        self.in_memory = 0
        self._batches: list[tuple[list[int], Tensor | _FileSlice]] = []
        self._file: IO[bytes] | None = None

    def __enter__(self) -> TensorSpool:
        return self

    def __exit__(self, *error: Any) -> None:
        self._batches.clear()
        self.in_memory = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, index: Sequence[int], rows: Tensor) -> None:
        """Store ``rows`` [b, ...] under the indices ``index`` [b].

        Raises:
            VlkitError: the file cannot be written.
        """
        if self.in_memory + rows.nbytes <= self.memory_limit:
            self.in_memory += rows.nbytes
            self._batches.append((list(index), rows.cpu()))
        else:
            self._batches.append((list(index), self._write(rows)))

    def __iter__(self) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Yield (index, rows) of each batch; the next batch is read from the file in a thread meanwhile.

        Raises:
            VlkitError: the file was truncated.
        """
        with ThreadPoolExecutor(1) as reader:
            ahead: Future[Tensor] | None = None
            for number, (index, stored) in enumerate(self._batches):
                rows = ahead.result() if ahead else self._read(stored)
                following = self._batches[number + 1 : number + 2]
                ahead = reader.submit(self._read, following[0][1]) if following else None
                yield index, rows.to(self.device, non_blocking=True)

    def _write(self, rows: Tensor) -> _FileSlice:
        with self._explain_disk_error():
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  # closed by __exit__
            stored = _FileSlice(self._file.seek(0, 2), rows.dtype, rows.shape)
            # As bytes, since NumPy has no bfloat16.
            self._file.write(rows.contiguous().cpu().view(torch.uint8).numpy().data)
        return stored

    def _read(self, stored: Tensor | _FileSlice) -> Tensor:
        if isinstance(stored, Tensor):
            return stored
        assert self._file is not None
        # Pinned memory can be copied to a GPU while that computes.
        data = torch.empty(stored.nbytes, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        self._file.seek(stored.offset)
        if self._file.readinto(data.numpy()) != stored.nbytes:  # type: ignore[attr-defined]
            raise VlkitError(f"{self.what} stored in a temporary file in {self.folder} are no longer complete.")
        return data.view(stored.dtype).reshape(stored.shape)

    @contextlib.contextmanager
    def _explain_disk_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VlkitError(
                f"{self.what} cannot be kept on disk in {self.folder}: {error}. Free disk space there{self.hint}."
            ) from error
