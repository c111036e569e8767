"""Pending outputs, collected problems, and what a job compares."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.assets.run_files import pretrain_run, write
from vlkit.config.load import Config
from vlkit.errors import ConfigError, DataError, redacted_data
from vlkit.jobs.base import NOTHING, Job, Pending, Problems, digest
from vlkit.jobs.train import TrainJob


class Counting(Job):
    """Counts up to ``size``; ``speed`` does not matter."""

    command = "count"

    def prepare(self, pending: Pending = NOTHING, fresh: bool = False) -> None:
        if "size" not in self.config.data:
            raise ConfigError("size is missing")

    def run(self):
        return {"status": "finished", "metrics": {"size": self.config.data["size"]}}

    def output_fingerprint(self) -> str:
        return ""

    def relevant(self, config):
        return {key: value for key, value in config.items() if key != "speed"}


def test_a_value_is_pending_at_and_above_its_key_path():
    pending = Pending(frozenset({"datasets.train.1.path"}))
    assert "datasets.train.1.path" in pending
    assert "datasets.train.1" in pending
    assert "datasets.train" in pending
    assert "datasets.train.10" not in pending
    assert "datasets.train.1.path.more" not in pending
    assert "datasets.eval" not in pending
    assert pending
    assert not NOTHING


def test_problems_are_raised_together_each_once_and_with_their_place():
    problems = Problems()
    with problems.of("run.yaml: task"):
        raise ConfigError(["run.yaml: task.name (line 3): unknown", "missing"])
    with problems.of("input"):
        raise DataError("no shards")
    with problems.of("input"):
        raise DataError("no shards")
    with problems.of("output"):
        raise OSError(errno.EACCES, "Permission denied", "out")
    with pytest.raises(ConfigError) as caught:
        problems.end()
    assert caught.value.problems == [
        "run.yaml: task.name (line 3): unknown",
        "run.yaml: task: missing",
        "input: no shards",
        "output: out: Permission denied. Change its permissions, or give another path.",
    ]
    Problems().end()


def test_errors_of_the_program_are_not_collected():
    with pytest.raises(ZeroDivisionError), Problems().of("task"):
        raise ZeroDivisionError


def test_a_job_is_loaded_checked_and_compared(tmp_path):
    file = tmp_path / "count.yaml"
    file.write_text("{size: 3, speed: 1}")
    job = Counting.load(file, ["size=4"])
    assert job.run()["metrics"] == {"size": 4}
    assert job.check() == []
    assert (job.device, job.eval_sets, job.input_fingerprints()) == ("auto", None, {})
    assert job.changes({"size": 4, "speed": 9}, finished=True) == ""
    assert job.changes({"size": 5}, finished=False) == "size was 5, is 4"
    with pytest.raises(ConfigError, match="size is missing"):
        Counting(Config({})).check()


def test_a_digest_depends_on_names_content_and_more(tmp_path):
    def files(**content: str) -> list[Path]:
        for name, text in content.items():
            (tmp_path / name).write_text(text)
        return [tmp_path / name for name in content]

    one = digest(files(a="x", b="y"))
    assert digest(reversed(files(a="x", b="y"))) == one
    assert len({one, digest(files(a="x", b="z")), digest(files(a="x", c="y")), digest(files(a="x", b="y"), 1)}) == 4


@pytest.mark.parametrize("finished", [True, False])
def test_records_with_old_keys_are_compared(tmp_path, finished):
    """Of a finished and of an interrupted training, as version 489eecb recorded them in ``stage.json``."""
    run = pretrain_run(grad_accum_steps=2, batch_size=4)
    job = TrainJob.load(write(tmp_path / "run.yaml", run))
    before = {**run, "run": {key: value for key, value in run["run"].items() if key != "grad_accum_steps"}}
    assert job.changes({**before, "run": {**before["run"], "accumulate": 2}}, finished) == ""
    assert "grad_accum_steps was 4" in job.changes({**before, "run": {**before["run"], "accumulate": 4}}, finished)


def test_credentials_are_no_difference(tmp_path):
    run = pretrain_run(init_from="https://me:secret@example.org/a.pth")
    job = TrainJob.load(write(tmp_path / "run.yaml", run))
    recorded = redacted_data(job.config.data)
    assert "secret" not in str(recorded)
    assert job.changes(recorded, finished=False) == ""
