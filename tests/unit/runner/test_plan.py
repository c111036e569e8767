from __future__ import annotations

import pytest

from vlkit.config.durations import Cadence, Duration
from vlkit.config.schema import OptimConfig, RunOptions
from vlkit.errors import ConfigError
from vlkit.runner.plan import Interval, Plan
from vlkit.runner.schedules import learning_rate


def plan(samples=320, optim=None, **run):
    return Plan.resolve(optim or OptimConfig(), RunOptions(batch_size=32, **run), samples)


def test_by_default_a_run_saves_at_every_epoch_and_every_15_minutes_and_evaluates_every_epoch():
    found = plan(max_epochs=3)
    assert found.checkpoint_every == Interval(steps=10, seconds=15 * 60)
    assert found.eval_every == Interval(steps=10)
    assert RunOptions().keep_checkpoints == 2
    assert found.steps == 30


@pytest.mark.parametrize(
    ("step", "seconds", "due"),
    [(1, 0.0, False), (10, 0.0, True), (11, 899.0, False), (11, 900.0, True), (20, 1.0, True), (0, 0.0, False)],
)
def test_whichever_is_sooner(step, seconds, due):
    assert plan(max_epochs=3).checkpoint_every.due(step, seconds) == due


@pytest.mark.parametrize(
    ("cadence", "interval"),
    [
        (Cadence.parse("5 s"), Interval(seconds=5)),
        (Cadence.parse(["5 steps", "1 hour", "20 min"]), Interval(5, 1200)),
        (Cadence.parse(7), Interval(7)),
        (Duration(2, "epochs"), Interval(20)),
        (None, Interval()),
        (Duration(0, "steps"), Interval()),
    ],
)
def test_intervals(cadence, interval):
    assert plan(max_epochs=1, checkpoint_every=cadence).checkpoint_every == interval


def test_a_length_in_time_ends_by_the_clock():
    found = plan(duration=Duration(2, "minutes"))
    assert (found.steps, found.seconds) == (None, 120.0)
    assert [found.ends(10**6, seconds) for seconds in (119.9, 120.0)] == [False, True]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant", "step"])
def test_schedules_follow_the_share_of_the_time(schedule):
    """At even speed the rates are those of the same number of steps."""
    optim = OptimConfig(lr=1e-3, min_lr=1e-5, schedule=schedule)
    by_time, by_steps = plan(optim=optim, duration=Duration(100, "seconds")), plan(optim=optim, max_steps=200)
    for step in (0, 1, 50, 100, 160, 199):
        rates = [learning_rate(optim, each.progress(step, step / 2, 32)) for each in (by_time, by_steps)]
        assert rates[0] == pytest.approx(rates[1], rel=1e-6)


def test_warm_up_counts_steps_also_where_the_length_is_a_time():
    optim = OptimConfig(lr=1e-3, warmup=Duration(10, "steps"))
    found = plan(optim=optim, duration=Duration(100, "seconds"))
    rates = [learning_rate(optim, found.progress(step, step / 10, 32), found.warmup) for step in (0, 5, 10)]
    assert rates == pytest.approx([0.0, 5e-4, 1e-3])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_a_schedule_that_needs_the_number_of_epochs_refuses_a_time(schedule):
    optim = OptimConfig(schedule=schedule, schedule_unit="epoch")
    with pytest.raises(ConfigError, match=r"by epoch, and run.duration is 2 hours.*schedule_unit to step"):
        plan(optim=optim, duration=Duration(2, "hours"))


def test_warm_up_cannot_be_a_time():
    with pytest.raises(ConfigError, match="warmup is 5 minutes; it cannot be a time"):
        OptimConfig(warmup=Duration(5, "minutes"))
    with pytest.raises(ConfigError, match="is a time, which is no fixed number of steps"):
        Duration(5, "minutes").resolve(100, 10)


@pytest.mark.parametrize(
    ("length", "step", "seconds", "refused"),
    [
        ({"max_steps": 10}, 11, 0.0, True),
        ({"max_steps": 10}, 10, 0.0, False),
        ({"duration": Duration(1, "minutes")}, 5, 61.0, True),
        ({"duration": Duration(1, "minutes")}, 5, 60.0, False),
    ],
)
def test_a_run_is_not_made_shorter_than_it_is(length, step, seconds, refused):
    found = plan(**length)
    found.check_length(step, seconds, "as before", "as before")
    if refused:
        with pytest.raises(ConfigError, match=r"has trained .* already"):
            found.check_length(step, seconds, "20 steps", "now")
    else:
        found.check_length(step, seconds, "20 steps", "now")


def test_what_is_left_of_a_run():
    assert plan(max_steps=100).seconds_left(40, 80.0, 0.5) == 120.0
    assert plan(duration=Duration(100, "seconds")).seconds_left(40, 80.0, 0.5) == 20.0
