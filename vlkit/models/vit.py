"""The image encoder (paper, section 3.1): a vision transformer whose tokens, [CLS] first, all go to the text side.

Shapes: ``B`` images, ``P`` tokens (1 + patches), ``Dv`` width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from vlkit.errors import VlkitError
from vlkit.models.attention import attend, merge_heads, split_heads


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
        backbone: name of a timm model to use instead of all sizes but ``image_size``; its checkpoints are its own.
    """

    image_size: int = 224
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.0
    init_std: float = 0.02
    backbone: str | None = None


class SelfAttention(nn.Module):
    """Self-attention under timm's names, through the library's own choice of kernel."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """[B, P, Dv] -> [B, P, Dv]. What else timm's block passes are masks, which images have not."""
        query, key, value = (split_heads(t, self.heads) for t in self.qkv(x).chunk(3, -1))
        return self.proj(merge_heads(attend(query, key, value)))


class VisionTransformer(TimmVisionTransformer):
    """timm's vision transformer without head and pooling: its parameter names are the original's.

    Args:
        config: sizes.
    """

    def __init__(self, config: VitConfig):
        super().__init__(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            drop_path_rate=config.drop_path_rate,
            num_classes=0,
            global_pool="",
            fc_norm=False,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            weight_init="skip",
        )
        for block in self.blocks:
            block.attn = SelfAttention(config.embed_dim, config.num_heads)
        self.width = config.embed_dim
        self._init(config.init_std)

    def _init(self, std: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)
        for token in (self.pos_embed, self.cls_token):
            assert token is not None  # timm's models may be without
            nn.init.trunc_normal_(token, std=std)

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]  # images have no masks
        """[B, 3, S, S] -> [B, P, Dv], normalised."""
        _check_size(image, self.patch_embed.img_size)
        return self.forward_features(image)


def _check_size(image: Tensor, size: tuple[int, int] | None) -> None:
    given = tuple(image.shape[-2:])
    if size is not None and given != tuple(size):
        raise VlkitError(
            f"images of {given} pixels were given to an image encoder for {tuple(size)}: "
            f"set the processor's image_size, or the model's vit.image_size, so that both agree."
        )


class TimmBackbone(nn.Module):
    """Any timm model as image encoder: its feature map as tokens, with their mean in front as [CLS].

    Args:
        name: timm's name of the model; built without pretrained weights.
        image_size: pixels, for models that must know.
    """

    def __init__(self, name: str, image_size: int):
        super().__init__()
        import timm

        from vlkit.errors import did_you_mean

        if not timm.is_model(name):
            raise VlkitError(f"timm has no model named {name!r}.{did_you_mean(name, timm.list_models())}")
        self.body = _create_headless(name, image_size)
        self.width = int(self.body.num_features)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, P, Dv]."""
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
    # Convolutional models take any size and no such argument; distilled ones have a pooling of their own.
    options: list[dict[str, Any]] = [{"global_pool": "", "img_size": image_size}, {"global_pool": ""}]
    for given in [*options, {"img_size": image_size}, {}]:
        try:
            return timm.create_model(name, num_classes=0, **given)
        except (TypeError, AssertionError) as refusal:
            error = refusal
    raise VlkitError(f"timm does not build {name!r} without a head: {error}")


def build_image_encoder(config: VitConfig) -> VisionTransformer | TimmBackbone:
    """The image encoder of ``config``; has ``width`` (Dv) and maps [B, 3, S, S] to [B, P, Dv]."""
    if config.backbone is not None:
        return TimmBackbone(config.backbone, config.image_size)
    if config.image_size % config.patch_size or config.embed_dim % config.num_heads:
        raise VlkitError(f"vit: patch_size must divide image_size and num_heads must divide embed_dim; given {config}.")
    return VisionTransformer(config)


def resize_pos_embed(pos_embed: Tensor, tokens: int, prefix: int = 1) -> Tensor:
    """Position embedding for another number of patches, by bicubic interpolation.

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
