"""Stop a job whose first shards give nothing, and repeat those shards once the cause is removed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection

from vlkit.capfilt.accounting import Counts, total
from vlkit.capfilt.claims import FOLDER as CLAIMS
from vlkit.capfilt.output import StoredShard
from vlkit.capfilt.shard_output import DONE, SUFFIXES, SUMMARY, file_name
from vlkit.capfilt.storage import Storage
from vlkit.errors import VlkitError

logger = logging.getLogger(__name__)
MOST = 0.9999
"""Default of ``run.max_refused``: a job stops where practically everything is refused."""
LEAST_SHARDS, LEAST_ROWS = 2, 1000
"""Finished shards (all, if the job has fewer) and rows in them before a job is stopped."""
_EXAMPLES = 3


def refused_share(counts: Counts) -> float:
    """The share of the rows of which nothing came; 0 where there are none."""
    if counts.read:
        return counts.refused.total() / counts.read
    return 1.0 if counts.web else 0.0  # texts without any image


class RefusalLimit:
    """Compares what was refused with ``run.max_refused``, by the records of all workers.

    Args:
        place: output folder.
        shards: names of all shards of the job.
        most: largest share of the rows that may be refused; None: any.
    """

    def __init__(self, place: Storage, shards: Collection[str], most: float | None):
        self._place, self._shards, self._most = place, frozenset(shards), most
        self._known: dict[str, Counts] = {}

    def check(self) -> None:
        """Call after each finished shard.

        Raises:
            VlkitError: too much was refused, with the reasons and examples.
        """
        if self._most is None or self._most >= 1:
            return
        done = _done(self._place) & self._shards
        self._known = {name: self._known.get(name) or StoredShard.of(self._place, name).counts for name in done}
        found = total(self._known.values())
        enough = len(done) >= min(LEAST_SHARDS, len(self._shards)) and max(found.read, found.web) >= LEAST_ROWS
        if enough and refused_share(found) > self._most:
            raise VlkitError(self._message(found))

    def redo(self) -> None:
        """Forget the shards of which too much was refused, so that they are done again; unless others are at work."""
        if self._most is None or self._most >= 1 or self._place.list(CLAIMS):
            return
        for name in sorted(_done(self._place) & self._shards):
            share = refused_share(StoredShard.of(self._place, name).counts)
            if share > self._most:
                self._place.remove(SUMMARY)
                logger.info("shard %s is done again: %.0f%% of its images were refused", name, 100 * share)
                forget(self._place, name)

    def _message(self, found: Counts) -> str:
        share = refused_share(found)
        reasons = found.refused or found.web_refused
        counted = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        shards = f"the first {len(self._known)} shards" if len(self._known) > 1 else "the first shard"
        what = "nothing came of" if share == 1 else f"{100 * share:.2f}% of the images were refused in"
        return (
            f"{what} {shards}: {found.read:,} images read, {found.refused.total():,} refused ({counted}). "
            f"{self._examples()}Correct the input, or the keys of 'input'; then the same command does these shards "
            f"again and continues. All lines are in {self._place}/ledger. (run.max_refused is {self._most:g}: set it "
            "to 1 to continue in any case.)"
        )

    def _examples(self) -> str:
        """The first lines of the ledgers, one for each reason."""
        seen: Counter[str] = Counter()
        lines: list[str] = []
        for name in sorted(self._known):
            for refused in StoredShard.of(self._place, name).ledger():
                if refused.kind != "image" and self._known[name].refused:
                    continue
                seen[refused.reason] += 1
                if seen[refused.reason] == 1 and len(lines) < _EXAMPLES:
                    detail = f" ({refused.detail})" if refused.detail else ""
                    lines.append(f"{name}: {refused.key!r}: {refused.reason}{detail}")
        return f"For example {'; '.join(lines)}. " if lines else ""


def nothing_came(place: Storage) -> bool:
    """Whether shards are done, but gave no image, and nobody works on others: another job may start here."""
    done = _done(place)
    if not done or place.list(CLAIMS):
        return False
    return not any(StoredShard.of(place, name).counts.annotated for name in sorted(done))


def forget_all(place: Storage) -> None:
    """Remove all shards, and the summary."""
    place.remove(SUMMARY)
    for name in _done(place):
        forget(place, name)


def forget(place: Storage, name: str) -> None:
    """Remove the record and the files of a shard."""
    files = StoredShard.of(place, name).files
    place.remove(file_name(DONE, name))
    for file in files:
        place.remove(file)


def _done(place: Storage) -> set[str]:
    return {name.removesuffix(SUFFIXES[DONE]) for name in place.list(DONE)}
