"""Ranking the answers of a list to visual questions.

Shapes: ``B`` questions, ``M`` tokens of the longest question, ``A`` answers, ``L`` tokens of the longest answer, ``k``
candidates, ``D`` text width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .models import IGNORED, Bert, Decoder, lm_loss
from .vit import Vit

SMOOTHING = 0.1


class Answerer(nn.Module):
    """Image encoder, question encoder, answer decoder.

    Args:
        vit: sizes, as a ``VitConfig`` of vlkit has them.
        med: sizes, as a ``MedConfig`` of vlkit has them.
    """

    def __init__(self, vit: Any, med: Any):
        super().__init__()
        self.visual_encoder = Vit(vit)
        self.text_encoder = Bert(med, vit.embed_dim)
        self.text_decoder = Decoder(med, med.hidden_size)


@torch.no_grad()
def read_questions(model: Answerer, image: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """States [B, M, D] of the questions [B, M], [ENC] first, that have seen their images [B, 3, S, S]."""
    return model.text_encoder(ids, mask, model.visual_encoder(image))


@torch.no_grad()
def rank_answers(
    model: Answerer, states: Tensor, seen: Tensor, ids: Tensor, mask: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k answers of the likeliest first tokens, ordered by their loss.

    Args:
        model: in fp32.
        states: [B, M, D] of the questions.
        seen: [B, M], 0 at padding.
        ids: [A, L] of the answers, [DEC] first.
        mask: [A, L], 0 at padding.
        k: candidates of each question.

    Returns:
        Answers [B, k], best first, and their losses.
    """
    count = len(states)
    start = ids[0, 0].repeat(count, 1)
    first = model.text_decoder(start, torch.ones_like(start), states, seen)[:, 0]
    chosen = first.softmax(-1).index_select(1, ids[:, 1]).topk(k, dim=1).indices
    answer_ids = torch.cat([ids.index_select(0, row) for row in chosen])
    answer_mask = torch.cat([mask.index_select(0, row) for row in chosen])
    labels = answer_ids.masked_fill(answer_mask == 0, IGNORED)
    states, seen = tile(states, k), tile(seen, k)
    logits = model.text_decoder(answer_ids, answer_mask, states, seen)
    losses, order = lm_loss(logits, labels, SMOOTHING, "none").view(count, k).sort(1)
    return chosen.gather(1, order), losses


def tile(x: Tensor, times: int) -> Tensor:
    """[B, ...] -> [B * times, ...], each row ``times`` times."""
    order = torch.arange(len(x), device=x.device).repeat_interleave(times)
    return x.index_select(0, order)
