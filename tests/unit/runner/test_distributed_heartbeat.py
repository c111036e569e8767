from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from tests.assets.waiting import wait_until
from vlkit.errors import LostProcess
from vlkit.io.processes import owner_name
from vlkit.runner.distributed import (
    LOST_AFTER,
    LOST_VARIABLE,
    Heartbeat,
    World,
    is_communication_error,
    start_heartbeat,
)


@pytest.fixture
def store(monkeypatch):
    """A store as rank 0 holds it, and heartbeats that count as lost after two seconds."""
    monkeypatch.setenv(LOST_VARIABLE, "2")
    return dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=10), wait_for_workers=False)


@pytest.fixture
def heartbeat(store, monkeypatch):
    """Of rank 0 of two. It reports a loss instead of ending this process."""
    ended = []
    monkeypatch.setattr("vlkit.runner.distributed.os._exit", ended.append)
    found = Heartbeat(0, 2, "127.0.0.1", store.port)
    found.ended = ended
    yield found
    found.leave()


def register(heartbeat: Heartbeat, store, **changes: str) -> None:
    other = {"host": platform.node(), "pid": str(os.getpid()), "owner": owner_name(), **changes}
    store.set(heartbeat._key("process", 1), json.dumps(other))


def test_a_minute_is_enough_to_notice_and_to_end():
    # without a heartbeat, until the next look, until all others have read of it, and the time to end
    assert LOST_AFTER + (1 + 1 / 4 + 1 + 2) * LOST_AFTER / 7 < 60


@pytest.mark.parametrize(
    ("what", "intervals"), [("has given no sign of life for 2 s", 2), ("ended with an error: x", 6)]
)
def test_what_another_rank_found_leaves_less_time_than_an_error(heartbeat, store, monkeypatch, what, intervals):
    """One rank alone watches the silent one: most of the minute is over when the others read of it."""
    graces = []
    monkeypatch.setattr(heartbeat, "_end", lambda reason, grace: graces.append(grace))
    store.set(heartbeat._key("lost"), f"rank 2 (process 7 on elsewhere) {what}")
    wait_until(lambda: graces)
    assert graces[0] == intervals * heartbeat._interval


def test_a_process_that_saves_is_not_ended_before_that_is_done(heartbeat, store, monkeypatch):
    monkeypatch.setattr(World, "_heartbeat", heartbeat)
    with World().saving():
        store.set(heartbeat._key("lost"), "rank 1 (process 7 on elsewhere) has ended unexpectedly")
        wait_until(lambda: heartbeat.lost)
        time.sleep(4 * heartbeat._interval)
        assert not heartbeat.ended
    wait_until(lambda: heartbeat.ended)


def test_a_rank_without_a_heartbeat_is_lost(heartbeat, store):
    register(heartbeat, store, host="elsewhere", pid="7", owner="elsewhere")
    assert heartbeat.wait_for_loss() == "rank 1 (process 7 on elsewhere) has given no sign of life for 2 s"


def test_a_process_of_this_host_that_ended_is_lost_earlier(heartbeat, store):
    code = "from vlkit.io.processes import owner_name; print(owner_name())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    register(heartbeat, store, pid="7", owner=done.stdout.strip())
    reason = heartbeat.wait_for_loss()
    assert reason == f"rank 1 (process 7 on {platform.node()}) has ended unexpectedly"


def test_a_rank_that_left_in_order_is_not_lost(heartbeat, store):
    store.set(heartbeat._key("left", 1), "1")
    assert heartbeat.wait_for_loss() is None


def test_an_error_of_another_rank_is_read_from_the_store(heartbeat, store):
    store.set(heartbeat._key("lost"), "rank 1 ended with an error: ValueError: x")
    assert heartbeat.wait_for_loss() == "rank 1 ended with an error: ValueError: x"


def test_a_process_whose_main_thread_does_not_end_is_ended(heartbeat, store, capfd):
    register(heartbeat, store, host="elsewhere", pid="7", owner="elsewhere")
    wait_until(lambda: heartbeat.ended)
    assert heartbeat.ended[0] == 1
    assert "error (process 0): rank 1 (process 7 on elsewhere) has given no sign of life" in capfd.readouterr().err


def test_an_error_of_this_rank_is_written_to_the_store(heartbeat, store, monkeypatch):
    monkeypatch.setattr(World, "_heartbeat", heartbeat)
    with pytest.raises(ValueError, match="two lines"), World().explained():
        raise ValueError("two lines\nof text")
    found = store.get(heartbeat._key("lost")).decode()
    assert found.startswith("rank 0")
    assert found.endswith("ended with an error: ValueError: two lines")


def test_the_words_of_the_backend_become_the_name_of_the_lost_rank(heartbeat, store, monkeypatch):
    monkeypatch.setattr(World, "_heartbeat", heartbeat)
    store.set(heartbeat._key("lost"), "rank 1 (process 7 on elsewhere) has ended unexpectedly")
    message = r"^rank 1 \(process 7 on elsewhere\) has ended unexpectedly\. "
    with pytest.raises(LostProcess, match=message), World().explained():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711")


def test_alone_nothing_changes(monkeypatch):
    monkeypatch.setattr(World, "_heartbeat", None)
    with pytest.raises(RuntimeError, match="gloo"), World().explained():
        raise RuntimeError("gloo")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert start_heartbeat(0, 2) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[../gloo/transport/tcp/pair.cc] Read error: Connection reset by peer"), True),
        (RuntimeError("NCCL error: remote process exited or there was a network error"), True),
        (dist.DistNetworkError("failed to recv"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("socket"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_errors_of_the_backend_and_mistakes_differ(error, expected):
    assert is_communication_error(error) is expected
