"""MED, the multimodal mixture of encoder and decoder (paper, section 3.1): one transformer used in three ways.

1. text encoder: bidirectional self-attention, no image;
2. image-grounded text encoder: cross-attention to an image in every layer;
3. image-grounded text decoder: the same with causal self-attention.

Module names are those of the original implementation, so that its checkpoints load as they are.

Shapes: ``N`` texts, ``T`` tokens of all texts (packed, see packing.py), ``B`` images, ``P`` image tokens, ``Dv`` their
width, ``D`` text width, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vlkit.errors import VlkitError
from vlkit.models.attention import ImageKV, KVCache, LayerCache
from vlkit.models.onednn_linear import Linear, gelu
from vlkit.models.packing import CrossPlan, MaskedSegments, Segments, TextBatch
from vlkit.models.text_layers import Embeddings, Layer, MedConfig, TextPlan, init_bert

__all__ = ["SHARED", "MedConfig", "TextDecoder", "TextPrefix", "TextTransformer", "share_parameters"]


@dataclass
class TextPrefix:
    """Hidden states of texts before the first cross-attention, which are the same for all images.

    Args:
        texts: N texts.
        hidden: [T, D] after the first layer's self-attention.
    """

    texts: TextBatch
    hidden: Tensor

    def select(self, index: Sequence[int] | np.ndarray) -> TextPrefix:
        """Select the texts ``index``, in that order, with repetitions."""
        rows, lengths = self.texts.rows_of(index)
        return TextPrefix(TextBatch(self.texts.ids.index_select(0, rows), lengths), self.hidden.index_select(0, rows))


class Encoder(nn.Module):
    """Hold the layers under the original's name."""

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
        """Compute keys and values for every layer.

        Args:
            image_embeds: [B, P, Dv].
            mask: [B, P], 0 where a token must not be seen; None: all are seen.
        """
        layers: list[tuple[Tensor, ...]] = [
            cast(Layer, layer).crossattention.project(image_embeds) for layer in self.encoder.layer
        ]
        return ImageKV(layers, mask.bool() if mask is not None else None)

    def begin(self, texts: TextBatch) -> TextPrefix:
        """Compute what of ``texts`` needs no image, once for all images that :meth:`forward` compares them with."""
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
        """Return the hidden states of all tokens.

        Args:
            texts: N texts with T tokens, or the result of :meth:`begin`, which excludes ``cache`` and ``causal``.
            images: what cross-attention sees; None skips cross-attention.
            image_index: image of each text; None: text i attends to image i, or, with fewer images than texts, the
                texts are in groups of equal size, one image after the other.
            causal: a token attends only to itself and earlier tokens.
            cache: keys and values of earlier tokens; this call's are appended. All texts have one length then.
            first_only: compute only the final state of the first token ([CLS] or [ENC]) in the last layer. Not with
                ``cache`` or ``causal``.

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
            image_index: image of each text; None: text i attends to image i.
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
        """Compute the index tables of a batch; ``rows`` of each text attend to images (None: all its tokens)."""
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
    """Linear, GELU and norm before the vocabulary."""

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
    """Hold the predictions under the original's name (``cls``)."""

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
        """Map [..., D] to [..., V]."""
        return self.cls.predictions(hidden)

    def forward(
        self,
        texts: TextBatch,
        images: ImageKV | None = None,
        image_index: Sequence[int] | np.ndarray | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Return causal hidden states [T, D]; see :meth:`TextTransformer.forward`."""
        return self.bert(texts, images, image_index, causal=True, cache=cache)

    def next_logits(
        self,
        ids: Tensor,
        images: ImageKV | None,
        cache: KVCache,
        image_index: np.ndarray | None = None,
        last_only: bool = True,
    ) -> Tensor:
        """Compute the logits of the next tokens.

        Args:
            ids: [rows, t] the tokens that follow those in the cache; they join it.
            images: see :meth:`TextTransformer.forward`, as for ``image_index``.
            cache: of the same rows.
            image_index: image of each row.
            last_only: compute logits only for the last of the ``t`` tokens.

        Returns:
            Logits of the token after each: [rows, V], or [rows * t, V].
        """
        rows, length = ids.shape
        texts = TextBatch(ids.reshape(-1), (length,) * rows)
        hidden = self(texts, images, image_index, cache)
        if last_only and length > 1:
            hidden = hidden.unflatten(0, (rows, length))[:, -1]
        return self.logits(hidden)


SHARED = {
    "all_but_self_attention": ("crossattention", "intermediate", "output"),
    "all_but_cross_attention": ("attention", "intermediate", "output"),
    "all": ("attention", "crossattention", "intermediate", "output"),
    "none": (),
}
"""What a text encoder can share with a decoder, and the parts of each layer that this is. All but "none" share the
embeddings. Paper: table 3."""


def share_parameters(encoder: TextTransformer, decoder: TextTransformer, share: str = "all_but_self_attention") -> None:
    """Replace the parts of the encoder that ``share``, a key of :data:`SHARED`, names by the decoder's. Paper: 3.2."""
    if SHARED[share]:
        encoder.embeddings = decoder.embeddings
    for mine, theirs in zip(encoder.encoder.layer, decoder.encoder.layer):
        for name in SHARED[share]:
            setattr(mine, name, getattr(theirs, name))
