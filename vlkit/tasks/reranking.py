"""Rank the images and texts of an evaluation set for each other: by similarity, then by image-text matching.

The rule is the original's, applied in each direction: the ``k`` most similar candidates of a query score their
similarity plus the matching logit, all others rank behind them. A pair is scored once, even if both directions need it
or texts repeat. All texts of an image share its keys and values. Each process scores the pairs of the images that it
has read, so image tokens are never exchanged. With images in no particular order the processes get even shares
(``shapes``, 500 and 1,000 images, ``k`` 32 and 128, by text tokens: the largest of 8 shares is 1 to 3 % above the mean,
of 2 shares 1 %).

Shapes: ``I`` images (or videos), ``T`` texts, ``U`` unique texts, ``Q`` queries, ``C`` candidates, ``E`` projection.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlkit.metrics.retrieval import right_ranks
from vlkit.tasks.base import EvalContext

logger = logging.getLogger(__name__)
Encoded = Iterable[tuple[Sequence[int], Tensor]]
"""Batches of dataset indices and image tokens [b, P, Dv]."""
UNSEEN = -100.0
"""Score that the original writes for a pair that was not re-ranked. Ranks here do not compare with it: such pairs are
behind all re-ranked ones and equal to each other."""
_BLOCK = 2**18  # scores held at once while similarities are searched
_REPORT_EVERY = 60.0  # seconds between log messages of a long re-ranking


@dataclass
class Pool:
    """All images and texts of a set with their features, the same in every process.

    Args:
        index: [I] place of each image in the dataset, ascending.
        image_ids: [I] the dataset's image ids.
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
    def directions(self) -> tuple[Direction, Direction]:
        """Image to text, and text to image."""
        unique, text_of = unique_texts(self.texts)
        images, feats, which = np.arange(len(self.index)), self.text_feats, None
        if len(unique) < len(text_of):
            # Equal texts use the features of the first one: they were encoded in different batches.
            first = torch.from_numpy(np.unique(text_of, return_index=True)[1]).to(feats.device)
            feats, which = feats.index_select(0, first), torch.from_numpy(text_of).to(feats.device)
        queries = feats if which is None else feats.index_select(0, which)
        return (
            Direction(self.image_feats, feats, images, self.image_of_text, which),
            Direction(queries, self.image_feats, self.image_of_text, images),
        )


@dataclass
class Direction:
    """Queries and candidates of one direction.

    Args:
        queries: [Q, E].
        feats: [C, E] of the candidates; [U, E] of the unique ones with ``which``.
        query_image: [Q] image of each query.
        candidate_image: [C] image of each candidate; equal to the query's where it is a right answer.
        which: [C] row of ``feats`` of each candidate, so that equal ones are equally similar to the last bit.
    """

    queries: Tensor
    feats: Tensor
    query_image: np.ndarray
    candidate_image: np.ndarray
    which: Tensor | None = None

    def similarity(self, rows: slice) -> Tensor:
        """Return [q, C] for the queries ``rows``."""
        similarity = self.queries[rows] @ self.feats.T
        return similarity if self.which is None else similarity.index_select(1, self.which)

    def right(self, rows: slice) -> np.ndarray:
        """Return [q, C] bool: the right answers of the queries ``rows``."""
        return self.query_image[rows, None] == self.candidate_image[None, :]

    def blocks(self, scored: int | None = None) -> Iterator[slice]:
        """Split the queries into runs whose scores fit in memory: ``scored`` each; None: one for each candidate."""
        step = max(1, _BLOCK // max(len(self.candidate_image) if scored is None else scored, 1))
        for start in range(0, len(self.query_image), step):
            yield slice(start, start + step)


@dataclass
class Ranking:
    """Scored candidates of one direction.

    Args:
        candidates: [Q, k] the candidates that were scored, ascending.
        scores: [Q, k] float32.
        count: number of all candidates C.
    """

    candidates: np.ndarray
    scores: np.ndarray
    count: int

    def matrix(self, rows: slice = slice(None), unseen: float = UNSEEN) -> np.ndarray:
        """Return [q, C] scores of the queries ``rows``, ``unseen`` where a candidate was not scored."""
        candidates = self.candidates[rows]
        matrix = np.full((len(candidates), self.count), unseen, np.float32)
        np.put_along_axis(matrix, candidates, self.scores[rows], axis=1)
        return matrix

    def ranks(self, direction: Direction) -> np.ndarray:
        """Return [Q], see :func:`vlkit.metrics.retrieval.right_ranks`. A query whose right answers were not scored
        ranks behind all wrong answers."""
        blocks = direction.blocks(self.candidates.shape[1])
        return np.concatenate([self._block_ranks(direction, rows) for rows in blocks])

    def _block_ranks(self, direction: Direction, rows: slice) -> np.ndarray:
        scores, query_image = self.scores[rows], direction.query_image[rows]
        right = direction.candidate_image[self.candidates[rows]] == query_image[:, None]
        ordered = np.sort(direction.candidate_image)
        right_count = np.searchsorted(ordered, query_image, "right") - np.searchsorted(ordered, query_image)
        # Candidates without a score are behind all others, wrong or right.
        scored = (right & (scores > -np.inf)).any(1)
        return np.where(scored, right_ranks(scores, right), self.count - right_count)


@dataclass
class Retrieved:
    """Results of a set's queries.

    Args:
        to_texts: image to text; by similarity alone if nothing was re-ranked.
        to_images: text to image.
        itc_ranks: ranks of the right answers from 0 by similarity: [I] of images' texts, [T] of texts' images.
        ranks: the same after re-ranking.
    """

    to_texts: Ranking
    to_images: Ranking
    itc_ranks: tuple[np.ndarray, np.ndarray]
    ranks: tuple[np.ndarray, np.ndarray]


def retrieve(
    model: Any, pool: Pool, tokens: Encoded, k: int, context: EvalContext, without_reranking: int = 10
) -> Retrieved:
    """Search in both directions and re-rank the ``k`` most similar candidates of each query.

    Args:
        model, pool, tokens, context: see :func:`rerank`.
        k: candidates of each query; 0: no re-ranking.
        without_reranking: candidates that are kept if ``k`` is 0.
    """
    directions = pool.directions
    (to_texts, image_ranks), (to_images, text_ranks) = (search(each, k or without_reranking) for each in directions)
    found = Retrieved(to_texts, to_images, (image_ranks, text_ranks), (image_ranks, text_ranks))
    if k:
        found.to_texts, found.to_images = rerank(model, pool, tokens, (to_texts, to_images), context)
        found.ranks = found.to_texts.ranks(directions[0]), found.to_images.ranks(directions[1])
    return found


def search(direction: Direction, k: int) -> tuple[Ranking, np.ndarray]:
    """Return the ``k`` most similar candidates of each query, and the ranks [Q] of the right answers by similarity."""
    found, scores, ranks = [], [], []
    for rows in direction.blocks():
        similarity = direction.similarity(rows)
        ranks.append(right_ranks(similarity.cpu().numpy(), direction.right(rows)))
        candidates = most_similar(similarity, k)
        found.append(candidates.cpu().numpy())
        scores.append(similarity.gather(1, candidates).cpu().numpy())
    count = len(direction.candidate_image)
    return Ranking(np.concatenate(found), np.concatenate(scores), count), np.concatenate(ranks)


def most_similar(similarity: Tensor, k: int) -> Tensor:
    """Return [Q, min(k, C)], the columns of the largest values of ``similarity`` [Q, C], ascending. Of equal values the
    first ones are taken, so that every process and device chooses the same."""
    kept = min(k, similarity.shape[1])
    if not kept:
        return similarity.new_empty((len(similarity), 0), dtype=torch.long)
    least = similarity.topk(kept).values[:, -1:]
    chosen = similarity > least
    missing = kept - chosen.sum(1, keepdim=True)
    equal = similarity == least
    chosen |= equal & (equal.cumsum(1, dtype=torch.int32) <= missing)
    return chosen.nonzero()[:, 1].view(-1, kept)


def rerank(
    model: Any, pool: Pool, tokens: Encoded, found: tuple[Ranking, Ranking], context: EvalContext
) -> tuple[Ranking, Ranking]:
    """Add the matching logit to the score of each candidate.

    Args:
        model: has ``pair_scorer``, see :meth:`vlkit.models.blip.contrastive.BlipAligned.pair_scorer`.
        pool: the whole set.
        tokens: this process's images.
        found: results of :func:`search`, image to text and text to image.
        context: of the evaluation.

    Returns:
        The same candidates with similarity plus matching logit, in both directions.
    """
    unique, text_of = unique_texts(pool.texts)
    to_texts, to_images = found
    # A pair as one number: row of the image * U + unique text.
    codes = (
        np.arange(len(to_texts.candidates))[:, None] * len(unique) + text_of[to_texts.candidates],
        to_images.candidates * len(unique) + text_of[:, None],
    )
    pairs = np.unique(np.concatenate([each.reshape(-1) for each in codes]))
    logits = np.zeros(len(pairs), np.float32)
    for positions, values in context.gather(_score_own_pairs(model, unique, pool.index, tokens, pairs, context)):
        logits[positions] = values
    image_to_text, text_to_image = (
        Ranking(ranking.candidates, ranking.scores + logits[np.searchsorted(pairs, code)], ranking.count)
        for ranking, code in zip(found, codes)
    )
    return image_to_text, text_to_image


def _score_own_pairs(
    model: Any, texts: list[str], index: Sequence[int], tokens: Encoded, pairs: np.ndarray, context: EvalContext
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the positions of this process's pairs in ``pairs`` and their logits; an empty list if it has none."""
    starts = np.searchsorted(pairs, np.arange(len(index) + 1) * len(texts))
    rows = {image: row for row, image in enumerate(index)}
    # Allocated at once: memory kept from each pass would lie scattered among what the passes free.
    positions = np.empty(len(pairs), np.int64)
    scores = torch.empty(len(pairs), device=context.device)
    done, reported = 0, time.monotonic()
    with context.autocast():
        scorer = model.pair_scorer(texts)
    for images, embeds in tokens:
        spans = [np.arange(starts[rows[image]], starts[rows[image] + 1]) for image in images]
        own = np.concatenate(spans)
        with context.autocast():
            for part, logits in scorer.passes(embeds, [pairs[span] % len(texts) for span in spans]):
                # Kept on the device until the end: a copy would wait for the GPU between passes.
                positions[done : done + len(part)] = own[part]
                scores[done : done + len(part)] = logits
                done += len(part)
                if time.monotonic() - reported > _REPORT_EVERY:
                    reported = time.monotonic()
                    logger.info("re-ranking: %d pairs done in this process, %d in all to do", done, len(pairs))
    return [(positions[:done], scores[:done].cpu().numpy())] if done else []


def unique_texts(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the unique ``texts`` in order of first occurrence, and [T] the index of each text among them."""
    places: dict[str, int] = {}
    index = np.array([places.setdefault(text, len(places)) for text in texts], np.int64)
    return list(places), index
