"""Learning rates and the ramps of alpha against the original's."""

from __future__ import annotations

import pytest

from tests.parity.golden import Case
from vlkit.runner.schedules import cosine, step_decay, warmup
from vlkit.tasks.base import alpha_ramp


def test_cosine_per_epoch():
    for run in Case("schedules").info["cosine_lr_schedule"]:
        rates = [cosine(epoch, run["max_epoch"], run["init_lr"], run["min_lr"]) for epoch in range(len(run["lr"]))]
        assert rates == pytest.approx(run["lr"], rel=1e-9, abs=1e-18)


def test_warmup_per_step():
    for run in Case("schedules").info["warmup_lr_schedule"]:
        rates = [warmup(step, run["max_step"], run["init_lr"], run["max_lr"]) for step in run["steps"]]
        assert rates == pytest.approx(run["lr"], rel=1e-9)


def test_step_decay_per_epoch():
    for run in Case("schedules").info["step_lr_schedule"]:
        rates = [step_decay(epoch, run["init_lr"], run["min_lr"], run["decay_rate"]) for epoch in range(len(run["lr"]))]
        assert rates == pytest.approx(run["lr"], rel=1e-9)


@pytest.mark.parametrize(("name", "ramp_epochs"), [("alpha_pretrain", 2), ("alpha_retrieval", 1)])
def test_ramp_of_alpha(name, ramp_epochs):
    run = Case("schedules").info[name]
    for epoch in range(run["epochs"]):
        for batch in range(run["batches_per_epoch"]):
            value = alpha_ramp(run["alpha"], epoch + batch / run["batches_per_epoch"], ramp_epochs)
            assert value == pytest.approx(run["values"][epoch][batch], rel=1e-9, abs=1e-15)
