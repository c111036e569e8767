"""The image encoder (paper, section 3.1): a vision transformer; the text side reads all its tokens, [CLS] first.

Shapes: ``B`` images, ``P`` tokens (1 + patches), ``Dv`` width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlkit.errors import ConfigError, VlkitError
from vlkit.models.attention import attend, merge_heads, split_heads
from vlkit.models.onednn_linear import Linear, gelu
from vlkit.registry.bounds import Depth, DropRate, Range, Side, Width, check_fields

MAX_PATCHES = 16_384
"""Most patches of an image: time and memory of attention grow with their square."""
_NORM_EPS = 1e-6


@dataclass
class VitConfig:
    """Sizes of the image encoder; the defaults are ViT-B/16 at 224 pixels.

    Args:
        image_size: height and width of the images, in pixels.
        patch_size: height and width of a patch, in pixels; divides ``image_size``.
        embed_dim: width Dv.
        depth: blocks.
        num_heads: heads; divides ``embed_dim``.
        mlp_ratio: width of the feed-forward layer over ``embed_dim``.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0 at the first.
        init_std: standard deviation of initial weights.
        backbone: name of a timm model to use instead; only ``image_size`` applies to it, and its checkpoints differ.
    """

    image_size: Side = 224
    patch_size: Side = 16
    embed_dim: Width = 768
    depth: Depth = 12
    num_heads: Width = 12
    mlp_ratio: Annotated[float, Range(0, 64, open=True)] = 4.0
    drop_path_rate: DropRate = 0.0
    init_std: Annotated[float, Range(1e-6, 10)] = 0.02
    backbone: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "vit")
        if self.backbone is not None:
            return
        problems = []
        if self.image_size % self.patch_size:
            problems.append(f"vit: patch_size ({self.patch_size}) must divide image_size ({self.image_size}).")
        if (self.image_size // self.patch_size) ** 2 > MAX_PATCHES:
            patches = (self.image_size // self.patch_size) ** 2
            problems.append(
                f"vit: image_size ({self.image_size}) over patch_size ({self.patch_size}) gives {patches:,} patches; "
                f"at most {MAX_PATCHES:,} are allowed."
            )
        if self.embed_dim % self.num_heads:
            problems.append(f"vit: num_heads ({self.num_heads}) must divide embed_dim ({self.embed_dim}).")
        if problems:
            raise ConfigError(problems)

    def weight_count(self) -> int:
        """Estimate the number of weights; 0 for a ``backbone``."""
        if self.backbone is not None:
            return 0
        block = (4 + 2 * self.mlp_ratio) * self.embed_dim**2
        patches = (self.image_size // self.patch_size) ** 2
        return int(self.depth * block) + self.embed_dim * (patches + 3 * self.patch_size**2)


class SelfAttention(nn.Module):
    """Self-attention with timm's parameter names and the kernels of :mod:`~vlkit.models.attention`."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, first_only: bool = False) -> Tensor:
        """Map [B, P, Dv] to [B, P, Dv], or to [B, 1, Dv] of only the first token."""
        query, key, value = (split_heads(t, self.heads) for t in self.qkv(x).chunk(3, -1))
        if first_only:
            query = query[:, :, :1]
        return self.proj(merge_heads(attend(query, key, value)))


class PatchEmbed(nn.Module):
    """Map patches to tokens.

    Args:
        config: sizes.
    """

    def __init__(self, config: VitConfig):
        super().__init__()
        self.img_size = (config.image_size, config.image_size)
        self.proj = nn.Conv2d(3, config.embed_dim, config.patch_size, stride=config.patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """Map [B, 3, S, S] to [B, P - 1, Dv], row by row."""
        return self.proj(image).flatten(2).transpose(1, 2)


class Mlp(nn.Module):
    """The feed-forward layer of a block."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, P, Dv] to [B, P, Dv]."""
        return self.fc2(gelu(self.fc1, x))


class DropPath(nn.Module):
    """Stochastic depth: training drops the whole branch for a share of the images and scales it up for the rest.

    Args:
        rate: share of the images that it is dropped for, 0..1.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, P, Dv] to [B, P, Dv]."""
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(len(x), 1, 1).bernoulli_(1 - self.rate)
        return x * kept.div_(1 - self.rate)


class Block(nn.Module):
    """A layer of the image encoder: self-attention and feed-forward, each with a norm before it and a residual.

    Args:
        config: sizes.
        drop_path: share of the images that a branch is dropped for in training, 0..1.
    """

    def __init__(self, config: VitConfig, drop_path: float):
        super().__init__()
        width = config.embed_dim
        self.norm1 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.attn = SelfAttention(width, config.num_heads)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.mlp = Mlp(width, int(width * config.mlp_ratio))
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor, first_only: bool = False) -> Tensor:
        """Map [B, P, Dv] to [B, P, Dv], or to [B, 1, Dv] of only the first token."""
        mixed = self.attn(self.norm1(x), first_only)
        x = (x[:, :1] if first_only else x) + self.drop_path1(mixed)
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """A vision transformer without head and pooling, with timm's parameter names, which are the original's.

    It does not use timm, whose import takes seconds.

    Args:
        config: sizes.
    """

    def __init__(self, config: VitConfig):
        super().__init__()
        self.width = config.embed_dim
        self.patch_embed = PatchEmbed(config)
        tokens = 1 + (config.image_size // config.patch_size) ** 2
        self.cls_token = nn.Parameter(torch.empty(1, 1, self.width))
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, self.width))
        rates = torch.linspace(0, config.drop_path_rate, config.depth, device="cpu").tolist()
        self.blocks = nn.Sequential(*[Block(config, rate) for rate in rates])
        self.norm = nn.LayerNorm(self.width, eps=_NORM_EPS)
        for block in self.blocks:  # built again, so that a seed gives the same weights as in earlier versions
            block.attn = SelfAttention(self.width, config.num_heads)
        self._init(config.init_std)

    def _init(self, std: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)
        for token in (self.pos_embed, self.cls_token):
            nn.init.trunc_normal_(token, std=std)

    def forward(self, image: Tensor, first_only: bool = False) -> Tensor:
        """Map [B, 3, S, S] to [B, P, Dv], normalized, or to [B, 1, Dv]: then the last block computes only [CLS]."""
        _check_size(image, self.patch_embed.img_size)
        patches = self.patch_embed(image)
        tokens = torch.cat([self.cls_token.expand(len(image), -1, -1), patches], 1) + self.pos_embed
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, first_only and index == last)
        return self.norm(tokens)


def _check_size(image: Tensor, size: tuple[int, int] | None) -> None:
    given = tuple(image.shape[-2:])
    if size is not None and given != tuple(size):
        raise VlkitError(
            f"images of {given} pixels were given to an image encoder for {tuple(size)}: "
            f"set the processor's image_size, or the model's vit.image_size, so that both agree."
        )


class TimmBackbone(nn.Module):
    """A timm model as image encoder: its feature map as tokens, after their mean as [CLS].

    Args:
        name: timm's name of the model; built without pretrained weights.
        image_size: in pixels, for models that need it.
    """

    def __init__(self, name: str, image_size: int):
        super().__init__()
        import timm

        from vlkit.errors import did_you_mean

        if not timm.is_model(name):
            raise VlkitError(f"timm has no model named {name!r}.{did_you_mean(name, timm.list_models())}")
        self.body = _create_headless(name, image_size)
        self.width = int(self.body.num_features)

    def forward(self, image: Tensor, first_only: bool = False) -> Tensor:
        """Map [B, 3, S, S] to [B, P, Dv], or to [B, 1, Dv] of only [CLS]."""
        tokens = self._tokens(image)
        return tokens[:, :1] if first_only else tokens

    def _tokens(self, image: Tensor) -> Tensor:
        _check_size(image, getattr(getattr(self.body, "patch_embed", None), "img_size", None))
        features = self.body.forward_features(image)
        if features.ndim == 4:
            if features.shape[1] == self.width:  # channels first
                features = features.permute(0, 2, 3, 1)
            features = features.flatten(1, 2)
        if getattr(self.body, "num_prefix_tokens", 0):
            return features
        return torch.cat([features.mean(1, keepdim=True), features], 1)


def _create_headless(name: str, image_size: int) -> Any:
    import timm

    error: Exception | None = None
    # Convolutional models accept any size and no such argument; distilled ones have their own pooling.
    options: list[dict[str, Any]] = [{"global_pool": "", "img_size": image_size}, {"global_pool": ""}]
    for given in [*options, {"img_size": image_size}, {}]:
        try:
            return timm.create_model(name, num_classes=0, **given)
        except (TypeError, AssertionError) as refusal:
            error = refusal
    raise VlkitError(f"timm does not build {name!r} without a head: {error}")


def build_image_encoder(config: VitConfig) -> VisionTransformer | TimmBackbone:
    """Build the image encoder of ``config``: has ``width`` (Dv) and maps [B, 3, S, S] to [B, P, Dv]."""
    if config.backbone is not None:
        return TimmBackbone(config.backbone, config.image_size)
    return VisionTransformer(config)


def resize_pos_embed(pos_embed: Tensor, tokens: int, prefix: int = 1) -> Tensor:
    """Resize a position embedding to another number of patches by bicubic interpolation.

    Args:
        pos_embed: [1, prefix + patches, Dv], the patches a square.
        tokens: wanted number of tokens, prefix included.
        prefix: tokens in front that stay as they are ([CLS]).

    Returns:
        [1, tokens, Dv].

    Raises:
        VlkitError: the patches of either are no square.
    """
    old, new = math.isqrt(pos_embed.shape[1] - prefix), math.isqrt(tokens - prefix)
    if old**2 != pos_embed.shape[1] - prefix or new**2 != tokens - prefix:
        raise VlkitError(
            f"a position embedding of {pos_embed.shape[1]} tokens cannot be resized to {tokens}: without the "
            f"{prefix} in front, both must be square grids of patches."
        )
    if old == new:
        return pos_embed
    grid = pos_embed[:, prefix:].float().unflatten(1, (old, old)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    patches = grid.permute(0, 2, 3, 1).flatten(1, 2).to(pos_embed.dtype)
    return torch.cat([pos_embed[:, :prefix], patches], 1)
