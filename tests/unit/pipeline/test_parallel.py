"""Which stage is started when; the processes themselves are tested in tests/integration/test_pipeline_jobs.py."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from vlkit.pipeline.parallel import ParallelPipeline, threads_at_most
from vlkit.runner.signals import StopRequest


def stage(key: str, *after: str, alone: bool = False) -> Any:
    return SimpleNamespace(key=key, after=after, alone=alone)


class Schedule(ParallelPipeline):
    """Starts nothing."""

    def __init__(self, *stages: Any, jobs: int = 2):
        pipeline: Any = SimpleNamespace(stages=list(stages), world=SimpleNamespace(size=1))
        super().__init__(pipeline, jobs, [])
        self.waiting, self.records = list(stages), {each.key: None for each in stages}

    def _begin(self, stage: Any, continued: bool) -> None:
        self.running.append(SimpleNamespace(stage=stage))  # type: ignore[arg-type]

    def start(self) -> list[str]:
        self.waiting = self._start(self.waiting, self.records)
        return [each.stage.key for each in self.running]

    def end(self, key: str, failed: bool = False) -> list[str]:
        self.running = [each for each in self.running if each.stage.key != key]
        if failed:
            self.failed[key] = "broken"
        else:
            self.done[key] = {}
        return self.start()


def test_stages_run_as_soon_as_what_they_use_is_there_and_in_order():
    schedule = Schedule(stage("a"), stage("b", "a"), stage("c"), stage("d", "a"), stage("e", "b", "d"))
    assert schedule.start() == ["a", "c"]
    assert schedule.end("c") == ["a"]
    assert schedule.end("a") == ["b", "d"]
    assert schedule.end("d") == ["b"]
    assert schedule.end("b") == ["e"]
    assert schedule.waiting == []


def test_what_uses_a_failed_stage_is_not_run():
    schedule = Schedule(stage("a"), stage("b", "a"), stage("c", "b"), stage("d"), stage("e", "d"))
    schedule.start()
    assert schedule.end("a", failed=True) == ["d"]
    assert schedule.failed == {"a": "broken", "b": "", "c": ""}
    assert schedule.end("d") == ["e"]


def test_nothing_runs_beside_a_stage_that_is_to_be_alone():
    schedule = Schedule(stage("a"), stage("b", alone=True), stage("c"), stage("d"))
    assert schedule.start() == ["a"]  # c does not slip in before b
    assert schedule.end("a") == ["b"]
    assert schedule.end("b") == ["c", "d"]


def test_stages_that_nothing_can_run_beside_are_known_to_be_alone():
    schedule = Schedule(stage("a"), stage("b", "a"), stage("c", "b"), stage("d", "b"), stage("e", "c", "d"))
    assert {each.key: schedule._alone(each) for each in schedule.pipeline.stages} == {
        "a": True,
        "b": True,
        "c": False,
        "d": False,
        "e": True,
    }


@pytest.mark.parametrize(("asked", "threads"), [("1", 1), ("3", 3), ("99", 8), ("0", 8), ("", 8), ("2,1", 8)])
def test_omp_num_threads_bounds_the_threads(asked, threads, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(8), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert threads_at_most() == threads


def test_a_stage_that_ended_by_a_signal_to_all_processes_was_stopped_and_has_not_failed(tmp_path):
    sent: list[int] = []
    ended = SimpleNamespace(poll=lambda: -15, returncode=-15, stdin=None, send_signal=lambda number: None)
    running = SimpleNamespace(poll=lambda: None, send_signal=sent.append)
    schedule: Any = Schedule(stage("a"), stage("b"))
    for key, process in (("a", ended), ("b", running)):
        each = SimpleNamespace(key=key, folder=tmp_path / key)
        schedule.running.append(SimpleNamespace(stage=each, process=process, since=0.0))
    stop = StopRequest()
    stop.received = signal.SIGTERM
    schedule._wait(stop)
    assert (schedule.stopped, schedule.failed, sent) == (["a"], {}, [signal.SIGTERM])
