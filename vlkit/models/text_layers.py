"""Layers of the text transformer: embeddings, self-attention, cross-attention to images, feed-forward.

Module names are those of the original implementation, so that its checkpoints load as they are.

Shapes: ``N`` texts, ``T`` tokens of all texts (packed, see packing.py), ``B`` images, ``P`` image tokens, ``Dv`` their
width, ``D`` text width, ``H`` heads, ``d`` width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from vlkit.errors import ConfigError, VlkitError
from vlkit.models.attention import LayerCache, attend, merge_heads, split_heads
from vlkit.models.onednn_linear import Linear, fused_projections, gelu
from vlkit.models.packing import CrossPlan, Segments
from vlkit.registry.bounds import Depth, DropRate, Range, Tokens, Width, check_fields


@dataclass
class MedConfig:
    """Sizes of the text transformer; the defaults are BERT-base with the two added tokens.

    Args:
        vocab_size: entries of the word embedding, [DEC] and [ENC] included; None: the size of the tokenizer.
        hidden_size: width D.
        num_hidden_layers: layers.
        num_attention_heads: heads H; divides ``hidden_size``.
        intermediate_size: width of the feed-forward layer.
        max_position_embeddings: longest text, in tokens.
        hidden_dropout_prob: dropout after embeddings and sub-layers, 0..1.
        attention_probs_dropout_prob: dropout of attention weights, 0..1.
        layer_norm_eps: added to the variance in layer norms.
        initializer_range: standard deviation of initial weights. BERT's 0.02 is too small for widths near 100.
    """

    vocab_size: Annotated[int, Range(1, 10_000_000)] | None = None
    hidden_size: Width = 768
    num_hidden_layers: Depth = 12
    num_attention_heads: Width = 12
    intermediate_size: Annotated[int, Range(1, 1_000_000)] = 3072
    max_position_embeddings: Tokens = 512
    hidden_dropout_prob: DropRate = 0.1
    attention_probs_dropout_prob: DropRate = 0.1
    layer_norm_eps: Annotated[float, Range(0, 1, open=True)] = 1e-12
    initializer_range: Annotated[float, Range(1e-6, 10)] = 0.02

    def __post_init__(self) -> None:
        check_fields(self, "med")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"med: num_attention_heads ({self.num_attention_heads}) must divide hidden_size ({self.hidden_size})."
            )

    def weight_count(self, encoder_width: int) -> int:
        """Estimate the number of weights with cross-attention to tokens of ``encoder_width``."""
        width = self.hidden_size
        layer = 6 * width**2 + 2 * width * (encoder_width + self.intermediate_size)
        tokens = (self.vocab_size or 0) + self.max_position_embeddings
        return self.num_hidden_layers * layer + tokens * width


@dataclass
class TextPlan:
    """What layers need to know about a packed batch besides its hidden states.

    Args:
        segments: how rows split into texts.
        causal: a token attends to itself and to earlier tokens only.
        cross: which rows attend to which image.
        cross_mask: [B, P] bool, False where an image token must not be seen.
    """

    segments: Segments
    causal: bool
    cross: CrossPlan | None = None
    cross_mask: Tensor | None = None


class Projections(nn.Module):
    """Query, key and value projections of one attention.

    Args:
        config: sizes.
        source_width: width of the input of keys and values.
    """

    def __init__(self, config: MedConfig, source_width: int):
        super().__init__()
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.key = Linear(source_width, config.hidden_size)
        self.value = Linear(source_width, config.hidden_size)


class ResidualOutput(nn.Module):
    """Linear, dropout, residual, norm: the end of every sub-layer (post-norm, as BERT)."""

    def __init__(self, config: MedConfig, width: int):
        super().__init__()
        self.dense = Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        x = self.dense(x)
        if self.dropout.training:  # checked here, since a call takes as long as a small kernel
            x = self.dropout(x)
        return self.LayerNorm(x + residual)


class Attention(nn.Module):
    """An attention sub-layer; ``self`` and ``output`` are the original's names."""

    def __init__(self, config: MedConfig, source_width: int):
        super().__init__()
        self.heads = config.num_attention_heads
        self.drop = config.attention_probs_dropout_prob
        self.self = Projections(config, source_width)
        self.output = ResidualOutput(config, config.hidden_size)

    @property
    def dropout_now(self) -> float:
        return self.drop if self.training else 0.0

    def project(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Compute keys and values [B, H, P, d] of ``source`` [B, P, Dv]."""
        key, value = (split_heads(x, self.heads) for x in fused_projections(source, self.self.key, self.self.value))
        if torch.is_grad_enabled():
            return key, value
        # Decoding reads them at every step: the copy pays from the second step on.
        return key.contiguous(), value.contiguous()

    def among_texts(self, hidden: Tensor, plan: TextPlan, cache: LayerCache | None, layer: int) -> Tensor:
        """Compute self-attention of packed rows [T, D] within their texts."""
        pad = plan.segments.pad
        projections = fused_projections(hidden, self.self.query, self.self.key, self.self.value)
        query, key, value = (split_heads(pad(x), self.heads) for x in projections)
        causal = plan.causal and query.shape[2] > 1
        if cache is not None:
            key, value = cache.append(layer, key, value)
        # Causal attention needs no mask: padding comes after every real token.
        mask = None if plan.causal else plan.segments.key_mask()
        mixed = merge_heads(attend(query, key, value, mask, causal, self.dropout_now))
        return self.output(plan.segments.unpad(mixed), hidden)

    def first_among_texts(self, hidden: Tensor, plan: TextPlan, first_rows: Tensor) -> Tensor:
        """Compute self-attention of only the first token of each text to all its tokens: [N, D]."""
        first = hidden.index_select(0, first_rows)
        query = split_heads(self.self.query(first)[:, None], self.heads)
        key, value = (
            split_heads(plan.segments.pad(x), self.heads)
            for x in fused_projections(hidden, self.self.key, self.self.value)
        )
        mixed = attend(query, key, value, plan.segments.key_mask(), dropout=self.dropout_now)
        return self.output(merge_heads(mixed).squeeze(1), first)

    def to_images(self, hidden: Tensor, plan: TextPlan, *states: Tensor) -> Tensor:
        """Compute cross-attention of packed rows [T, D] to the keys and values (``states``) of their images."""
        keys, values = states
        mixed = cross_attend(self.self.query(hidden), plan, (keys, values), self.heads, self.dropout_now)
        return self.output(mixed, hidden)


def cross_attend(query: Tensor, plan: TextPlan, states: tuple[Tensor, Tensor], heads: int, dropout: float) -> Tensor:
    """Attend from the rows of all texts of an image to its one copy of keys and values.

    Args:
        query: [T, D] packed.
        plan: its ``cross`` groups rows by image.
        states: keys and values, each [B, H, P, d].
        heads: H.
        dropout: of attention weights.

    Returns:
        [T, D] packed.
    """
    assert plan.cross is not None
    keys, values = states
    outputs = []
    for group in plan.cross.groups:
        rows = query if group.gather is None else query.index_select(0, group.gather)
        rows = split_heads(rows.unflatten(0, (-1, group.rows)), heads)
        key, value, mask = keys, values, plan.cross_mask
        if group.images is not None:
            key, value = keys.index_select(0, group.images), values.index_select(0, group.images)
            mask = mask.index_select(0, group.images) if mask is not None else None
        if mask is not None:
            mask = mask[:, None, None, :]
        outputs.append(merge_heads(attend(rows, key, value, mask, dropout=dropout)).flatten(0, 1))
    if plan.cross.inverse is None:
        return outputs[0]
    return torch.cat(outputs).index_select(0, plan.cross.inverse)


class Intermediate(nn.Module):
    """The wide half of the feed-forward layer."""

    def __init__(self, config: MedConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        return gelu(self.dense, x)


class Layer(nn.Module):
    """Self-attention, cross-attention (skipped without an image), feed-forward.

    Args:
        config: sizes.
        encoder_width: width Dv of image tokens; None builds no cross-attention.
    """

    def __init__(self, config: MedConfig, encoder_width: int | None):
        super().__init__()
        self.attention = Attention(config, config.hidden_size)
        if encoder_width is not None:
            self.crossattention = Attention(config, encoder_width)
        self.intermediate = Intermediate(config)
        self.output = ResidualOutput(config, config.intermediate_size)

    def forward(
        self,
        hidden: Tensor,
        plan: TextPlan,
        *states: Tensor,
        cache: LayerCache | None = None,
        index: int = 0,
        first_rows: Tensor | None = None,
        part: Literal["whole", "beginning", "rest"] = "whole",
    ) -> Tensor:
        """Map [T, D] to [T, D], or to [N, D] of the ``first_rows`` alone.

        Args:
            hidden: [T, D].
            plan: of the batch.
            states: keys and values of images; none: cross-attention is skipped.
            cache: of self-attention.
            index: of the layer in ``cache``.
            first_rows: [N] rows whose result is needed.
            part: "beginning" ends with self-attention, "rest" starts after it.
        """
        # States are single arguments, not one tuple: activation checkpointing of fairscale does not search tuples.
        if part == "rest":
            hidden = hidden if first_rows is None else hidden.index_select(0, first_rows)
        elif first_rows is not None:
            hidden = self.attention.first_among_texts(hidden, plan, first_rows)
        else:
            hidden = self.attention.among_texts(hidden, plan, cache, index)
        if part == "beginning":
            return hidden
        if states:
            hidden = self.crossattention.to_images(hidden, plan, *states)
        return self.output(self.intermediate(hidden), hidden)


class Embeddings(nn.Module):
    """Word and position embeddings, norm, dropout."""

    position_ids: Tensor

    def __init__(self, config: MedConfig):
        super().__init__()
        if config.vocab_size is None:
            raise VlkitError("med.vocab_size is not set; give the number of tokens of the tokenizer.")
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        # The original stores it, so released files have it.
        self.register_buffer("position_ids", torch.arange(config.max_position_embeddings)[None])

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Map [T] ids and positions to [T, D]."""
        return self.dropout(self.LayerNorm(self.word_embeddings(ids) + self.position_embeddings(positions)))


def init_bert(module: nn.Module, std: float) -> None:
    """Initialize as BERT: normal weights of ``std``, zero biases."""
    for child in module.modules():
        if isinstance(child, (nn.Linear, nn.Embedding)):
            nn.init.normal_(child.weight, std=std)
        if isinstance(child, nn.Linear) and child.bias is not None:
            nn.init.zeros_(child.bias)
