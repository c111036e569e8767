"""Rows beside the reference, at the smallest size: outputs are equal, and a difference would be reported."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.pretrain import Step, _row, pretrain_rows
from benchmarks.reference import NAME, Measured, measure, row
from benchmarks.rerank import VIDEOS, rerank_rows
from benchmarks.retrieval_eval import Scores, close, evaluation_rows
from benchmarks.vqa import vqa_rows

TIMED = [work for work in VIDEOS if work.timed]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "rows",
    [
        lambda **given: evaluation_rows(**given),
        lambda **given: pretrain_rows(**given),
        lambda **given: rerank_rows(TIMED, **given),
        lambda **given: vqa_rows(**given),
    ],
    ids=["evaluation", "pretrain", "video", "vqa"],
)
def test_rows_beside_the_reference(rows, dtype):
    found = next(rows(size="tiny", dtypes=(dtype,), repeat=1))  # the first row of each
    assert found.outputs_equal
    assert (found.peer, found.dtype, found.wanted) == (NAME, dtype, None)
    assert found.ours_s > 0
    assert found.ratio == pytest.approx(found.peer_s / found.ours_s, rel=0.05)


def test_every_dtype_is_compared_from_the_queues_of_the_reference():
    assert all(found.outputs_equal for found in pretrain_rows("tiny", ("fp32", "fp32"), repeat=1))


@pytest.mark.parametrize("place", range(3))
def test_a_loss_that_is_no_number_is_reported(place):
    gradients = {"a": torch.ones(2)}
    losses = [1.0, 1.0, 1.0]
    theirs = Measured(Step(list(losses), gradients), 1.0, None)
    assert _row("work", "fp32", theirs, theirs, "tiny", "cpu").outputs_equal
    losses[place] = math.nan
    assert not _row("work", "fp32", Measured(Step(losses, gradients), 1.0, None), theirs, "tiny", "cpu").outputs_equal


def scores(*rows: list[float]) -> Scores:
    return Scores(np.array(rows, np.float32), np.array(rows, np.float32).T[:1] * 0 + 1)


def test_other_candidates_order_or_scores_are_reported():
    one = scores([1.0, 2.0, 3.0, -100.0])
    assert close(one, one, 1e-4, 1e-4, 1.0)
    assert close(scores([1.0001, 2.0, 3.0, -100.0]), one, 1e-4, 1e-4, 1.0)
    assert not close(scores([1.01, 2.0, 3.0, -100.0]), one, 1e-4, 1e-4, 1.0)
    other = scores([1.0, 2.0, -100.0, 3.0])
    assert not close(other, one, 1e-4, 1e-4, 1.0)
    assert close(other, one, 1e-4, 1e-4, 0.6)
    swapped = scores([2.0, 1.9999, 3.0, -100.0])
    assert not close(swapped, scores([1.9999, 2.0, 3.0, -100.0]), 1e-3, 1e-3, 1.0)
    assert close(swapped, scores([1.9999, 2.0, 3.0, -100.0]), 1e-3, 1e-3, 0.9)


def test_work_is_measured_once_or_several_times():
    calls: list[int] = []
    assert measure(lambda: calls.append(1) or len(calls), 0).output == 1
    assert len(calls) == 1
    assert measure(lambda: calls.append(1) or len(calls), 2).output == 2
    assert len(calls) == 4


def test_a_row_of_two_measurements():
    found = row("work", "bf16", Measured(1, 0.5, 10.04), Measured(1, 4.0, None), True, 6.0, "note")
    assert (found.ratio, found.ours_mib, found.peer_mib, found.wanted, found.note) == (8.0, 10.04, None, 6.0, "note")
