"""Retrieval among all images and texts of a set: by similarity, then by matching, exact in any number of processes.

The rule is the original's, in both directions apart: a query's ``k`` most similar candidates score their similarity
plus the matching logit, every other candidate stands behind them. A pair is scored once although both directions may
ask for it and texts may repeat, all texts of an image share its keys and values, and each process scores the pairs of
the images that it has read: so image tokens never travel. With images in no particular order the shares are even
(``shapes``, 500 and 1,000 images, ``k`` 32 and 128, by text tokens: the largest of 8 shares is 1 to 3 % above their
mean, of 2 shares 1 %).

Shapes: ``I`` images (or videos), ``T`` texts, ``U`` different texts, ``Q`` queries, ``C`` candidates, ``E`` projection.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlkit.errors import DataError
from vlkit.freed_memory import give_back_now_and_then
from vlkit.metrics.retrieval import right_ranks
from vlkit.tasks.base import EvalContext
from vlkit.tasks.image_tokens import Encoded
from vlkit.tasks.passes import PairScorer
from vlkit.tasks.pool import Pool, Side, different_texts

logger = logging.getLogger(__name__)
UNSEEN = -100.0
"""What the original writes for a pair that re-ranking did not look at. Ranks here do not compare with it: an unseen
pair is behind every seen one, and among themselves unseen pairs are equal."""
# Seconds between messages of a long re-ranking.
_REPORT_EVERY = 60.0


@dataclass
class Ranking:
    """What is known of one direction after a search.

    Args:
        candidates: [Q, k] the candidates that were scored, ascending.
        scores: [Q, k] float32.
        count: number of all candidates C.
    """

    candidates: np.ndarray
    scores: np.ndarray
    count: int

    def matrix(self, rows: slice = slice(None), unseen: float = UNSEEN) -> np.ndarray:
        """[q, C] scores of the queries ``rows``, ``unseen`` where a candidate was not scored."""
        candidates = self.candidates[rows]
        matrix = np.full((len(candidates), self.count), unseen, np.float32)
        np.put_along_axis(matrix, candidates, self.scores[rows], axis=1)
        return matrix

    def ranks(self, side: Side) -> np.ndarray:
        """[Q] see :func:`vlkit.metrics.retrieval.right_ranks`. A query whose right answers were not scored ranks behind
        all wrong answers."""
        found = [self._ranks(side, rows) for rows in side.blocks(self.candidates.shape[1])]
        return np.concatenate(found)

    def _ranks(self, side: Side, rows: slice) -> np.ndarray:
        scores, asked = self.scores[rows], side.query_image[rows]
        right = side.candidate_image[self.candidates[rows]] == asked[:, None]
        ordered = np.sort(side.candidate_image)
        all_right = np.searchsorted(ordered, asked, "right") - np.searchsorted(ordered, asked)
        # What was not scored is behind all that was, wrong or right.
        scored = (right & (scores > -np.inf)).any(1)
        return np.where(scored, right_ranks(scores, right), self.count - all_right)


def search(side: Side, k: int) -> tuple[Ranking, np.ndarray]:
    """The ``k`` most similar candidates of each query, and the ranks [Q] of the right answers by similarity."""
    found, scores, ranks = [], [], []
    for rows in side.blocks():
        similarity = side.similarity(rows)
        ranks.append(right_ranks(similarity.cpu().numpy(), side.right(rows)))
        places = most_similar(similarity, k)
        found.append(places.cpu().numpy())
        scores.append(similarity.gather(1, places).cpu().numpy())
    count = len(side.candidate_image)
    return Ranking(np.concatenate(found), np.concatenate(scores), count), np.concatenate(ranks)


def most_similar(similarity: Tensor, k: int) -> Tensor:
    """[Q, min(k, C)] columns of the largest values of ``similarity`` [Q, C], ascending; of equal values the first
    ones, so that every process and device chooses the same."""
    kept = min(k, similarity.shape[1])
    if not kept:
        return similarity.new_empty((len(similarity), 0), dtype=torch.long)
    least = similarity.topk(kept).values[:, -1:]
    chosen = similarity > least
    room = kept - chosen.sum(1, keepdim=True)
    equal = similarity == least
    chosen |= equal & (equal.cumsum(1, dtype=torch.int32) <= room)
    return chosen.nonzero()[:, 1].view(-1, kept)


@dataclass
class Retrieved:
    """What a set's queries have found.

    Args:
        to_texts: image to text; by similarity alone where nothing was re-ranked.
        to_images: text to image.
        itc_ranks: ranks of the right answers from 0 by similarity: [I] of images' texts, [T] of texts' images.
        ranks: the same after re-ranking.
    """

    to_texts: Ranking
    to_images: Ranking
    itc_ranks: tuple[np.ndarray, np.ndarray]
    ranks: tuple[np.ndarray, np.ndarray]


def retrieve(
    model: Any,
    pool: Pool,
    tokens: Encoded,
    k: int,
    context: EvalContext,
    shown: int = 10,
    on_disk: bool = False,
) -> Retrieved:
    """Search in both directions; matching re-ranks the ``k`` nearest.

    Args:
        model, pool, tokens, context: see :func:`rerank`.
        k: candidates of each query; 0: no re-ranking.
        shown: candidates that are kept without re-ranking.
        on_disk: see :func:`rerank`.
    """
    sides = pool.sides
    (to_texts, image_ranks), (to_images, text_ranks) = (search(side, k or shown) for side in sides)
    found = Retrieved(to_texts, to_images, (image_ranks, text_ranks), (image_ranks, text_ranks))
    if k:
        found.to_texts, found.to_images = rerank(model, pool, tokens, (to_texts, to_images), context, on_disk)
        found.ranks = found.to_texts.ranks(sides[0]), found.to_images.ranks(sides[1])
    return found


def rerank(
    model: Any,
    pool: Pool,
    tokens: Encoded,
    found: tuple[Ranking, Ranking],
    context: EvalContext,
    on_disk: bool = False,
) -> tuple[Ranking, Ranking]:
    """Matching decides among the candidates that similarity has found.

    Args:
        model: with ``tokenize``, ``text_encoder`` and ``match``.
        pool: the whole set.
        tokens: this process's images.
        found: by :func:`search`, image to text and text to image.
        context: of the evaluation.
        on_disk: what is known of texts before they meet an image waits on disk too (see :class:`PairScorer`).

    Returns:
        The same candidates with similarity plus matching logit, in both directions.

    Raises:
        DataError: an image gave no tokens.
    """
    texts, text_of = different_texts(pool.texts)
    to_texts, to_images = found
    size = len(texts)
    codes = (
        np.arange(len(to_texts.candidates))[:, None] * size + text_of[to_texts.candidates],
        to_images.candidates * size + text_of[:, None],
    )
    pairs = np.unique(np.concatenate([each.reshape(-1) for each in codes]))
    scorer = PairScorer(model, texts, context, on_disk)
    logits = _score(scorer, pool.index, tokens, pairs)
    image_to_text, text_to_image = (
        Ranking(ranking.candidates, ranking.scores + logits[np.searchsorted(pairs, code)], ranking.count)
        for ranking, code in zip(found, codes)
    )
    return image_to_text, text_to_image


def _score(scorer: PairScorer, index: Sequence[int], tokens: Encoded, pairs: np.ndarray) -> np.ndarray:
    """Matching logits [n] of all ``pairs`` (row of the image * U + text, ascending)."""
    values, seen = np.zeros(len(pairs), np.float32), np.zeros(len(pairs), bool)
    for own, logits in scorer.context.gather(_score_own(scorer, index, tokens, pairs)):
        values[own], seen[own] = logits, True
    if not seen.all():
        missing = {index[code // len(scorer.lengths)] for code in pairs[~seen]}
        raise DataError(f"{len(missing)} images could not be read a second time; the first is sample {min(missing)}.")
    return values


def _score_own(
    scorer: PairScorer, index: Sequence[int], tokens: Encoded, pairs: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Places of this process's pairs in ``pairs`` and their logits, or nothing where it has none."""
    texts = len(scorer.lengths)
    starts = np.searchsorted(pairs, np.arange(len(index) + 1) * texts)
    rows = {image: row for row, image in enumerate(index)}
    # In one piece: what a pass keeps would lie scattered among what it frees.
    places = np.empty(len(pairs), np.int64)
    found = torch.empty(len(pairs), device=scorer.context.device)
    done, reported = 0, time.monotonic()
    for images, embeds in tokens:
        give_back_now_and_then()
        known = [rows.get(image) for image in images]
        spans = [np.arange(0 if row is None else starts[row], 0 if row is None else starts[row + 1]) for row in known]
        own = np.concatenate(spans)
        for part, logits in scorer.passes(embeds, [pairs[span] % texts for span in spans]):
            # They stay on the device until all are there: reading them would make it wait for the next pass's tables.
            places[done : done + len(part)] = own[part]
            found[done : done + len(part)] = logits
            done += len(part)
            if time.monotonic() - reported > _REPORT_EVERY:
                reported = time.monotonic()
                logger.info("re-ranking: %d pairs done in this process, %d in all to do", done, len(pairs))
    return [(places[:done], found[:done].cpu().numpy())] if done else []
