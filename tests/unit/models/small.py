"""The smallest models with every part, for tests."""

from typing import Any

from vlkit.models.blip.caption import BlipCaption
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.models.med import MedConfig
from vlkit.models.vit import VitConfig


def vit(**sizes: Any) -> VitConfig:
    return VitConfig(**{"image_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, **sizes})


def med(**sizes: Any) -> MedConfig:
    given = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
    return MedConfig(**{**given, "max_position_embeddings": 40, **sizes})


def captioner(**vit_sizes: Any) -> BlipCaption:
    return BlipCaption(vit(**vit_sizes), med(), tokenizer="shapes")


def pretrainer(queue_size: int = 8, **vit_sizes: Any) -> BlipPretrain:
    return BlipPretrain(vit(**vit_sizes), med(), tokenizer="shapes", embed_dim=12, queue_size=queue_size)
