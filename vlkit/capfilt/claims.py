"""Claims of workers on groups: small files that their owner refreshes while it lives."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Sequence

from vlkit.capfilt.storage import Storage
from vlkit.errors import VlkitError
from vlkit.io.json import json_text
from vlkit.io.processes import is_dead, owner_name

logger = logging.getLogger(__name__)
FOLDER = "claims"


class Claims:
    """The claims of one worker on the groups of a job.

    Two workers may in rare cases hold one group (an object store without exclusive creation, a worker that slept for
    longer than the lease); then both write the same bytes. What a claim saves is work.

    Args:
        place: the job's output; claims are files in ``claims/``.
        lease: seconds after which a claim that was not refreshed is free; each is refreshed four times in it.
        owner: a name that no other worker has; None: a new one, from which others on this machine see that the
            process has died, and need not wait for the lease.
    """

    def __init__(self, place: Storage, lease: float, owner: str | None = None):
        if not lease > 0:
            raise VlkitError(f"run.lease is {lease}: a positive number of seconds is needed, 600 for example.")
        self.place, self.lease, self.owner = place, lease, owner or owner_name()
        self._held: dict[str, int] = {}  # group -> number of the last refreshment
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._refresh_until_closed, name="claims", daemon=True)
        self._thread.start()

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def order(self, groups: Sequence[str]) -> list[str]:
        """Order ``groups`` for trying: unclaimed ones first.

        Where creating a file is not exclusive each worker begins with another, so that workers that start together
        do not take the same.
        """
        claimed = {name.removesuffix(".json") for name in self.place.list(FOLDER)}
        free = [group for group in groups if group not in claimed]
        if free and self.place.local is None:
            first = int(hashlib.sha256(self.owner.encode()).hexdigest(), 16) % len(free)
            free = free[first:] + free[:first]
        return free + [group for group in groups if group in claimed]

    def take(self, group: str) -> bool:
        """Claim a group unless another living worker has it; return whether this worker has it now."""
        name = _name(group)
        with self._lock:
            if group not in self._held:
                if not (self.place.create(name, self._content(0)) or self._take_over(name)):
                    return False
                if self.place.local is None and _owner(self._read(name)) != self.owner:
                    return False  # another wrote at the same moment, and last
                self._held[group] = 0
            return True

    def release(self, group: str) -> None:
        """Give a group back, done or not."""
        with self._lock:
            if self._held.pop(group, None) is not None and _owner(self._read(_name(group))) == self.owner:
                self.place.remove(_name(group))

    def refresh(self) -> None:
        """Show that this worker lives. A thread does it by itself, four times in a lease."""
        for group in list(self._held):
            try:
                self._refresh(group)
            except Exception as error:  # the storage may be back before the lease ends
                logger.warning("the claim on %s could not be refreshed (%s).", group, error)

    def clear(self) -> None:
        """Remove what dead workers left, and all other claims: call it when everything is done."""
        for name in self.place.list(FOLDER):
            self.place.remove(f"{FOLDER}/{name}")

    def close(self) -> None:
        """Give everything back and stop refreshing."""
        self._stop.set()
        self._thread.join()
        for group in list(self._held):
            self.release(group)

    def _take_over(self, name: str) -> bool:
        """Replace a claim that is no longer refreshed; return whether this worker did.

        Several may find the same old claim at once. It goes to the one that claims the replacing of just this content,
        and finds it still there then.
        """
        old = self._read(name)
        if not self._is_free(name, old):
            return False
        replacing = f"{name}.{hashlib.sha256(old).hexdigest()[:16]}"
        if not self.place.create(replacing, self._content(0)) and not self._is_free(replacing, self._read(replacing)):
            return False
        try:
            if self._read(name) != old:
                return False
            self.place.write_bytes(name, self._content(0))
        finally:
            self.place.remove(replacing)
        logger.info("%s taken over from %s, which died or is too slow.", name, _owner(old) or "an unknown worker")
        return True

    def _is_free(self, name: str, content: bytes) -> bool:
        age = self.place.age(name)
        return age is not None and (age > self.lease or is_dead(_owner(content)))

    def _read(self, name: str) -> bytes:
        """Read a claim; empty if there is none."""
        try:
            return self.place.read_bytes(name)
        except VlkitError:
            return b""

    def _content(self, refreshed: int) -> bytes:
        return json_text({"owner": self.owner, "refreshed": refreshed}).encode()

    def _refresh_until_closed(self) -> None:
        while not self._stop.wait(self.lease / 4):
            self.refresh()

    def _refresh(self, group: str) -> None:
        with self._lock:
            if group not in self._held:
                return
            name = _name(group)
            if not self.place.exists(name):  # all is done, and somebody cleared up
                del self._held[group]
                return
            if _owner(self.place.read_bytes(name)) != self.owner:
                logger.warning("another worker took over %s; both write the same.", group)
                del self._held[group]
                return
            self._held[group] += 1
            self.place.write_bytes(name, self._content(self._held[group]))


def _name(group: str) -> str:
    return f"{FOLDER}/{group}.json"


def _owner(claim: bytes) -> str:
    """Return the owner of a claim; "" if it cannot be read."""
    try:
        return str(json.loads(claim)["owner"])
    except (ValueError, KeyError, TypeError):  # half written, where that can be
        return ""
