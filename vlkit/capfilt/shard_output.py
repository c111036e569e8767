"""The files that one input shard becomes: tars of images with their texts, a table, a ledger, and last a manifest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vlkit.capfilt import decision
from vlkit.capfilt.accounting import Counts
from vlkit.capfilt.inputs import Item, Refused
from vlkit.capfilt.place import Place
from vlkit.capfilt.tables import COLUMNS, rounded, write_table
from vlkit.io import full_disk, is_full_disk

KEPT, DROPPED, TABLES, LEDGER, DONE = "kept", "dropped", "tables", "ledger", "done"
"""Folders of the output; in each, a shard has one file."""
SUMMARY = "summary.json"
SUFFIXES = {KEPT: ".tar", DROPPED: ".tar", TABLES: ".parquet", LEDGER: ".jsonl", DONE: ".json"}
_HASH = 16  # hexadecimal digits that name an image in the table


class Scored(decision.Scored, Protocol):
    """A text with its scores, as the model gives it."""

    @property
    def log_prob(self) -> float | None: ...


class Decides(Protocol):
    """Which texts of an image stay."""

    def kept(self, texts: Sequence[Any]) -> list[bool]: ...

    def captions(self, texts: Sequence[Any]) -> list[str]: ...


@dataclass(frozen=True)
class RoundedText:
    """A text with its scores as they are written: the decision is made on these, so that it can be made again."""

    text: str
    source: str
    itm: float
    itc: float | None
    log_prob: float | None

    @classmethod
    def of(cls, text: Scored) -> RoundedText:
        """``text`` rounded."""
        scores = (rounded(float(text.itm)), rounded(text.itc), rounded(text.log_prob))
        return cls(text.text, text.source, *scores)  # type: ignore[arg-type]


def file_name(folder: str, shard: str) -> str:
    """Where a shard's file of one kind lies in the output folder."""
    return f"{folder}/{shard}{SUFFIXES[folder]}"


def hash_of(image: bytes) -> str:
    """What the table calls an image."""
    return hashlib.sha256(image).hexdigest()[:_HASH]


def write_summary(place: Place, counts: Counts) -> dict[str, Any]:
    """Write the counts over everything; equal whoever writes them."""
    counts.check(counts.read, counts.web)
    summary = counts.as_dict()
    data = json.dumps(summary, indent=1).encode() + b"\n"
    if not place.exists(SUMMARY) or place.read_bytes(SUMMARY) != data:
        place.write_bytes(SUMMARY, data)
    return summary


class ShardOutput:
    """Writes the output of one shard. Equal calls give equal bytes.

    Args:
        shard: its name.
        place: output folder.
        decision: which texts stay.
        store_dropped: whether images without a text are stored, too.
    """

    def __init__(self, shard: str, place: Place, decision: Decides, store_dropped: bool = True):
        self.shard, self.place, self.decision, self.store_dropped = shard, place, decision, store_dropped
        self.counts = Counts(shards=1)
        self._columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        self._files: dict[str, HashedFile] = {}
        with self._explained():
            for folder in (KEPT, LEDGER, *([DROPPED] if store_dropped else [])):
                self._files[folder] = HashedFile(self._local(folder))

    def refuse(self, refused: Refused) -> None:
        """An input that gives no output."""
        line = {"key": refused.key, "kind": refused.kind, "reason": refused.reason, "detail": refused.detail}
        with self._explained():
            self._files[LEDGER].write(json.dumps(line).encode() + b"\n")
        counters = {
            "image": self.counts.refused,
            "text": self.counts.web_refused,
            "fields": self.counts.fields_refused,
            "shard": self.counts.damaged,
        }
        counters[refused.kind][refused.reason] += 1

    def add(self, item: Item, found: Sequence[Scored]) -> None:
        """An image with all texts that there are for it."""
        texts = [RoundedText.of(text) for text in found]
        kept, captions = self.decision.kept(texts), self.decision.captions(texts)
        self._tabulate(item.key, hash_of(item.image), texts, kept)
        self._count(texts, kept, bool(captions), item.text is not None)
        folder = KEPT if captions else DROPPED
        if folder not in self._files:
            return
        listed = [{**vars(text), "kept": stays} for text, stays in zip(texts, kept)]
        record = {**item.fields, "caption": captions, "texts": listed}
        with self._explained():
            self._files[folder].write(*tar_member(f"{item.key}.{item.extension}", item.image))
            self._files[folder].write(*tar_member(f"{item.key}.json", json.dumps(record, default=str).encode()))

    def add_dropped(self, key: str, image: str, found: Sequence[Scored]) -> None:
        """An image without a kept text that is not at hand any more.

        Args:
            key: of the sample.
            image: its hash in the table.
            found: its texts.
        """
        texts = [RoundedText.of(text) for text in found]
        self._tabulate(key, image, texts, [False] * len(texts))
        self._count(texts, [False] * len(texts), False, False)

    def finish(self, images: int, texts: int) -> Counts:
        """Make the files appear, the manifest last.

        Args:
            images, texts: that were met in the shard.

        Raises:
            RuntimeError: what was counted does not add up; nothing appears.
            VlkitError: no space is left, or the output folder cannot be written.
        """
        self.counts.check(images, texts)
        with self._explained():
            for folder, file in self._files.items():
                file.close(_TAR_END if SUFFIXES[folder] == ".tar" else b"")
            facts = {folder: (file.size, file.sha256) for folder, file in self._files.items()}
            table = self._local(TABLES)
            write_table(table, self._columns)
            data = table.read_bytes()
            facts[TABLES] = (len(data), hashlib.sha256(data).hexdigest())
        names = {file_name(folder, self.shard): fact for folder, fact in sorted(facts.items())}
        for folder in facts:
            self.place.put(file_name(folder, self.shard), self._local(folder))
        manifest = {
            "shard": self.shard,
            "files": {name: {"size": size, "sha256": sha256} for name, (size, sha256) in names.items()},
            "counts": self.counts.as_dict(),
        }
        self.place.write_bytes(file_name(DONE, self.shard), json.dumps(manifest, indent=1).encode() + b"\n")
        return self.counts

    def discard(self) -> None:
        """Remove what was written so far."""
        for file in self._files.values():
            file.discard()
        with contextlib.suppress(OSError):
            self._local(TABLES).unlink()

    def _tabulate(self, key: str, image: str, texts: Sequence[RoundedText], kept: Sequence[bool]) -> None:
        index, numbers = self.counts.annotated, dict[str, int]()
        for text, stays in zip(texts, kept):
            number = numbers[text.source] = numbers.get(text.source, -1) + 1
            row = (key, index, text.source, number, text.text, text.itm, text.itc, text.log_prob, stays, image)
            for column, value in zip(self._columns.values(), row):
                column.append(value)

    def _count(self, texts: Sequence[RoundedText], kept: Sequence[bool], stays: bool, has_web: bool) -> None:
        counts = self.counts
        counts.kept += stays
        counts.dropped += not stays
        of_web = [stays for text, stays in zip(texts, kept) if text.source == "web"]
        counts.web_scored += len(of_web)
        counts.web_kept += sum(of_web)
        counts.web_unasked += has_web and not of_web
        counts.synthetic += len(texts) - len(of_web)
        counts.synthetic_kept += sum(kept) - sum(of_web)

    def _local(self, folder: str) -> Path:
        return self.place.scratch / f"{folder}-{self.shard}{SUFFIXES[folder]}"

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if is_full_disk(error):
                written = sum(file.size for file in self._files.values())
                raise full_disk(self.place.scratch, written) from error
            raise


_BLOCK = tarfile.BLOCKSIZE
_TAR_END = bytes(2 * _BLOCK)


def tar_member(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, content and padding of a file in a tar; no time, no owner."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"), data, bytes(-len(data) % _BLOCK)


class HashedFile:
    """A file that knows its size and SHA-256 without being read again.

    Args:
        path: where it is written.
    """

    def __init__(self, path: Path):
        self.path, self.size = path, 0
        self._hash = hashlib.sha256()
        self._file = open(path, "wb")  # noqa: SIM115  (it is open from one image to the next)

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return self._hash.hexdigest()

    def write(self, *parts: bytes) -> None:
        """Append ``parts``."""
        data = b"".join(parts)
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def close(self, end: bytes = b"") -> None:
        """Append ``end`` and close the file."""
        self.write(end)
        self._file.close()

    def discard(self) -> None:
        """Close and remove the file."""
        with contextlib.suppress(OSError):  # what could not be flushed is not wanted any more
            self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
