"""A step of pre-training: contrast, matching with hard negatives, language modeling, AdamW.

Shapes: ``B`` pairs, ``L`` padded length, ``Q`` queue, ``E`` projection, ``P`` image tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .models import IGNORED, Bert, Decoder, lm_loss
from .vit import Vit

LONGEST = 30
SMOOTHING = 0.1
_FLOOR = 1e-4  # of the weight of a negative


def draw(weights: Tensor) -> Tensor:
    """One index, in proportion to ``weights`` [B]."""
    return torch.multinomial(weights, 1)


class Pretrainer(nn.Module):
    """All that is pre-trained, and its momentum copies. Take the weights of a model of ours: the text encoder shares
    with the decoder what that one shares.

    Args:
        vit: sizes, as a ``VitConfig`` of vlkit has them.
        med: sizes, as a ``MedConfig`` of vlkit has them.
        enc_id, dec_id: the tokens [ENC] and [DEC].
        embed_dim: width E of projected features.
        queue_size: Q.
        momentum: of the momentum encoders, 0..1.
    """

    def __init__(
        self,
        vit: Any,
        med: Any,
        enc_id: int,
        dec_id: int,
        embed_dim: int = 256,
        queue_size: int = 57600,
        momentum: float = 0.995,
    ):
        super().__init__()
        self.enc_id, self.dec_id, self.momentum = enc_id, dec_id, momentum
        self.draw: Callable[[Tensor], Tensor] = draw
        self.visual_encoder, self.visual_encoder_m = Vit(vit), Vit(vit)
        self.text_encoder, self.text_encoder_m = Bert(med, vit.embed_dim), Bert(med, vit.embed_dim)
        self.vision_proj, self.vision_proj_m = (nn.Linear(vit.embed_dim, embed_dim) for _ in range(2))
        self.text_proj, self.text_proj_m = (nn.Linear(med.hidden_size, embed_dim) for _ in range(2))
        self.itm_head = nn.Linear(med.hidden_size, 2)
        self.text_decoder = Decoder(med, vit.embed_dim)
        self.temp = nn.Parameter(torch.tensor(0.07))
        self.register_buffer("image_queue", torch.zeros(embed_dim, queue_size))
        self.register_buffer("text_queue", torch.zeros(embed_dim, queue_size))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def forward(self, image: Tensor, ids: Tensor, mask: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of contrast, matching and language modeling.

        Args:
            image: [B, 3, S, S].
            ids: [B, L], [CLS] first.
            mask: [B, L], 0 at padding.
            alpha: share of the momentum teacher, 0..1.
        """
        with torch.no_grad():
            self.temp.clamp_(0.001, 0.5)
        tokens = self.visual_encoder(image)
        image_feat = F.normalize(self.vision_proj(tokens[:, 0]), dim=-1)
        text_feat = F.normalize(self.text_proj(self.text_encoder(ids, mask)[:, 0]), dim=-1)
        loss_itc, sim_i2t, sim_t2i = self._contrast(image, ids, mask, image_feat, text_feat, alpha)
        loss_itm = self._matching(tokens, ids, mask, sim_i2t, sim_t2i)
        decoder_ids = ids.clone()
        decoder_ids[:, 0] = self.dec_id
        labels = decoder_ids.masked_fill(mask == 0, IGNORED)
        return loss_itc, loss_itm, lm_loss(self.text_decoder(decoder_ids, mask, tokens), labels, SMOOTHING)

    def _contrast(
        self, image: Tensor, ids: Tensor, mask: Tensor, image_feat: Tensor, text_feat: Tensor, alpha: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, and the logits [B, B + Q] in both directions."""
        with torch.no_grad():
            self._move_momentum()
            image_feat_m = F.normalize(self.vision_proj_m(self.visual_encoder_m(image)[:, 0]), dim=-1)
            image_all = torch.cat([image_feat_m.t(), self.image_queue.clone().detach()], 1)
            text_feat_m = F.normalize(self.text_proj_m(self.text_encoder_m(ids, mask)[:, 0]), dim=-1)
            text_all = torch.cat([text_feat_m.t(), self.text_queue.clone().detach()], 1)
            targets = torch.zeros(len(image), image_all.shape[1], device=image.device)
            targets.fill_diagonal_(1)
            soft_i2t = alpha * (image_feat_m @ text_all / self.temp).softmax(1) + (1 - alpha) * targets
            soft_t2i = alpha * (text_feat_m @ image_all / self.temp).softmax(1) + (1 - alpha) * targets
        sim_i2t = image_feat @ text_all / self.temp
        sim_t2i = text_feat @ image_all / self.temp
        loss_i2t = -(sim_i2t.log_softmax(1) * soft_i2t).sum(1).mean()
        loss_t2i = -(sim_t2i.log_softmax(1) * soft_t2i).sum(1).mean()
        self._enqueue(image_feat_m, text_feat_m)
        return (loss_i2t + loss_t2i) / 2, sim_i2t, sim_t2i

    @torch.no_grad()
    def _move_momentum(self) -> None:
        for name in ("visual_encoder", "vision_proj", "text_encoder", "text_proj"):
            pairs = zip(getattr(self, name).parameters(), getattr(self, f"{name}_m").parameters())
            for parameter, slow in pairs:
                slow.data = slow.data * self.momentum + parameter.data * (1.0 - self.momentum)

    @torch.no_grad()
    def _enqueue(self, image_feat: Tensor, text_feat: Tensor) -> None:
        start, count = int(self.queue_ptr), len(image_feat)
        self.image_queue[:, start : start + count] = image_feat.t()
        self.text_queue[:, start : start + count] = text_feat.t()
        self.queue_ptr[0] = (start + count) % self.image_queue.shape[1]

    def _matching(self, tokens: Tensor, ids: Tensor, mask: Tensor, sim_i2t: Tensor, sim_t2i: Tensor) -> Tensor:
        count = len(tokens)
        ids = ids.clone()
        ids[:, 0] = self.enc_id
        positive = self.text_encoder(ids, mask, tokens)
        with torch.no_grad():
            weights_t2i = sim_t2i[:, :count].softmax(1) + _FLOOR
            weights_t2i.fill_diagonal_(0)
            weights_i2t = sim_i2t[:, :count].softmax(1) + _FLOOR
            weights_i2t.fill_diagonal_(0)
        tokens_negative = torch.stack([tokens[self.draw(weights_t2i[row]).item()] for row in range(count)])
        negatives = [self.draw(weights_i2t[row]).item() for row in range(count)]
        ids_negative = torch.stack([ids[row] for row in negatives])
        mask_negative = torch.stack([mask[row] for row in negatives])
        negative = self.text_encoder(
            torch.cat([ids, ids_negative]), torch.cat([mask, mask_negative]), torch.cat([tokens_negative, tokens])
        )
        logits = self.itm_head(torch.cat([positive[:, 0], negative[:, 0]]))
        labels = torch.cat([torch.ones(count, dtype=torch.long), torch.zeros(2 * count, dtype=torch.long)])
        return F.cross_entropy(logits, labels.to(logits.device))


def optimizer_of(model: nn.Module, rate: float) -> torch.optim.AdamW:
    """As the original makes it: torch's default AdamW over everything."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=rate, weight_decay=0.05)


def step(
    model: Pretrainer, optimizer: torch.optim.Optimizer, image: Tensor, ids: Tensor, mask: Tensor, alpha: float
) -> list[float]:
    """One step; the three losses."""
    optimizer.zero_grad()
    losses = model(image, ids, mask, alpha)
    torch.stack(losses).sum().backward()
    optimizer.step()
    return [loss.item() for loss in losses]
