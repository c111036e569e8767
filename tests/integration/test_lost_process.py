"""A process of a distributed run that dies, stops or fails: the others say which one it was and end."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.assets.run_files import caption_run, start_cli, write
from tests.assets.waiting import LONG, wait_until
from vlkit.runner.distributed import LOST_VARIABLE

TASK = '''
import os, time
from pathlib import Path
from vlkit.registry import TASKS
from vlkit.tasks.captioning import Captioning

@TASKS.register("fragile")
class Fragile(Captioning):
    """Captioning, of which one rank does something in its third step.

    Args:
        rank: of the process.
        what: "wait" (for a file "go"), "busy" (for as long as seconds says) or "raise".
        seconds: how long it is busy.
    """

    def __init__(self, rank: int = 1, what: str = "wait", seconds: float = 0.0):
        super().__init__()
        self.rank, self.what, self.seconds = rank, what, seconds

    def train_step(self, model, inputs, progress):
        if progress.step == 2 and int(os.environ.get("RANK", 0)) == self.rank:
            Path("reached").write_text(str(os.getpid()))
            if self.what == "raise":
                raise ValueError("the disk of this rank is gone")
            until = time.monotonic() + self.seconds
            while time.monotonic() < until or (self.what == "wait" and not Path("go").exists()):
                time.sleep(0.02)
        return super().train_step(model, inputs, progress)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fragile.py").write_text(TASK)
    return tmp_path


def launch(task: dict[str, Any], lost_after: float) -> list[Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run = caption_run(Path(), sample_images=0, max_steps=4, duration=None, batch_size=4)
    file = write(Path("run.yaml"), {**run, "plugins": ["fragile.py"], "task": {"name": "fragile", **task}})
    common = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, LOST_VARIABLE: lost_after}
    return [
        start_cli("train", file, environment={**common, "RANK": rank, "LOCAL_RANK": rank}, printed=Path(f"{rank}.txt"))
        for rank in range(2)
    ]


def reached(processes: list[Any]) -> None:
    wait_until(Path("reached").exists, lambda: all(each.is_alive() for each in processes))


def ended(process: Any, rank: int) -> tuple[int, str]:
    process.join(LONG)
    return process.exitcode, Path(f"{rank}.txt").read_text()


@pytest.mark.parametrize("rank", [0, 1])  # rank 0 holds the store
def test_a_killed_process_is_named(folder, rank: int):
    processes = launch({"rank": rank}, lost_after=15)
    reached(processes)
    lost, other = processes[rank], 1 - rank
    os.kill(lost.pid, signal.SIGKILL)
    code, printed = ended(processes[other], other)
    assert code == 1
    # A busy machine may notice first that the store of rank 0 does not answer.
    assert f"rank {rank} (process {lost.pid} on " in printed or (rank == 0 and "on the host of rank 0" in printed)
    assert "Start the same command again: it resumes from the newest checkpoint" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_process_is_named(folder, rank: int):
    processes = launch({"rank": rank}, lost_after=5)
    reached(processes)
    os.kill(processes[rank].pid, signal.SIGSTOP)
    try:
        code, printed = ended(processes[1 - rank], 1 - rank)
    finally:
        processes[rank].kill()
    assert code == 1
    assert "for 5 s" in printed
    assert f"rank {rank}" in printed
    assert "Traceback" not in printed


def test_the_others_are_given_the_error_of_a_process(folder):
    codes, printed = zip(*(ended(each, rank) for rank, each in enumerate(launch({"what": "raise"}, lost_after=30))))
    assert codes[0] == 1
    assert (
        "ended with an error: RunFailed: training step 3 failed: ValueError: the disk of this rank is gone"
        in printed[0]
    )
    assert "Traceback" not in printed[0]
    assert codes[1] != 0


def test_a_busy_process_is_not_lost(folder):
    """It is busy for more than twice as long as a process without a heartbeat is waited for."""
    processes = launch({"what": "busy", "seconds": 10.0}, lost_after=4)
    assert [ended(each, rank)[0] for rank, each in enumerate(processes)] == [0, 0]
