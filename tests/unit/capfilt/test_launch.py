"""Workers of one machine: what they get, how they fail, and who ends whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.assets.waiting import wait_until
from vlkit.capfilt import launch as module
from vlkit.capfilt.launch import launch, start_worker
from vlkit.errors import VlkitError
from vlkit.io.processes import ATTACHED, cores

WORKER = """
import os, signal, sys, time
from vlkit.io.processes import end_with_parent
end_with_parent()
rank = int(os.environ["LOCAL_RANK"])
print("worker", rank, "threads", os.environ["OMP_NUM_THREADS"], *sys.argv[1:], "RANK" in os.environ, flush=True)
def go_on(*when):
    while not all(os.path.exists(each) for each in when): time.sleep(.01)
def last(): time.sleep(1000)  # longer than a test may take: something ends it
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Makes ``vlkit capfilt`` a script with the given lines added; all are in an empty folder."""

    def become(lines: str = "") -> None:
        (tmp_path / "worker.py").write_text(WORKER + lines)
        monkeypatch.setattr(module, "_COMMAND", (str(tmp_path / "worker.py"),))

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.chdir(tmp_path)
    become()
    return become


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] not in "ZX"


def test_workers_know_their_number_and_share_the_cores(tmp_path, worker, monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 7)
    monkeypatch.setenv("RANK", "0")
    shown: list[str] = []
    assert launch(3, ["job.yaml", "run.seed=2"], tmp_path / "log", shown.append) == 0
    assert shown == ["worker 0 threads 2 job.yaml run.seed=2 False"]
    for rank in range(3):
        text = (tmp_path / f"log/worker_{rank}.log").read_text()
        assert text == f"worker {rank} threads 2 job.yaml run.seed=2 False\n"


def test_a_set_number_of_threads_stays_and_logs_grow(tmp_path, worker, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    shown: list[str] = []
    for _ in range(2):
        assert launch(1, [], tmp_path, shown.append) == 0
    assert (tmp_path / "worker_0.log").read_text().count("threads 5") == len(shown) == 2


def test_a_mistake_of_the_user_is_said_once_and_ends_all(tmp_path, worker):
    worker("if rank: last()\nprint('error: run.lease is 0:\\nmore is needed', file=sys.stderr); sys.exit(2)")
    shown: list[str] = []
    with pytest.raises(VlkitError) as caught:
        launch(2, [], tmp_path, shown.append)
    assert str(caught.value) == "run.lease is 0:\nmore is needed"
    assert not any("error: " in line for line in shown)


@pytest.mark.parametrize(
    ("failure", "code", "reported"),
    [
        ("raise KeyError('unexpected')", 1, "worker 1 ended with exit code 1"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "worker 1 was killed by SIGKILL"),
    ],
)
def test_a_crash_ends_the_others_and_is_reported(tmp_path, worker, caplog, failure, code, reported):
    worker(f"if rank == 0: print(os.getpid(), flush=True); open('up', 'w').close(); last()\ngo_on('up')\n{failure}")
    shown: list[str] = []
    assert launch(2, [], tmp_path, shown.append) == code
    assert reported in caplog.text
    assert "worker_1.log" in caplog.text
    assert ("unexpected" in caplog.text) == (code == 1)
    assert not alive(int(shown[-1]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_workers(tmp_path, worker, number):
    worker(
        "def stop(number, frame): print('asked to stop', number, flush=True); sys.exit(128 + number)\n"
        f"signal.signal({int(number)}, stop)\n"
        "open(f'ready {rank}', 'w').close()\n"
        f"if rank == 0: go_on('ready 0', 'ready 1'); os.kill(os.getppid(), {int(number)})\n"
        "last()"
    )
    before = signal.getsignal(number)
    assert launch(2, [], tmp_path, lambda line: None) == 128 + number
    assert signal.getsignal(number) is before
    for rank in range(2):
        assert f"asked to stop {int(number)}" in (tmp_path / f"worker_{rank}.log").read_text()


def test_who_does_not_end_is_killed(tmp_path, worker, monkeypatch):
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.5)
    worker(
        "if rank: go_on('deaf'); sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True); open('deaf', 'w').close(); last()"
    )
    shown: list[str] = []
    assert launch(2, [], tmp_path, shown.append) == 3
    assert not alive(int(shown[-1]))


def test_workers_end_with_a_killed_launcher(tmp_path, worker):
    worker("last()")
    code = (
        "import sys; from pathlib import Path; from vlkit.capfilt import launch as m;"
        f"m._COMMAND = ({str(tmp_path / 'worker.py')!r},); start = m._start\n"
        "def reported(*a):\n    w = start(*a); print(w.process.pid, flush=True); return w\n"
        f"m._start = reported; m.launch(2, [], Path({str(tmp_path)!r}), lambda line: None)"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = [int(launcher.stdout.readline()) for _ in range(2)]
    wait_until(lambda: all((tmp_path / f"worker_{rank}.log").read_text() for rank in range(2)))
    assert all(alive(pid) for pid in pids)
    launcher.kill()
    launcher.communicate()
    wait_until(lambda: not any(alive(pid) for pid in pids))


def test_without_a_launcher_the_standard_input_means_nothing(tmp_path, worker):
    worker("time.sleep(.3); print('finished')")
    environment = {**os.environ, "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"}
    assert ATTACHED not in environment
    command = [sys.executable, str(tmp_path / "worker.py")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert "finished" in done.stdout


def test_a_worker_has_a_session_of_its_own(worker):
    worker("last()")
    process = start_worker([], 0, {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    assert os.getsid(process.pid) == process.pid  # Ctrl-C reaches the launcher alone, which forwards it
    module.end([process])
    assert process.returncode == -signal.SIGTERM
    assert process.stdin.closed


@pytest.mark.parametrize(
    ("count", "size", "reported"), [(0, "1", "--workers 0"), (2, "4", "torchrun has started several")]
)
def test_what_cannot_be_launched(tmp_path, monkeypatch, count, size, reported):
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(VlkitError, match=reported):
        launch(count, [], tmp_path, print)


def test_cores():
    assert 1 <= cores() <= os.cpu_count()
