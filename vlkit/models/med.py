"""MED, the multimodal mixture of encoder and decoder (paper, section 3.1): one transformer read in three ways.

1. text encoder: bidirectional self-attention, no image;
2. image-grounded text encoder: cross-attention to an image in every layer;
3. image-grounded text decoder: the same with causal self-attention.

Module names are those of the original implementation, so its checkpoints load as they are.

Shapes: ``N`` texts, ``T`` tokens of all texts (packed, see packing.py), ``B`` images, ``P`` image tokens, ``Dv`` their
width, ``D`` text width, ``H`` heads, ``d`` width of a head, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from vlkit.errors import ConfigError, VlkitError
from vlkit.models.attention import attend, merge_heads, split_heads
from vlkit.models.kv_cache import ImageKV, KVCache, LayerCache
from vlkit.models.onednn_linear import Linear, fused_projections, gelu
from vlkit.models.packing import CrossPlan, MaskedSegments, Segments, TextBatch
from vlkit.registry.bounds import Depth, DropRate, Range, Tokens, Width, check_fields


@dataclass
class MedConfig:
    """Sizes of the text transformer; the defaults are BERT-base with the two added tokens.

    Args:
        vocab_size: entries of the word embedding, [DEC] and [ENC] included; None: as many as the tokenizer has.
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
    """Everything that the layers need to know of a packed batch besides its hidden states."""

    segments: Segments
    causal: bool
    cross: CrossPlan | None = None
    cross_mask: Tensor | None = None


@dataclass
class TextPrefix:
    """Texts up to where they first look at an image, which is the same for all images.

    Args:
        texts: N texts.
        hidden: [T, D] behind the first layer's self-attention.
    """

    texts: TextBatch
    hidden: Tensor

    def select(self, index: Sequence[int] | np.ndarray) -> TextPrefix:
        """The texts ``index``, in that order; one may be named several times."""
        rows, lengths = self.texts.rows_of(index)
        return TextPrefix(TextBatch(self.texts.ids.index_select(0, rows), lengths), self.hidden.index_select(0, rows))


class Projections(nn.Module):
    """Query, key and value projections of one attention.

    Args:
        config: sizes.
        source_width: width of what keys and values are made from.
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
        if self.dropout.training:  # asked here, since a call takes as long as a small kernel
            x = self.dropout(x)
        return self.LayerNorm(x + residual)


class Attention(nn.Module):
    """One attention sub-layer; ``self`` and ``output`` are the original's names."""

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
        """Keys and values [B, H, P, d] of ``source`` [B, P, Dv]."""
        key, value = (split_heads(x, self.heads) for x in fused_projections(source, self.self.key, self.self.value))
        if torch.is_grad_enabled():
            return key, value
        # Decoding reads them at every step: the copy pays for itself at the second.
        return key.contiguous(), value.contiguous()

    def among_texts(self, hidden: Tensor, plan: TextPlan, cache: LayerCache | None, layer: int) -> Tensor:
        """Self-attention of packed rows [T, D] within their texts."""
        pad = plan.segments.pad
        projections = fused_projections(hidden, self.self.query, self.self.key, self.self.value)
        query, key, value = (split_heads(pad(x), self.heads) for x in projections)
        causal = plan.causal and query.shape[2] > 1
        if cache is not None:
            key, value = cache.append(layer, key, value)
        # Causal attention needs no mask: what is padded stands behind every real token.
        mask = None if plan.causal else plan.segments.key_mask()
        mixed = merge_heads(attend(query, key, value, mask, causal, self.dropout_now))
        return self.output(plan.segments.unpad(mixed), hidden)

    def first_among_texts(self, hidden: Tensor, plan: TextPlan, first_rows: Tensor) -> Tensor:
        """Self-attention of the first token of each text alone, over all of its text: [N, D]."""
        first = hidden.index_select(0, first_rows)
        query = split_heads(self.self.query(first)[:, None], self.heads)
        key, value = (
            split_heads(plan.segments.pad(x), self.heads)
            for x in fused_projections(hidden, self.self.key, self.self.value)
        )
        mixed = attend(query, key, value, plan.segments.key_mask(), dropout=self.dropout_now)
        return self.output(merge_heads(mixed).squeeze(1), first)

    def to_images(self, hidden: Tensor, plan: TextPlan, *states: Tensor) -> Tensor:
        """Cross-attention of packed rows [T, D] to the keys and values (``states``) of their images."""
        keys, values = states
        mixed = cross_attend(self.self.query(hidden), plan, (keys, values), self.heads, self.dropout_now)
        return self.output(mixed, hidden)


def cross_attend(query: Tensor, plan: TextPlan, states: tuple[Tensor, Tensor], heads: int, dropout: float) -> Tensor:
    """Rows of all texts of an image attend together to its one copy of keys and values.

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
        """[T, D] -> [T, D], or [N, D] of the ``first_rows`` alone. The "beginning" ends with self-attention, the "rest"
        comes after it."""
        # States are single arguments, not one tuple: activation checkpointing of fairscale looks into none.
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
        """[T] ids and positions -> [T, D]."""
        return self.dropout(self.LayerNorm(self.word_embeddings(ids) + self.position_embeddings(positions)))


class Encoder(nn.Module):
    """The stack of layers; a module of its own only for its name."""

    def __init__(self, config: MedConfig, encoder_width: int | None):
        super().__init__()
        self.layer = nn.ModuleList(Layer(config, encoder_width) for _ in range(config.num_hidden_layers))


class TextTransformer(nn.Module):
    """The transformer of MED (``BertModel`` in the original).

    Args:
        config: sizes.
        encoder_width: width Dv of the image tokens for cross-attention; None builds none.
    """

    def __init__(self, config: MedConfig, encoder_width: int | None = None):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config, encoder_width)
        init_bert(self, config.initializer_range)

    def project_images(self, image_embeds: Tensor, mask: Tensor | None = None) -> ImageKV:
        """Keys and values of every layer.

        Args:
            image_embeds: [B, P, Dv].
            mask: [B, P], 0 where a token must not be seen; None: all are seen.
        """
        layers: list[tuple[Tensor, ...]] = [
            cast(Layer, layer).crossattention.project(image_embeds) for layer in self.encoder.layer
        ]
        return ImageKV(layers, mask.bool() if mask is not None else None)

    def begin(self, texts: TextBatch) -> TextPrefix:
        """What of ``texts`` needs no image: with it :meth:`forward` computes no text's beginning twice, however many
        images the text is compared with."""
        plan = TextPlan(Segments(texts.lengths, texts.ids.device), causal=False)
        hidden = self.embeddings(texts.ids, texts.positions)
        return TextPrefix(texts, self.encoder.layer[0](hidden, plan, part="beginning"))

    def forward(
        self,
        texts: TextBatch | TextPrefix,
        images: ImageKV | None = None,
        image_index: Sequence[int] | np.ndarray | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
        first_only: bool = False,
    ) -> Tensor:
        """Hidden states of all tokens.

        Args:
            texts: N texts with T tokens; or what :meth:`begin` gave for them, not with ``cache`` or ``causal``.
            images: what cross-attention sees; None skips cross-attention.
            image_index: for each text the image it looks at; None: text i looks at image i, or, when there are
                fewer images than texts, the texts are in groups of equal number, one image after the other.
            causal: a token sees only itself and what stands before it.
            cache: keys and values of earlier tokens; this call's are appended. All texts have one length then.
            first_only: only the first token's final state is wanted ([CLS] or [ENC]), so the last layer computes
                nothing else. Not with ``cache`` or ``causal``.

        Returns:
            [T, D] packed, or [N, D] with ``first_only``.
        """
        begun = isinstance(texts, TextPrefix)
        if isinstance(texts, TextPrefix):
            hidden, texts = texts.hidden, texts.texts
        else:
            positions = texts.positions if cache is None else texts.positions + cache.length
            hidden = self.embeddings(texts.ids, positions)
        plan = self._plan(texts, images, image_index, causal, split=cache is None)
        last = len(self.encoder.layer) - 1
        for index, layer in enumerate(self.encoder.layer):
            states = images.layers[index] if images is not None else ()
            first_rows = None
            if first_only and index == last:
                first_rows = texts.first_rows()
                plan = self._plan(texts, images, image_index, causal, split=True, rows=(1,) * len(texts))
            part = "rest" if begun and index == 0 else "whole"
            hidden = layer(hidden, plan, *states, cache=cache, index=index, first_rows=first_rows, part=part)
        if cache is not None:
            cache.length += texts.lengths[0]
        return hidden

    def masked_states(
        self,
        ids: Tensor,
        positions: Tensor,
        segments: MaskedSegments,
        images: ImageKV,
        image_index: Sequence[int] | np.ndarray | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Return the hidden states [T, D] of ``ids`` [T] at ``positions`` [T], which attend as ``segments`` allows.

        Args:
            ids, positions: of all tokens.
            segments: which tokens a token sees; with ``cache`` which of its places.
            images: what cross-attention sees.
            image_index: image of each text; None: text i looks at image i.
            cache: keys and values of earlier tokens; this call's are appended.
        """
        plan = TextPlan(segments, causal=False)
        plan.cross = CrossPlan(segments.lengths, image_index, images.count, ids.device, split=cache is None)
        plan.cross_mask = images.mask
        hidden = self.embeddings(ids, positions)
        for index, layer in enumerate(self.encoder.layer):
            hidden = layer(hidden, plan, *images.layers[index], cache=cache, index=index)
        return hidden

    def _plan(
        self,
        texts: TextBatch,
        images: ImageKV | None,
        image_index: Sequence[int] | np.ndarray | None,
        causal: bool,
        split: bool,
        rows: Sequence[int] | None = None,
    ) -> TextPlan:
        """Index tables of a batch; ``rows`` of each text take part in cross-attention (None: all its tokens)."""
        device = texts.ids.device
        plan = TextPlan(Segments(texts.lengths, device), causal)
        if images is not None:
            if image_index is None and len(texts) != images.count:
                each, left = divmod(len(texts), images.count)
                if left or not each:
                    raise VlkitError(
                        f"{len(texts)} texts were given for {images.count} images: give one text an image (or the same "
                        f"number for each, one image after the other), or name the image of each text in image_index."
                    )
                image_index = np.repeat(np.arange(images.count), each)
            plan.cross = CrossPlan(rows or texts.lengths, image_index, images.count, device, split)
            plan.cross_mask = images.mask
        return plan


class HeadTransform(nn.Module):
    """Linear, GELU, norm, before the vocabulary."""

    def __init__(self, config: MedConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(gelu(self.dense, x))


class Predictions(nn.Module):
    """Logits over the vocabulary; the weight is the word embedding, and the bias has two names."""

    def __init__(self, config: MedConfig, embedding: nn.Embedding):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))
        self.transform = HeadTransform(config)
        self.decoder = Linear(config.hidden_size, embedding.num_embeddings)
        self.decoder.weight = embedding.weight
        self.decoder.bias = self.bias

    def forward(self, hidden: Tensor) -> Tensor:
        return self.decoder(self.transform(hidden))


class LMHead(nn.Module):
    """A module of its own only for its name (``cls``)."""

    def __init__(self, config: MedConfig, embedding: nn.Embedding):
        super().__init__()
        self.predictions = Predictions(config, embedding)


class TextDecoder(nn.Module):
    """The image-grounded text decoder with its language-model head (``BertLMHeadModel``).

    Args:
        config: sizes.
        encoder_width: width Dv of what cross-attention sees.

    Attributes:
        cuda_graphs: decode with CUDA graphs where that is possible (generation/cuda_graphs.py).
        graph_buffers: what that keeps for the next batches, by kind of batch.
    """

    def __init__(self, config: MedConfig, encoder_width: int):
        super().__init__()
        self.bert = TextTransformer(config, encoder_width)
        self.cls = LMHead(config, self.bert.embeddings.word_embeddings)
        init_bert(self.cls, config.initializer_range)
        self.cuda_graphs = False
        self.graph_buffers: dict[Hashable, Any] = {}

    def train(self, mode: bool = True) -> TextDecoder:
        """Also give up the buffers of CUDA graphs, whose memory training needs."""
        if mode:
            self.graph_buffers = {}
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        # Graphs can be neither copied nor sent to another process.
        return {**self.__dict__, "graph_buffers": {}}

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return self.cls.predictions(hidden)

    def forward(
        self,
        texts: TextBatch,
        images: ImageKV | None = None,
        image_index: Sequence[int] | np.ndarray | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Causal hidden states [T, D]; see :meth:`TextTransformer.forward`."""
        return self.bert(texts, images, image_index, causal=True, cache=cache)

    def next_logits(
        self,
        ids: Tensor,
        images: ImageKV | None,
        cache: KVCache,
        image_index: np.ndarray | None = None,
        last_only: bool = True,
    ) -> Tensor:
        """One decoding step.

        Args:
            ids: [rows, t] the tokens that follow those in the cache; they join it.
            images: see :meth:`TextTransformer.forward`, as for ``image_index``.
            cache: of the same rows.
            image_index: image of each row.
            last_only: logits of the last of the ``t`` tokens alone.

        Returns:
            Logits of the token after each: [rows, V], or [rows * t, V].
        """
        rows, length = ids.shape
        texts = TextBatch(ids.reshape(-1), (length,) * rows)
        hidden = self(texts, images, image_index, cache)
        if last_only and length > 1:
            hidden = hidden.unflatten(0, (rows, length))[:, -1]
        return self.logits(hidden)


def init_bert(module: nn.Module, std: float) -> None:
    """Normal weights of ``std``, zero biases, unit norms, as BERT starts."""
    for child in module.modules():
        if isinstance(child, (nn.Linear, nn.Embedding)):
            nn.init.normal_(child.weight, std=std)
        if isinstance(child, nn.Linear) and child.bias is not None:
            nn.init.zeros_(child.bias)


SHARED = {
    "all_but_self_attention": ("crossattention", "intermediate", "output"),
    "all_but_cross_attention": ("attention", "intermediate", "output"),
    "all": ("attention", "crossattention", "intermediate", "output"),
    "none": (),
}
"""What a text encoder can share with a decoder, to the parts of each layer. Embeddings are shared with any of them.
Paper: table 3."""


def share_parameters(encoder: TextTransformer, decoder: TextTransformer, share: str = "all_but_self_attention") -> None:
    """The encoder takes from the decoder what ``share``, a key of :data:`SHARED`, says. Paper: 3.2 and table 3."""
    if SHARED[share]:
        encoder.embeddings = decoder.embeddings
    for mine, theirs in zip(encoder.encoder.layer, decoder.encoder.layer):
        for name in SHARED[share]:
            setattr(mine, name, getattr(theirs, name))
