"""Text transformers over a handful of tokens, small enough to be searched exhaustively."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlkit.models.attention import ImageKV
from vlkit.models.med import MedConfig, TextDecoder
from vlkit.models.packing import TextBatch

BOS, EOS = 1, 2
IMAGE_WIDTH = 6


def config(vocab: int = 7, **sizes: Any) -> MedConfig:
    given = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
    return MedConfig(**{**given, "vocab_size": vocab, "max_position_embeddings": 24, "initializer_range": 0.5, **sizes})


def decoder(vocab: int = 7, seed: int = 0, eos_bias: float = 0.0, **sizes: Any) -> TextDecoder:
    """A random decoder in eval mode; ``eos_bias`` makes its texts shorter."""
    torch.manual_seed(seed)
    model = TextDecoder(config(vocab, **sizes), IMAGE_WIDTH).eval()
    torch.nn.init.normal_(model.cls.predictions.bias, std=0.3)
    with torch.no_grad():
        model.cls.predictions.bias[EOS] = eos_bias
    return model


def image_embeds(count: int, seed: int = 0, tokens: int = 3) -> Tensor:
    return torch.randn(count, tokens, IMAGE_WIDTH, generator=torch.Generator().manual_seed(seed)) * 2


def states(model: TextDecoder, embeds: Tensor) -> ImageKV:
    """Fresh keys and values: decoding consumes them."""
    with torch.no_grad():
        return model.bert.project_images(embeds)


def log_probs(model: TextDecoder, embeds: Tensor, sequence: list[int]) -> Tensor:
    """[len(sequence), V] of what follows each token of one text for one image ``embeds`` [P, Dv], without a cache."""
    with torch.no_grad():
        hidden = model(TextBatch.from_lists([sequence]), states(model, embeds[None]))
        return model.logits(hidden).log_softmax(-1)


def text_log_prob(model: TextDecoder, embeds: Tensor, sequence: list[int], prompt: int) -> float:
    """Log-probability of ``sequence`` behind its first ``prompt`` tokens."""
    follows = log_probs(model, embeds, sequence)
    return sum(float(follows[i - 1, sequence[i]]) for i in range(prompt, len(sequence)))
