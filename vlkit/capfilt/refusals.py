"""Stop a job whose first shards give nothing, and repeat those shards once the cause is removed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection

from vlkit.capfilt.accounting import Counts, total
from vlkit.capfilt.claims import FOLDER as CLAIMS
from vlkit.capfilt.input_texts import no_key
from vlkit.capfilt.output import StoredShard
from vlkit.capfilt.record import done_shards, forget
from vlkit.capfilt.shard_output import SUMMARY
from vlkit.capfilt.storage import Storage
from vlkit.errors import VlkitError

logger = logging.getLogger(__name__)
MOST = 0.9999
"""Default of ``run.max_refused``: a job stops where practically everything is refused."""
LEAST_SHARDS, LEAST_ROWS = 2, 1000
"""Finished shards (all, if the job has fewer) and rows in them before a job is stopped."""
_EXAMPLES = 3


def refused_share(counts: Counts, without_key: int = 0) -> float:
    """Return the share of the rows of which nothing came; 0 where there are none.

    Args:
        counts: of one or more shards.
        without_key: images that were read, but whose row lacks the key of the captions that the job keeps.
    """
    if counts.read:
        return (counts.refused.total() + without_key) / counts.read
    return 1.0 if counts.web else 0.0  # texts without any image


class RefusalLimit:
    """Compare what was refused with ``run.max_refused``, over the records of all workers.

    Args:
        place: output folder.
        shards: names of all shards of the job.
        most: largest share of the rows that may be refused; None: any.
        caption_key: rows without this key count as refused, because the job keeps nothing but their captions; None:
            images are of use without them.
    """

    def __init__(self, place: Storage, shards: Collection[str], most: float | None, caption_key: str | None = None):
        self._place, self._shards, self._most, self._caption_key = place, frozenset(shards), most, caption_key
        self._known: dict[str, Counts] = {}
        self._lacking: dict[str, int] = {}

    def check(self) -> None:
        """Raise if too much was refused; call after each finished shard.

        Raises:
            VlkitError: too much was refused, with the reasons and examples.
        """
        if self._most is None or self._most >= 1:
            return
        done = done_shards(self._place) & self._shards
        self._known = {name: self._known.get(name) or StoredShard.of(self._place, name).counts for name in done}
        found = total(self._known.values())
        enough = len(done) >= min(LEAST_SHARDS, len(self._shards)) and max(found.read, found.web) >= LEAST_ROWS
        if enough and (without_key := self._exceeding(done, found)) is not None:
            raise VlkitError(self._message(found, without_key))

    def redo(self) -> None:
        """Forget the shards of which too much was refused, so that they are done again; unless others are at work."""
        if self._most is None or self._most >= 1 or self._place.list(CLAIMS):
            return
        for name in sorted(done_shards(self._place) & self._shards):
            counts = StoredShard.of(self._place, name).counts
            if (without_key := self._exceeding([name], counts)) is not None:
                self._place.remove(SUMMARY)
                share = 100 * refused_share(counts, without_key)
                logger.info("shard %s is done again: %.0f%% of its images were refused", name, share)
                forget(self._place, name)
                self._lacking.pop(name, None)

    def _exceeding(self, shards: Collection[str], counts: Counts) -> int | None:
        """Return the number of rows without the caption key if more than allowed is refused; None: it is not.

        Ledgers are read only where the counts of all unusable texts could exceed the limit.
        """
        most = 1.0 if self._most is None else self._most
        possible = counts.web_refused["no text"] if self._caption_key is not None else 0
        if refused_share(counts, possible) <= most:
            return None
        without_key = sum(map(self._without_key, shards)) if possible else 0
        return without_key if refused_share(counts, without_key) > most else None

    def _without_key(self, name: str) -> int:
        """Count the rows of a shard that lack the caption key, from its ledger."""
        if name not in self._lacking:
            detail = no_key(self._caption_key or "")
            lines = StoredShard.of(self._place, name).ledger()
            self._lacking[name] = sum(line.kind == "text" and line.detail == detail for line in lines)
        return self._lacking[name]

    def _message(self, found: Counts, without_key: int) -> str:
        share = refused_share(found, without_key)
        reasons = found.refused + Counter({no_key(self._caption_key or ""): without_key}) or found.web_refused
        counted = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        refused = found.refused.total() + without_key
        shards = f"the first {len(self._known)} shards" if len(self._known) > 1 else "the first shard"
        what = "nothing came of" if share == 1 else f"{100 * share:.2f}% of the images were refused in"
        return (
            f"{what} {shards}: {found.read:,} images read, {refused:,} refused ({counted}). "
            f"{self._examples(without_key > 0)}Correct the input, or the keys of 'input'; then the same command does "
            f"these shards again and continues. All lines are in {self._place}/ledger. (run.max_refused is "
            f"{self._most:g}: set it to 1 to continue in any case.)"
        )

    def _examples(self, texts: bool) -> str:
        """Return the first lines of the ledgers, one for each reason; ``texts``: also where images are refused."""
        seen: Counter[str] = Counter()
        lines: list[str] = []
        for name in sorted(self._known):
            for refused in StoredShard.of(self._place, name).ledger():
                if refused.kind != "image" and self._known[name].refused and not texts:
                    continue
                seen[refused.reason] += 1
                if seen[refused.reason] == 1 and len(lines) < _EXAMPLES:
                    detail = f" ({refused.detail})" if refused.detail else ""
                    lines.append(f"{name}: {refused.key!r}: {refused.reason}{detail}")
        return f"For example {'; '.join(lines)}. " if lines else ""
