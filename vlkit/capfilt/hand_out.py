"""Which lot a worker does next: one that is not done, and that nobody else does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from vlkit.capfilt.batches import Lot
from vlkit.capfilt.claims import Claims
from vlkit.capfilt.place import Place
from vlkit.capfilt.shard_output import DONE, SUFFIXES

_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0  # seconds between looks at what others do
_OWN_WAIT = 0.02  # while the own files are being written


class HandOut:
    """The lots of a job, as one worker sees them.

    Args:
        lots: all of them.
        place: output folder.
        claims: of this worker.
        look: asked again and again while waiting; may raise.
    """

    def __init__(self, lots: Sequence[Lot], place: Place, claims: Claims, look: Callable[[], None]):
        self._lots, self._place, self._claims, self._look = lots, place, claims, look
        self._mine: set[str] = set()

    def next(self) -> Lot | None:
        """A lot that is this worker's now; waits while others do all that is left. None: nothing is left."""
        wait = _FIRST_WAIT
        while left := self._left():
            lot = self._take(left)
            if lot is not None:
                return lot
            if self._mine:
                self._sleep(_OWN_WAIT)
            else:
                self._sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
        self._claims.clear()
        return None

    def next_free(self) -> Lot | None:
        """A lot that is this worker's now; None if none is free at the moment."""
        return self._take(self._left())

    def give_back(self, lot: Lot) -> None:
        """The lot is done, or not to be done by this worker."""
        self._claims.release(lot.name)
        self._mine.discard(lot.name)

    def _left(self) -> list[Lot]:
        done = done_shards(self._place)
        return [lot for lot in self._lots if any(shard.name not in done for shard in lot.shards)]

    def _take(self, left: Sequence[Lot]) -> Lot | None:
        for lot in left:
            self._look()
            if lot.name not in self._mine and self._claims.take(lot.name):
                self._mine.add(lot.name)
                return lot
        return None

    def _sleep(self, seconds: float) -> None:
        """Waits, in short pieces because a signal only sets a flag."""
        pause = threading.Event()
        while seconds > 0:
            self._look()
            pause.wait(min(_FIRST_WAIT, seconds))
            seconds -= _FIRST_WAIT


def done_shards(place: Place) -> set[str]:
    """Names of the shards that are done."""
    return {name.removesuffix(SUFFIXES[DONE]) for name in place.list(DONE)}
