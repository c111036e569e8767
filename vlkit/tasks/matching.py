"""Similarity and re-ranking of a set of images and texts, exact in any number of processes.

Every (image, text) pair is scored once, although both directions ask for it; all texts of an image share its keys and
values; each process scores the pairs of the images that it has read.

Shapes: ``I`` images, ``T`` texts of the whole set, ``k`` candidates kept for re-ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlkit.tasks.base import EvalContext

# A pair that re-ranking did not look at; below 0 - 1, the least that probability plus similarity can be.
UNSEEN = -2.0
# What an image costs besides its pairs (its keys and values in every layer), in pairs.
_IMAGE_COST = 16


@dataclass
class OwnImages:
    """Images that this process has read.

    Args:
        rows: place of each in the whole set.
        embeds: image tokens [P, Dv] of each, on the model's device.
    """

    rows: list[int]
    embeds: list[Tensor]


def top_pairs(similarity: np.ndarray, k: int) -> np.ndarray:
    """[I, T] bool: the pairs among the ``k`` most similar of their row or of their column."""
    wanted = np.zeros(similarity.shape, dtype=bool)
    for axis in (0, 1):
        kept = min(k, similarity.shape[axis])
        top = np.argpartition(-similarity, kept - 1, axis=axis)
        np.put_along_axis(wanted, np.take(top, range(kept), axis=axis), True, axis=axis)
    return wanted


def rerank(
    model: Any,
    images: OwnImages,
    texts: Sequence[str],
    similarity: np.ndarray,
    k: int,
    context: EvalContext,
    pairs_at_once: int = 1024,
) -> np.ndarray:
    """ITM scores of the pairs that similarity puts among the ``k`` best, in either direction.

    Args:
        model: with ``tokenize``, ``text_encoder`` and ``match``.
        images: this process's share.
        texts: all T texts.
        similarity: [I, T].
        k: candidates of each query.
        context: of the evaluation.
        pairs_at_once: bound on the memory of one pass, in pairs; an image counts as some more.

    Returns:
        [I, T]: probability of a match plus similarity for pairs that were scored;
        ``UNSEEN`` plus a share of the similarity elsewhere, which keeps the order behind them.
    """
    wanted = top_pairs(similarity, k)
    tokens = model.tokenize(texts)
    found: list[tuple[int, np.ndarray, np.ndarray]] = []
    for batch in _groups(images, wanted, pairs_at_once):
        columns = [np.flatnonzero(wanted[images.rows[i]]) for i in batch]
        index = np.repeat(np.arange(len(batch)), [len(c) for c in columns])
        with context.autocast():
            states = model.text_encoder.project_images(torch.stack([images.embeds[i] for i in batch]))
            logits = model.match(tokens.select(np.concatenate(columns)), states, index)
        probability = logits.float().softmax(-1)[:, 1].cpu().numpy()
        parts = np.split(probability, np.cumsum([len(c) for c in columns])[:-1])
        found += [(images.rows[i], c, p) for i, c, p in zip(batch, columns, parts)]
    scores = UNSEEN + similarity * 1e-3
    for row, columns, probability in context.gather(found):
        scores[row, columns] = probability + similarity[row, columns]
    return scores


def _groups(images: OwnImages, wanted: np.ndarray, pairs_at_once: int) -> list[list[int]]:
    """Own images in runs whose pairs stay below the bound (one image may exceed it alone)."""
    groups: list[list[int]] = []
    pairs = 0
    for place, row in enumerate(images.rows):
        count = int(wanted[row].sum())
        if not count:
            continue
        cost = count + _IMAGE_COST
        if not groups or pairs + cost > pairs_at_once:
            groups.append([])
            pairs = 0
        groups[-1].append(place)
        pairs += cost
    return groups
