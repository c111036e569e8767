"""Write the files of one input shard: tars of images with texts, a table, a ledger, and last a manifest."""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from vlkit.capfilt import decision
from vlkit.capfilt.accounting import Counts
from vlkit.capfilt.inputs import Item, Refused
from vlkit.capfilt.storage import Storage
from vlkit.capfilt.tables import COLUMNS, FieldColumns, free_name, rounded, write_table
from vlkit.io.disk_errors import full_disk, is_full_disk
from vlkit.io.json import finite_or_none, json_text

KEPT, DROPPED, TABLES, LEDGER, DONE = "kept", "dropped", "tables", "ledger", "done"
"""Folders of the output; in each, a shard has one file."""
SUMMARY = "summary.json"
SUFFIXES = {KEPT: ".tar", DROPPED: ".tar", TABLES: ".parquet", LEDGER: ".jsonl", DONE: ".json"}
_OWN_KEYS = ("caption", "texts")  # of an image's JSON
_HASH = 16  # hexadecimal digits that name an image in the table


class Scored(decision.Scored, Protocol):
    """A text with its scores, as the model gives it."""

    @property
    def log_prob(self) -> float | None: ...


class Decides(Protocol):
    """Decide which texts of an image are kept."""

    def kept(self, texts: Sequence[Any]) -> list[bool]: ...

    def captions(self, texts: Sequence[Any]) -> list[str]: ...


@dataclass(frozen=True)
class RoundedText:
    """A text with its scores as they are written: the decision is made on these, so that it can be made again."""

    text: str
    source: str
    itm: float | None
    itc: float | None
    log_prob: float | None

    @classmethod
    def of(cls, text: Scored) -> RoundedText:
        """``text`` rounded; scores that are not finite numbers become None, and such a text is not kept."""
        return cls(text.text, text.source, rounded(text.itm), rounded(text.itc), rounded(text.log_prob))


def file_name(folder: str, shard: str) -> str:
    """Return the name of a shard's file in one of the folders."""
    return f"{folder}/{shard}{SUFFIXES[folder]}"


def hash_of(image: bytes) -> str:
    """Return the hash that identifies an image in the table."""
    return hashlib.sha256(image).hexdigest()[:_HASH]


def write_summary(place: Storage, counts: Counts) -> dict[str, Any]:
    """Write the counts of the whole job; equal in every process."""
    counts.check(counts.read, counts.web)
    summary = counts.as_dict()
    data = json_text(summary, indent=1).encode() + b"\n"
    if not place.exists(SUMMARY) or place.read_bytes(SUMMARY) != data:
        place.write_bytes(SUMMARY, data)
    return summary


class ShardOutput:
    """Write the output of one shard. Equal calls give equal bytes.

    Args:
        shard: its name.
        place: output folder.
        decision: which texts stay.
        store_dropped: whether images without a text are stored, too.
        store_images: whether any images are stored; False: the table is all there is of them.
    """

    def __init__(
        self, shard: str, place: Storage, decision: Decides, store_dropped: bool = True, store_images: bool = True
    ):
        self.shard, self.place, self.decision = shard, place, decision
        self.counts = Counts(shards=1)
        self._columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        self._fields = FieldColumns(COLUMNS)
        self._files: dict[str, HashedFile] = {}
        stored = [KEPT, *([DROPPED] if store_dropped else [])] if store_images else []
        with self._explained():
            for folder in (LEDGER, *stored):
                self._files[folder] = HashedFile(self._local(folder))

    def refuse(self, refused: Refused) -> None:
        """Record an input that gives no output."""
        line = asdict(refused)
        if refused.count == 1:
            del line["count"]
        with self._explained():
            self._files[LEDGER].write(json_text(line).encode() + b"\n")
        counters = {
            "image": self.counts.refused,
            "text": self.counts.web_refused,
            "fields": self.counts.fields_refused,
            "member": self.counts.members_refused,
            "shard": self.counts.damaged,
        }
        counters[refused.kind][refused.reason] += refused.count

    def add(self, item: Item, found: Sequence[Scored]) -> None:
        """Add an image with its texts."""
        texts = [RoundedText.of(text) for text in found]
        fields = {free_name(name, _OWN_KEYS): value for name, value in finite_or_none(item.fields).items()}
        self._fields.add(fields, len(texts))
        self._add(Item(item.key, item.image, item.extension, item.texts, fields), hash_of(item.image), texts)

    def add_stored(
        self, key: str, image: str, found: Sequence[Scored], columns: Mapping[str, Any], item: Item | None
    ) -> None:
        """Add an image of an earlier output.

        Args:
            key: of the sample.
            image: its hash in the table.
            found: its texts.
            columns: its fields in the table.
            item: its file and JSON; None: they are not stored.
        """
        texts = [RoundedText.of(text) for text in found]
        self._fields.add_columns(columns, len(texts))
        self._add(item or Item(key, b"", "", ()), image, texts)

    def _add(self, item: Item, image: str, texts: Sequence[RoundedText]) -> None:
        kept, captions = self.decision.kept(texts), self.decision.captions(texts)
        self._tabulate(item.key, image, texts, kept)
        self._count(texts, kept, bool(captions), len(item.texts))
        folder = KEPT if captions else DROPPED
        if folder not in self._files or not item.extension:
            return
        listed = [{**vars(text), "kept": stays} for text, stays in zip(texts, kept)]
        record = {**item.fields, "caption": captions, "texts": listed}
        with self._explained():
            self._files[folder].write(*tar_member(f"{item.key}.{item.extension}", item.image))
            self._files[folder].write(*tar_member(f"{item.key}.json", json_text(record).encode()))

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
            write_table(table, self._columns, self._fields.columns())
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
        self.place.write_bytes(file_name(DONE, self.shard), json_text(manifest, indent=1).encode() + b"\n")
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

    def _count(self, texts: Sequence[RoundedText], kept: Sequence[bool], stays: bool, web: int) -> None:
        counts = self.counts
        counts.kept += stays
        counts.dropped += not stays
        of_web = [stays for text, stays in zip(texts, kept) if text.source == "web"]
        counts.web_scored += len(of_web)
        counts.web_kept += sum(of_web)
        counts.web_unasked += max(0, web - len(of_web))
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
    """Return header, content and padding of a file in a tar; no time, no owner."""
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
        """SHA-256 of what was written so far."""
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
