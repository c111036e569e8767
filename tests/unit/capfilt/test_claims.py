"""Claims: one living owner, also when many ask at once, when one dies, sleeps, or the storage fails."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from tests.assets.waiting import LONG, wait_until
from vlkit.capfilt.claims import Claims
from vlkit.capfilt.storage import Storage
from vlkit.errors import VlkitError

GROUPS = [f"group-{number}" for number in range(12)]
LEASE = 600.0  # seconds, of which none passes but by let_pass()


@pytest.fixture
def place(tmp_path):
    with Storage(tmp_path) as place:
        yield place


def test_taken_and_given_back(place):
    with Claims(place, 60) as first, Claims(place, 60) as second:
        assert first.take("a")
        assert first.take("a")
        assert not second.take("a")
        assert second.take("b")
        second.release("a")  # not its own
        assert not second.take("a")
        first.release("a")
        assert second.take("a")
        assert place.list("claims") == ["a.json", "b.json"]
        assert json.loads(place.read_bytes("claims/a.json"))["owner"] == second.owner
    assert place.list("claims") == []


def let_pass(place: Storage, seconds: float) -> None:
    """As if so much time went by: all claims get older."""
    for name in place.list("claims"):
        if place.local is not None:
            file = place.local / "claims" / name
            os.utime(file, (file.stat().st_mtime - seconds,) * 2)
        else:
            place._store.fs.store[f"{place._store.folder}/claims/{name}"].modified -= timedelta(seconds=seconds)


def refreshed(place: Storage, group: str) -> int:
    """How often the owner of a claim has refreshed it."""
    return json.loads((place.local / f"claims/{group}.json").read_bytes())["refreshed"]


@pytest.mark.parametrize("url", ["folder", "memory://claims/out"])
def test_a_living_owner_keeps_its_claim_longer_than_the_lease(tmp_path, url):
    url = url if "://" in url else tmp_path / url
    with Storage(url) as place, Claims(place, LEASE) as first, Claims(place, LEASE) as second:
        assert first.take("a")
        for _ in range(3):
            assert not second.take("a")
            let_pass(place, 0.9 * LEASE)
            assert not second.take("a")
            first.refresh()
        first.release("a")
        assert second.take("a")
        second.release("a")
        assert first.take("a")
        let_pass(place, 1.1 * LEASE)  # without a sign
        assert second.take("a")


def test_a_thread_refreshes(place):
    with Claims(place, 0.1) as claims:
        assert claims.take("a")
        wait_until(lambda: refreshed(place, "a") > 2)


def test_a_claim_that_is_not_refreshed_goes_to_another(place):
    place.write_bytes("claims/a.json", json.dumps({"owner": "another_host-00000000-1-1-00000000"}).encode())
    with Claims(place, LEASE) as claims:
        assert not claims.take("a")
        let_pass(place, 0.9 * LEASE)
        assert not claims.take("a")
        let_pass(place, 0.2 * LEASE)
        assert claims.take("a")


def test_half_a_claim_counts_by_its_age(place):
    place.write_bytes("claims/a.json", b'{"own')
    with Claims(place, LEASE) as claims:
        assert not claims.take("a")
        let_pass(place, 1.1 * LEASE)
        assert claims.take("a")
    assert place.list("claims") == []


def test_the_claim_of_a_dead_process_is_free_at_once(place, caplog):
    code = (
        "import os; from vlkit.capfilt.storage import Storage; from vlkit.capfilt.claims import Claims;"
        f"c = Claims(Storage({str(place)!r}), 600); assert c.take('a'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    caplog.set_level("INFO", "vlkit")
    with Claims(place, 600) as claims:
        assert place.exists("claims/a.json")
        assert claims.take("a")
        assert "taken over" in caplog.text
        with Claims(place, 600) as other:
            assert not other.take("a")
    assert place.list("claims") == []


def test_what_nobody_has_comes_first(place):
    with Claims(place, 60) as claims:
        claims.take("b")
        assert claims.order(["a", "b", "c"]) == ["a", "c", "b"]
        assert claims.order([]) == []


def test_on_an_object_store_workers_begin_with_different_lots():
    firsts = set()
    with Storage("memory://order/out") as far:
        for number in range(30):
            with Claims(far, 60, f"worker {number}") as claims:
                order = claims.order(GROUPS)
            assert sorted(order) == sorted(GROUPS)
            firsts.add(order[0])
    assert len(firsts) > 6


def test_of_two_that_write_at_once_on_an_object_store_the_last_has_it(monkeypatch):
    with Storage("memory://at_once/out") as far, Claims(far, 60, "first") as first, Claims(far, 60, "last") as last:
        create = far.create

        def beaten(name, data):
            created = create(name, data)
            monkeypatch.setattr(far, "create", create)
            far.remove(name)  # as if both had found nothing there
            assert last.take("a")
            return created

        monkeypatch.setattr(far, "create", beaten)
        assert not first.take("a")
        assert json.loads(far.read_bytes("claims/a.json"))["owner"] == "last"


def test_when_all_is_done_no_claim_stays(place):
    place.write_bytes("claims/a.json", b'{"owner": "died after its last shard"}')
    with Claims(place, LEASE) as claims, Claims(place, LEASE) as other:
        assert claims.take("b")
        assert other.take("c")
        claims.clear()
        assert place.list("claims") == []
        other.refresh()
        assert place.list("claims") == []
    assert place.list("claims") == []


def test_who_lost_its_claim_leaves_the_new_owner_alone(place, caplog):
    with Claims(place, LEASE, "slow") as slow:
        assert slow.take("a")
        content = b'{"owner": "quick"}'
        place.write_bytes("claims/a.json", content)
        slow.refresh()
        assert place.read_bytes("claims/a.json") == content
        assert "took over a" in caplog.text
        slow.release("a")
    assert place.read_bytes("claims/a.json") == content


@pytest.mark.parametrize("failing", ["read_bytes", "write_bytes"])
def test_refreshing_survives_a_failing_storage(place, caplog, monkeypatch, failing):
    with Claims(place, 0.1) as claims:
        assert claims.take("a")
        works, failures = getattr(place, failing), []

        def fail(name, *data):
            failures.append(name)
            raise RuntimeError("503 slow down")

        monkeypatch.setattr(place, failing, fail)
        wait_until(lambda: len(failures) >= 2)
        before = refreshed(place, "a")
        monkeypatch.setattr(place, failing, works)
        wait_until(lambda: refreshed(place, "a") > before)
    assert "the claim on a could not be refreshed (503 slow down)" in caplog.text


@pytest.mark.parametrize("lease", [0, -1, float("nan")])
def test_a_wrong_lease_is_refused(place, lease):
    with pytest.raises(VlkitError, match=r"run\.lease"):
        Claims(place, lease)


def race(folder, lease, begin, won):
    """Takes what it can get, and notes it; keeps all until everybody has tried."""
    place = Storage(folder)
    claims = Claims(place, lease)
    begin.wait()
    for group in GROUPS:
        if claims.take(group):
            won.put((group, claims.owner))
    begin.wait()
    claims.close()


@pytest.mark.parametrize("left", ["nothing", "old claims", "claims of the dead"])
def test_eight_processes_never_share_a_lot(place, left):
    lease = 600.0
    for group in GROUPS if left != "nothing" else []:
        dead = subprocess.Popen(["true"])  # its number is free again, or given to a process that started later
        dead.wait()
        machine = Claims(place, lease).owner.rsplit("-", 4)
        owner = "-".join([machine[0], machine[1], str(dead.pid), "1", "00000000"])
        name = "gone" if left == "old claims" else owner
        place.write_bytes(f"claims/{group}.json", json.dumps({"owner": name}).encode())
        if left == "old claims":
            os.utime(place.local / f"claims/{group}.json", (time.time() - 2 * lease,) * 2)
    context = multiprocessing.get_context("fork")
    begin, won = context.Barrier(8), context.Queue()
    processes = [context.Process(target=race, args=(str(place), lease, begin, won)) for _ in range(8)]
    [process.start() for process in processes]
    found = [won.get(timeout=LONG) for _ in GROUPS]
    [process.join(LONG) for process in processes]
    assert [process.exitcode for process in processes] == [0] * 8
    assert won.empty()
    assert Counter(group for group, _ in found) == Counter(GROUPS)
    assert place.list("claims") == []


def test_eight_threads_never_share_a_lot(place):
    claims = [Claims(place, 60) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = [
            group
            for groups in pool.map(lambda each: [group for group in GROUPS if each.take(group)], claims)
            for group in groups
        ]
    [each.close() for each in claims]
    assert Counter(won) == Counter(GROUPS)


def test_a_dead_replacer_blocks_nobody(place):
    """Who dies between noticing an old claim and replacing it leaves a mark, which gets old as well."""
    with Claims(place, LEASE, "third") as claims:
        place.write_bytes("claims/a.json", b'{"owner": "first"}')
        let_pass(place, 1.1 * LEASE)
        assert claims.take("a")
        claims.release("a")
        old = b'{"owner": "second"}'
        place.write_bytes("claims/a.json", old)
        let_pass(place, 1.1 * LEASE)
        place.write_bytes(f"claims/a.json.{hashlib.sha256(old).hexdigest()[:16]}", b'{"owner": "died"}')
        assert not claims.take("a")
        let_pass(place, 1.1 * LEASE)
        assert claims.take("a")
    assert place.list("claims") == []
