"""The text side: BERT with cross-attention, language-model head.

Parameter names are those of the original's checkpoints, which are also ours.

Shapes: ``N`` texts, ``L`` their padded length, ``P`` image tokens, ``Dv`` their width, ``D`` text width, ``H`` heads,
``d`` width of a head, ``V`` vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_EPS = 1e-12
MASKED = -10000.0
"""Added to the scores of what must not be seen."""
IGNORED = -100
"""Label of a token that is not to be predicted."""


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Two matrix products around a softmax. [N, H, L, d], [N, H, S, d] twice, additive mask -> [N, L, H * d]."""
    scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores + mask
    mixed = torch.matmul(scores.softmax(-1), value)
    return mixed.permute(0, 2, 1, 3).contiguous().flatten(2)


def additive(mask: Tensor) -> Tensor:
    """[N, L] of ones and zeros -> [N, 1, 1, L] to be added to scores."""
    return (1.0 - mask[:, None, None, :].float()) * MASKED


def causal_and(mask: Tensor) -> Tensor:
    """[N, L] of ones and zeros -> [N, 1, L, L] to be added to scores, of attention to what stands before."""
    length = mask.shape[1]
    before = torch.ones(length, length, device=mask.device).tril()
    return (1.0 - before * mask[:, None, None, :].float()) * MASKED


class Projections(nn.Module):
    """Of queries, keys and values, each on its own."""

    def __init__(self, width: int, source: int):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source, width)
        self.value = nn.Linear(source, width)


class Output(nn.Module):
    """Projection, residual, norm."""

    def __init__(self, wide: int, width: int):
        super().__init__()
        self.dense = nn.Linear(wide, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class BertAttention(nn.Module):
    """Attention to ``source``, or to the texts themselves."""

    def __init__(self, config: Any, source: int):
        super().__init__()
        self.heads = config.num_attention_heads
        self.self = Projections(config.hidden_size, source)
        self.output = Output(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor, source: Tensor | None = None) -> Tensor:
        seen = hidden if source is None else source
        query = self._split(self.self.query(hidden))
        key, value = self._split(self.self.key(seen)), self._split(self.self.value(seen))
        return self.output(softmax_attention(query, key, value, mask), hidden)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).permute(0, 2, 1, 3)


class Intermediate(nn.Module):
    """The wide half of the feed-forward layer."""

    def __init__(self, width: int, wide: int):
        super().__init__()
        self.dense = nn.Linear(width, wide)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class BertLayer(nn.Module):
    """Self-attention, cross-attention where there is something to see, feed-forward."""

    def __init__(self, config: Any, source: int):
        super().__init__()
        self.attention = BertAttention(config, config.hidden_size)
        self.crossattention = BertAttention(config, source)
        self.intermediate = Intermediate(config.hidden_size, config.intermediate_size)
        self.output = Output(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor, source: Tensor | None, source_mask: Tensor | None) -> Tensor:
        hidden = self.attention(hidden, mask)
        if source is not None:
            hidden = self.crossattention(hidden, source_mask, source)
        return self.output(self.intermediate(hidden), hidden)


class Embeddings(nn.Module):
    """Of words and places."""

    def __init__(self, config: Any):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=_EPS)
        self.register_buffer("position_ids", torch.arange(config.max_position_embeddings)[None])

    def forward(self, ids: Tensor) -> Tensor:
        places = self.position_embeddings(self.position_ids[:, : ids.shape[1]])
        return self.LayerNorm(self.word_embeddings(ids) + places)


class BertEncoder(nn.Module):
    """The layers."""

    def __init__(self, config: Any, source: int):
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config, source) for _ in range(config.num_hidden_layers))


class Bert(nn.Module):
    """The text transformer.

    Args:
        config: sizes, with the fields of a ``MedConfig`` of vlkit.
        source: width of what cross-attention sees.
    """

    def __init__(self, config: Any, source: int):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = BertEncoder(config, source)

    def forward(
        self,
        ids: Tensor,
        mask: Tensor,
        source: Tensor | None = None,
        source_mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """States [N, L, D].

        Args:
            ids: [N, L].
            mask: [N, L], 0 at padding.
            source: [N, P, Dv] what cross-attention sees; None: there is none.
            source_mask: [N, P], 0 at what must not be seen; None: all is seen.
            causal: a token sees only what stands before it.
        """
        seen = causal_and(mask) if causal else additive(mask)
        if source is not None:
            ones = torch.ones(source.shape[:2], dtype=torch.long, device=source.device)
            source_mask = additive(ones if source_mask is None else source_mask)
        hidden = self.embeddings(ids)
        for layer in self.encoder.layer:
            hidden = layer(hidden, seen, source, source_mask)
        return hidden


class HeadTransform(nn.Module):
    """What comes before the vocabulary."""

    def __init__(self, width: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(F.gelu(self.dense(x)))


class Predictions(nn.Module):
    """Logits over the vocabulary."""

    def __init__(self, config: Any):
        super().__init__()
        self.transform = HeadTransform(config.hidden_size)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.bias = self.decoder.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class LMHead(nn.Module):
    """A module of its own only for its name."""

    def __init__(self, config: Any):
        super().__init__()
        self.predictions = Predictions(config)


class Decoder(nn.Module):
    """The text transformer read from left to right, with logits over the vocabulary."""

    def __init__(self, config: Any, source: int):
        super().__init__()
        self.bert = Bert(config, source)
        self.cls = LMHead(config)

    def forward(
        self, ids: Tensor, mask: Tensor, source: Tensor | None = None, source_mask: Tensor | None = None
    ) -> Tensor:
        """Logits [N, L, V] of every place."""
        return self.cls.predictions(self.bert(ids, mask, source, source_mask, causal=True))


def lm_loss(logits: Tensor, labels: Tensor, smoothing: float, reduction: str = "mean") -> Tensor:
    """Cross entropy of the next token; with reduction "none" summed over each text, [N].

    Args:
        logits: [N, L, V].
        labels: [N, L], ``IGNORED`` where nothing is predicted.
        smoothing: mass spread over the vocabulary, 0..1.
        reduction: "mean" or "none".
    """
    shifted, labels = logits[:, :-1].contiguous(), labels[:, 1:].contiguous()
    loss = F.cross_entropy(
        shifted.flatten(0, 1), labels.flatten(), label_smoothing=smoothing, reduction=reduction, ignore_index=IGNORED
    )
    return loss.view(len(logits), -1).sum(1) if reduction == "none" else loss
