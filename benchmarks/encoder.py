"""The image encoder beside ``transformers``' BlipVisionModel: from pixels to tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.compare import Row, compare
from benchmarks.peers import DTYPES, peer_of, sizes
from vlkit.models.blip.image_text_matching import BlipImageTextMatching
from vlkit.models.vit import VitConfig

PIXELS = 384
WANTED = {("bf16", 4): 1.3}
"""Least ratio at size "base" on a CPU, by dtype and batch."""
# Largest difference of two numbers, over the largest of the reference.
_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}


def encoder_rows(
    size: str = "base",
    batches: Sequence[int] = (1, 4),
    dtypes: Sequence[str] = ("fp32", "bf16"),
    repeat: int = 3,
    device: str = "cpu",
) -> Iterator[Row]:
    """One row per dtype and batch size, with GFLOP/s.

    Args:
        size: "base" (ViT-B/16 at 384 pixels) or "tiny" (to see that it runs).
        batches: images at a time.
        dtypes: of weights and images, on both sides.
        repeat: timed runs.
        device: where.
    """
    vit, med = sizes(size, PIXELS)
    torch.manual_seed(0)
    ours = BlipImageTextMatching(vit, med).eval()
    peer, name = peer_of(ours, "blip_image_text_matching")
    for dtype in dtypes:
        ours, peer = ours.to(device, DTYPES[dtype]), peer.to(device, DTYPES[dtype])
        for batch in batches:
            side = vit.image_size
            image = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(batch))
            image = image.to(device, DTYPES[dtype])
            yield compare(
                f"image encoder, {size}, {side} px, batch {batch}",
                dtype,
                name,
                partial(_run_ours, ours, image),
                partial(_run_peer, peer, image),
                partial(_close, tolerance=_TOLERANCE[dtype]),
                repeat,
                wanted=WANTED.get((dtype, batch)) if size == "base" and device == "cpu" else None,
                flop=batch * encoder_flop(vit),
            )


def encoder_flop(config: VitConfig) -> float:
    """Floating-point operations of the matrix products for one image; a multiplication and an addition are two."""
    width = config.embed_dim
    patches = (config.image_size // config.patch_size) ** 2
    tokens = patches + 1
    linear = 2 * tokens * width * width * (4 + 2 * config.mlp_ratio)
    attention = 4 * tokens * tokens * width
    return config.depth * (linear + attention) + 2 * patches * 3 * config.patch_size**2 * width


@torch.inference_mode()
def _run_ours(model: BlipImageTextMatching, image: Tensor) -> Tensor:
    return model.image_embeds({"image": image})


@torch.inference_mode()
def _run_peer(peer: Any, image: Tensor) -> Tensor:
    return peer.vision_model(image).last_hidden_state


def _close(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    """Whether no number differs by more than ``tolerance`` times the largest."""
    mine, other = ours.float().cpu(), theirs.float().cpu()
    return mine.shape == other.shape and bool((mine - other).abs().max() <= tolerance * other.abs().max())
