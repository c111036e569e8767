"""Two commands and one output folder."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.assets.run_files import caption_run, fails, snapshot, start_cli, write
from tests.assets.waiting import wait_until
from vlkit.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def visible(folder: Path) -> dict[str, str]:
    """What is there, without what is being written."""
    return {name: digest for name, digest in snapshot(folder).items() if not name.startswith(".")}


def test_a_second_training_is_refused_while_reading_is_not(folder, capsys):
    run = write(folder / "run.yaml", caption_run(folder, duration="2 steps", checkpoint_every=1))
    first = start_cli("train", run, held="result.json")
    try:
        wait_until(lambda: Path("out/samples.png").exists(), first.is_alive)
        before = visible(Path("out"))
        other = write(folder / "other.yaml", caption_run(folder, duration="9 steps"))
        for file in (run, other):
            message = fails(capsys, "train", file)
            assert f"out is being written by process {first.pid} on {os.uname().nodename} (started 20" in message
            assert "run.take_over=true" in message
        assert visible(Path("out")) == before
        assert main(["check", run]) == 0
        assert main(["evaluate", run]) == 0
    finally:
        os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert main(["train", run]) == 0
    assert not Path("out/writer.json").exists()
    assert "9 steps" not in Path("out/config.yaml").read_text()
