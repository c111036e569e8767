"""Recall of image-text retrieval as the field reports it (COCO, Flickr30k): several texts an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from vlkit.errors import DataError


def recall_at_k(scores: ArrayLike, image_of_text: ArrayLike, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Share of queries with a right answer among the ``k`` best, in both directions.

    Image to text (``tr``): a hit if any text of the image is among the ``k`` best texts. Text to image (``ir``): a hit
    if its image is. A wrong answer of equal score counts as better than the right one, so the figures do not depend
    on the order of images or texts, and constant scores give no recall.

    Args:
        scores: [I, T] similarity, higher is closer; candidates left out by re-ranking may hold any low value or -inf.
        image_of_text: [T] row of the image that each text describes. Every image needs a text.
        ks: cut-offs; one above the number of candidates is allowed.

    Returns:
        ``tr@k``, ``ir@k`` for every k, ``tr_mean``, ``ir_mean`` over the ks and ``recall_mean`` of these two, all
        0 to 1.

    Raises:
        DataError: shapes do not fit, a text has no image or an image no text, NaN, or a k below 1.
    """
    matrix, owner = np.asarray(scores), np.asarray(image_of_text)
    _check(matrix, owner, ks)
    images, texts = matrix.shape
    right = owner[None, :] == np.arange(images)[:, None]
    best_right = np.where(right, matrix, -np.inf).max(axis=1)
    better_texts = ((matrix >= best_right[:, None]) & ~right).sum(axis=1)
    own = matrix[owner, np.arange(texts)]
    better_images = (matrix >= own[None, :]).sum(axis=0) - 1
    result = {f"tr@{k}": float((better_texts < k).mean()) for k in ks}
    result |= {f"ir@{k}": float((better_images < k).mean()) for k in ks}
    for side in ("tr", "ir"):
        result[f"{side}_mean"] = float(np.mean([result[f"{side}@{k}"] for k in ks]))
    result["recall_mean"] = (result["tr_mean"] + result["ir_mean"]) / 2
    return result


def _check(matrix: np.ndarray, owner: np.ndarray, ks: Sequence[int]) -> None:
    if matrix.ndim != 2 or not matrix.size or owner.shape != matrix.shape[1:]:
        raise DataError(
            f"recall_at_k: scores must be [images, texts] with one image_of_text a text, "
            f"got shapes {list(matrix.shape)} and {list(owner.shape)}."
        )
    if not np.issubdtype(owner.dtype, np.integer) or owner.min() < 0 or owner.max() >= len(matrix):
        raise DataError(f"recall_at_k: image_of_text must hold row numbers 0 to {len(matrix) - 1}.")
    without = np.setdiff1d(np.arange(len(matrix)), owner)
    if without.size:
        raise DataError(f"recall_at_k: {without.size} images have no text, the first is row {without[0]}.")
    if np.isnan(matrix).any():
        raise DataError(f"recall_at_k: {int(np.isnan(matrix).sum())} of {matrix.size} scores are NaN.")
    if not ks or min(ks) < 1:
        raise DataError(f"recall_at_k: ks must be numbers from 1, got {list(ks)}.")
