"""What tasks on images with one text each share."""

from __future__ import annotations

from typing import Any

import torch

from vlkit.models.decoding import GenerationConfig
from vlkit.tasks.base import Batch, EvalContext, to_device


def image_text_inputs(model: Any, batch: Batch, device: torch.device) -> Batch:
    """``image`` [B, 3, S, S] and ``texts`` (packed) on ``device``, and ``targets``: how many tokens are predicted."""
    texts = model.tokenize(batch["text_input"])
    return to_device({"image": batch["image"], "texts": texts, "targets": model.target_count(texts)}, device)


def best_captions(model: Any, batch: Batch, config: GenerationConfig, context: EvalContext) -> list[str]:
    """The model's first caption of each image of ``batch``."""
    with context.autocast():
        captions = model.caption({"image": batch["image"].to(context.device)}, config)
    return [texts[0] for texts in captions.texts]
