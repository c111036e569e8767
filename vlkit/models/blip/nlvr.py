"""Natural-language visual reasoning, NLVR2 (paper, section 5.4): is a sentence true of a pair of images?

Every layer attends to the two images with two cross-attentions; their results are averaged in lower layers and merged
by a linear layer in upper ones.

Shapes: ``B`` pairs, ``N`` texts, ``T`` tokens of all texts, ``P`` image tokens, ``Dv`` their width, ``D`` text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlkit.errors import VlkitError
from vlkit.models.arguments import as_mapping, checked_keywords, number_list
from vlkit.models.attention import ImageKV, split_heads
from vlkit.models.blip.base import BlipBase, LossOutput
from vlkit.models.blip.samples import Samples, check_keys, wanted
from vlkit.models.inputs import Items, pictures
from vlkit.models.med import MedConfig, TextTransformer
from vlkit.models.onednn_linear import Linear, fused_projections
from vlkit.models.packing import TextBatch
from vlkit.models.text_layers import Projections, TextPlan, cross_attend, init_bert
from vlkit.models.vit import VitConfig
from vlkit.registry import MODELS
from vlkit.registry.bounds import Range, Tokens


@dataclass
class NlvrOutput(LossOutput):
    """Output of a training step.

    Args:
        loss_nlvr: cross entropy, mean over B pairs.
        logits: [B, 2]; class 1: the sentence is true.
    """

    loss_nlvr: Tensor
    logits: Tensor


class TwinOutput(nn.Module):
    """Merge the outputs of two attentions by their average or by a linear layer; residual, norm.

    Args:
        config: sizes.
        merge: use a linear layer.
    """

    def __init__(self, config: MedConfig, merge: bool):
        super().__init__()
        width = config.hidden_size
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.dense0 = Linear(width, width)
        self.dense1 = Linear(width, width)
        self.merge_layer = Linear(2 * width, width) if merge else None

    def forward(self, left: Tensor, right: Tensor, residual: Tensor) -> Tensor:
        left, right = self.dense0(left), self.dense1(right)
        both = (left + right) / 2 if self.merge_layer is None else self.merge_layer(torch.cat([left, right], -1))
        return self.LayerNorm(self.dropout(both) + residual)


class TwinAttention(nn.Module):
    """Cross-attention to two images, each with its own projections.

    Args:
        config: sizes.
        source_width: width Dv of image tokens.
        merge: see :class:`TwinOutput`.
    """

    def __init__(self, config: MedConfig, source_width: int, merge: bool):
        super().__init__()
        self.heads = config.num_attention_heads
        self.drop = config.attention_probs_dropout_prob
        self.self0 = Projections(config, source_width)
        self.self1 = Projections(config, source_width)
        self.output = TwinOutput(config, merge)

    def project(self, pairs: Tensor) -> tuple[Tensor, ...]:
        """Return keys and values [B, H, P, d] of the left images, then of the right ones; ``pairs``: [2, B, P, Dv]."""
        return tuple(
            split_heads(x, self.heads)
            for twin, images in zip((self.self0, self.self1), pairs)
            for x in fused_projections(images, twin.key, twin.value)
        )

    def to_images(self, hidden: Tensor, plan: TextPlan, *states: Tensor) -> Tensor:
        """Attend from packed rows [T, D] to both images of their pairs."""
        dropout = self.drop if self.training else 0.0
        left = cross_attend(self.self0.query(hidden), plan, (states[0], states[1]), self.heads, dropout)
        right = cross_attend(self.self1.query(hidden), plan, (states[2], states[3]), self.heads, dropout)
        return self.output(left, right, hidden)


class PairTransformer(TextTransformer):
    """The image-grounded text encoder over pairs of images: :meth:`project_images` takes [2, B, P, Dv].

    Args:
        config: sizes.
        encoder_width: width Dv of image tokens.
        merge_from: index of the first layer that merges by a linear layer.
    """

    def __init__(self, config: MedConfig, encoder_width: int, merge_from: int):
        super().__init__(config)
        for index, layer in enumerate(self.encoder.layer):
            twins = TwinAttention(config, encoder_width, merge=index >= merge_from)
            init_bert(twins, config.initializer_range)
            layer.crossattention = twins


@MODELS.register("blip_nlvr")
class BlipNlvr(BlipBase):
    """Classify sentences about pairs of images.

    Samples hold the pairs as ``images`` [B, 2, 3, S, S], or as ``image0`` and ``image1`` [B, 3, S, S] each. Pictures of
    other kinds are given as lists: B pairs in ``images``, or B pictures each in ``image0`` and ``image1``.

    Args:
        vit: sizes of the image encoder.
        med: sizes of the text transformer.
        tokenizer: name of a bundled vocabulary, or a path.
        merge_from: index of the first layer that merges the two cross-attentions by a linear layer; lower layers
            average them.
        max_words: longest text in tokens; None: the text transformer's limit.
    """

    picture_groups = (("image0", "image1"), ("images",))
    sample_keys = (*BlipBase.sample_keys, "label")
    unread_keys = ("image",)  # of batches that serve several heads

    def __init__(
        self,
        vit: VitConfig,
        med: MedConfig,
        tokenizer: str = "bert-base-uncased",
        merge_from: Annotated[int, Range(0, 1_000)] = 6,
        max_words: Tokens | None = None,
    ):
        super().__init__(vit, med, tokenizer, max_words or med.max_position_embeddings)
        width = self.med_config.hidden_size
        self.text_encoder = PairTransformer(self.med_config, self.image_width, merge_from)
        self.cls_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

    def picture_items(self, samples: Samples) -> dict[str, Items]:
        """Return ``image0`` and ``image1``, the left and the right pictures of all pairs, not yet opened."""
        name = type(self).__name__
        if "image0" in as_mapping("samples", samples, "{'image0': ..., 'image1': ...}") or "image1" in samples:
            return {key: pictures(wanted(samples, key, name), key) for key in ("image0", "image1")}
        pairs = wanted(samples, "images", name)
        if hasattr(pairs, "ndim"):
            if pairs.ndim != 5 or pairs.shape[1] != 2:
                raise VlkitError(f"{name} needs images [B, 2, 3, S, S], two for each text; given: {list(pairs.shape)}.")
            return {f"image{side}": pictures(pairs[:, side], f"images[:, {side}]") for side in (0, 1)}
        if not isinstance(pairs, (list, tuple)) or not all(map(_is_pair, pairs)):
            raise VlkitError(f"{name} needs images as a list of pairs, [(left, right), ...], or as [B, 2, 3, S, S].")
        return {f"image{side}": pictures([pair[side] for pair in pairs], f"images[:, {side}]") for side in (0, 1)}

    def pair_embeds(self, samples: Samples) -> Tensor:
        """Return tokens [2, B, P, Dv] of the left and the right images, encoded in one batch."""
        found = self.picture_items(samples)
        check_keys(samples, self)
        left, right = (self.placed(self.pictures.read(items, key), key) for key, items in found.items())
        if left.shape != right.shape:
            raise VlkitError(
                f"BlipNlvr needs as many left as right images of one size; given: image0 {list(left.shape)}, "
                f"image1 {list(right.shape)}."
            )
        return self.visual_encoder(torch.cat([left, right])).unflatten(0, (2, -1))

    def judge(self, texts: TextBatch, states: ImageKV, image_index: Sequence[int] | np.ndarray | None = None) -> Tensor:
        """Return logits [N, 2] (class 1: true) of each text with the pair ``image_index`` of it."""
        texts = texts.with_first(self.tokenizer.enc_id)
        return self.cls_head(self.text_encoder(texts, states, image_index, first_only=True))

    def logits(self, samples: Samples) -> Tensor:
        """Return logits [B, 2] of ``samples``."""
        read = self.batches(samples, texts="paired").whole()
        return self.judge(self.texts_of(read), self.text_encoder.project_images(self.pair_embeds(read)))

    @checked_keywords
    def forward(self, samples: Samples) -> NlvrOutput:
        """Return the loss of ``samples``: pairs, ``text_input`` or ``texts``, and ``label``, 1 (true) or 0 for each."""
        logits = self.logits(samples)
        labels = self._labels(samples, len(logits)).to(logits.device)
        return NlvrOutput(F.cross_entropy(logits.float(), labels), logits.detach())

    @checked_keywords
    @torch.inference_mode()
    def predict(self, samples: Samples, batch_size: int | None = None) -> dict[str, Tensor]:
        """Return ``predictions``, logits [B, 2], and ``targets``, the samples' ``label`` if given: LAVIS's call.

        Args:
            samples: pairs, and ``text_input`` or ``texts``; a single string is compared with all pairs.
            batch_size: pairs encoded at once; None: tensors are one batch, lists are taken 32 at a time.
        """
        batches = self.batches(samples, batch_size, "paired")
        targets = {"targets": self._labels(samples, batches.count)} if "label" in samples else {}
        return {"predictions": torch.cat([self.logits(some) for some in batches]), **targets}

    def _labels(self, samples: Samples, count: int) -> Tensor:
        """Return [B] int64."""
        labels = number_list("label", wanted(samples, "label", type(self).__name__))
        if len(labels) != count or not all(map(_is_label, labels)):
            raise VlkitError(f"label must be 0 or 1 for each of {count} pairs; given: {labels!r:.80}.")
        return torch.tensor([int(label) for label in labels])


def _is_label(value: object) -> bool:
    """Whether ``value`` is 0 or 1 as an integer or a float."""
    return isinstance(value, (int, float, np.integer, np.floating)) and value in (0, 1)


def _is_pair(item: object) -> bool:
    """Whether ``item`` holds two pictures: a list, a tensor [2, 3, S, S] or an array [2, H, W, 3]."""
    several = isinstance(item, (list, tuple)) or getattr(item, "ndim", 0) == 4
    return several and len(item) == 2  # type: ignore[arg-type]
