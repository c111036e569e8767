"""One process writes to an output folder; others are refused, and dead ones are not waited for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.assets.toy import ToyTask, lines, toy_runner
from tests.assets.waiting import wait_until
from vlkit.errors import ConfigError
from vlkit.io.processes import is_dead, owner_name
from vlkit.runner import writer
from vlkit.runner.output import OutputFolder
from vlkit.runner.writer import FILE, SILENCE, FolderTaken, WriterLock

HERE, TOKEN = owner_name(), "00000000"
ELSEWHERE = f"other-ffffffff-17-99-{TOKEN}"


def holder(folder, owner, age=0.0, **facts):
    """Leave the file of a holder whose last sign of life is ``age`` seconds old."""
    folder.mkdir(exist_ok=True)
    content = {"owner": owner, "host": "far", "pid": 17, "started": "today", "command": "vlkit train a.yaml", **facts}
    (folder / FILE).write_text(json.dumps(content))
    os.utime(folder / FILE, (time.time() - age,) * 2)


def dead_here() -> str:
    """The name of a process of this machine that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    host, machine, *_ = HERE.split("-")
    return f"{host}-{machine}-{child.pid}-5-{TOKEN}"


def name_of(pid: int) -> str:
    """The name of another process of this machine."""
    host, machine, *_ = HERE.split("-")
    start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{host}-{machine}-{pid}-{start}-{TOKEN}"


@pytest.fixture
def strangers(monkeypatch):
    """Locks of one process behave as if they were of several."""
    monkeypatch.setattr(writer, "is_this_process", lambda owner: False)


@pytest.mark.usefixtures("strangers")
def test_the_second_is_refused_until_the_first_gives_the_folder_back(tmp_path):
    first, second = WriterLock(tmp_path), WriterLock(tmp_path)
    first.acquire()
    with pytest.raises(ConfigError, match=f"is being written by process {os.getpid()} on"):
        second.acquire()
    with pytest.raises(ConfigError, match="is being written"):
        second.refuse()
    first.check()
    first.release()
    assert os.listdir(tmp_path) == []
    second.acquire()
    second.release()


@pytest.mark.usefixtures("strangers")
def test_a_copy_of_a_folder_is_free_while_the_folder_itself_is_held(tmp_path, caplog):
    original = tmp_path / "run"
    original.mkdir()
    first = WriterLock(original)
    first.acquire()
    shutil.copytree(original, tmp_path / "copy")
    copy = WriterLock(tmp_path / "copy")
    copy.refuse()
    copy.acquire()
    copy.check()
    assert not caplog.records
    (tmp_path / "link").symlink_to(original)
    original.rename(tmp_path / "moved")
    for held in ("copy", "moved"):
        with pytest.raises(ConfigError, match="is being written"):
            WriterLock(tmp_path / held).acquire()
    (tmp_path / "moved").rename(original)
    with pytest.raises(ConfigError, match="is being written"):
        WriterLock(tmp_path / "link").acquire()
    copy.release()
    first.release()


def test_what_this_process_began_before_stops(tmp_path):
    first, second = WriterLock(tmp_path), WriterLock(tmp_path)
    first.acquire()
    second.acquire()
    with pytest.raises(FolderTaken):
        first.check()
    second.check()
    second.release()
    first.release()


def test_a_killed_process_is_not_waited_for_and_a_silent_one_is_respected(tmp_path):
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            holder(tmp_path, name_of(other.pid), age=10 * SILENCE)  # here its process is what counts
            with pytest.raises(ConfigError, match=r"is being written by process 17 on far .*run\.take_over=true"):
                WriterLock(tmp_path).acquire()
        finally:
            os.kill(other.pid, signal.SIGKILL)
        wait_until(lambda: is_dead(name_of(other.pid)))
        lock = WriterLock(tmp_path)  # the other is a zombie: nobody has waited for it yet
        lock.acquire()
        lock.check()
        lock.release()


@pytest.mark.parametrize(
    ("owner", "age", "free"),
    [
        (ELSEWHERE, 0, False),
        (ELSEWHERE, SILENCE - 60, False),
        (ELSEWHERE, SILENCE + 60, True),
        (ELSEWHERE, -SILENCE - 60, True),  # a clock that was set back
        ("dead", 0, True),
        ("parent", 10 * SILENCE, False),
        ("nonsense", 0, False),
        ("nonsense", SILENCE + 60, True),
    ],
)
def test_when_a_holder_counts_as_dead(tmp_path, owner, age, free):
    named = {"dead": dead_here, "parent": lambda: name_of(os.getppid())}.get(owner, lambda: owner)()
    holder(tmp_path, named, age)
    lock = WriterLock(tmp_path)
    if free:
        lock.refuse()
        lock.acquire()
        lock.check()
        lock.release()
    else:
        with pytest.raises(ConfigError, match=r"process 17 on far \(started today: vlkit train a\.yaml\)"):
            lock.acquire()


def test_what_is_left_of_another_machine_says_how_long_it_takes(tmp_path):
    holder(tmp_path, ELSEWHERE, 50)
    with pytest.raises(ConfigError, match=r"last sign of life is 5\d s old; after 120 s it counts as dead"):
        WriterLock(tmp_path).refuse()


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"[]", b"{}", b'{"owner": 3}', b"[" * 9999, b"\xff\xff"])
def test_a_damaged_file_counts_by_its_age(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ConfigError, match="is being written by process 0 on an unknown host"):
        WriterLock(tmp_path).acquire()
    os.utime(tmp_path / FILE, (time.time() - SILENCE - 60,) * 2)
    lock = WriterLock(tmp_path)
    lock.acquire()
    lock.release()


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize("state", ["new", "dead", "old"])
def test_of_many_at_once_one_gets_it(tmp_path, state):
    if state != "new":
        holder(tmp_path, dead_here() if state == "dead" else ELSEWHERE, age=1000)
    locks = [WriterLock(tmp_path) for _ in range(12)]
    start, won = threading.Barrier(len(locks)), []

    def compete(lock):
        start.wait()
        try:
            lock.acquire()
        except ConfigError:
            return
        won.append(lock)

    threads = [threading.Thread(target=compete, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    won[0].check()
    won[0].release()
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / f".{FILE}.{dead_here()}").write_text("{}")
    lock = WriterLock(tmp_path)
    lock.acquire()
    assert os.listdir(tmp_path) == [FILE]
    lock.release()


def test_who_was_replaced_notices_and_removes_nothing(tmp_path):
    first, second = WriterLock(tmp_path), WriterLock(tmp_path, take_over=True)
    first.acquire()
    second.refuse()
    second.acquire()
    with pytest.raises(FolderTaken, match=r"was taken over by process .*writes nothing there any more"):
        first.check()
    first.release()
    second.check()
    second.release()


def test_signs_of_life_and_the_loss_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "BEAT", 0.01)
    lock, lost = WriterLock(tmp_path), threading.Event()
    lock.on_lost = lost.set
    lock.acquire()
    os.utime(tmp_path / FILE, (0, 0))
    wait_until(lambda: (tmp_path / FILE).stat().st_mtime > 0)
    holder(tmp_path, ELSEWHERE)
    wait_until(lost.is_set)
    lock.release()
    assert (tmp_path / FILE).exists()


def test_a_file_that_somebody_deleted_comes_back(tmp_path):
    lock = WriterLock(tmp_path)
    lock.acquire()
    (tmp_path / FILE).unlink()
    lock.check()
    assert (tmp_path / FILE).exists()
    lock.release()
    assert os.listdir(tmp_path) == []


def test_a_folder_where_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / FILE).mkdir()
    with pytest.raises(Exception, match=rf"{FILE}: cannot be written there \(Is a directory\)"):
        WriterLock(tmp_path).acquire()


class Takes(ToyTask):
    """Another process takes the folder over in the middle of a step."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def train_step(self, model, inputs, progress):
        if progress.step == 5:
            holder(self.folder, ELSEWHERE)
        return super().train_step(model, inputs, progress)


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_run_whose_folder_was_taken_writes_nothing_more(tmp_path, log_every, monkeypatch):
    if log_every == 100:
        monkeypatch.setattr(writer, "BEAT", 0.01)
    with pytest.raises(FolderTaken, match="was taken over by process 17 on far"):
        toy_runner(tmp_path, Takes(tmp_path), log_every=log_every).train()
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["step_00000004"]
    assert max(line["step"] for line in lines(tmp_path)) <= 5
    assert not (tmp_path / "result.json").exists()
    assert json.loads((tmp_path / FILE).read_text())["owner"] == ELSEWHERE
    with pytest.raises(ConfigError, match="process 17 on far"):
        toy_runner(tmp_path).train()
    assert toy_runner(tmp_path, take_over=True).train()["status"] == "finished"
    assert not (tmp_path / FILE).exists()


def test_a_run_that_ends_by_an_error_gives_its_folder_back(tmp_path):
    with pytest.raises(Exception, match="is nan"):
        toy_runner(tmp_path, ToyTask(poison=2)).train()
    assert not (tmp_path / FILE).exists()


def test_reading_is_not_blocked(tmp_path):
    toy_runner(tmp_path, max_steps=4).train()
    holder(tmp_path, ELSEWHERE)
    assert toy_runner(tmp_path, max_steps=4).evaluate()["val/samples"] == 11
    assert (tmp_path / "evaluation.json").exists()
    assert toy_runner(tmp_path, max_steps=4).train()["step"] == 4  # finished: its result is read


def test_checkpoints_without_a_configuration_are_not_taken_for_ones_own(tmp_path):
    toy_runner(tmp_path, ToyTask(signal_at=5)).train()
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"holds checkpoints, but no config\.yaml"):
        toy_runner(tmp_path).train()


def test_taking_over_is_not_recorded(tmp_path):
    folder = OutputFolder(tmp_path, {"run": {"take_over": True, "seed": 1}}, take_over=True)
    folder.claim()
    assert "take_over" not in (tmp_path / "config.yaml").read_text()
    folder.release()
    assert OutputFolder(tmp_path, {"run": {"seed": 1}}).claim() is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"step": "3"}', "\0"])
def test_a_damaged_result_is_named(tmp_path, content):
    folder = OutputFolder(tmp_path, {"run": {"seed": 1}})
    folder.claim()
    folder.release()
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ConfigError, match=r"result\.json.*Delete it, and the run continues"):
        OutputFolder(tmp_path, {"run": {"seed": 1}}).claim()
    assert not (tmp_path / FILE).exists()
