"""Base class of all heads: image encoder, tokenizer, and reading of sample dictionaries.

Shapes: ``B`` images or videos, ``F`` frames, ``N`` texts, ``P`` image tokens, ``Dv`` image width, ``E`` projection.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlkit.errors import VlkitError
from vlkit.models.arguments import as_mapping, check_memory, text_list
from vlkit.models.blip.samples import Batches, Samples, Texts, check_keys, given_texts, wanted
from vlkit.models.inputs import Items, PictureReader, pictures, videos
from vlkit.models.med import MedConfig
from vlkit.models.packing import TextBatch
from vlkit.models.text_layers import Layer
from vlkit.models.vit import VisionTransformer, VitConfig, build_image_encoder
from vlkit.processors.tokenizer import Tokenizer, build_tokenizer

_FRAMES_AT_ONCE = 64
"""Frames encoded at once: a batch of videos is many images."""


class BlipBase(nn.Module):
    """Image encoder and tokenizer.

    Models take sample dictionaries: ``image`` [B, 3, S, S] (or ``video`` [B, F, 3, S, S]) and ``text_input``, a list of
    B strings, or ``texts``, the same tokenized (:class:`TextBatch`). Public calls read pictures in any form that
    :mod:`vlkit.models.inputs` knows; all but float tensors go through the model's image processor
    (:meth:`use_processor`).

    Args:
        vit: sizes of the image encoder.
        med: sizes of the text transformer.
        tokenizer: name of a bundled vocabulary, or a path.
        max_words: longest text in tokens, [CLS] and [SEP] included; longer ones are truncated.

    Attributes:
        picture_groups: keys of samples that hold pictures; those of one group belong together.
        sample_keys: the other keys of samples that calls read; subclasses add theirs.
        unread_keys: keys of pictures that samples may hold but no call reads.
        video_frames: number of frames F that are read from a video file.
    """

    picture_groups: ClassVar[tuple[tuple[str, ...], ...]] = (("image",), ("video",))
    sample_keys: ClassVar[tuple[str, ...]] = ("text_input", "texts")
    unread_keys: ClassVar[tuple[str, ...]] = ()
    video_frames: ClassVar[int] = 8

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
        source_width = vit.embed_dim if vit.backbone is None else 0
        weights = vit.weight_count() + med.weight_count(source_width)
        check_memory(weights, type(self).__name__, "the sizes of vit and med")
        self.vit_config, self.med_config = vit, med
        self.visual_encoder = build_image_encoder(vit)
        self.pictures = PictureReader(frames=self.video_frames)

    def use_processor(
        self, image_processor: Callable[[Any], Tensor], open_url: Callable[[str], bytes] | None = None
    ) -> None:
        """Set the processor of pictures that are not float tensors; models built from a card have the card's.

        Args:
            image_processor: maps a picture to a tensor [3, S, S]. Its ``image_size``, if it has one, is set to the
                model's in a copy.
            open_url: downloads the bytes of an http address; None: addresses are refused.
        """
        reader = PictureReader(image_processor, self.video_frames, open_url)
        self.pictures = reader.fitted(self.vit_config.image_size)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    @property
    def image_width(self) -> int:
        """Width Dv of image tokens."""
        return self.visual_encoder.width

    def tokenize(self, texts: Sequence[str] | str) -> TextBatch:
        """Return packed token ids of ``texts``, on the model's device."""
        return self.pack(texts, self.max_words)

    def pack(self, texts: Sequence[str] | str, max_length: int) -> TextBatch:
        """Return packed token ids of ``texts``, truncated to ``max_length`` tokens, on the model's device."""
        ids = self.tokenizer.encode(text_list("text_input", texts, empty=True), max_length=max_length)
        return TextBatch.from_lists(ids, self.device)

    def texts_of(self, samples: Samples) -> TextBatch:
        """Return ``texts`` of the samples, or their tokenized ``text_input``."""
        given = given_texts(samples, type(self).__name__)
        check_keys(samples, self)
        return given if isinstance(given, TextBatch) else self.tokenize(text_list("text_input", given))

    def batches(self, samples: Samples, batch_size: int | None = None, texts: Texts = "none") -> Batches:
        """Split ``samples`` into batches and read their pictures; see :class:`~vlkit.models.blip.samples.Batches`."""
        return Batches(self, samples, batch_size, texts)

    def picture_items(self, samples: Samples) -> dict[str, Items]:
        """Return the samples' pictures by key, not yet opened.

        Raises:
            VlkitError: there are none, or they are of an unknown kind.
        """
        if "video" in as_mapping("samples", samples, "{'image': ...}"):
            return {"video": videos(samples["video"], "video")}
        return {"image": pictures(wanted(samples, "image", type(self).__name__), "image")}

    def images_of(self, samples: Samples) -> Tensor:
        """Return ``image`` [B, 3, S, S] of the samples, on the model's device and of its dtype."""
        return self.placed(self.pictures.images(wanted(samples, "image", type(self).__name__)), "image")

    def placed(self, images: Tensor, name: str) -> Tensor:
        """Move ``images`` to the model's device and dtype; the same tensor is returned if both fit.

        Raises:
            VlkitError: they hold NaN or infinity (checked in evaluation mode).
        """
        if not self.training and not bool(torch.isfinite(images.detach().sum(dtype=torch.float32))):
            raise VlkitError(f"{name} holds NaN or infinite values; check how the pictures were preprocessed.")
        kind = next(self.visual_encoder.parameters()).dtype
        device = self.device.type
        if torch.is_autocast_enabled(device) and images.dtype == torch.get_autocast_dtype(device):
            kind = images.dtype  # autocast would convert to it
        return images.to(self.device, kind)

    def image_embeds(self, samples: Samples) -> Tensor:
        """Return tokens [B, P, Dv] of the samples' ``image`` [B, 3, S, S]; or [B, F*P, Dv] of their ``video``
        [B, F, 3, S, S], frame after frame. Paper: 5.6."""
        found = self.picture_items(samples)
        check_keys(samples, self)
        if "video" not in found:
            return self.visual_encoder(self.placed(self.pictures.read(found["image"], "image"), "image"))
        video = self.pictures.read(found["video"], "video")
        chunks = video.flatten(0, 1).split(_FRAMES_AT_ONCE)
        tokens = torch.cat([self.visual_encoder(self.placed(chunk, "video")) for chunk in chunks])
        return tokens.unflatten(0, video.shape[:2]).flatten(1, 2)

    def checkpoint_blocks(self) -> list[nn.Module]:
        """Return the blocks that activation checkpointing may recompute; momentum encoders keep no activations."""
        trained = {id(p) for p in self.parameters() if p.requires_grad}
        blocks: list[nn.Module] = []
        for module in self.modules():
            if isinstance(module, VisionTransformer):
                blocks.extend(module.blocks)
            elif isinstance(module, Layer):
                blocks.append(module)
        return [block for block in blocks if any(id(p) in trained for p in block.parameters())]

    def image_blocks(self) -> list[nn.Module]:
        """Return the blocks of the image encoders, momentum encoders included, for compilation and sharding: they run
        the same code on the same shapes in every step, through ``forward`` alone, and share no weights."""
        return [block for m in self.modules() if isinstance(m, VisionTransformer) for block in m.blocks]


class LossOutput:
    """Base class of the outputs of training steps: dataclasses whose losses are fields named ``loss_*``."""

    @property
    def loss(self) -> Tensor:
        """The sum of the losses (LAVIS's name)."""
        return functools.reduce(torch.add, [value for name, value in vars(self).items() if name.startswith("loss_")])


def frames_of(samples: Samples) -> int:
    """Return F, the frames of each ``video`` of the samples; 1 for images."""
    return samples["video"].shape[1] if "video" in samples else 1


def pooled_feats(projection: nn.Module, image_embeds: Tensor, frames: int = 1) -> Tensor:
    """Return normalized projected features of images, or of videos as the mean over their frames.

    Args:
        projection: maps [..., Dv] to [..., E].
        image_embeds: [B, F*P, Dv], each frame's [CLS] first.
        frames: F.

    Returns:
        [B, E] in float32.
    """
    first = image_embeds.unflatten(1, (frames, -1))[:, :, 0]
    return functional.normalize(projection(first).float().mean(1), dim=-1)
