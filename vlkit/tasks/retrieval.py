"""Image-text and video-text retrieval (paper, sections 5.1 and 5.6): trains contrast and matching, ranks by both."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlkit.errors import ConfigError
from vlkit.io.files import atomic_write
from vlkit.metrics.retrieval import median_rank, recall
from vlkit.registry import TASKS
from vlkit.registry.bounds import NotNegative, PositiveInt, UnitInterval, WholeNumber
from vlkit.tasks.base import Batch, EvalContext, Progress, StepOutput, Task, to_device
from vlkit.tasks.image_tokens import ImageTokens, Keep, check_keep
from vlkit.tasks.matching import Ranking, Retrieved, retrieve
from vlkit.tasks.pool import Pool, encoded, read_pool
from vlkit.tasks.schedules import alpha_ramp

# Answers of each query in the result file.
_SHOWN = 10


@TASKS.register("retrieval")
class Retrieval(Task):
    """Trains ``blip_retrieval``; evaluates it, and any model with features and matching, on images or videos.

    Samples of an evaluation set hold ``image`` or ``video`` and ``references``, their texts (without these
    ``text_input`` is the one text). Scores, of the final ranking: ``tr@1``, ``tr@5``, ``tr@10`` (image or video to
    text) and their mean ``tr_mean``, ``ir@k`` and ``ir_mean`` (text to image), ``recall_mean`` of both, all 0 to 1;
    ``tr_median_rank``, ``ir_median_rank`` from 1. The same with ``itc_`` in front: by similarity alone. Answers of
    equal score count against the right one, and so does every wrong answer where the right one is not among the
    candidates that were re-ranked. Each query's rank and best answers go to ``retrieval_<set>.json``.

    Args:
        rerank_top_k: most similar candidates of a query that matching re-ranks, in each direction (COCO 256,
            Flickr30k 128); 0: similarity alone.
        alpha: share of the momentum teacher in the contrast's targets, 0..1.
        alpha_ramp_epochs: passes over the data in which ``alpha`` rises from 0.
        max_words: words of a reference that are read, preprocessed as captions in training are; None: references as
            they are.
        image_tokens: where image tokens wait for re-ranking: "memory", "disk" (in the run's folder), "recompute"
            (images are read and encoded twice), or "auto": in memory up to ``image_tokens_gib``, the rest on disk, and
            recomputed where the disk has no room.
        image_tokens_gib: for "auto", of each process.

    Raises:
        ConfigError: an argument outside that.
    """

    evaluation_keys = ("rerank_top_k", "max_words", "image_tokens", "image_tokens_gib")

    def __init__(
        self,
        rerank_top_k: WholeNumber = 256,
        alpha: UnitInterval = 0.4,
        alpha_ramp_epochs: NotNegative = 1.0,
        max_words: PositiveInt | None = 30,
        image_tokens: Keep = "auto",
        image_tokens_gib: NotNegative = 4.0,
    ):
        if rerank_top_k < 0:
            raise ConfigError(f"rerank_top_k: {rerank_top_k} given; it must be 0 (no re-ranking) or more.")
        check_keep(image_tokens)
        self.rerank_top_k, self.alpha, self.alpha_ramp_epochs = rerank_top_k, alpha, alpha_ramp_epochs
        self.max_words, self.image_tokens, self.image_tokens_gib = max_words, image_tokens, image_tokens_gib

    def prepare(self, model: Any, batch: Batch, device: torch.device) -> Batch:
        texts = model.tokenize(batch["text_input"])
        return to_device({"image": batch["image"], "texts": texts, "image_id": batch["image_id"]}, device)

    def train_step(self, model: Any, inputs: Batch, progress: Progress) -> StepOutput:
        alpha = alpha_ramp(self.alpha, progress.epoch, self.alpha_ramp_epochs)
        out = model(inputs, alpha=alpha, update=progress.micro == 0)
        said = out.itm_logits.argmax(-1)
        true = torch.arange(len(said), device=said.device) < len(inputs["texts"])
        metrics = {
            "itm_accuracy": (said == true).float().mean(),
            "temperature": out.temperature,
            "alpha": alpha,
            "queue_age": out.queue_age / progress.micros,
        }
        return StepOutput(losses={"loss_itc": out.loss_itc, "loss_itm": out.loss_itm}, metrics=metrics)

    def evaluate(self, model: Any, loader: Iterable[Batch], context: EvalContext) -> dict[str, float]:
        pool, found = self.rank(model, loader, context)
        if context.rank == 0 and context.output_dir is not None:
            _write(context.output_dir / f"retrieval_{context.name}.json", pool, found)
        scores: dict[str, float] = {}
        for prefix, ranks in (("itc_", found.itc_ranks), ("", found.ranks)):
            scores |= {f"{prefix}{key}": value for key, value in recall(*ranks).items()}
            scores |= {f"{prefix}{side}_median_rank": median_rank(each) for side, each in zip(("tr", "ir"), ranks)}
        return scores

    def rank(
        self, model: Any, loader: Iterable[Batch], context: EvalContext, texts: Sequence[str] | None = None
    ) -> tuple[Pool, Retrieved]:
        """The set that ``loader`` gives, and what each image and text of it has found.

        Args:
            model, loader, context: see :meth:`evaluate`.
            texts: of the whole set, where samples bring none; there are no right answers then.
        """

        def again() -> Iterator[tuple[list[int], Tensor]]:
            return ((batch["index"], embeds) for batch, embeds in encoded(model, loader, context))

        limit = int(self.image_tokens_gib * 2**30)
        with ImageTokens(self.image_tokens, again, context.device, limit, context.output_dir) as tokens:
            pool = read_pool(model, loader, context, tokens if self.rerank_top_k else None, self.max_words, texts)
            on_disk = self.image_tokens == "disk"
            return pool, retrieve(model, pool, tokens, self.rerank_top_k, context, _SHOWN, on_disk)

    def sim_matrix(
        self, model: Any, data_loader: Iterable[Batch], context: EvalContext | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores of all pairs, as LAVIS's ``compute_sim_matrix`` gives them.

        Args:
            model: in eval mode.
            data_loader: batches with ``image`` or ``video`` and ``references``; or, as in LAVIS, without texts and with
                a ``dataset`` whose ``text`` lists them.
            context: of the evaluation; None: one process, in the model's precision.

        Returns:
            score_i2t [I, T] and score_t2i [T, I]: similarity plus matching logit, -100 where a pair was not scored.
            Texts stand in the order of their images, or of ``dataset.text``.
        """
        context = context or EvalContext(model.device, nullcontext)
        texts = getattr(getattr(data_loader, "dataset", None), "text", None)
        with torch.inference_mode():
            _, found = self.rank(model, _Numbered(data_loader), context, texts)
        return found.to_texts.matrix(), found.to_images.matrix()

    def describe(self, model: Any, batch: Batch, context: EvalContext) -> list[str]:
        """The best text of the whole batch for each image."""
        whole = {**batch, "index": list(range(len(batch["image_id"])))}
        pool, found = self.rank(model, [whole], context)
        best = found.to_texts.scores.argmax(1)[:, None]
        return [pool.texts[text] for text in np.take_along_axis(found.to_texts.candidates, best, 1)[:, 0]]


def _write(path: Path, pool: Pool, found: Retrieved) -> None:
    """Rank from 1 and best answers of each query."""
    ids = pool.image_ids
    images, texts = [], []
    for row, best in enumerate(_best(found.to_texts)):
        answers = [[pool.texts[text], score] for text, score in best]
        images.append({"image_id": ids[row], "rank": int(found.ranks[0][row]) + 1, "texts": answers})
    for row, best in enumerate(_best(found.to_images)):
        answers = [[ids[image], score] for image, score in best]
        query = {"text": pool.texts[row], "image_id": ids[pool.image_of_text[row]]}
        texts.append({**query, "rank": int(found.ranks[1][row]) + 1, "images": answers})
    with atomic_write(path, "w") as file:
        json.dump({"images": images, "texts": texts}, file, ensure_ascii=False, indent=0)


def _best(ranking: Ranking) -> Iterator[list[tuple[int, float]]]:
    """Candidates and scores of each query, best first."""
    for candidates, scores in zip(ranking.candidates, ranking.scores):
        order = np.argsort(-scores, kind="stable")[:_SHOWN]
        yield list(zip(candidates[order].tolist(), scores[order].tolist()))


class _Numbered:
    """Batches of a plain loader, in one process, with what an evaluation needs."""

    def __init__(self, loader: Iterable[Batch]):
        self.loader = loader

    def __iter__(self) -> Iterator[Batch]:
        count = 0
        for batch in self.loader:
            size = len(batch["video"] if "video" in batch else batch["image"])
            index = list(range(count, count + size))
            yield {"image_id": index, **batch, "index": index}
            count += size
