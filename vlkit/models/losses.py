"""The three objectives of BLIP: image-text contrast, image-text matching, language modeling (paper, section 3.2).

All losses are computed in float32, also under autocast: temperatures and log-softmax lose digits in bf16.

Shapes: ``B`` pairs of this process, ``A`` all candidates (pairs of all processes, then the queue), ``E`` projection,
``N`` texts, ``R`` predicted tokens, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlkit.models.packing import TextBatch


def soft_contrast(logits: Tensor, teacher_logits: Tensor | None, alpha: float, targets: Tensor) -> Tensor:
    """Compute the cross entropy with a mix of hard targets and soft targets of a momentum teacher.

    Args:
        logits: [B, A] similarities over the temperature.
        teacher_logits: [B, A] of the teacher; not needed when ``alpha`` is 0.
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


class _Differentiated(torch.autograd.Function):
    """A scalar whose gradients are computed already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *inputs_and_gradients: Tensor | None) -> Tensor:
        ctx.save_for_backward(*inputs_and_gradients[count:])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        known = [gradient * grads[0] if gradient is not None else None for gradient in ctx.saved_tensors]
        return (None, None, *known, *[None] * len(known))


def differentiate_now(compute: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Call ``compute(*inputs)`` and differentiate its first result, a scalar, at once.

    The backward pass then needs nothing that ``compute`` read: queues may be overwritten, and wide logits are freed.
    The other results carry no gradient.
    """
    if not torch.is_grad_enabled():
        return compute(*inputs)
    leaves = [x.detach().requires_grad_(x.requires_grad) for x in inputs]
    value, *others = compute(*leaves)
    gradients: list[Tensor | None] = [None] * len(inputs)
    wanted = [i for i, leaf in enumerate(leaves) if leaf.requires_grad]
    if wanted:
        found = torch.autograd.grad(value, [leaves[i] for i in wanted], allow_unused=True)
        for i, gradient in zip(wanted, found):
            gradients[i] = gradient
    value = _Differentiated.apply(value.detach(), len(inputs), *inputs, *gradients)
    return (value, *[other.detach() for other in others])


def draw_index(weights: Tensor) -> Tensor:
    """Sample one index per row of ``weights`` [B, C], in proportion to them: [B]."""
    return torch.multinomial(weights, 1).squeeze(1)


def hard_negatives(
    similarity: Tensor | Sequence[Tensor],
    same: Tensor,
    floor: float = 0.0,
    draw: Callable[[Tensor], Tensor] = draw_index,
) -> np.ndarray:
    """Sample for each row a column that is not a match, more likely the more similar it is.

    Args:
        similarity: [B, C] logits of this process's pairs with its own (C = B) or with those of all processes; or
            several such matrices, which are read back from the device at once.
        same: [B, C] bool, True where a column matches the row.
        floor: added to every probability, so that every negative is possible (1e-4 in pre-training).
        draw: maps weights [B, C] to [B].

    Returns:
        [B] on the host, where the index plans of attention are made; or [n, B] for n matrices. A row that has only
        matches (a batch of one, or of one image) takes the next row.
    """
    if isinstance(similarity, Tensor):
        return draw(_negative_weights(similarity, same, floor)).cpu().numpy()
    return torch.stack([draw(_negative_weights(each, same, floor)) for each in similarity]).cpu().numpy()


def _negative_weights(similarity: Tensor, same: Tensor, floor: float) -> Tensor:
    # A diverged model must reach its non-finite loss, which the runner reports, rather than fail in the sampling.
    logits = similarity.detach().float().nan_to_num()
    weights = (logits.softmax(-1) + floor).masked_fill(same, 0.0)
    # Where matches have all of the probability, the others share it in their order.
    empty = weights.sum(1, keepdim=True) < torch.finfo(weights.dtype).tiny
    others = logits.masked_fill(same, -torch.inf).softmax(-1)
    rows, columns = weights.shape
    neighbor = F.one_hot((torch.arange(rows, device=weights.device) + 1) % columns, columns).float()
    others = torch.where(same.all(1, keepdim=True), neighbor, others)
    return torch.where(empty, others, weights)


def itm_loss(logits: Tensor, matched: int) -> Tensor:
    """Compute the two-class cross entropy; the first ``matched`` rows of ``logits`` [n, 2] are matches (class 1)."""
    labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    labels[:matched] = 1
    return F.cross_entropy(logits.float(), labels)


def lm_targets(texts: TextBatch, prompt_length: int = 1) -> tuple[Tensor, Tensor]:
    """Return the rows that predict a token, which alone need logits, and the tokens.

    Args:
        texts: packed ids, [DEC] first.
        prompt_length: first tokens of each text that are given, not predicted; at least 1.

    Returns:
        rows [R] (of the packed hidden states) and their next tokens [R].
    """
    lengths = np.asarray(texts.lengths)
    place = np.arange(lengths.sum()) - np.repeat(texts.starts, lengths)
    predicts = (place + 1 >= prompt_length) & (place + 1 < np.repeat(lengths, lengths))
    rows = torch.from_numpy(np.flatnonzero(predicts)).to(texts.ids.device)
    return rows, texts.ids[rows + 1]


def lm_count(texts: TextBatch, prompt_length: int = 1) -> int:
    """Return the number of predicted tokens R of ``texts``."""
    return sum(max(length - max(prompt_length, 1), 0) for length in texts.lengths)


def lm_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.1, reduction: str = "mean") -> Tensor:
    """Compute the cross entropy with label smoothing (Paper: 3.2, LM).

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
    """Sum per-token ``values`` [R] of the packed ``rows`` [R] over each text: [N]."""
    text_of_row = torch.from_numpy(np.repeat(np.arange(len(texts)), texts.lengths)).to(values.device)
    return values.new_zeros(len(texts)).index_add(0, text_of_row[rows], values)
