"""Pre-training (paper, section 3.2): contrast, matching and language modelling on one model.

Every image is projected once per layer: the matched text, the negative text, the texts that drew this image as their
negative, and the decoder all read the same keys and values, which the shared cross-attention allows.

Shapes: ``B`` pairs of this process, ``W`` processes, ``Q`` queue, ``P`` image tokens, ``E`` projection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlkit.errors import VlkitError
from vlkit.models.blip.base import BlipBase, Samples, pooled_feats
from vlkit.models.blip.caption import Captions, decode_captions
from vlkit.models.generation import GenerationConfig
from vlkit.models.losses import (
    draw_index,
    hard_negatives,
    itm_loss,
    lm_count,
    lm_loss,
    lm_targets,
    soft_contrast,
)
from vlkit.models.med import CrossStates, MedConfig, TextDecoder, TextTransformer, tie_all_but_self_attention
from vlkit.models.momentum import enqueue, gather_batch, momentum_copy, random_queue, rank, update_momentum, world_size
from vlkit.models.packing import TextBatch
from vlkit.models.vit import VitConfig
from vlkit.registry import MODELS


@dataclass
class PretrainOutput:
    """Losses of one batch.

    Args:
        loss_itc: contrast, mean over pairs and both directions.
        loss_itm: matching, mean over 3B pairs.
        loss_lm: language modelling, mean over predicted tokens.
        itm_logits: [3B, 2]: matched pairs, then (negative image, text), then (image, negative text); class 1 matches.
        temperature: scalar, of the contrast.
        queue_age: steps that the oldest entry of the queue has waited.
    """

    loss_itc: Tensor
    loss_itm: Tensor
    loss_lm: Tensor
    itm_logits: Tensor
    temperature: Tensor
    queue_age: float

    @property
    def loss(self) -> Tensor:
        """The sum of the losses (LAVIS's name)."""
        return self.loss_itc + self.loss_itm + self.loss_lm


@MODELS.register("blip_pretrain")
class BlipPretrain(BlipBase):
    """BLIP's pre-training model.

    Args:
        vit: sizes of the image encoder.
        med: sizes of the text transformer.
        tokenizer: name of a bundled vocabulary, or a path.
        embed_dim: width E of projected features.
        queue_size: features of earlier pairs Q that contrast sees as negatives.
        momentum: of the momentum encoders, per step, 0..1.
        temperature: initial value of the learned temperature of contrast.
        temperature_range: lowest and highest value that it may take.
        max_words: longest text in tokens.
        label_smoothing: of the LM loss, 0..1.
        gather: contrast with the pairs of all processes, so that a run does not depend on their number. False: only
            with this process's and the queue, as the original.
    """

    temp: nn.Parameter
    image_queue: Tensor
    text_queue: Tensor
    queue_ptr: Tensor

    def __init__(
        self,
        vit: VitConfig,
        med: MedConfig,
        tokenizer: str = "bert-base-uncased",
        embed_dim: int = 256,
        queue_size: int = 57600,
        momentum: float = 0.995,
        temperature: float = 0.07,
        temperature_range: tuple[float, float] = (0.001, 0.5),
        max_words: int = 30,
        label_smoothing: float = 0.1,
        gather: bool = True,
    ):
        super().__init__(vit, med, tokenizer, max_words)
        self.momentum, self.temperature_range = momentum, temperature_range
        self.label_smoothing, self.gather = label_smoothing, gather
        self.draw_negative: Callable[[Tensor], Tensor] = draw_index
        width = self.med_config.hidden_size
        self.text_encoder = TextTransformer(self.med_config, self.image_width)
        self.vision_proj = nn.Linear(self.image_width, embed_dim)
        self.text_proj = nn.Linear(width, embed_dim)
        self.itm_head = nn.Linear(width, 2)
        # The decoder is made last: what it shares with the encoder is its own.
        self.text_decoder = TextDecoder(self.med_config, self.image_width)
        tie_all_but_self_attention(self.text_encoder, self.text_decoder.bert)
        self.visual_encoder_m = momentum_copy(self.visual_encoder)
        self.vision_proj_m = momentum_copy(self.vision_proj)
        self.text_encoder_m = momentum_copy(self.text_encoder)
        self.text_proj_m = momentum_copy(self.text_proj)
        self.temp = nn.Parameter(torch.tensor(temperature))
        self.register_buffer("image_queue", random_queue(embed_dim, queue_size))
        self.register_buffer("text_queue", random_queue(embed_dim, queue_size))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def target_count(self, texts: TextBatch) -> int:
        """Number of tokens that the LM loss of ``texts`` is a mean over."""
        return lm_count(texts)

    def image_feats(self, image_embeds: Tensor, frames: int = 1) -> Tensor:
        """[B, P, Dv] -> [B, E], unit length, float32; of videos [B, F*P, Dv] the mean over ``frames`` frames."""
        return pooled_feats(self.vision_proj, image_embeds, frames)

    def text_feats(self, texts: TextBatch) -> Tensor:
        """N texts -> [N, E], unit length, float32."""
        return F.normalize(self.text_proj(self.text_encoder(texts, first_only=True)).float(), dim=-1)

    def match(
        self, texts: TextBatch, states: CrossStates, image_index: Sequence[int] | np.ndarray | None = None
    ) -> Tensor:
        """ITM logits [N, 2] (class 1 matches) of each text with the image that ``image_index`` names for it."""
        texts = texts.with_first(self.tokenizer.enc_id)
        return self.itm_head(self.text_encoder(texts, states, image_index, first_only=True))

    def forward(self, samples: Samples, alpha: float = 0.0, update: bool = True) -> PretrainOutput:
        """Losses of ``samples`` (``image`` and ``text_input`` or ``texts``).

        Args:
            samples: B pairs.
            alpha: share of the momentum teacher in the contrast's targets, 0..1; a task ramps it up.
            update: move the momentum encoders; once per optimiser step.
        """
        texts = self.texts_of(samples)
        image = self.images_of(samples)
        if len(image) != len(texts):
            raise VlkitError(f"BlipPretrain needs one text an image; given: {len(image)} images, {len(texts)} texts.")
        image_embeds = self.visual_encoder(image)
        image_feats, text_feats = self.image_feats(image_embeds), self.text_feats(texts)
        with torch.no_grad():
            self.temp.clamp_(*self.temperature_range)
            if update:
                update_momentum(self._momentum_pairs(), self.momentum)
            image_feats_m, text_feats_m = self._momentum_feats(image, texts)
        with torch.autocast(image.device.type, enabled=False):
            loss_itc, sim_i2t, sim_t2i = self._contrast(image_feats, text_feats, image_feats_m, text_feats_m, alpha)
        states = self.text_encoder.project_images(image_embeds)
        itm_logits = self._match_with_negatives(texts, states, sim_i2t, sim_t2i)
        loss_lm = self._language(texts, states)
        return PretrainOutput(
            loss_itc,
            itm_loss(itm_logits, len(texts)),
            loss_lm,
            itm_logits.detach(),
            self.temp.detach().clone(),
            self.image_queue.shape[1] / (len(texts) * world_size()),
        )

    def _momentum_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        names = ("visual_encoder", "vision_proj", "text_encoder", "text_proj")
        return [(getattr(self, name), getattr(self, f"{name}_m")) for name in names]

    def _momentum_feats(self, image: Tensor, texts: TextBatch) -> tuple[Tensor, Tensor]:
        image_embeds = self.visual_encoder_m(image)[:, 0]
        text_embeds = self.text_encoder_m(texts, first_only=True)
        return (
            F.normalize(self.vision_proj_m(image_embeds).float(), dim=-1),
            F.normalize(self.text_proj_m(text_embeds).float(), dim=-1),
        )

    def _contrast(
        self,
        image_feats: Tensor,
        text_feats: Tensor,
        image_feats_m: Tensor,
        text_feats_m: Tensor,
        alpha: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """ITC loss, and the logits [B, B] within this process in both directions, for hard negatives."""
        images_all, texts_all = gather_batch(image_feats_m), gather_batch(text_feats_m)
        images, texts = (images_all, texts_all) if self.gather else (image_feats_m, text_feats_m)
        image_bank = torch.cat([images.T, self.image_queue], 1)
        text_bank = torch.cat([texts.T, self.text_queue], 1)
        first = rank() * len(image_feats) if self.gather else 0
        own = slice(first, first + len(image_feats))
        targets = torch.arange(own.start, own.stop, device=image_feats.device)
        teacher_i2t = image_feats_m @ text_bank / self.temp.detach() if alpha else None
        teacher_t2i = text_feats_m @ image_bank / self.temp.detach() if alpha else None
        sim_i2t = image_feats @ text_bank / self.temp
        sim_t2i = text_feats @ image_bank / self.temp
        loss = (
            soft_contrast(sim_i2t, teacher_i2t, alpha, targets) + soft_contrast(sim_t2i, teacher_t2i, alpha, targets)
        ) / 2
        enqueue([(self.image_queue, images_all), (self.text_queue, texts_all)], self.queue_ptr)
        return loss, sim_i2t.detach()[:, own], sim_t2i.detach()[:, own]

    def _match_with_negatives(self, texts: TextBatch, states: CrossStates, sim_i2t: Tensor, sim_t2i: Tensor) -> Tensor:
        size = len(texts)
        same = torch.eye(size, dtype=torch.bool, device=sim_i2t.device)
        negative_image = hard_negatives(sim_t2i, same, floor=1e-4, draw=self.draw_negative)
        negative_text = hard_negatives(sim_i2t, same, floor=1e-4, draw=self.draw_negative)
        own = np.arange(size)
        pairs = texts.select(np.concatenate([own, own, negative_text]))
        return self.match(pairs, states, np.concatenate([own, negative_image, own]))

    def _language(self, texts: TextBatch, states: CrossStates) -> Tensor:
        texts = texts.with_first(self.tokenizer.dec_id)
        hidden = self.text_decoder(texts, states)
        rows, targets = lm_targets(texts)
        return lm_loss(self.text_decoder.logits(hidden.index_select(0, rows)), targets, self.label_smoothing)

    @torch.inference_mode()
    def caption(
        self, samples: Samples, config: GenerationConfig | None = None, seeds: Tensor | None = None
    ) -> Captions:
        """Captions of the pre-trained decoder, which knows no prompt; see :meth:`BlipCaption.caption`."""
        states = self.text_decoder.bert.project_images(self.image_embeds(samples))
        return decode_captions(self.text_decoder, states, self.tokenizer, "", config or GenerationConfig(), seeds)
