"""Visual question answering (paper, section 5.3): train on weighted answers, evaluate by ranking or generation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch

from vlkit.contracts import GenerationConfig
from vlkit.datasets.texts import read_answer_list
from vlkit.errors import ConfigError, did_you_mean
from vlkit.metrics.base import numbers
from vlkit.metrics.vqa import exact_match, vqa_accuracy
from vlkit.registry import TASKS
from vlkit.registry.bounds import PositiveInt
from vlkit.tasks.base import Batch, EvalContext, Progress, Row, StepOutput, Task, to_device

_INFERENCE = ("rank", "generate")
_QUESTION_KEYS = ("text_input", "answers", "weights", "references", "question_id", "kind")
_ANNOTATORS = 10  # of each question of VQA


@TASKS.register("vqa")
class Vqa(Task):
    """Train and evaluate ``blip_vqa``.

    Scores: ``accuracy``, the official one of VQA if a sample has ten human answers (``references``, else ``answers``),
    otherwise whether the answer is one of those given; ``accuracy_<kind>`` if samples have a ``kind``; ``score``, the
    mean of the model's own. The answers are written to ``answers_<set>.json`` in the format of the evaluation server
    (``question_id``, ``answer``), also for sets without answers.

    Args:
        inference: "rank" chooses from a list of answers, "generate" decodes freely.
        num_ans_candidates: answers that ranking keeps for each question by their first token.
        answer_list: answers to rank: a file (see :func:`~vlkit.datasets.answer_list.read_answer_list`), or a list;
            None: the evaluation set's own ``answer_list``.
        generation: decoding of answers; None: 3 beams, up to 10 tokens, the first ([DEC]) included.

    Raises:
        ConfigError: an argument is wrong.
        DataError: the answer list cannot be read.
    """

    evaluation_keys = ("inference", "num_ans_candidates", "answer_list", "generation")

    def __init__(
        self,
        inference: Literal["rank", "generate"] = "rank",
        num_ans_candidates: PositiveInt = 128,
        answer_list: str | list[str] | None = None,
        generation: GenerationConfig | None = None,
    ):
        if inference not in _INFERENCE:
            hint = did_you_mean(inference, _INFERENCE)
            raise ConfigError(f"vqa: inference: {inference!r} given, {', '.join(_INFERENCE)} allowed.{hint}")
        if num_ans_candidates < 1:
            raise ConfigError(f"vqa: num_ans_candidates: {num_ans_candidates} given; it must be 1 or more.")
        self.inference, self.num_ans_candidates = inference, num_ans_candidates
        self.answer_list = read_answer_list(answer_list) if isinstance(answer_list, str) else answer_list
        self.generation = generation or GenerationConfig(max_length=10, min_length=1)

    def prepare(self, model: Any, batch: Batch, device: torch.device) -> Batch:
        batch = _by_question(batch)
        return self._questions(model, batch, device) | {"targets": model.targets_of(batch)}

    def counts(self, inputs: Batch) -> dict[str, float]:
        return {"loss_vqa": float(len(inputs["texts"]))}

    def train_step(self, model: Any, inputs: Batch, progress: Progress) -> StepOutput:
        return StepOutput(losses={"loss_vqa": model(inputs).loss_vqa})

    def evaluate(self, model: Any, loader: Iterable[Batch], context: EvalContext) -> dict[str, float]:
        rows: list[Row] = []
        for batch in map(_by_question, loader):
            answers, scores = self._answer(model, batch, context)
            human_answers = _first_of(batch, "references", "answers") or [()] * len(answers)
            ids = _first_of(batch, "question_id", "sample_id", "index")
            for i, index in enumerate(batch["index"]):
                row = {"index": index, "answer": answers[i], "score": scores[i], "question_id": _plain(ids[i])}
                if human_answers[i]:
                    row["accuracy"] = _accuracy(answers[i], human_answers[i])
                rows.append(row | ({"kind": batch["kind"][i]} if "kind" in batch else {}))
        rows = context.gather_rows(rows)
        numbers("vqa", "scores", [row["score"] for row in rows])
        results = [{"question_id": row["question_id"], "answer": row["answer"]} for row in rows]
        context.write_json("answers", results, ensure_ascii=False, indent=0)
        return _scores(rows)

    def describe(self, model: Any, batch: Batch, context: EvalContext) -> list[str]:
        found, _ = self._answer(model, batch, context)
        expected = batch.get("answers", [[]] * len(found))
        return [
            f"{question} {answer}" + ("" if not right or answer in right else f" ({' / '.join(right[:3])})")
            for question, answer, right in zip(batch["text_input"], found, expected)
        ]

    def _questions(self, model: Any, batch: Batch, device: torch.device) -> Batch:
        inputs = {key: value for key, value in batch.items() if key in ("image", "video", "image_index")}
        return to_device(inputs | {"texts": model.tokenize(batch["text_input"])}, device)

    def _answer(self, model: Any, batch: Batch, context: EvalContext) -> tuple[list[str], list[float]]:
        """Return the best answer to each question, and its score."""
        inputs = self._questions(model, batch, context.device)
        with context.autocast():
            if self.inference == "rank":
                found = model.rank(inputs, self._choices(context), self.num_ans_candidates)
            else:
                found = model.generate(inputs, self.generation)
        return [texts[0] for texts in found.texts], [scores[0] for scores in found.scores]

    def _choices(self, context: EvalContext) -> Sequence[str]:
        choices = self.answer_list or getattr(context.dataset, "answer_list", None)
        if not choices:
            raise ConfigError(
                f"task vqa ranks a list of answers, and neither the task nor the evaluation set {context.name!r} has "
                f"one. Set task.answer_list (a file or a list) or answer_list of the dataset, or task.inference: "
                f"generate."
            )
        return choices


def _by_question(batch: Batch) -> Batch:
    """Return the batch with one entry for each question; a video may come with several questions."""
    questions = batch["text_input"]
    if all(isinstance(question, str) for question in questions):
        return batch
    counts = [len(each) for each in questions]
    flat = {key: [entry for entries in batch[key] for entry in entries] for key in _QUESTION_KEYS if key in batch}
    sample_keys = {"index", "sample_id", "image_id"} & batch.keys()
    repeated = {key: [entry for entry, count in zip(batch[key], counts) for _ in range(count)] for key in sample_keys}
    return {**batch, **flat, **repeated, "image_index": np.repeat(np.arange(len(counts)), counts)}


def _first_of(batch: Batch, *keys: str) -> Any:
    return next((batch[key] for key in keys if key in batch), None)


def _accuracy(answer: str, human_answers: Sequence[str]) -> float:
    return (
        vqa_accuracy(answer, human_answers) if len(human_answers) == _ANNOTATORS else exact_match(answer, human_answers)
    )


def _scores(rows: list[Row]) -> dict[str, float]:
    scores = {"score": sum(row["score"] for row in rows) / len(rows)}
    groups: dict[str, list[float]] = {}
    for row in rows:
        if "accuracy" in row:
            groups.setdefault("accuracy", []).append(row["accuracy"])
            if "kind" in row:
                groups.setdefault(f"accuracy_{str(row['kind']).replace('/', '_')}", []).append(row["accuracy"])
    return scores | {name: sum(values) / len(values) for name, values in groups.items()}


def _plain(identity: Any) -> Any:
    """Convert a tensor to a number for JSON."""
    return identity.item() if torch.is_tensor(identity) else identity
