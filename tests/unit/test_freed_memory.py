from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from vlkit import freed_memory


@pytest.fixture
def told(monkeypatch):
    """What the C library is told."""
    calls = []
    library = SimpleNamespace(
        mallopt=lambda *given: calls.append(("mallopt", *given)), malloc_trim=lambda pad: calls.append(("trim", pad))
    )
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(freed_memory, "_last", 0.0)
    freed_memory._library.cache_clear()
    yield calls
    freed_memory._library.cache_clear()


def test_what_the_library_of_linux_is_told(told):
    freed_memory.keep()
    assert told == [("mallopt", -4, 0), ("mallopt", -1, -1)]
    freed_memory.give_back()
    assert told[2:] == [("trim", 0)]


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_told_nothing(told, monkeypatch, platform):
    monkeypatch.setattr("sys.platform", platform)
    freed_memory.keep()
    freed_memory.give_back()
    assert told == []


def test_another_c_library_has_nothing_to_be_told(told, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    freed_memory.keep()
    freed_memory.give_back()
    assert told == []


def test_now_and_then_is_at_most_once_a_second(told, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    for clock.now in (100.0, 100.4, 100.9, 101.0, 101.5, 102.1):
        freed_memory.give_back_now_and_then()
    assert len(told) == 3


SCATTERED = """
from pathlib import Path
from vlkit import freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

kept = []
for _ in range(2000):  # a little that stays between what goes
    large = bytearray(60_000)
    kept.append(bytearray(600))
    large[:] = b"x" * len(large)
    kept.append(large)
kept = [each for each in kept if len(each) < 1000]
before = resident()
freed_memory.give_back()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux")
def test_pages_between_what_is_kept_are_given_back():
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("not the GNU C library")
    given_back = subprocess.run([sys.executable, "-c", SCATTERED], capture_output=True, text=True, check=True).stdout
    assert int(given_back) > 50e6
