"""Texts without padding: the tokens of all texts in sequence, and the index tables that attention needs.

Linear layers, norms and losses process only real tokens [T, D]. Self-attention pads to the longest text, and only when
lengths differ. Cross-attention groups rows by their image, so that the keys and values of an image are read once for
all its rows.

Shapes: ``N`` texts, ``T`` tokens of all texts, ``M`` longest text, ``B`` images, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

# A group of images is split when padding its rows to the largest number would waste more than this share.
_WASTE = 0.35


@dataclass(frozen=True)
class TextBatch:
    """Packed token ids of ``N`` texts.

    Args:
        ids: [T] int64, the texts one after the other, each with its first token ([CLS]) and final [SEP].
        lengths: tokens of each text, on the host, so that no kernel waits for them.
    """

    ids: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def from_lists(cls, texts: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> TextBatch:
        """Pack lists of token ids."""
        flat = np.concatenate([np.asarray(t, dtype=np.int64) for t in texts]) if len(texts) else np.empty(0, np.int64)
        return cls(torch.from_numpy(flat).to(device, non_blocking=True), tuple(len(t) for t in texts))

    @classmethod
    def from_padded(cls, input_ids: Tensor, attention_mask: Tensor) -> TextBatch:
        """Pack ``input_ids`` [N, L] without the tokens whose ``attention_mask`` [N, L] is 0."""
        keep = attention_mask.bool()
        return cls(input_ids[keep], tuple(keep.sum(1).tolist()))

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> np.ndarray:
        """[N] row of the first token of each text."""
        return np.cumsum([0, *self.lengths[:-1]]) if self.lengths else np.empty(0, np.int64)

    @cached_property
    def positions(self) -> Tensor:
        """[T] position of each token in its text, from 0."""
        rows = np.arange(sum(self.lengths)) - np.repeat(self.starts, self.lengths)
        return torch.from_numpy(rows).to(self.ids.device)

    def first_rows(self) -> Tensor:
        """Return [N] the row of the first token of each text, on the device."""
        return torch.from_numpy(self.starts).to(self.ids.device)

    def with_first(self, token: int) -> TextBatch:
        """Replace the first token of each text by ``token`` ([ENC] or [DEC])."""
        ids = self.ids.clone()
        ids[self.first_rows()] = token
        return TextBatch(ids, self.lengths)

    def select(self, index: Sequence[int] | np.ndarray) -> TextBatch:
        """Select the texts ``index``, in that order, with repetitions."""
        rows, lengths = self.rows_of(index)
        return TextBatch(self.ids.index_select(0, rows), lengths)

    def rows_of(self, index: Sequence[int] | np.ndarray) -> tuple[Tensor, tuple[int, ...]]:
        """Return the rows of all tokens of the texts ``index`` on the device, and the lengths of these texts."""
        index = np.asarray(index, dtype=np.int64)
        lengths = np.asarray(self.lengths)[index]
        starts = np.cumsum(lengths) - lengths
        rows = np.arange(lengths.sum()) + np.repeat(self.starts[index] - starts, lengths)
        return torch.from_numpy(rows).to(self.ids.device), tuple(lengths.tolist())

    def to(self, device: torch.device | str) -> TextBatch:
        """Move the ids to ``device``."""
        return TextBatch(self.ids.to(device, non_blocking=True), self.lengths)

    def padded(self, pad: int = 0) -> tuple[Tensor, Tensor]:
        """Return ``input_ids`` and ``attention_mask`` [N, M], padded on the right with ``pad``."""
        segments = Segments(self.lengths, self.ids.device)
        mask = segments.valid
        return segments.pad(self.ids).masked_fill(~mask, pad), mask.long()


def _table(index: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(index.reshape(-1)).to(device, non_blocking=True)


class Segments:
    """Split of packed rows [T, ...] into consecutive texts, for self-attention.

    Args:
        lengths: rows of each text.
        device: of the index tables.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device):
        self.lengths, self.device = tuple(lengths), device
        self.longest = max(self.lengths, default=0)
        self.uniform = all(length == self.longest for length in self.lengths)

    @cached_property
    def valid(self) -> Tensor:
        """[N, M] bool, False at padding."""
        lengths = torch.tensor(self.lengths)
        return (torch.arange(self.longest) < lengths[:, None]).to(self.device)

    @cached_property
    def _tables(self) -> tuple[Tensor, Tensor]:
        lengths = np.asarray(self.lengths)
        starts = np.cumsum(lengths) - lengths
        place = np.arange(self.longest)
        # Padding repeats the last row of its own text: finite values, whose results are dropped.
        gather = starts[:, None] + np.minimum(place, lengths[:, None] - 1)
        rows = np.arange(lengths.sum()) + np.repeat(np.arange(len(lengths)) * self.longest - starts, lengths)
        return _table(gather, self.device), _table(rows, self.device)

    def pad(self, x: Tensor) -> Tensor:
        """Map [T, ...] to [N, M, ...]; a view when all lengths are equal."""
        if not self.uniform:
            x = x.index_select(0, self._tables[0])
        return x.unflatten(0, (len(self.lengths), self.longest))

    def unpad(self, x: Tensor) -> Tensor:
        """Map [N, M, ...] to [T, ...]; a view when all lengths are equal."""
        x = x.flatten(0, 1)
        return x if self.uniform else x.index_select(0, self._tables[1])

    def key_mask(self) -> Tensor | None:
        """Return [N, 1, 1, M] for bidirectional attention; None without padding."""
        return None if self.uniform else self.valid[:, None, None, :]


class MaskedSegments(Segments):
    """Texts whose tokens attend to what a mask allows.

    Args:
        lengths: rows of each text.
        visible: [N, 1 or M, M] bool, M the longest text: which tokens a token attends to, at least one each; [N, M, C]
            with a cache of C places.
    """

    def __init__(self, lengths: Sequence[int], visible: Tensor):
        super().__init__(lengths, visible.device)
        self._visible = visible[:, None]

    def key_mask(self) -> Tensor:
        return self._visible


@dataclass(frozen=True)
class ImageGroup:
    """Images whose rows form one batch of attention: ``images`` (None: all, in order), each with ``rows``, padded."""

    images: Tensor | None
    rows: int
    gather: Tensor | None


class CrossPlan:
    """Groups of packed rows [T, D] by their image, for cross-attention.

    Images with similar numbers of rows form a group that is padded to its largest. Padded rows are queries whose
    results are dropped, so keys need no mask.

    Args:
        row_counts: rows of each text (its tokens).
        image_index: image of each text, 0 <= index < ``images``; None: text i attends to image i.
        images: number of images.
        device: of the index tables.
        split: allow several groups, each of which copies the keys and values of its images; a decoding step has too few
            rows for that.
    """

    def __init__(
        self,
        row_counts: Sequence[int],
        image_index: Sequence[int] | np.ndarray | None,
        images: int,
        device: torch.device,
        split: bool = True,
    ):
        counts = np.asarray(row_counts, dtype=np.int64)
        texts = np.arange(len(counts)) if image_index is None else np.asarray(image_index, dtype=np.int64)
        image_of_row = np.repeat(texts, counts)
        rows_of_image = np.bincount(image_of_row, minlength=images)
        ordered = bool((np.diff(image_of_row) >= 0).all())
        self.inverse: Tensor | None = None
        if ordered and rows_of_image.min() == rows_of_image.max():
            self.groups = [ImageGroup(None, int(rows_of_image[0]), None)]
            return
        order = np.argsort(image_of_row, kind="stable")
        starts = np.cumsum(rows_of_image) - rows_of_image
        inverse = np.empty(len(order), dtype=np.int64)
        self.groups, offset = [], 0
        for members in _group_by_size(rows_of_image) if split else [np.arange(images)]:
            size = rows_of_image[members]
            most = int(size.max())
            place = np.arange(most)
            rows = starts[members][:, None] + np.minimum(place, np.maximum(size[:, None] - 1, 0))
            # An image without rows takes one of another image (the last one has no next row); its result is dropped.
            table = order[np.minimum(rows, len(order) - 1)]
            real = place < size[:, None]
            inverse[table[real]] = offset + np.flatnonzero(real)
            offset += table.size
            whole = len(members) == images and bool((members == np.arange(images)).all())
            index = None if whole else _table(members, device)
            self.groups.append(ImageGroup(index, most, _table(table, device)))
        self.inverse = _table(inverse, device)


def _group_by_size(sizes: np.ndarray) -> list[np.ndarray]:
    """Group the indices of ``sizes`` > 0 by similar size; one group when that wastes little."""
    used = np.flatnonzero(sizes)
    if sizes[used].max() * len(used) * (1 - _WASTE) <= sizes[used].sum():
        return [used]
    order = used[np.argsort(sizes[used], kind="stable")]
    groups, begin = [], 0
    for end in range(1, len(order) + 1):
        # A new group starts where the next image would make the smallest of this one mostly padding.
        if end == len(order) or sizes[order[end]] * (1 - _WASTE) > sizes[order[begin]]:
            groups.append(np.sort(order[begin:end]))
            begin = end
    return groups
