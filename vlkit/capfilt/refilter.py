"""Apply other thresholds to a finished output and write its shards again, without the models."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlkit.capfilt.accounting import total
from vlkit.capfilt.decision import Decision
from vlkit.capfilt.inputs import Item
from vlkit.capfilt.output import RECORD, StoredImage, StoredOutput, StoredShard
from vlkit.capfilt.shard_output import DONE, DROPPED, KEPT, TABLES, RoundedText, ShardOutput, hash_of, write_summary
from vlkit.capfilt.storage import Storage
from vlkit.capfilt.tables import COLUMNS
from vlkit.errors import ConfigError, DataError, redacted
from vlkit.io.json import json_text
from vlkit.registry.bounds import MOST_PROCESSES

logger = logging.getLogger(__name__)


def refilter(source: str | Path, output: str | Path, decision: Decision, workers: int = 1) -> dict[str, Any]:
    """Write the shards of ``source`` as the job would have written them with another decision.

    A second call resumes where the first was stopped, and adds the shards that ``source`` has gained since.

    Args:
        source: output folder of ``vlkit capfilt`` or of an earlier refiltering; a path or an address.
        output: another one; it gets the same layout.
        decision: which texts are kept.
        workers: processes; with more than 1, a script that calls this needs ``if __name__ == "__main__":``.

    Returns:
        ``status``: "finished", or "unfinished" where the job of ``source`` is; ``missing``: shards that it has not
        done; and the counts of the new shards, as in ``summary.json``.

    Raises:
        ConfigError: ``output`` is ``source`` or holds something else, or ``decision`` needs what was not stored.
        DataError: ``source`` is no output, or damaged.
    """
    if not 1 <= workers <= MOST_PROCESSES:
        raise ConfigError(f"workers: {workers} given; 1 or more processes allowed, at most {MOST_PROCESSES:,}.")
    with Storage(source) as place, Storage(output) as target:
        old = StoredOutput.open(place)
        _check(old, decision, target)
        _write_record(old, decision, target)
        done = set(target.list(DONE))
        todo = [shard.name for shard in old.shards if f"{shard.name}.json" not in done]
        for count, name in enumerate(_refilter_all(place, target, todo, decision, workers), 1):
            logger.info("shard %s is cut; %d of %d", name, len(old.shards) - len(todo) + count, len(old.shards))
        counts = total(StoredShard.of(target, shard.name).counts for shard in old.shards)
        if old.missing:
            logger.warning("%s: %d shards are not done yet; they are missing here, too.", place, old.missing)
            return {"status": "unfinished", "missing": old.missing, **counts.as_dict()}
        return {"status": "finished", "missing": 0, **write_summary(target, counts)}


def refilter_shard(source: Storage, output: Storage, name: str, decision: Decision) -> None:
    """Write the shard ``name`` of one output folder into another, with another decision."""
    shard = StoredShard.of(source, name)
    written = ShardOutput(name, output, decision, shard.has_dropped, shard.has_images)
    try:
        for refused in shard.ledger():
            written.refuse(refused)
        # Whether an image came with a text that was not scored is not stored with the image.
        written.counts.web_unasked = shard.counts.web_unasked
        for image, row in _images(shard):
            item, texts = None, row.texts
            if image is not None:
                # All of the JSON, so that its keys stay in their order; caption and texts are replaced.
                item = Item(image.key, image.image, image.extension, (), image.record)
                texts = [_text(each) for each in image.record["texts"]]
            hashed = row.image if image is None else hash_of(image.image)
            written.add_stored(row.key, hashed, texts, row.fields, item)
        written.finish(shard.counts.read, shard.counts.web)
    except BaseException:
        written.discard()
        raise


def _refilter_all(
    source: Storage, output: Storage, names: list[str], decision: Decision, workers: int
) -> Iterator[str]:
    """Filter the shards in ``workers`` processes, and yield their names in order."""
    if workers == 1 or len(names) < 2:
        for name in names:
            refilter_shard(source, output, name, decision)
            yield name
        return
    # Not forked: the caller may have threads, of torch for one.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(names)), spawn, initializer=_end_with_parent)
    try:
        futures = [pool.submit(_refilter_elsewhere, source.url, output.url, name, decision) for name in names]
        for name, future in zip(names, futures):
            future.result()
            yield name
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this process of a pool with its parent; it would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _refilter_elsewhere(source: str, output: str, name: str, decision: Decision) -> None:
    with Storage(source) as place, Storage(output) as target:
        refilter_shard(place, target, name, decision)


@dataclass
class _Row:
    """The rows of the table for one image; empty if it has no texts.

    Args:
        key, image: of the sample, and the hash of its image.
        texts: with their scores.
        fields: column to value.
    """

    key: str = ""
    image: str = ""
    texts: list[RoundedText] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)


def _images(shard: StoredShard) -> Iterator[tuple[StoredImage | None, _Row]]:
    """Yield the images in the order of the input, with their rows; None: the image is not stored."""
    folders = {True: shard.images(KEPT)} if shard.has_images else {}
    folders |= {False: shard.images(DROPPED)} if shard.has_dropped else {}
    rows = _Rows(shard)
    for index, kept in enumerate(_kept(shard)):
        images = folders.get(bool(kept))
        yield None if images is None else _next(shard, images), rows.image(index)
    _end(shard, folders.values())


class _Rows:
    """Read the table of a shard image by image."""

    def __init__(self, shard: StoredShard):
        self._parts = (row for part in shard.table(None) for row in part.to_pylist())
        self._row = next(self._parts, None)

    def image(self, index: int) -> _Row:
        """Return the rows of an image. Call it in the order of the images."""
        found = _Row()
        while self._row is not None and self._row["index"] <= index:
            if self._row["index"] == index:
                found.key, found.image = self._row["key"], self._row["image"]
                found.texts.append(_text(self._row))
                found.fields = {name: value for name, value in self._row.items() if name not in COLUMNS}
            self._row = next(self._parts, None)
        return found


def _kept(shard: StoredShard) -> np.ndarray:
    """[images] whether each was kept. Images without any text are not in the table; they were dropped."""
    shard.check(TABLES)
    kept = np.zeros(shard.counts.annotated, bool)
    for part in shard.table(("index", "kept")):
        index = part["index"].to_numpy()[part["kept"].to_numpy()]
        if len(index) and index[-1] >= len(kept):
            raise DataError(f"{shard.place}: the table of {shard.name} has more images than its manifest counts.")
        kept[index] = True
    return kept


def _next(shard: StoredShard, images: Iterator[StoredImage]) -> StoredImage:
    image = next(images, None)
    if image is None:
        raise DataError(f"{shard.place}: shard {shard.name} stores fewer images than its table has.")
    return image


def _end(shard: StoredShard, folders: Iterable[Iterator[StoredImage]]) -> None:
    """Check that everything was used; the checksum of a file is verified at its end."""
    if any(next(images, None) is not None for images in folders):
        raise DataError(f"{shard.place}: shard {shard.name} stores more images than its table has.")


def _text(given: Mapping[str, Any]) -> RoundedText:
    return RoundedText(*(given[name] for name in ("text", "source", "itm", "itc", "log_prob")))


def _check(old: StoredOutput, decision: Decision, target: Storage) -> None:
    """Raise an error if the request is not possible."""
    if _same(old.place, target):
        raise ConfigError(f"{target}: the output would overwrite what is read. Choose another folder.")
    lacking = [shard.name for shard in old.shards if shard.has_images and not shard.has_dropped]
    if lacking and not decision.stricter_than(old.decision):
        raise ConfigError(
            f"{old.place}: dropped images were not stored (run.store_dropped: false), so texts can only be left out. "
            f"Asked for: {decision}; the job kept {old.decision}. Allowed: the same sources or one of them, and "
            f"thresholds as high or higher."
        )
    if decision.itc_threshold is not None and not _has_itc(old):
        raise ConfigError(
            f"{old.place}: the filter of the job gave no ITC similarities, so itc_threshold would drop everything. "
            f"Use threshold alone."
        )


def _same(first: Storage, second: Storage) -> bool:
    if first.local is not None and second.local is not None:
        return first.local.resolve() == second.local.resolve()
    return first.url.rstrip("/") == second.url.rstrip("/")


def _has_itc(old: StoredOutput) -> bool:
    """Return whether any text has a similarity; True where there are no texts."""
    parts = (part["itc"] for shard in old.shards for part in shard.table(("index", "itc")))
    rows = False
    for column in parts:
        if column.null_count < len(column):
            return True
        rows = True
    return not rows


def _write_record(old: StoredOutput, decision: Decision, target: Storage) -> None:
    """Write the record of the output, or check that it is the same."""
    task = {**old.record["task"], "decision": asdict(decision)}
    cut_from = {"output": redacted(str(old.place)), "decision": asdict(old.decision)}
    record = {**old.record, "task": task, "cut_from": cut_from}
    if target.create(RECORD, json_text(record, indent=1).encode() + b"\n"):
        return
    found = StoredOutput.open(target)
    there = found.record.get("cut_from")
    if there is None or _without_path(found.record) != _without_path(record):
        what = "is the output of a job" if there is None else f"was cut from {there['output']}: {found.decision}"
        raise ConfigError(f"{target} {what}. Asked for: {decision}, from {old.place}. Choose another folder.")


def _without_path(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record, "cut_from": record["cut_from"]["decision"]}
