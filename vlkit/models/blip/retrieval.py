"""Image-text retrieval (paper, section 5.1): ITC and ITM losses, where an image may have several texts.

Every image is projected once per layer: matched and negative texts use the same keys and values.

Shapes: ``B`` pairs of this process, ``W`` processes, ``C`` candidates for negatives, ``Q`` queue, ``P`` image tokens,
``E`` projection.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlkit.errors import VlkitError
from vlkit.io.tensor_files import TensorSpool
from vlkit.models.arguments import check_flag, check_share, check_whole, checked_keywords, one_or_more, text_list
from vlkit.models.blip.base import LossOutput, frames_of
from vlkit.models.blip.contrastive import BlipContrastive, Features, QueueSize, Temperature, gather_features
from vlkit.models.blip.samples import Samples, wanted
from vlkit.models.losses import hard_negatives, itm_loss
from vlkit.models.med import MedConfig
from vlkit.models.momentum import enqueue, gather_batch, gather_texts, gather_with_gradient, rank, world_size
from vlkit.models.packing import TextBatch
from vlkit.models.vit import VitConfig
from vlkit.registry import MODELS
from vlkit.registry.bounds import Tokens, UnitInterval, Width

logger = logging.getLogger(__name__)
_NO_IMAGE = -100
"""Entry of the queue of image ids that no pair has filled yet; real ids are not negative."""
UNSEEN = -100.0
"""Score of a pair in :meth:`BlipRetrieval.compute_sim_matrix` that was not re-ranked, as in LAVIS."""
_WITHOUT_RERANKING = 10  # candidates of a query
_TOKENS_IN_MEMORY = 2**32  # bytes of image tokens; further ones go to a temporary file
_BLOCK = 2**18  # similarities per matrix product, as in the task: the scores are the same to the bit


@dataclass
class RetrievalOutput(LossOutput):
    """Losses of one batch.

    Args:
        loss_itc: image-text contrast, mean over pairs and both directions.
        loss_itm: image-text matching, mean over 3B pairs; 0 for a batch of a single image, which has no negatives.
        itm_logits: [3B, 2]: matched pairs, then (negative image, text), then (image, negative text); class 1 matches.
            Only the matched pairs [B, 2] if there are no negatives.
        temperature: scalar, of the ITC loss.
        queue_age: age of the oldest queue entry in steps.
    """

    loss_itc: Tensor
    loss_itm: Tensor
    itm_logits: Tensor
    temperature: Tensor
    queue_age: float


@MODELS.register("blip_retrieval")
class BlipRetrieval(BlipContrastive):
    """Train and score image-text retrieval.

    Args:
        vit: sizes of the image encoder.
        med: sizes of the text transformer.
        tokenizer: name of a bundled vocabulary, or a path.
        embed_dim: width E of projected features.
        queue_size: number Q of features of earlier pairs for the ITC loss; those of the same image are matches.
        momentum: of the momentum encoders, per step, 0 to 1.
        temperature: initial value of the learned temperature.
        temperature_range: bounds of the temperature.
        max_words: longest text in tokens.
        negative_all_rank: sample hard negatives from the pairs of all processes (with gradients to their images), not
            only from this one's. All batches must have the same size then.
        gather: ITC with the pairs of all processes, so that a run does not depend on their number; False: with this
            process's pairs and the queue, as in the original.
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
        """Return the losses of ``samples``: ``image``, ``text_input`` or ``texts``, ``image_id`` (equal for one image).

        Args:
            samples: B pairs.
            alpha: weight of the momentum model's soft targets in the ITC loss, 0 to 1; ramped up by the task.
            update: update the momentum encoders; once per optimizer step.
        """
        alpha = check_share("alpha", alpha)
        check_flag("update", update)
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
        # Training on matched pairs alone would teach that everything matches.
        loss_itm = itm_loss(logits, size) if len(logits) > size else logits.float().sum() * 0
        age = self.queue_age(size)
        return RetrievalOutput(loss_itc, loss_itm, logits.detach(), self.temp.detach().clone(), age)

    @checked_keywords
    @torch.inference_mode()
    def compute_sim_matrix(
        self, data_loader: Iterable[Mapping[str, Any]], task_cfg: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score images and texts for each other: LAVIS's evaluation call, with the scores of the task ``retrieval``.

        Args:
            data_loader: batches of images (``image``, in any form, or ``video``), with a ``dataset`` whose ``text``
                lists the T texts; or with ``references``.
            task_cfg: its ``k_test`` candidates of each query are re-ranked; None: 256.

        Returns:
            score_i2t [I, T] and score_t2i [T, I]: similarity plus matching logit, -100 where a pair was not scored.
        """
        k_test = getattr(task_cfg, "k_test", 256)
        check_whole("task_cfg.k_test", k_test, 0)
        with TensorSpool(self.device, _TOKENS_IN_MEMORY, what="image tokens") as tokens:
            image_feats, texts = self._read_loader(data_loader, tokens if k_test else None)
            places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
            unique, text_of = list(places), np.array([places[text] for text in texts])
            text_feats = self.text_feats_in_passes(self.tokenize(unique))
            to_texts = _similarity(image_feats, text_feats, len(texts))[:, text_of]
            to_images = _similarity(text_feats[text_of], image_feats, len(image_feats))
            chosen = [_most_similar(each, k_test or _WITHOUT_RERANKING) for each in (to_texts, to_images)]
            logits = np.zeros((len(image_feats), len(unique)), np.float32)
            if k_test:
                wanted_pairs = np.zeros(logits.shape, bool)
                wanted_pairs[np.arange(len(image_feats))[:, None], text_of[chosen[0]]] = True
                wanted_pairs[chosen[1], text_of[:, None]] = True
                self._match_pairs(tokens, unique, wanted_pairs, logits)
        logits = logits[:, text_of]
        return _only(chosen[0], to_texts + logits), _only(chosen[1], to_images + logits.T)

    def _read_loader(self, loader: Any, tokens: TensorSpool | None) -> tuple[Tensor, list[str]]:
        """Return image features [I, E] and the T texts of a loader; fills ``tokens``."""
        if not isinstance(loader, Iterable) or getattr(loader, "ndim", 1) == 0:
            raise VlkitError(f"data_loader is {loader!r:.80}; give a loader, or a list of batches.")
        listed = getattr(getattr(loader, "dataset", None), "text", None)
        texts = [] if listed is None else text_list("data_loader.dataset.text", listed)
        feats: list[Tensor] = []
        count = 0
        for batch in loader:
            batches = self.batches(batch)
            samples = batches.whole()
            embeds = self.image_embeds(samples)
            feats.append(self.image_feats(embeds, frames_of(samples)))
            if tokens is not None:
                tokens.add(range(count, count + len(embeds)), embeds)
            count += len(embeds)
            if listed is None:
                texts += _references(samples, batches.count)
        if not feats:
            raise VlkitError("data_loader gives no batches.")
        return torch.cat(feats), texts

    def _match_pairs(self, tokens: TensorSpool, texts: list[str], pairs: np.ndarray, logits: np.ndarray) -> None:
        """Write the matching logits of the ``pairs`` [I, U], booleans, to ``logits`` [I, U]."""
        scorer = self.pair_scorer(texts)
        scored = []
        for index, embeds in tokens:
            rows = pairs[list(index)]
            image, text = np.nonzero(rows)
            for part, values in scorer.passes(embeds, [np.flatnonzero(row) for row in rows]):
                scored.append((image[part] + index[0], text[part], values))
        # Copied at the end: a copy would wait for the GPU between passes.
        for images, columns, values in scored:
            logits[images, columns] = values.float().cpu().numpy()

    def _contrast(self, online: Features, slow: Features, ids: Tensor, all_ids: Tensor, alpha: float) -> Tensor:
        """Return the ITC loss, its targets spread over the candidates of the same image, and enqueue the batch."""
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
        """Return ITM logits [3B, 2], or [B, 2] if all candidates are of one image. Negatives are sampled by
        similarity to the online features."""
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
        # Project only those images of all processes that are used.
        used, image_index = np.unique(image_index, return_inverse=True)
        if len(used) < len(image_embeds):
            image_embeds = image_embeds.index_select(0, torch.from_numpy(used).to(ids.device))
        states = self.text_encoder.project_images(image_embeds)
        return self.match(candidates.select(text_index), states, image_index)

    def _warn_of_no_negatives(self) -> None:
        if not self._warned:
            logger.warning("all images of a batch have one image_id: there are no negatives, so loss_itm is 0.")
        self._warned = True


def _similarity(queries: Tensor, candidates: Tensor, count: int) -> np.ndarray:
    """Return [Q, C] similarities."""
    blocks = queries.split(max(1, _BLOCK // count))
    found = torch.cat([block @ candidates.T for block in blocks]).cpu().numpy()
    if not np.isfinite(found).all():
        raise VlkitError("similarities of images and texts are NaN or infinite; check the weights of the model.")
    return found


def _most_similar(similarity: np.ndarray, k: int) -> np.ndarray:
    """Return [Q, min(k, C)] columns of the largest values, in no particular order; of equal values the first."""
    kept = min(k, similarity.shape[1])
    found = []
    for row in similarity:
        least = np.partition(row, -kept)[-kept]  # a tenth of the time of sorting
        above = np.flatnonzero(row > least)
        found.append(np.concatenate([above, np.flatnonzero(row == least)[: kept - len(above)]]))
    return np.stack(found)


def _only(chosen: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return ``scores`` [Q, C] with all but the columns ``chosen`` [Q, k] replaced by -100."""
    found = np.full_like(scores, UNSEEN)
    np.put_along_axis(found, chosen, np.take_along_axis(scores, chosen, 1), 1)
    return found


def _references(samples: Mapping[str, Any], count: int) -> list[str]:
    """Return the texts of a batch of ``count`` images, one image after the other."""
    if "references" in samples:
        references = [text_list("references", each) for each in one_or_more("references", samples["references"])]
    else:
        given = text_list("text_input", wanted(samples, "text_input", "BlipRetrieval"))
        references = [[text] for text in given]
    if len(references) != count:
        raise VlkitError(f"references must be a list of texts for each of {count} images; given: {len(references)}.")
    return [text for each in references for text in each]


def image_numbers(ids: Tensor | Iterable[int | str]) -> Tensor:
    """Convert image ids to [B] int64: numbers are unchanged, a string becomes the first 63 bits of its hash, the same
    in every run and process (the queue in checkpoints holds them).

    Raises:
        VlkitError: an id is neither a string nor a whole number from 0.
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
