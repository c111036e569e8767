"""The vision transformer, with the names of timm, which are those of the original's checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .models import softmax_attention

_EPS = 1e-6


class VitAttention(nn.Module):
    """Self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, width = x.shape
        parts = self.qkv(x).reshape(count, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(softmax_attention(parts[0], parts[1], parts[2]))


class VitMlp(nn.Module):
    """The feed-forward layer."""

    def __init__(self, width: int, wide: int):
        super().__init__()
        self.fc1 = nn.Linear(width, wide)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(wide, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class VitBlock(nn.Module):
    """Attention and feed-forward, each after a norm and beside a skip."""

    def __init__(self, width: int, heads: int, wide: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = VitAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = VitMlp(width, wide)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Patches to tokens."""

    def __init__(self, patch: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)


class Vit(nn.Module):
    """Images [B, 3, S, S] to tokens [B, P, Dv]; ``config`` has the fields of a ``VitConfig`` of vlkit."""

    def __init__(self, config: Any):
        super().__init__()
        width = config.embed_dim
        tokens = 1 + (config.image_size // config.patch_size) ** 2
        self.patch_embed = PatchEmbed(config.patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
        wide = int(width * config.mlp_ratio)
        self.blocks = nn.ModuleList(VitBlock(width, config.num_heads, wide) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
