"""Pre-training (paper, section 3.2): ITC, ITM and LM losses on one model.

Every image is projected once per layer. The matched text, the negative text and the texts that have this image as their
negative use the same keys and values, and so does the decoder if it shares the cross-attention.

Shapes: ``B`` pairs of this process, ``W`` processes, ``Q`` queue, ``P`` image tokens, ``E`` projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlkit.contracts import GenerationConfig
from vlkit.models.arguments import check_choice, check_flag, check_share, checked_keywords
from vlkit.models.attention import ImageKV
from vlkit.models.blip.base import LossOutput
from vlkit.models.blip.caption import Captions, caption_images
from vlkit.models.blip.contrastive import BlipContrastive, Features, QueueSize, Temperature, gather_features
from vlkit.models.blip.samples import Samples
from vlkit.models.losses import hard_negatives, itm_loss, lm_count, lm_loss, lm_targets
from vlkit.models.med import SHARED, MedConfig, TextDecoder, share_parameters
from vlkit.models.momentum import enqueue, rank
from vlkit.models.packing import TextBatch
from vlkit.models.vit import VitConfig
from vlkit.registry import MODELS
from vlkit.registry.bounds import Tokens, UnitInterval, Width


@dataclass
class PretrainOutput(LossOutput):
    """Losses of one batch.

    Args:
        loss_itc: image-text contrast, mean over pairs and both directions.
        loss_itm: image-text matching, mean over 3B pairs.
        loss_lm: language modeling, mean over predicted tokens.
        itm_logits: [3B, 2]: matched pairs, then (negative image, text), then (image, negative text); class 1 matches.
        temperature: scalar, of the ITC loss.
        queue_age: age of the oldest queue entry in steps.
    """

    loss_itc: Tensor
    loss_itm: Tensor
    loss_lm: Tensor
    itm_logits: Tensor
    temperature: Tensor
    queue_age: float


@MODELS.register("blip_pretrain")
class BlipPretrain(BlipContrastive):
    """BLIP's pre-training model.

    Args:
        vit: sizes of the image encoder.
        med: sizes of the text transformer.
        tokenizer: name of a bundled vocabulary, or a path.
        embed_dim: width E of projected features.
        queue_size: number Q of features of earlier pairs, negatives of the ITC loss.
        momentum: of the momentum encoders, per step, 0 to 1.
        temperature: initial value of the learned temperature.
        temperature_range: bounds of the temperature.
        max_words: longest text in tokens.
        label_smoothing: of the LM loss, 0 to 1.
        gather: ITC with the pairs of all processes, so that a run does not depend on their number; False: with this
            process's pairs and the queue, as in the original.
        share: layers that text encoder and decoder share: "all_but_self_attention", "all_but_cross_attention", "all"
            or "none" (Paper: table 3). All but "none" share embeddings and feed-forward layers.
    """

    prompt = ""
    queue_ptr: Tensor

    def __init__(
        self,
        vit: VitConfig,
        med: MedConfig,
        tokenizer: str = "bert-base-uncased",
        embed_dim: Width = 256,
        queue_size: QueueSize = 57600,
        momentum: UnitInterval = 0.995,
        temperature: Temperature = 0.07,
        temperature_range: tuple[Temperature, Temperature] = (0.001, 0.5),
        max_words: Tokens = 30,
        label_smoothing: UnitInterval = 0.1,
        gather: bool = True,
        share: str = "all_but_self_attention",
    ):
        check_choice("share", share, tuple(SHARED))
        super().__init__(vit, med, tokenizer, max_words, embed_dim, momentum, temperature_range, gather)
        self.label_smoothing, self.share = label_smoothing, share
        # The decoder is built last, so the shared layers are initialized as its own.
        self.text_decoder = TextDecoder(self.med_config, self.image_width)
        share_parameters(self.text_encoder, self.text_decoder.bert, share)
        self.start_momentum(embed_dim, queue_size, temperature)
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def target_count(self, texts: TextBatch) -> int:
        """Return the number of tokens that the LM loss of ``texts`` is a mean over."""
        return lm_count(texts)

    @checked_keywords
    def forward(self, samples: Samples, alpha: float = 0.0, update: bool = True) -> PretrainOutput:
        """Return the losses of ``samples`` (``image`` and ``text_input`` or ``texts``).

        Args:
            samples: B pairs.
            alpha: weight of the momentum model's soft targets in the ITC loss, 0 to 1; ramped up by the task.
            update: update the momentum encoders; once per optimizer step.
        """
        alpha = check_share("alpha", alpha)
        check_flag("update", update)
        image, texts = self.pairs_of(samples)
        image_embeds, online, slow = self.encode(image, texts, update)
        loss_itc, sim_i2t, sim_t2i = self._contrast(online, slow, alpha)
        states = self.text_encoder.project_images(image_embeds)
        itm_logits = self._match_with_negatives(texts, states, sim_i2t, sim_t2i)
        if "crossattention" not in SHARED[self.share]:
            states = self.text_decoder.bert.project_images(image_embeds)
        loss_lm = self._language(texts, states)
        return PretrainOutput(
            loss_itc,
            itm_loss(itm_logits, len(texts)),
            loss_lm,
            itm_logits.detach(),
            self.temp.detach().clone(),
            self.queue_age(len(texts)),
        )

    def _contrast(self, online: Features, slow: Features, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the ITC loss, and the logits [B, B] within this process in both directions, for hard negatives."""
        everyone, size = gather_features(slow), len(online.image)
        first = rank() * size if self.gather else 0
        own = slice(first, first + size)
        targets = torch.arange(own.start, own.stop, device=online.image.device)
        loss, sim_i2t, sim_t2i = self.contrast(online, slow, everyone if self.gather else slow, alpha, targets)
        enqueue([(self.image_queue, everyone.image), (self.text_queue, everyone.text)], self.queue_ptr)
        return loss, sim_i2t[:, own], sim_t2i[:, own]

    def _match_with_negatives(self, texts: TextBatch, states: ImageKV, sim_i2t: Tensor, sim_t2i: Tensor) -> Tensor:
        size = len(texts)
        same = torch.eye(size, dtype=torch.bool, device=sim_i2t.device)
        negative_image, negative_text = hard_negatives([sim_t2i, sim_i2t], same, floor=1e-4, draw=self.draw_negative)
        own = np.arange(size)
        pairs = texts.select(np.concatenate([own, own, negative_text]))
        return self.match(pairs, states, np.concatenate([own, negative_image, own]))

    def _language(self, texts: TextBatch, states: ImageKV) -> Tensor:
        texts = texts.with_first(self.tokenizer.dec_id)
        hidden = self.text_decoder(texts, states)
        rows, targets = lm_targets(texts)
        return lm_loss(self.text_decoder.logits(hidden.index_select(0, rows)), targets, self.label_smoothing)

    def lm_sums(self, texts: TextBatch, states: ImageKV) -> tuple[list[float], list[int]]:
        """Return the summed LM loss of each text, and its number of predicted tokens."""
        texts = texts.with_first(self.tokenizer.dec_id)
        hidden = self.text_decoder(texts, states)
        rows, targets = lm_targets(texts)
        logits = self.text_decoder.logits(hidden.index_select(0, rows))
        losses = lm_loss(logits, targets, self.label_smoothing, reduction="none")
        counts = [length - 1 for length in texts.lengths]
        return [part.sum().item() for part in losses.split(counts)], counts

    @checked_keywords
    def caption(
        self,
        samples: Samples,
        config: GenerationConfig | None = None,
        seeds: Tensor | None = None,
        batch_size: int | None = None,
    ) -> Captions:
        """Generate captions without a prompt; see :meth:`BlipCaption.caption`."""
        return caption_images(self, samples, config, seeds, batch_size)
