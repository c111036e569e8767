"""Retrieval of videos: as that of images, with the tokens of all frames of a video one after the other.

Shapes: ``V`` videos, ``F`` frames, ``P`` tokens of a frame, ``T`` texts, ``L`` padded length, ``k`` candidates.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from .retrieval import Matcher


@torch.no_grad()
def encode_videos(model: Matcher, videos: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Tokens [V, F * P, Dv] and features [V, E] of batches of videos [b, F, 3, S, S]."""
    tokens, feats = [], []
    for video in videos:
        count, frames = video.shape[:2]
        encoded = model.visual_encoder(video.flatten(0, 1))
        projected = model.vision_proj(encoded[:, 0]).view(count, frames, -1).mean(1)
        feats.append(F.normalize(projected, dim=-1))
        tokens.append(encoded.view(count, -1, encoded.shape[-1]))
    return torch.cat(tokens), torch.cat(feats)


@torch.no_grad()
def text_after_text(model: Matcher, ids: Tensor, mask: Tensor, tokens: Tensor, candidates: Tensor) -> Tensor:
    """Matching logits [T, k] of texts [T, L] with those of the videos [V, F * P, Dv] that ``candidates`` [T, k]
    names."""
    k = candidates.shape[1]
    found = []
    for text, videos in enumerate(candidates):
        found.append(model.match(ids[text].repeat(k, 1), mask[text].repeat(k, 1), tokens[videos]))
    return torch.stack(found)
