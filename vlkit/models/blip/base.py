"""What all heads of BLIP share: an image encoder, a tokenizer, and sample dictionaries as input.

Shapes: ``B`` images or videos, ``F`` frames, ``N`` texts, ``P`` image tokens, ``Dv`` image width, ``E`` projection.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlkit.errors import VlkitError
from vlkit.models.med import Layer, MedConfig
from vlkit.models.packing import TextBatch
from vlkit.models.size import check_memory, encoder_numbers
from vlkit.models.vit import VisionTransformer, VitConfig, build_image_encoder
from vlkit.processors.tokenizer import Tokenizer, build_tokenizer

Samples = Mapping[str, Any]

_AT_ONCE = 64
"""Frames that the image encoder takes at once: a batch of videos is many images."""


class BlipBase(nn.Module):
    """Image encoder and tokenizer.

    Models take sample dictionaries: ``image`` [B, 3, S, S] (or ``video`` [B, F, 3, S, S] where a head takes videos) and
    ``text_input``, a list of B strings, or ``texts``, the same already tokenised (:class:`TextBatch`).

    Args:
        vit: sizes of the image encoder.
        med: sizes of the text transformer.
        tokenizer: name of a bundled vocabulary, or a path.
        max_words: longest text in tokens, [CLS] and [SEP] included; longer ones are cut.
    """

    def __init__(self, vit: VitConfig, med: MedConfig, tokenizer: str, max_words: int):
        super().__init__()
        self.tokenizer: Tokenizer = build_tokenizer(tokenizer)
        self.max_words = max_words
        if med.vocab_size is None:
            med = dataclasses.replace(med, vocab_size=len(self.tokenizer))
        if med.vocab_size is not None and med.vocab_size < len(self.tokenizer):
            raise VlkitError(
                f"med.vocab_size is {med.vocab_size}, but the tokenizer {tokenizer!r} has {len(self.tokenizer)} "
                f"tokens: leave vocab_size out, or set it to at least that."
            )
        if max_words < 3:
            raise VlkitError(f"max_words is {max_words}; it must be at least 3: [CLS], a word and [SEP].")
        if max_words > med.max_position_embeddings:
            raise VlkitError(
                f"max_words is {max_words}, but med.max_position_embeddings is {med.max_position_embeddings}."
            )
        check_memory(encoder_numbers(vit, med), type(self).__name__, "the sizes of vit and med")
        self.vit_config, self.med_config = vit, med
        self.visual_encoder = build_image_encoder(vit)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def image_width(self) -> int:
        """Width Dv of image tokens."""
        return self.visual_encoder.width

    def tokenize(self, texts: Sequence[str]) -> TextBatch:
        """Packed token ids of ``texts``, on the model's device."""
        return TextBatch.from_lists(self.tokenizer.encode(list(texts), max_length=self.max_words), self.device)

    def texts_of(self, samples: Samples) -> TextBatch:
        """``texts`` of the samples, or their ``text_input`` tokenised."""
        if "texts" in samples:
            return samples["texts"]
        texts = wanted(samples, "text_input", type(self).__name__)
        return self.tokenize([texts] if isinstance(texts, str) else texts)

    def images_of(self, samples: Samples) -> Tensor:
        """``image`` [B, 3, S, S] of the samples, on the model's device."""
        return wanted(samples, "image", type(self).__name__).to(self.device)

    def image_embeds(self, samples: Samples) -> Tensor:
        """Tokens [B, P, Dv] of the samples' ``image`` [B, 3, S, S]; or [B, F*P, Dv] of their ``video``
        [B, F, 3, S, S], the tokens of one frame after those of the other. Paper: 5.6."""
        if "video" not in samples:
            return self.visual_encoder(self.images_of(samples))
        video = samples["video"]
        if not torch.is_tensor(video) or video.ndim != 5:
            given = tuple(video.shape) if torch.is_tensor(video) else type(video).__name__
            raise VlkitError(f"video must be a tensor [B, F, 3, S, S], as many frames of each; given: {given}.")
        chunks = video.flatten(0, 1).split(_AT_ONCE)
        tokens = torch.cat([self.visual_encoder(chunk.to(self.device)) for chunk in chunks])
        return tokens.unflatten(0, video.shape[:2]).flatten(1, 2)

    def checkpoint_blocks(self) -> list[nn.Module]:
        """The blocks that activation checkpointing may recompute; momentum encoders keep no activations."""
        trained = {id(p) for p in self.parameters() if p.requires_grad}
        blocks: list[nn.Module] = []
        for module in self.modules():
            if isinstance(module, VisionTransformer):
                blocks.extend(module.blocks)
            elif isinstance(module, Layer):
                blocks.append(module)
        return [block for block in blocks if any(id(p) in trained for p in block.parameters())]

    def image_blocks(self) -> list[nn.Module]:
        """The blocks of the image encoders, momentum encoders included: the same code on the same shapes in every step,
        used through ``forward`` alone, no weight in two of them. Compilation and sharding go by them."""
        return [block for m in self.modules() if isinstance(m, VisionTransformer) for block in m.blocks]


def frames_of(samples: Samples) -> int:
    """F, the frames of each ``video`` of the samples; 1 where they are images."""
    return samples["video"].shape[1] if "video" in samples else 1


def pooled_feats(projection: nn.Module, image_embeds: Tensor, frames: int = 1) -> Tensor:
    """Projected features of images, or of videos as the mean over their frames, normalised.

    Args:
        projection: maps [..., Dv] to [..., E].
        image_embeds: [B, F*P, Dv], each frame's [CLS] first.
        frames: F.

    Returns:
        [B, E] in float32.
    """
    first = image_embeds.unflatten(1, (frames, -1))[:, :, 0]
    return functional.normalize(projection(first).float().mean(1), dim=-1)


def wanted(samples: Samples, key: str, model: str) -> Any:
    """``samples[key]``, or an error that says what is there."""
    if key not in samples:
        raise VlkitError(f"{model} needs samples with {key!r}; given: {', '.join(map(repr, samples)) or 'nothing'}.")
    return samples[key]
