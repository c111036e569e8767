"""Evaluation of retrieval: everything is encoded, then each query's nearest candidates are scored by matching, image
after image and text after text.

Shapes: ``I`` images, ``T`` texts, ``L`` padded length, ``P`` image tokens, ``E`` projection, ``k`` candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .models import Bert
from .vit import Vit
from .weights import pad_texts

UNSEEN = -100.0
"""Score of a pair that was not matched."""
LONGEST = 35
_TEXTS_AT_ONCE = 256


class Matcher(nn.Module):
    """Image encoder, text encoder, projections and matching head.

    Args:
        vit: sizes, as a ``VitConfig`` of vlkit has them.
        med: sizes, as a ``MedConfig`` of vlkit has them.
        embed_dim: width E of projected features.
    """

    def __init__(self, vit: Any, med: Any, embed_dim: int = 256):
        super().__init__()
        self.visual_encoder = Vit(vit)
        self.text_encoder = Bert(med, vit.embed_dim)
        self.vision_proj = nn.Linear(vit.embed_dim, embed_dim)
        self.text_proj = nn.Linear(med.hidden_size, embed_dim)
        self.itm_head = nn.Linear(med.hidden_size, 2)

    def match(self, ids: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """Logit [n] of a match of texts [n, L] with as many images [n, P, Dv]."""
        return self.itm_head(self.text_encoder(ids, mask, tokens)[:, 0])[:, 1]


@dataclass
class Encoded:
    """A set before matching.

    Args:
        tokens: [I, P, Dv].
        ids, mask: [T, L], [ENC] first.
        similarity: [I, T].
    """

    tokens: Tensor
    ids: Tensor
    mask: Tensor
    similarity: Tensor


@torch.no_grad()
def encode(model: Matcher, images: Iterable[Tensor], texts: Sequence[Sequence[int]], enc_id: int) -> Encoded:
    """Encode all images and texts.

    Args:
        model: in fp32.
        images: batches [b, 3, S, S].
        texts: token ids.
        enc_id: [ENC].
    """
    device = model.itm_head.weight.device
    ids, mask = (table.to(device) for table in pad_texts(texts, LONGEST))
    text_feats = []
    for start in range(0, len(ids), _TEXTS_AT_ONCE):
        part = slice(start, start + _TEXTS_AT_ONCE)
        states = model.text_encoder(ids[part], mask[part])
        text_feats.append(F.normalize(model.text_proj(states[:, 0]), dim=-1))
    tokens, image_feats = [], []
    for image in images:
        tokens.append(model.visual_encoder(image.to(device)))
        image_feats.append(F.normalize(model.vision_proj(tokens[-1][:, 0]), dim=-1))
    ids = ids.clone()
    ids[:, 0] = enc_id
    return Encoded(torch.cat(tokens), ids, mask, torch.cat(image_feats) @ torch.cat(text_feats).t())


@torch.no_grad()
def image_queries(model: Matcher, found: Encoded, k: int, queries: Sequence[int]) -> Tensor:
    """Scores [I, T] of the k nearest texts of each image in ``queries``."""
    scores = torch.full_like(found.similarity, UNSEEN)
    for image in queries:
        nearest, texts = found.similarity[image].topk(k)
        repeated = found.tokens[image].repeat(k, 1, 1)
        scores[image, texts] = model.match(found.ids[texts], found.mask[texts], repeated) + nearest
    return scores


@torch.no_grad()
def text_queries(model: Matcher, found: Encoded, k: int, queries: Sequence[int]) -> Tensor:
    """Scores [T, I] of the k nearest images of each text in ``queries``."""
    similarity = found.similarity.t()
    scores = torch.full_like(similarity, UNSEEN)
    for text in queries:
        nearest, images = similarity[text].topk(k)
        ids, mask = found.ids[text].repeat(k, 1), found.mask[text].repeat(k, 1)
        scores[text, images] = model.match(ids, mask, found.tokens[images]) + nearest
    return scores
