"""Beginnings of texts that wait on disk while images are looked at one after the other.

Shapes: ``T`` tokens of all texts, ``D`` text width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlkit.errors import VlkitError
from vlkit.models.med import TextPrefix
from vlkit.models.packing import TextBatch
from vlkit.tasks.image_tokens import as_bytes, disk_explained


class StoredTexts:
    """:class:`TextPrefix` of which only those that are selected are in memory. The file has no name on POSIX systems
    and vanishes with this object.

    Args:
        texts: all of them.
        hidden: their beginnings [T, D], in parts: runs of whole texts, in order.
        folder: for the file; None: the system's for temporary files.

    Raises:
        VlkitError: they cannot be written there.
    """

    def __init__(self, texts: TextBatch, hidden: Iterable[Tensor], folder: Path | None = None):
        self.texts, self._where = texts, folder or Path(tempfile.gettempdir())
        with disk_explained("texts", self._where):
            self._where.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._where)  # noqa: SIM115  # as long as this object
            for part in hidden:
                self._width, self._dtype = part.shape[1], part.dtype
                self._file.write(as_bytes(part).data)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def select(self, index: Sequence[int] | np.ndarray) -> TextPrefix:
        """The texts ``index``, in that order; one may be named several times."""
        index = np.asarray(index, np.int64)
        texts = self.texts.select(index)
        row = self._width * self._dtype.itemsize
        data = torch.empty(len(texts.ids) * row, dtype=torch.uint8)
        room, at = data.numpy().data, 0
        # Texts that stand one behind the other are read together.
        for run in np.split(index, np.flatnonzero(np.diff(index) != 1) + 1):
            size = sum(self.texts.lengths[text] for text in run) * row
            self._file.seek(int(self.texts.starts[run[0]]) * row)
            if self._file.readinto(room[at : at + size]) != size:
                raise VlkitError(f"texts kept on disk in {self._where} are no longer complete.")
            at += size
        hidden = data.view(self._dtype).view(-1, self._width)
        return TextPrefix(texts, hidden.to(self.texts.ids.device))
