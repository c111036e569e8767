from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.assets.toy import ToyTask, lines, toy_runner
from tests.assets.two_ranks import in_two_ranks
from vlkit.config.durations import Duration
from vlkit.runner.plan import Clock


def world(rank: int = 0, size: int = 1) -> Any:
    return SimpleNamespace(rank=rank, size=size, is_main=rank == 0)


def test_process_0_sends_what_its_clock_will_show_after_the_step():
    main, other = Clock(world(0, 2)), Clock(world(1, 2))
    for seconds in (2.0, 3.0):
        total = main.signal() + other.signal()
        main.after_step(seconds, total)
        other.after_step(50.0, total)
    assert main.seconds == 5.0
    assert main.agreed == other.agreed == 4.0  # 2 s are over, and the step before took 2 s
    main.add(0.5)
    assert main.signal() == 5.5 + 3.5
    assert other.signal() == 0.0


def test_a_process_alone_knows_the_time():
    clock = Clock(world())
    clock.after_step(2.0, clock.signal())
    assert clock.agreed == 2.0


def test_the_time_of_a_checkpoint_is_continued():
    clock = Clock(world())
    clock.after_step(7.0, 0.0)
    clock.evaluated = 3.0
    other = Clock(world())
    other.load_state_dict(clock.state_dict())
    assert (other.seconds, other.agreed, other.saved, other.evaluated) == (7.0, 7.0, 7.0, 3.0)


class Ticking(ToyTask):
    """Each training step takes a second by a clock that is turned by hand."""

    def __init__(self, clock: Any, **more: Any):
        super().__init__(**more)
        self.clock = clock

    def train_step(self, model, inputs, progress):
        self.clock.now += 1.0
        return super().train_step(model, inputs, progress)

    def evaluate(self, model, loader, context):
        self.clock.now += 1000.0
        return super().evaluate(model, loader, context)


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr("vlkit.runner.trainer.time", clock)
    monkeypatch.setattr("vlkit.runner.train_step.time", clock)
    return clock


def evaluated(folder):
    return [line["step"] for line in lines(folder) if "eval" in line]


def test_evaluations_and_checkpoints_come_by_the_time_of_training_alone(tmp_path, clock):
    times = {"eval_every": Duration(5, "seconds"), "checkpoint_every": Duration(3, "seconds")}
    toy_runner(tmp_path, Ticking(clock), keep_checkpoints=20, **times).train()
    assert evaluated(tmp_path) == [5, 10, 12]
    saved = sorted(int(path.name[5:]) for path in (tmp_path / "checkpoints").iterdir())
    assert saved == [3, 5, 8, 10, 12]  # that before an evaluation counts


def test_a_length_in_time_counts_what_was_trained_before_a_stop(tmp_path, clock):
    length = {"duration": Duration(0.15, "minutes"), "max_steps": None}  # 9 seconds
    first = toy_runner(tmp_path, Ticking(clock, signal_at=3), **length).train()
    assert (first["status"], first["step"], first["seconds"]) == ("interrupted", 4, 4.0)
    second = toy_runner(tmp_path, Ticking(clock), **length).train()
    assert (second["status"], second["step"], second["seconds"]) == ("finished", 9, 9.0)
    assert evaluated(tmp_path)[-1] == 9
    rates = [line["lr"] for line in lines(tmp_path) if "lr" in line]
    toy_runner(tmp_path / "steps", max_steps=9).train()
    assert rates[2:] == pytest.approx([line["lr"] for line in lines(tmp_path / "steps") if "lr" in line][2:])


def test_an_evaluation_by_time_that_was_interrupted_is_done_again(tmp_path, clock):
    class Fails(Ticking):
        def evaluate(self, model, loader, context):
            if context.step == 5:
                raise ValueError("x")
            return super().evaluate(model, loader, context)

    times = {"eval_every": Duration(5, "seconds"), "checkpoint_every": None}
    with pytest.raises(Exception, match="the evaluation after step 5 failed"):
        toy_runner(tmp_path, Fails(clock), **times).train()
    toy_runner(tmp_path, Ticking(clock), **times).train()
    assert evaluated(tmp_path) == [5, 10, 12]


def _two_ranks(rank: int, folder: Any) -> None:
    """Process 1 is by far the slower one by its own clock, which nobody asks."""
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    import vlkit.runner.train_step
    import vlkit.runner.trainer

    vlkit.runner.train_step.time = vlkit.runner.trainer.time = clock

    class Ticks(ToyTask):
        def train_step(self, model, inputs, progress):
            clock.now += 1.0 if rank == 0 else 100.0
            return super().train_step(model, inputs, progress)

    times = {"eval_every": Duration(4, "seconds"), "checkpoint_every": Duration(3, "seconds"), "max_steps": None}
    with toy_runner(folder, Ticks(), duration=Duration(9, "seconds"), keep_checkpoints=20, **times) as runner:
        result = runner.train()
    assert result["step"] == 9


def test_processes_agree_by_the_clock_of_the_first(tmp_path):
    in_two_ranks(_two_ranks, tmp_path)
    assert evaluated(tmp_path) == [4, 8, 9]
