"""Natural-language visual reasoning (NLVR2; paper, section 5.4): is a sentence about two images true?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from vlkit.metrics.base import numbers
from vlkit.metrics.classification import accuracy
from vlkit.registry import TASKS
from vlkit.tasks.base import Batch, EvalContext, Progress, Row, StepOutput, Task, to_device


@TASKS.register("nlvr")
class Nlvr(Task):
    """Train and evaluate ``blip_nlvr`` on samples with ``images`` (two), ``text_input`` and ``label`` (1: true).

    Scores: ``accuracy``, ``loss_nlvr`` (mean cross entropy), and ``accuracy_<kind>`` if samples have a ``kind``. The
    predictions are written to ``nlvr_<set>.json``.
    """

    def prepare(self, model: Any, batch: Batch, device: torch.device) -> Batch:
        texts = model.tokenize(batch["text_input"])
        return to_device({"images": batch["images"], "texts": texts, "label": torch.tensor(batch["label"])}, device)

    def train_step(self, model: Any, inputs: Batch, progress: Progress) -> StepOutput:
        out = model(inputs)
        right = (out.logits.argmax(-1) == inputs["label"]).float().mean()
        return StepOutput(losses={"loss_nlvr": out.loss_nlvr}, metrics={"accuracy": right})

    def evaluate(self, model: Any, loader: Iterable[Batch], context: EvalContext) -> dict[str, float]:
        rows: list[Row] = []
        for batch in loader:
            inputs = self.prepare(model, batch, context.device)
            with context.autocast():
                log_probs = model.logits(inputs).float().log_softmax(-1)
            for i, index in enumerate(batch["index"]):
                row = {"index": index, "log_probs": log_probs[i].tolist(), "label": int(batch["label"][i])}
                rows.append(row | {key: batch[key][i] for key in ("sample_id", "kind") if key in batch})
        rows = context.gather_rows(rows)
        numbers("nlvr", "log probabilities", [row["log_probs"] for row in rows], ndim=2)  # NaN would count as "false"
        context.write_json("nlvr", [_result(row) for row in rows], indent=0)
        return self._scores(rows)

    def describe(self, model: Any, batch: Batch, context: EvalContext) -> list[str]:
        with context.autocast():
            logits = model.logits(self.prepare(model, batch, context.device))
        probability = logits.float().softmax(-1)[:, 1].tolist()
        return [
            f"{text}: {'true' if p > 0.5 else 'false'} ({p:.2f}), is {'true' if label else 'false'}"
            for text, p, label in zip(batch["text_input"], probability, batch["label"])
        ]

    def _scores(self, rows: list[Row]) -> dict[str, float]:
        scores = {"loss_nlvr": -sum(row["log_probs"][row["label"]] for row in rows) / len(rows)}
        groups = {"accuracy": rows}
        for row in rows:
            if "kind" in row:
                groups.setdefault(f"accuracy_{row['kind']}", []).append(row)
        for name, group in groups.items():
            scores[name] = accuracy([_predicted(row) for row in group], [row["label"] for row in group])
        return scores


def _result(row: Row) -> dict[str, Any]:
    return {
        "sample_id": row.get("sample_id", row["index"]),
        "prediction": str(bool(_predicted(row))),
        "label": str(bool(row["label"])),
        "log_probs": [round(value, 6) for value in row["log_probs"]],
    }


def _predicted(row: Row) -> int:
    """Return 1 if "true" is likelier; equal probabilities count as false, as for argmax."""
    return int(row["log_probs"][1] > row["log_probs"][0])
