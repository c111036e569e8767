"""Base classes of heads with aligned image and text features (paper, section 3.2).

:class:`BlipAligned` computes features, similarities and matching logits. :class:`BlipContrastive` adds training by
contrast with momentum encoders and queues (after MoCo and ALBEF).

Shapes: ``B`` images, or pairs of this process; ``N`` texts, ``P`` image tokens, ``F`` frames, ``Dv`` image width,
``E`` projection, ``Q`` queue, ``A`` candidates (pairs, then the queue), ``W`` processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlkit.errors import ConfigError, VlkitError
from vlkit.models.arguments import check_memory
from vlkit.models.attention import ImageKV
from vlkit.models.blip.base import BlipBase, pooled_feats
from vlkit.models.blip.samples import Samples
from vlkit.models.blip.text_prefix import PairScorer, PassLimits, split_evenly
from vlkit.models.losses import differentiate_now, draw_index, soft_contrast
from vlkit.models.med import MedConfig, TextPrefix, TextTransformer
from vlkit.models.momentum import gather_batch, momentum_copy, random_queue, update_momentum, world_size
from vlkit.models.packing import TextBatch
from vlkit.models.vit import VitConfig
from vlkit.registry.bounds import Range

QueueSize = Annotated[int, Range(0, 10_000_000)]
"""Number of earlier pairs in the queues."""
Temperature = Annotated[float, Range(1e-4, 100)]
"""Divisor of similarities."""


class Features(NamedTuple):
    """Projected features of pairs, [B, E] each, unit length."""

    image: Tensor
    text: Tensor


class BlipAligned(BlipBase):
    """Image and text encoder, their projections to a common space, and the matching head.

    Args:
        vit: sizes of the image encoder.
        med: sizes of the text transformer.
        tokenizer: name of a bundled vocabulary, or a path.
        max_words: longest text in tokens.
        embed_dim: width E of projected features; None: no projections.
        matching: build the matching head.
    """

    def __init__(
        self,
        vit: VitConfig,
        med: MedConfig,
        tokenizer: str,
        max_words: int,
        embed_dim: int | None,
        matching: bool = True,
    ):
        super().__init__(vit, med, tokenizer, max_words)
        width = self.med_config.hidden_size
        self.text_encoder = TextTransformer(self.med_config, self.image_width)
        self.vision_proj = nn.Linear(self.image_width, embed_dim) if embed_dim is not None else None
        self.text_proj = nn.Linear(width, embed_dim) if embed_dim is not None else None
        self.match_token = self.tokenizer.enc_id  # input of the matching head
        if matching:
            self.itm_head = nn.Linear(width, 2)

    def image_feats(self, image_embeds: Tensor, frames: int = 1) -> Tensor:
        """Map [B, P, Dv] to [B, E], unit length, float32; of videos [B, F*P, Dv] the mean over ``frames`` frames."""
        return pooled_feats(self.needed(self.vision_proj), image_embeds, frames)

    def text_feats(self, texts: TextBatch) -> Tensor:
        """Return features [N, E] of N texts, unit length, float32."""
        projection = self.needed(self.text_proj)
        return F.normalize(projection(self.text_encoder(texts, first_only=True)).float(), dim=-1)

    def needed(self, projection: nn.Module | None) -> nn.Module:
        """Return ``projection``; raise a VlkitError if the model has none."""
        if projection is None:
            raise VlkitError(
                f"this {type(self).__name__} has no projections (embed_dim is null), so it has no projected features. "
                f"Set embed_dim and load weights with vision_proj and text_proj, those of a pre-trained model say."
            )
        return projection

    def text_feats_in_passes(self, texts: TextBatch) -> Tensor:
        """Return :meth:`text_feats` [N, E] of any number of texts, N at least 1, in passes of bounded memory.

        Texts are sorted by length, since self-attention pads to the longest of a pass.
        """
        lengths = np.asarray(texts.lengths, np.int64)
        order = np.argsort(lengths, kind="stable")
        parts = split_evenly(order, lengths, PassLimits.of(texts.ids.device).most)
        feats = torch.cat([self.text_feats(texts.select(part)) for part in parts])
        return feats[torch.from_numpy(np.argsort(order)).to(feats.device)]

    def begin_match(self, texts: TextBatch) -> TextPrefix:
        """Compute the part of :meth:`match` that depends on no image, for texts that are compared with several."""
        return self.text_encoder.begin(texts.with_first(self.match_token))

    def match(
        self,
        texts: TextBatch | TextPrefix,
        states: ImageKV,
        image_index: Sequence[int] | np.ndarray | None = None,
    ) -> Tensor:
        """Return ITM logits [N, 2] (class 1 matches) of each text with the image ``image_index`` of it."""
        if isinstance(texts, TextBatch):
            texts = texts.with_first(self.match_token)
        return self.itm_head(self.text_encoder(texts, states, image_index, first_only=True))

    def pair_scorer(self, texts: Sequence[str]) -> PairScorer:
        """Return a scorer of many pairs of images and ``texts``, in passes of bounded memory."""
        return PairScorer(self, texts)


class BlipContrastive(BlipAligned):
    """Momentum encoders, queues and ITC loss of pre-training and retrieval.

    The constructor of a subclass ends with :meth:`start_momentum`.

    Args:
        vit, med, tokenizer, max_words, embed_dim: as for :class:`BlipAligned`.
        momentum: of the momentum encoders, per step, 0 to 1.
        temperature_range: bounds of the learned temperature.
        gather: ITC with the pairs of all processes; False: with this process's pairs and the queue.
    """

    temp: nn.Parameter
    image_queue: Tensor
    text_queue: Tensor

    def __init__(
        self,
        vit: VitConfig,
        med: MedConfig,
        tokenizer: str,
        max_words: int,
        embed_dim: int,
        momentum: float,
        temperature_range: tuple[Temperature, Temperature],
        gather: bool,
    ):
        super().__init__(vit, med, tokenizer, max_words, embed_dim)
        self.momentum, self.temperature_range, self.gather = momentum, temperature_range, gather
        self.draw_negative: Callable[[Tensor], Tensor] = draw_index

    def start_momentum(self, embed_dim: int, queue_size: int, temperature: float) -> None:
        """Create momentum encoders as copies, queues of random features, and the temperature."""
        low, high = self.temperature_range
        if not low <= temperature <= high:
            raise ConfigError(f"temperature is {temperature}; it must be within temperature_range, {low} to {high}.")
        check_memory(2 * embed_dim * queue_size, "the queue of features", "queue_size or embed_dim")
        self.visual_encoder_m = momentum_copy(self.visual_encoder)
        self.vision_proj_m = momentum_copy(self.vision_proj)  # type: ignore[arg-type]
        self.text_encoder_m = momentum_copy(self.text_encoder)
        self.text_proj_m = momentum_copy(self.text_proj)  # type: ignore[arg-type]
        self.temp = nn.Parameter(torch.tensor(temperature))
        self.register_buffer("image_queue", random_queue(embed_dim, queue_size))
        self.register_buffer("text_queue", random_queue(embed_dim, queue_size))

    @torch.no_grad()
    def move_momentum(self) -> None:
        """Update the momentum encoders, once per optimizer step."""
        update_momentum(self._momentum_pairs(), self.momentum)

    def pairs_of(self, samples: Samples) -> tuple[Tensor, TextBatch]:
        """Return ``image`` [B, 3, S, S] and the B texts of the samples."""
        read = self.batches(samples, texts="paired").whole()
        return self.images_of(read), self.texts_of(read)

    def encode(self, image: Tensor, texts: TextBatch, update: bool) -> tuple[Tensor, Features, Features]:
        """Return image tokens [B, P, Dv], features, and the momentum encoders' features.

        Clamps the temperature, and with ``update`` updates the momentum encoders first."""
        image_embeds = self.visual_encoder(image)
        online = Features(self.image_feats(image_embeds), self.text_feats(texts))
        with torch.no_grad():
            self.temp.clamp_(*self.temperature_range)
        if update:
            self.move_momentum()
        return image_embeds, online, self._momentum_feats(image, texts)

    def contrast(
        self, online: Features, slow: Features, everyone: Features, alpha: float, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the ITC loss, and the logits [B, A] image to text and text to image.

        Args:
            online: of this process.
            slow: the momentum encoders', of this process.
            everyone: the momentum encoders', of the pairs to contrast with; the queues follow them.
            alpha: weight of the momentum encoders' soft targets, 0 to 1.
            targets: see :func:`~vlkit.models.losses.soft_contrast`.
        """

        def similar(features: Tensor, others: Tensor, queue: Tensor) -> Tensor:
            # Two products: concatenating the features with a queue would copy it.
            return torch.cat([features @ others.T, features @ queue.to(features.dtype)], 1)

        def compute(image: Tensor, text: Tensor, temp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            losses, sims = [], []
            for mine, teacher, others, queue in (
                (image, slow.image, everyone.text, self.text_queue),
                (text, slow.text, everyone.image, self.image_queue),
            ):
                soft = similar(teacher, others, queue) / temp.detach() if alpha else None
                sims.append(similar(mine, others, queue) / temp)
                losses.append(soft_contrast(sims[-1], soft, alpha, targets))
            return (losses[0] + losses[1]) / 2, sims[0], sims[1]

        with torch.autocast(online.image.device.type, enabled=False):
            # Now, since the batch is enqueued before the backward pass.
            loss, sim_i2t, sim_t2i = differentiate_now(compute, online.image, online.text, self.temp)
        return loss, sim_i2t, sim_t2i

    def queue_age(self, batch: int) -> float:
        """Return the age of the oldest queue entry in steps, for ``batch`` pairs per process and step."""
        return self.image_queue.shape[1] / (batch * world_size())

    def _momentum_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        names = ("visual_encoder", "vision_proj", "text_encoder", "text_proj")
        return [(getattr(self, name), getattr(self, f"{name}_m")) for name in names]

    def _momentum_feats(self, image: Tensor, texts: TextBatch) -> Features:
        with torch.inference_mode():
            image_embeds = self.visual_encoder_m(image, first_only=True)[:, 0]
            text_embeds = self.text_encoder_m(texts, first_only=True)
            image_feats = F.normalize(self.vision_proj_m(image_embeds).float(), dim=-1)
            text_feats = F.normalize(self.text_proj_m(text_embeds).float(), dim=-1)
        # Copies made outside of inference mode, since the backward pass of the ITC loss needs them.
        return Features(image_feats.clone(), text_feats.clone())


def gather_features(features: Features) -> Features:
    """Gather the features of all processes, in rank order, without gradient, in one message."""
    if world_size() == 1:
        return Features(features.image.detach(), features.text.detach())
    width = features.image.shape[1]
    both = gather_batch(torch.cat([features.image, features.text], 1))
    return Features(both[:, :width], both[:, width:])
