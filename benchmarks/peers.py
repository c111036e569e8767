"""The other implementation: classes of ``transformers`` with the weights of ours."""

from __future__ import annotations

import logging
from typing import Any

import torch

from vlkit.jobs.convert import hugging_face_config
from vlkit.models.blip.base import BlipBase
from vlkit.models.med import MedConfig
from vlkit.models.vit import VitConfig
from vlkit.models.weights.names import HUGGING_FACE_CLASSES, to_hugging_face

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def sizes(size: str, pixels: int) -> tuple[VitConfig, MedConfig]:
    """Of the models: "base" (ViT-B/16 for images of ``pixels``) or "tiny" (to see that it runs)."""
    if size == "base":
        return VitConfig(image_size=pixels), MedConfig()
    return (
        VitConfig(image_size=32, embed_dim=64, depth=2, num_heads=2),
        MedConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128),
    )


def peer_of(ours: BlipBase, name: str) -> tuple[Any, str]:
    """The class of ``transformers`` that is our model ``name``, with the weights of ``ours``; and what to call it.

    Raises:
        RuntimeError: the two do not have the same weights.
    """
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    config = hugging_face_config(ours, name)
    config["text_config"]["label_smoothing"] = 0.1
    peer = getattr(transformers, HUGGING_FACE_CLASSES[name][0])(transformers.BlipConfig(**config)).eval()
    missing, unexpected = peer.load_state_dict(to_hugging_face(ours.state_dict(), name), strict=False)
    if unexpected or any("position_ids" not in name for name in missing):
        raise RuntimeError(f"the peer has other weights: missing {missing}, unexpected {unexpected}")
    return peer, f"transformers {transformers.__version__}"
