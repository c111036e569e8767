"""The three objectives of BLIP: image-text contrast, image-text matching, language modelling (paper, section 3.2).

Everything here runs in float32 whatever the autocast: temperatures and log-softmax lose digits in bf16.

Shapes: ``B`` pairs of this process, ``A`` all candidates (pairs of all processes, then the queue), ``E`` projection,
``N`` texts, ``R`` predicted tokens, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlkit.models.packing import TextBatch

IGNORE = -100


def soft_contrast(logits: Tensor, teacher_logits: Tensor | None, alpha: float, targets: Tensor) -> Tensor:
    """Cross entropy against a mix of hard targets and a momentum teacher's soft ones.

    Args:
        logits: [B, A] similarities over the temperature.
        teacher_logits: [B, A] the teacher's; not needed when ``alpha`` is 0.
        alpha: share of the teacher's distribution, 0..1.
        targets: [B] index of the match, or [B, A] a distribution over several.

    Returns:
        Scalar mean over B. Paper: 3.2 (ITC, soft labels as in ALBEF).
    """
    log_probs = logits.float().log_softmax(-1)
    if targets.ndim == 1:
        hard = -log_probs.gather(1, targets[:, None]).squeeze(1)
    else:
        hard = -(log_probs * targets).sum(1)
    if alpha == 0 or teacher_logits is None:
        return hard.mean()
    soft = -(log_probs * teacher_logits.float().softmax(-1)).sum(1)
    return (alpha * soft + (1 - alpha) * hard).mean()


def draw_index(weights: Tensor) -> Tensor:
    """[B, C] weights -> [B] one index a row, drawn in proportion."""
    return torch.multinomial(weights, 1).squeeze(1)


def hard_negatives(
    similarity: Tensor, same: Tensor, floor: float = 0.0, draw: Callable[[Tensor], Tensor] = draw_index
) -> np.ndarray:
    """For each row a column that is no match, the likelier the more similar it is.

    Args:
        similarity: [B, C] logits of this process's pairs with its own (C = B) or with those of all processes.
        same: [B, C] bool, True where a column matches the row.
        floor: added to every probability, so that no negative is out of reach (1e-4 in pre-training).
        draw: takes weights [B, C], gives [B].

    Returns:
        [B] on the host: the index plans of attention are made there. Where a row has only matches (a batch of one, or
        of one image), the next row is taken: there is nothing better to learn from.
    """
    # A diverged model must reach its non-finite loss, which the runner reports, rather than fail in the draw.
    logits = similarity.detach().float().nan_to_num()
    weights = (logits.softmax(-1) + floor).masked_fill(same, 0.0)
    empty = weights.sum(1) < torch.finfo(weights.dtype).tiny
    if bool(empty.any()):
        # The matches hold all of the probability: share it out among the others, which leaves their order.
        others = logits.masked_fill(same, -torch.inf).softmax(-1)
        rows, columns = weights.shape
        neighbour = F.one_hot((torch.arange(rows, device=weights.device) + 1) % columns, columns).float()
        others = torch.where(same.all(1, keepdim=True), neighbour, others)
        weights[empty] = others[empty]
    return draw(weights).cpu().numpy()


def itm_loss(logits: Tensor, matched: int) -> Tensor:
    """Two-class cross entropy; the first ``matched`` rows of ``logits`` [n, 2] are matches (class 1)."""
    labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    labels[:matched] = 1
    return F.cross_entropy(logits.float(), labels)


def lm_targets(texts: TextBatch, prompt_length: int = 1) -> tuple[Tensor, Tensor]:
    """Which rows predict what: only these need logits.

    Args:
        texts: packed ids, [DEC] first.
        prompt_length: tokens in front of each text that are given, not predicted; at least 1.

    Returns:
        rows [R] (of the packed hidden states) and their next tokens [R].
    """
    lengths = np.asarray(texts.lengths)
    place = np.arange(lengths.sum()) - np.repeat(texts.starts, lengths)
    predicts = (place + 1 >= prompt_length) & (place + 1 < np.repeat(lengths, lengths))
    rows = torch.from_numpy(np.flatnonzero(predicts)).to(texts.ids.device)
    return rows, texts.ids[rows + 1]


def lm_count(texts: TextBatch, prompt_length: int = 1) -> int:
    """Number of predicted tokens R of ``texts``."""
    return sum(max(length - max(prompt_length, 1), 0) for length in texts.lengths)


def lm_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.1, reduction: str = "mean") -> Tensor:
    """Cross entropy with label smoothing (Paper: 3.2, LM).

    Args:
        logits: [R, V].
        targets: [R].
        label_smoothing: mass spread evenly over the vocabulary, 0..1.
        reduction: "mean" or "none".

    Returns:
        Scalar, or [R] for "none".
    """
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing, reduction=reduction)


def sum_by_text(values: Tensor, texts: TextBatch, rows: Tensor) -> Tensor:
    """Sums of per-token ``values`` [R] (of the packed ``rows`` [R]) over each text: [N]."""
    text_of_row = torch.from_numpy(np.repeat(np.arange(len(texts)), texts.lengths)).to(values.device)
    return values.new_zeros(len(texts)).index_add(0, text_of_row[rows], values)
