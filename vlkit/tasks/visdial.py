"""Visual dialog (paper, section 5.5): trains with matching over candidate answers, evaluates their ranking."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from vlkit.errors import DataError
from vlkit.metrics.dialog import (
    answer_rank,
    count_answers,
    ndcg,
    prior_reciprocal_rank,
    ranks_of,
    sparse_scores,
)
from vlkit.registry import TASKS
from vlkit.registry.bounds import PositiveInt
from vlkit.tasks.base import Batch, EvalContext, Progress, StepOutput, Task, to_device

Rounds = list[dict[str, Any]]


@TASKS.register("visdial")
class VisDial(Task):
    """Train ``blip_dialog``; rank the candidates of each round, given the true answers of earlier rounds.

    Scores: ``mrr``, ``r@1``, ``r@5``, ``r@10``, ``mean_rank`` over all rounds with a known answer; ``ndcg`` (0 to 1)
    over those with ``gt_relevance``; ``mrr_prior``, the MRR of ranking candidates by answer frequency: how often each
    answers questions with the same first two words in the other half of the set (dialogs with even and with odd
    index). A model that is not better does not use the image.

    The ranks are written to ``ranks_<set>.json`` in the format of the VisDial challenge. A set without answers (the
    challenge's test set) gives this file and ``rounds``, the number of ranked rounds.

    Args:
        tokens_at_once: bound on the memory of evaluation, in tokens of one pass.
    """

    evaluation_keys = ("tokens_at_once",)

    def __init__(self, tokens_at_once: PositiveInt = 16384):
        self.tokens_at_once = tokens_at_once

    def prepare(self, model: Any, batch: Batch, device: torch.device) -> Batch:
        return to_device(model.training_inputs(batch), device)

    def counts(self, inputs: Batch) -> dict[str, float]:
        return {"loss_itm": float(len(inputs["labels"]))}

    def train_step(self, model: Any, inputs: Batch, progress: Progress) -> StepOutput:
        out = model(inputs)
        right = (out.itm_logits.argmax(-1) == out.labels).float().mean()
        return StepOutput(losses={"loss_itm": out.loss_itm}, metrics={"itm_accuracy": right})

    def evaluate(self, model: Any, loader: Iterable[Batch], context: EvalContext) -> dict[str, float]:
        own: list[dict[str, Any]] = []
        answered: list[tuple[int, list[tuple[str, list[str], int]]]] = []
        for batch in loader:
            scores = self._score(model, batch, context)
            for i, index in enumerate(batch["index"]):
                own.append(
                    {"index": index, "image_id": batch["image_id"][i], "rounds": _judge(batch["dialog"][i], scores[i])}
                )
                answered.append((index % 2, _answered(batch["dialog"][i])))
        priors = _priors(answered, context)
        for row, prior in zip(own, priors):
            row["prior"] = prior
        rows = sorted(context.gather(own), key=lambda row: row["index"])
        if not any(row["rounds"] for row in rows):
            raise DataError(f"evaluation set {context.name!r}: no round has answer_options to rank.")
        results = [
            {"image_id": row["image_id"], "round_id": turn["round_id"], "ranks": turn["ranks"].tolist()}
            for row in rows
            for turn in row["rounds"]
        ]
        context.write_json("ranks", results)
        return _scores(rows)

    def describe(self, model: Any, batch: Batch, context: EvalContext) -> list[str]:
        texts = []
        for dialog, scores in zip(batch["dialog"], self._score(model, batch, context)):
            rounds = []
            for turn, margins in zip(dialog, scores):
                answer = turn["answer_options"][int(margins.argmax())] if len(margins) else turn["answer"]
                rounds.append(f"{turn['question'].rstrip('?')}? {answer}")
            texts.append(". ".join(rounds))
        return texts

    def _score(self, model: Any, batch: Batch, context: EvalContext) -> list[list[torch.Tensor]]:
        samples = {key: batch[key] for key in ("image", "text_input", "dialog")}
        with context.autocast():
            return model.score(to_device(samples, context.device), self.tokens_at_once)


def _judge(dialog: Rounds, scores: list[torch.Tensor]) -> Rounds:
    """Return the ranks and scores of each round with candidates, as plain data."""
    judged = []
    for place, (turn, margins) in enumerate(zip(dialog, scores), 1):
        if not len(margins):
            continue
        values = margins.numpy()
        found: dict[str, Any] = {"round_id": place, "ranks": ranks_of(values).astype("int32")}
        if turn.get("gt_index") is not None:
            found["rank"] = answer_rank(values, turn["gt_index"])
        if turn.get("gt_relevance") is not None:
            found["ndcg"] = ndcg(values, turn["gt_relevance"])
        judged.append(found)
    return judged


def _answered(dialog: Rounds) -> list[tuple[str, list[str], int]]:
    """Return question, candidates and the answer's index of each round with a known answer."""
    return [
        (turn["question"], turn["answer_options"], turn["gt_index"])
        for turn in dialog
        if turn.get("answer_options") and turn.get("gt_index") is not None
    ]


def _priors(answered: list[tuple[int, list[tuple[str, list[str], int]]]], context: EvalContext) -> list[list[float]]:
    """Return the reciprocal rank of each round under the answer frequencies of the other half, by dialog."""
    given = [(half, q, options[answer]) for half, rounds in answered for q, options, answer in rounds]
    everything = context.gather(given)
    counts = [count_answers((q, a) for half, q, a in everything if half == which) for which in (0, 1)]
    return [[prior_reciprocal_rank(counts[1 - half], *turn) for turn in rounds] for half, rounds in answered]


def _scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    rounds = [turn for row in rows for turn in row["rounds"]]
    ranks = [turn["rank"] for turn in rounds if "rank" in turn]
    scores = {"rounds": float(len(rounds))}
    if ranks:
        priors = [prior for row in rows for prior in row["prior"]]
        scores |= sparse_scores(ranks)
        scores["mrr_prior"] = sum(priors) / len(priors)
    dense = [turn["ndcg"] for turn in rounds if turn.get("ndcg") is not None]
    if dense:
        scores["ndcg"] = sum(dense) / len(dense)
    return scores
