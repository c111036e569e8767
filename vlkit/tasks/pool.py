"""The images and texts of an evaluation set, with their features, the same in every process.

Shapes: ``I`` images (or videos), ``T`` texts, ``Q`` queries, ``C`` candidates, ``E`` projection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlkit.errors import DataError
from vlkit.freed_memory import give_back_now_and_then
from vlkit.models.blip.base import frames_of
from vlkit.processors.text import pre_caption
from vlkit.tasks.base import Batch, EvalContext
from vlkit.tasks.image_tokens import ImageTokens
from vlkit.tasks.passes import Bounds, cut

# Scores held at once while similarities are searched.
_BLOCK = 2**18


@dataclass
class Pool:
    """All images and texts of a set, the same in every process.

    Args:
        index: [I] place of each image in the dataset, ascending.
        image_ids: [I] what the dataset calls them.
        image_feats: [I, E] unit length.
        texts: T texts; they may repeat.
        text_feats: [T, E] unit length.
        image_of_text: [T] row of the image that each text belongs to.
    """

    index: list[int]
    image_ids: list[Any]
    image_feats: Tensor
    texts: list[str]
    text_feats: Tensor
    image_of_text: np.ndarray

    @property
    def sides(self) -> tuple[Side, Side]:
        """The two directions: image to text, text to image."""
        different, text_of = different_texts(self.texts)
        images, feats, which = np.arange(len(self.index)), self.text_feats, None
        if len(different) < len(text_of):
            # Of equal texts the first one's features count for all: they were encoded in different batches.
            first = torch.from_numpy(np.unique(text_of, return_index=True)[1]).to(feats.device)
            feats, which = feats.index_select(0, first), torch.from_numpy(text_of).to(feats.device)
        queries = feats if which is None else feats.index_select(0, which)
        return (
            Side(self.image_feats, feats, images, self.image_of_text, which),
            Side(queries, self.image_feats, self.image_of_text, images),
        )


@dataclass
class Side:
    """One direction.

    Args:
        queries: [Q, E].
        feats: [C, E] of the candidates; [U, E] of the different ones with ``which``.
        query_image: [Q] image behind each query.
        candidate_image: [C] image behind each candidate; equal to the query's where it is a right answer.
        which: [C] row of ``feats`` of each candidate, so that equal ones are equally similar to the last bit.
    """

    queries: Tensor
    feats: Tensor
    query_image: np.ndarray
    candidate_image: np.ndarray
    which: Tensor | None = None

    def similarity(self, rows: slice) -> Tensor:
        """[q, C] of the queries ``rows``."""
        similarity = self.queries[rows] @ self.feats.T
        return similarity if self.which is None else similarity.index_select(1, self.which)

    def right(self, rows: slice) -> np.ndarray:
        """[q, C] bool: right answers of the queries ``rows``."""
        return self.query_image[rows, None] == self.candidate_image[None, :]

    def blocks(self, scored: int | None = None) -> Iterator[slice]:
        """Queries in runs whose scores are few enough to be held at once: ``scored`` each, or one of each candidate."""
        step = max(1, _BLOCK // max(len(self.candidate_image) if scored is None else scored, 1))
        for start in range(0, len(self.query_image), step):
            yield slice(start, start + step)


@dataclass
class _Row:
    """An image on its way between processes."""

    index: int
    image_id: Any
    feats: np.ndarray
    texts: list[str]


def read_pool(
    model: Any,
    loader: Iterable[Batch],
    context: EvalContext,
    tokens: ImageTokens | None = None,
    max_words: int | None = None,
    texts: Sequence[str] | None = None,
) -> Pool:
    """The set that ``loader`` gives: each process encodes its share of the images, and of the texts.

    Args:
        model: with ``image_embeds``, ``image_feats``, ``tokenize``, ``text_feats``.
        loader: this process's batches, with ``image`` or ``video``, ``image_id``, ``index``, and ``references`` (else
            ``text_input``) unless ``texts`` are given.
        context: of the evaluation.
        tokens: takes the image tokens; None: they are not needed.
        max_words: words of each text, preprocessed as a caption; None: texts as they are.
        texts: of the whole set, where it is not known whose they are; the pool's ``image_of_text`` is -1 then.

    Raises:
        DataError: there is no sample, or one has no text.
    """
    own = _read(model, loader, context, tokens, texts)
    rows = sorted(context.gather(own), key=lambda row: row.index)
    if not rows:
        raise DataError(f"evaluation set {context.name!r}: none of its samples could be used.")
    if texts is None:
        _check_texts(rows, context.name)
        texts = [text for row in rows for text in row.texts]
        image_of_text = np.repeat(np.arange(len(rows)), [len(row.texts) for row in rows])
    else:
        image_of_text = np.full(len(texts), -1)
    read = [text if max_words is None else pre_caption(text, max_words) for text in texts]
    feats = torch.from_numpy(np.stack([row.feats for row in rows])).to(context.device)
    index, image_ids = [row.index for row in rows], [row.image_id for row in rows]
    return Pool(index, image_ids, feats, read, text_feats(model, read, context), image_of_text)


def _read(
    model: Any,
    loader: Iterable[Batch],
    context: EvalContext,
    tokens: ImageTokens | None,
    texts: Sequence[str] | None,
) -> list[_Row]:
    """This process's images."""
    own: list[_Row] = []
    for batch, embeds in encoded(model, loader, context):
        give_back_now_and_then()
        if tokens is not None:
            tokens.add(batch["index"], _as_read(embeds, context))
        with context.autocast():
            feats = model.image_feats(embeds, frames_of(batch)).cpu().numpy()
        own += map(_Row, batch["index"], batch["image_id"], feats, _texts_of(batch, texts))
    return own


def encoded(model: Any, loader: Iterable[Batch], context: EvalContext) -> Iterator[tuple[Batch, Tensor]]:
    """The batches of ``loader`` with the tokens [b, P, Dv] of their images or videos."""
    for batch in loader:
        key = "video" if "video" in batch else "image"
        with context.autocast():
            embeds = model.image_embeds({key: batch[key].to(context.device, non_blocking=True)})
        yield batch, embeds


def _as_read(embeds: Tensor, context: EvalContext) -> Tensor:
    """``embeds`` in the type to which autocast brings them whenever they are used: half the memory, nothing lost."""
    kind = embeds.device.type
    with context.autocast():
        return embeds.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else embeds


def text_feats(model: Any, texts: Sequence[str], context: EvalContext) -> Tensor:
    """[T, E] features of ``texts``, which are the same in every process. Each encodes a share of the different ones,
    all of about as many tokens, in order of length: self-attention pads to the longest that it sees at once."""
    different, index = different_texts(texts)
    packed = model.tokenize(different)
    lengths = np.asarray(packed.lengths, np.int64)
    world = len(context.gather([context.rank]))
    found = []
    for part in cut(np.argsort(lengths, kind="stable")[context.rank :: world], lengths, Bounds.of(context.device).most):
        with context.autocast():
            feats = model.text_feats(packed.select(part))
        found.append((part, feats.cpu().numpy()))
    everything = context.gather(found)
    place = np.argsort(np.concatenate([part for part, _ in everything]))
    return torch.from_numpy(np.concatenate([feats for _, feats in everything])[place[index]]).to(context.device)


def different_texts(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The different ``texts`` in the order in which they first stand, and [T] which of them each text is."""
    places: dict[str, int] = {}
    index = np.array([places.setdefault(text, len(places)) for text in texts], np.int64)
    return list(places), index


def _texts_of(batch: Batch, texts: Sequence[str] | None) -> list[list[str]]:
    """The texts of each image of a batch; none where ``texts`` of the whole set are given."""
    if texts is not None:
        return [[] for _ in batch["index"]]
    return batch["references"] if "references" in batch else [[text] for text in batch["text_input"]]


def _check_texts(rows: list[_Row], name: str) -> None:
    without = [row.index for row in rows if not row.texts]
    if without:
        raise DataError(
            f"evaluation set {name!r}: {len(without)} samples have no text to be found by, the first is number "
            f"{without[0]}. Give each image a caption, or leave it out."
        )
