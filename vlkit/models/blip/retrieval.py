"""Image-text retrieval (paper, section 5.1): contrast and matching, where several texts may be of one image.

Every image is projected once per layer: matched and negative texts read the same keys and values.

Shapes: ``B`` pairs of this process, ``W`` processes, ``C`` candidates for negatives, ``Q`` queue, ``P`` image tokens,
``E`` projection.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlkit.errors import VlkitError
from vlkit.models.arguments import check_share, check_whole, checked_keywords, one_or_more, text_list
from vlkit.models.blip.contrastive import BlipContrastive, Features, QueueSize, Temperature, gather_features
from vlkit.models.blip.samples import Samples, wanted
from vlkit.models.losses import hard_negatives, itm_loss
from vlkit.models.med import MedConfig
from vlkit.models.momentum import enqueue, gather_batch, gather_texts, gather_with_gradient, rank, world_size
from vlkit.models.packing import TextBatch
from vlkit.models.vit import VitConfig
from vlkit.registry import MODELS, TASKS
from vlkit.registry.bounds import Tokens, UnitInterval, Width

logger = logging.getLogger(__name__)
# What stands in the queue of image ids where no pair has been; real ids are not negative.
_NO_IMAGE = -100


@dataclass
class RetrievalOutput:
    """Losses of one batch.

    Args:
        loss_itc: contrast, mean over pairs and both directions.
        loss_itm: matching, mean over 3B pairs; 0 for a batch of one image alone, which has no negatives.
        itm_logits: [3B, 2]: matched pairs, then (negative image, text), then (image, negative text); class 1 matches.
            Only the matched pairs [B, 2] where there are no negatives.
        temperature: scalar, of the contrast.
        queue_age: steps that the oldest entry of the queue has waited.
    """

    loss_itc: Tensor
    loss_itm: Tensor
    itm_logits: Tensor
    temperature: Tensor
    queue_age: float

    @property
    def loss(self) -> Tensor:
        """The sum of the losses (LAVIS's name)."""
        return self.loss_itc + self.loss_itm


@MODELS.register("blip_retrieval")
class BlipRetrieval(BlipContrastive):
    """BLIP for retrieval.

    Args:
        vit: sizes of the image encoder.
        med: sizes of the text transformer.
        tokenizer: name of a bundled vocabulary, or a path.
        embed_dim: width E of projected features.
        queue_size: features of earlier pairs Q that contrast sees; those of the same image are matches.
        momentum: of the momentum encoders, per step, 0..1.
        temperature: initial value of the learned temperature of contrast.
        temperature_range: lowest and highest value that it may take.
        max_words: longest text in tokens.
        negative_all_rank: draw hard negatives from the pairs of all processes (with gradients to their images), not
            only from this one's. All batches must have one size then.
        gather: contrast with the pairs of all processes, so that a run does not depend on their number. False: only
            with this process's and the queue, as the original.
    """

    sample_keys = (*BlipContrastive.sample_keys, "image_id")
    idx_queue: Tensor
    ptr_queue: Tensor

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
        max_words: Tokens = 35,
        negative_all_rank: bool = False,
        gather: bool = True,
    ):
        super().__init__(vit, med, tokenizer, max_words, embed_dim, momentum, temperature_range, gather)
        self.negative_all_rank, self._warned = negative_all_rank, False
        self.start_momentum(embed_dim, queue_size, temperature)
        self.register_buffer("idx_queue", torch.full((1, queue_size), _NO_IMAGE))
        self.register_buffer("ptr_queue", torch.zeros(1, dtype=torch.long))

    @checked_keywords
    def forward(self, samples: Samples, alpha: float = 0.0, update: bool = True) -> RetrievalOutput:
        """Losses of ``samples`` (``image``, ``text_input`` or ``texts``, and ``image_id``: equal where the image is).

        Args:
            samples: B pairs.
            alpha: share of the momentum teacher in the contrast's targets, 0..1; a task ramps it up.
            update: move the momentum encoders; once per optimizer step.
        """
        check_share("alpha", alpha)
        image, texts = self.pairs_of(samples)
        ids = image_numbers(wanted(samples, "image_id", "BlipRetrieval")).to(image.device)
        if ids.shape != (len(image),):
            raise VlkitError(
                f"BlipRetrieval needs one image_id an image; given: {len(image)} images, {ids.numel()} ids."
            )
        image_embeds, online, slow = self.encode(image, texts, update)
        all_ids = gather_batch(ids)
        loss_itc = self._contrast(online, slow, ids, all_ids, alpha)
        logits = self._match_with_negatives(image_embeds, texts, online, ids, all_ids)
        size = len(texts)
        # A batch of one image would teach that everything matches.
        loss_itm = itm_loss(logits, size) if len(logits) > size else logits.float().sum() * 0
        age = self.queue_age(size)
        return RetrievalOutput(loss_itc, loss_itm, logits.detach(), self.temp.detach().clone(), age)

    @checked_keywords
    def compute_sim_matrix(
        self, data_loader: Iterable[Mapping[str, Any]], task_cfg: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """LAVIS's evaluation: scores of all images and texts, [I, T] and [T, I], -100 where a pair was not scored.

        It is the work of the task ``retrieval``, found by its name: models do not know tasks.

        Args:
            data_loader: batches of images (``image``, in any form, or ``video``), with a ``dataset`` whose ``text``
                lists the texts; or with ``references``.
            task_cfg: its ``k_test`` candidates of each query are re-ranked; None: 256.
        """
        k_test = getattr(task_cfg, "k_test", 256)
        check_whole("task_cfg.k_test", k_test, 0)
        if not isinstance(data_loader, Iterable):
            raise VlkitError(f"data_loader is {data_loader!r:.80}; give a loader, or a list of batches.")
        read = _Read(self, data_loader)
        return TASKS.get("retrieval")(rerank_top_k=k_test, max_words=None).sim_matrix(self, read)

    def _contrast(self, online: Features, slow: Features, ids: Tensor, all_ids: Tensor, alpha: float) -> Tensor:
        """ITC loss, whose targets are spread over the candidates of the same image; the batch joins the queues."""
        everyone = gather_features(slow)
        known = torch.cat([all_ids if self.gather else ids, self.idx_queue[0]])
        same = (ids[:, None] == known).float()
        targets = same / same.sum(1, keepdim=True)
        loss, _, _ = self.contrast(online, slow, everyone if self.gather else slow, alpha, targets)
        queues = [(self.image_queue, everyone.image), (self.text_queue, everyone.text), (self.idx_queue, all_ids)]
        enqueue(queues, self.ptr_queue)
        return loss

    def _match_with_negatives(
        self, image_embeds: Tensor, texts: TextBatch, online: Features, ids: Tensor, all_ids: Tensor
    ) -> Tensor:
        """ITM logits [3B, 2], or [B, 2] where all candidates are of one image. Negatives are likelier the more similar
        they are to the online features."""
        size, first = len(texts), 0
        candidates, features = texts, Features(online.image.detach(), online.text.detach())
        if self.negative_all_rank and world_size() > 1:
            first = rank() * size
            candidates, features = gather_texts(texts), gather_features(features)
            image_embeds = gather_with_gradient(image_embeds)
        else:
            all_ids = ids
        same = ids[:, None] == all_ids
        own = np.arange(size) + first
        text_index, image_index = own, own
        if bool(same.all()):
            self._warn_of_no_negatives()
        else:
            with torch.autocast(ids.device.type, enabled=False):
                sim_i2t = online.image.detach() @ features.text.T / self.temp
                sim_t2i = online.text.detach() @ features.image.T / self.temp
            negative_image, negative_text = hard_negatives([sim_t2i, sim_i2t], same, draw=self.draw_negative)
            text_index = np.concatenate([own, own, negative_text])
            image_index = np.concatenate([own, negative_image, own])
        # Of all processes' images only those that are looked at are projected.
        used, image_index = np.unique(image_index, return_inverse=True)
        if len(used) < len(image_embeds):
            image_embeds = image_embeds.index_select(0, torch.from_numpy(used).to(ids.device))
        states = self.text_encoder.project_images(image_embeds)
        return self.match(candidates.select(text_index), states, image_index)

    def _warn_of_no_negatives(self) -> None:
        if not self._warned:
            logger.warning("all images of a batch have one image_id: there are no negatives, so loss_itm is 0.")
        self._warned = True


class _Read:
    """Batches of a loader, their pictures as tensors."""

    def __init__(self, model: BlipRetrieval, loader: Iterable[Mapping[str, Any]]):
        self.model, self.loader, self.dataset = model, loader, getattr(loader, "dataset", None)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.loader:
            batches = self.model.batches(batch)
            found = batches.whole()
            if "references" in found:
                found["references"] = self._references(found["references"], batches.count)
            yield found

    def _references(self, given: Any, count: int) -> list[list[str]]:
        references = [text_list("references", each, empty=True) for each in one_or_more("references", given)]
        if len(references) != count:
            raise VlkitError(
                f"references must be a list of texts for each of {count} images; given: {len(references)}."
            )
        return references


def image_numbers(ids: Tensor | Iterable[int | str]) -> Tensor:
    """[B] int64 that are equal where image ids are: numbers stay as they are, a text becomes the first 63 bits of its
    hash, the same in every run and process (checkpoints keep them in the queue).

    Raises:
        VlkitError: an id is neither a text nor a whole number from 0.
    """
    given = ids.reshape(-1).tolist() if isinstance(ids, Tensor) else one_or_more("image_id", ids)
    return torch.tensor([_number(image_id) for image_id in given], dtype=torch.long)


def _number(image_id: object) -> int:
    if isinstance(image_id, str):
        digest = hashlib.blake2b(image_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1
    if not isinstance(image_id, (int, np.integer)) or not 0 <= image_id < 2**63:
        raise VlkitError(f"image_id must be texts or whole numbers from 0; given: {image_id!r}.")
    return int(image_id)
