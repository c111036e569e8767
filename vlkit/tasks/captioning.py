"""Captioning (paper, section 5.2): trains with the LM loss, evaluates what the model writes."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from typing import Any

import torch

from vlkit.contracts import GenerationConfig
from vlkit.errors import DataError
from vlkit.io.files import atomic_write
from vlkit.metrics.base import numbers
from vlkit.metrics.caption import caption_scores
from vlkit.registry import TASKS
from vlkit.tasks.base import Batch, EvalContext, Progress, StepOutput, Task, best_captions, image_text_inputs

logger = logging.getLogger(__name__)


@TASKS.register("captioning")
class Captioning(Task):
    """Trains ``blip_caption`` and evaluates any model that captions.

    Scores: ``bleu_1`` to ``bleu_4``, ``rouge_l``, ``cider`` against the samples' ``references``, ``score`` (the mean of
    the model's own), ``length`` (words); where samples have a ``domain`` (nocaps), the former also for each of them
    (``in_domain_cider``); with ``java`` also ``meteor`` and ``spice``, where they can run; on scenes of
    the toy dataset what their checker says (``strict_precision``, ``object_recall`` and others). The captions go to
    ``captions_<set>.json`` in COCO's result format.

    Args:
        generation: how captions are decoded; None: the paper's 3 beams, 5 to 20 tokens.
        java: also METEOR and SPICE (extra ``caption-java``); what is missing is skipped with the reason.
    """

    evaluation_keys = ("generation", "java")

    def __init__(self, generation: GenerationConfig | None = None, java: bool = False):
        self.generation = generation or GenerationConfig(max_length=20, min_length=5)
        self.java = java

    def prepare(self, model: Any, batch: Batch, device: torch.device) -> Batch:
        return image_text_inputs(model, batch, device)

    def counts(self, inputs: Batch) -> dict[str, float]:
        return {"loss_lm": float(inputs["targets"])}

    def train_step(self, model: Any, inputs: Batch, progress: Progress) -> StepOutput:
        return StepOutput(losses={"loss_lm": model(inputs).loss_lm})

    def evaluate(self, model: Any, loader: Iterable[Batch], context: EvalContext) -> dict[str, float]:
        rows: list[dict[str, Any]] = []
        for batch in loader:
            with context.autocast():
                # What is drawn for a sample does not depend on its batch or process.
                drawn = {"seeds": torch.tensor(batch["index"])} if self.generation.sample else {}
                captions = model.caption({"image": batch["image"].to(context.device)}, self.generation, **drawn)
            for i, index in enumerate(batch["index"]):
                row = {"index": index, "caption": captions.texts[i][0], "score": captions.scores[i][0]}
                row["image_id"] = batch["image_id"][i]
                row |= {key: batch[key][i] for key in ("references", "scene", "domain") if key in batch}
                rows.append(row)
        rows = sorted(context.gather(rows), key=lambda row: row["index"])
        if not rows:
            raise DataError(f"evaluation set {context.name!r}: none of its samples could be used.")
        numbers("captioning", "scores", [row["score"] for row in rows])
        if context.rank == 0 and context.output_dir is not None:
            self._write(rows, context)
        return self._scores(rows)

    def describe(self, model: Any, batch: Batch, context: EvalContext) -> list[str]:
        return best_captions(model, batch, self.generation, context)

    def _scores(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        candidates = [row["caption"] for row in rows]
        scores = {
            "score": sum(row["score"] for row in rows) / len(rows),
            "length": sum(len(text.split()) for text in candidates) / len(rows),
        }
        judged = [row for row in rows if row.get("references")]
        if judged:
            texts, references = [row["caption"] for row in judged], [row["references"] for row in judged]
            scores |= caption_scores(texts, references) | _by_domain(judged)
            if self.java:
                from vlkit.metrics.caption_java import java_caption_scores

                found, skipped = java_caption_scores(texts, references)
                scores |= found
                for name, reason in skipped.items():
                    logger.warning("%s is not reported: %s", name, reason)
        if all("scene" in row for row in rows):
            from vlkit.datasets.shapes.checker import caption_quality

            scores |= caption_quality(candidates, [row["scene"] for row in rows])
        return scores

    def _write(self, rows: list[dict[str, Any]], context: EvalContext) -> None:
        assert context.output_dir is not None
        results = [{"image_id": row["image_id"], "caption": row["caption"]} for row in rows]
        with atomic_write(context.output_dir / f"captions_{context.name}.json", "w") as file:
            json.dump(results, file, ensure_ascii=False, indent=0)


def _by_domain(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Scores of the images of each domain by themselves: ``<domain>_<score>``."""
    scores: dict[str, float] = {}
    for domain in sorted({row["domain"] for row in rows if "domain" in row}):
        own = [row for row in rows if row.get("domain") == domain]
        found = caption_scores([row["caption"] for row in own], [row["references"] for row in own])
        name = re.sub(r"\W+", "_", domain.strip().lower())
        scores |= {f"{name}_{key}": value for key, value in found.items()}
    return scores
