"""Captioning (paper, section 5.2): train with the LM loss, score generated captions."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any

import torch

from vlkit.contracts import GenerationConfig
from vlkit.metrics.base import numbers
from vlkit.metrics.caption import caption_scores, java_caption_scores
from vlkit.registry import TASKS
from vlkit.tasks.base import Batch, EvalContext, Progress, Row, StepOutput, Task, best_captions, image_text_inputs

logger = logging.getLogger(__name__)


@TASKS.register("captioning")
class Captioning(Task):
    """Train ``blip_caption``; evaluate any model that captions.

    Scores: ``bleu_1`` to ``bleu_4``, ``rouge_l`` and ``cider`` against the samples' ``references``, also for each
    ``domain`` if samples have one (nocaps, ``in_domain_cider``); ``meteor`` and ``spice`` with ``java``, if they can
    run; ``score``, the mean of the model's own; ``length`` in words; on scenes of the toy dataset the checker's
    scores (``strict_precision``, ``object_recall`` and others). The captions are written to ``captions_<set>.json`` in
    COCO's result format.

    Args:
        generation: decoding of captions; None: the paper's 3 beams, 5 to 20 tokens.
        java: compute METEOR and SPICE too (extra ``caption-java``); a missing program is logged.
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
        rows: list[Row] = []
        for batch in loader:
            with context.autocast():
                # Seeds by index: the samples do not depend on batch or process.
                seeds = {"seeds": torch.tensor(batch["index"])} if self.generation.sample else {}
                captions = model.caption({"image": batch["image"].to(context.device)}, self.generation, **seeds)
            for i, index in enumerate(batch["index"]):
                row = {"index": index, "caption": captions.texts[i][0], "score": captions.scores[i][0]}
                row["image_id"] = batch["image_id"][i]
                row |= {key: batch[key][i] for key in ("references", "scene", "domain") if key in batch}
                rows.append(row)
        rows = context.gather_rows(rows)
        numbers("captioning", "scores", [row["score"] for row in rows])
        results = [{"image_id": row["image_id"], "caption": row["caption"]} for row in rows]
        context.write_json("captions", results, ensure_ascii=False, indent=0)
        return self._scores(rows)

    def describe(self, model: Any, batch: Batch, context: EvalContext) -> list[str]:
        return best_captions(model, batch, self.generation, context)

    def _scores(self, rows: list[Row]) -> dict[str, float]:
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
                found, skipped = java_caption_scores(texts, references)
                scores |= found
                for name, reason in skipped.items():
                    logger.warning("%s is not reported: %s", name, reason)
        if all("scene" in row for row in rows):
            from vlkit.datasets.shapes.checker import caption_quality

            scores |= caption_quality(candidates, [row["scene"] for row in rows])
        return scores


def _by_domain(rows: list[Row]) -> dict[str, float]:
    """Return the scores of each domain: ``<domain>_<score>``."""
    scores: dict[str, float] = {}
    for domain in sorted({row["domain"] for row in rows if "domain" in row}):
        own = [row for row in rows if row.get("domain") == domain]
        found = caption_scores([row["caption"] for row in own], [row["references"] for row in own])
        name = re.sub(r"\W+", "_", domain.strip().lower())
        scores |= {f"{name}_{key}": value for key, value in found.items()}
    return scores
