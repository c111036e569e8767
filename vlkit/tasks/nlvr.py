"""Natural-language visual reasoning (NLVR2; paper, section 5.4): is a sentence true of a pair of images?"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch

from vlkit.errors import DataError
from vlkit.io.files import atomic_write
from vlkit.metrics.base import numbers
from vlkit.metrics.classification import accuracy
from vlkit.registry import TASKS
from vlkit.tasks.base import Batch, EvalContext, Progress, StepOutput, Task, to_device


@TASKS.register("nlvr")
class Nlvr(Task):
    """Trains and evaluates ``blip_nlvr`` on samples with ``images`` (two), ``text_input`` and ``label`` (1: true).

    Scores: ``accuracy``, ``loss_nlvr`` (mean cross entropy), and ``accuracy_<kind>`` where samples tell their ``kind``.
    What the model said of each sample goes to ``nlvr_<set>.json``.
    """

    def prepare(self, model: Any, batch: Batch, device: torch.device) -> Batch:
        texts = model.tokenize(batch["text_input"])
        return to_device({"images": batch["images"], "texts": texts, "label": torch.tensor(batch["label"])}, device)

    def train_step(self, model: Any, inputs: Batch, progress: Progress) -> StepOutput:
        out = model(inputs)
        right = (out.logits.argmax(-1) == inputs["label"]).float().mean()
        return StepOutput(losses={"loss_nlvr": out.loss_nlvr}, metrics={"accuracy": right})

    def evaluate(self, model: Any, loader: Iterable[Batch], context: EvalContext) -> dict[str, float]:
        rows: list[dict[str, Any]] = []
        for batch in loader:
            inputs = self.prepare(model, batch, context.device)
            with context.autocast():
                log_probs = model.logits(inputs).float().log_softmax(-1)
            for i, index in enumerate(batch["index"]):
                row = {"index": index, "log_probs": log_probs[i].tolist(), "label": int(batch["label"][i])}
                rows.append(row | {key: batch[key][i] for key in ("sample_id", "kind") if key in batch})
        rows = sorted(context.gather(rows), key=lambda row: row["index"])
        if not rows:
            raise DataError(f"evaluation set {context.name!r}: none of its samples could be used.")
        numbers("nlvr", "log probabilities", [row["log_probs"] for row in rows], ndim=2)  # NaN would count as "false"
        if context.rank == 0 and context.output_dir is not None:
            self._write(rows, context)
        return self._scores(rows)

    def describe(self, model: Any, batch: Batch, context: EvalContext) -> list[str]:
        with context.autocast():
            logits = model.logits(self.prepare(model, batch, context.device))
        probability = logits.float().softmax(-1)[:, 1].tolist()
        return [
            f"{text}: {'true' if p > 0.5 else 'false'} ({p:.2f}), is {'true' if label else 'false'}"
            for text, p, label in zip(batch["text_input"], probability, batch["label"])
        ]

    def _scores(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        scores = {"loss_nlvr": -sum(row["log_probs"][row["label"]] for row in rows) / len(rows)}
        groups = {"accuracy": rows}
        for row in rows:
            if "kind" in row:
                groups.setdefault(f"accuracy_{row['kind']}", []).append(row)
        for name, group in groups.items():
            scores[name] = accuracy([_says_true(row) for row in group], [row["label"] for row in group])
        return scores

    def _write(self, rows: list[dict[str, Any]], context: EvalContext) -> None:
        assert context.output_dir is not None
        results = [
            {
                "sample_id": row.get("sample_id", row["index"]),
                "prediction": str(bool(_says_true(row))),
                "label": str(bool(row["label"])),
                "log_probs": [round(value, 6) for value in row["log_probs"]],
            }
            for row in rows
        ]
        with atomic_write(context.output_dir / f"nlvr_{context.name}.json", "w") as file:
            json.dump(results, file, indent=0)


def _says_true(row: dict[str, Any]) -> int:
    """1 where "true" is the likelier of the two; equal ones count as false, as argmax has it."""
    return int(row["log_probs"][1] > row["log_probs"][0])
