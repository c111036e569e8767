"""Read the output of a CapFilt job: manifests, images with their texts, ledgers, tables."""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import IO, Any

from vlkit.capfilt.accounting import Counts, total
from vlkit.capfilt.decision import Decision
from vlkit.capfilt.inputs import Refused
from vlkit.capfilt.shard_output import DONE, DROPPED, KEPT, LEDGER, SUFFIXES, TABLES, file_name
from vlkit.capfilt.storage import Storage
from vlkit.capfilt.tables import COLUMNS
from vlkit.datasets.shard_files import CAPFILT_RECORD
from vlkit.errors import DataError
from vlkit.io.json import JsonError, parse_json

RECORD = CAPFILT_RECORD
NOT_READ = "not_read"
"""Key of the record: a description of the files of the input that are not read."""
_BATCH_ROWS = 1 << 15


@dataclass(frozen=True)
class StoredImage:
    """An image of ``kept`` or ``dropped``.

    Args:
        key: of the sample.
        extension: of the image file.
        image: the encoded file.
        record: all of its JSON: the fields of the input, ``caption`` and ``texts``.
    """

    key: str
    extension: str
    image: bytes
    record: dict[str, Any]


@dataclass(frozen=True)
class StoredShard:
    """One finished shard of an output folder.

    Args:
        place: the output folder.
        name: of the shard.
        files: names of its files to their sizes and SHA-256.
        counts: what became of its input.

    All methods raise :class:`~vlkit.errors.DataError` where a file is damaged.
    """

    place: Storage
    name: str
    files: dict[str, dict[str, Any]]
    counts: Counts

    @classmethod
    def of(cls, place: Storage, name: str) -> StoredShard:
        """Read the manifest ``done/<name>.json``."""
        file = file_name(DONE, name)
        try:
            manifest = parse_json(place.read_bytes(file), file)
            return cls(place, name, manifest["files"], Counts.from_dict(manifest["counts"]))
        except (DataError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{place}/{file}: is no manifest of a shard ({error!r}).") from error

    @property
    def has_images(self) -> bool:
        """Whether images were stored at all (``run.output: shards``)."""
        return file_name(KEPT, self.name) in self.files

    @property
    def has_dropped(self) -> bool:
        """Whether images without a kept text were stored."""
        return file_name(DROPPED, self.name) in self.files

    def images(self, folder: str) -> Iterator[StoredImage]:
        """Iterate over the images in ``folder`` ("kept" or "dropped"); the checksum is verified at the end."""
        with self._checked(folder) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            image: tuple[str, bytes] | None = None
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # it would remember all of them
                data = tar.extractfile(member).read()  # type: ignore[union-attr]
                if image is None:
                    image = member.name, data
                    continue
                yield _pair(*image, member.name, data)
                image = None

    def some_images(self, folder: str, keys: Container[str] | None = None) -> Iterator[StoredImage]:
        """Iterate over the images with ``keys`` (None: all) in ``folder``, without verifying the checksum."""
        name = file_name(folder, self.name)
        with self._explained(name), self.place.open(name) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            image = None
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]
                if keys is None or _key(member.name) in keys:
                    data = tar.extractfile(member).read()  # type: ignore[union-attr]
                    if image is not None:
                        yield _pair(*image, member.name, data)
                    image = (member.name, data) if image is None else None

    def ledger(self) -> Iterator[Refused]:
        """Iterate over the inputs that gave no output."""
        name = file_name(LEDGER, self.name)
        with self._checked(LEDGER) as file:
            for line in file:
                yield Refused(**parse_json(line, name))

    def table(self, columns: tuple[str, ...] | None = tuple(COLUMNS)) -> Iterator[Any]:
        """Iterate over the table in parts of type ``pyarrow.Table``; the texts of one image are in one part.

        Args:
            columns: that are read; None: all, with the fields of the input.
        """
        import pyarrow
        from pyarrow import parquet

        name = file_name(TABLES, self.name)
        with self._explained(name), self.place.open(name) as file:
            waiting = None
            chosen = None if columns is None else list(columns)
            for batch in parquet.ParquetFile(file).iter_batches(_BATCH_ROWS, columns=chosen):
                part = pyarrow.Table.from_batches([batch])
                if waiting is not None:
                    part = pyarrow.concat_tables([waiting, part])
                index = part["index"].to_numpy()
                whole = int((index != index[-1]).sum())  # the rest of the last image may be in the next part
                if whole:
                    yield part.slice(0, whole)
                waiting = part.slice(whole)
            if waiting is not None:
                yield waiting

    def check(self, folder: str) -> None:
        """Verify the checksum of the file of ``folder``."""
        with self._checked(folder):
            pass

    @contextlib.contextmanager
    def _checked(self, folder: str) -> Iterator[IO[bytes]]:
        """Open a file of the shard, and verify its checksum when it is closed without an error."""
        name = file_name(folder, self.name)
        with self._explained(name), self.place.open(name) as plain:
            file = _Hashing(plain)
            yield file  # type: ignore[misc]
            file.drain()
            if file.sha256 != self.files[name]["sha256"]:
                raise DataError(f"{self.place}/{name}: differs from its manifest: it was damaged or changed.")

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError, tarfile.TarError, JsonError) as error:
            raise DataError(f"{self.place}/{name}: is damaged, or no output of vlkit capfilt ({error!r}).") from error


@dataclass(frozen=True)
class StoredOutput:
    """An output folder.

    Args:
        place: where it is.
        record: what ``capfilt.json`` says of the job.
        decision: that it was made with.
        shards: those that are done, in the order of the input.
    """

    place: Storage
    record: dict[str, Any]
    decision: Decision
    shards: list[StoredShard]

    @classmethod
    def open(cls, place: Storage) -> StoredOutput:
        """Open the output in ``place``.

        Raises:
            DataError: there is none, or it is damaged.
        """
        if not place.exists(RECORD):
            raise DataError(f"{place} is no output folder of vlkit capfilt: there is no {RECORD} in it.")
        try:
            record = parse_json(place.read_bytes(RECORD), RECORD)
            names, decision = list(record["inputs"]), Decision(**(record["task"].get("decision") or {}))
        except (DataError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{place}/{RECORD} is damaged ({error!r}).") from error
        done = set(place.list(DONE))
        found = [StoredShard.of(place, name) for name in names if f"{name}{SUFFIXES[DONE]}" in done]
        return cls(place, record, decision, found)

    @property
    def missing(self) -> int:
        """Number of shards of the input that are not done yet."""
        return len(self.record["inputs"]) - len(self.shards)

    @property
    def counts(self) -> Counts:
        """Counts of the finished shards."""
        return total(shard.counts for shard in self.shards)


class _Hashing:
    """A file that hashes what is read of it."""

    def __init__(self, file: IO[bytes]):
        self._file, self._hash = file, hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        return data

    def __iter__(self) -> Iterator[bytes]:
        for line in self._file:
            self._hash.update(line)
            yield line

    def drain(self) -> None:
        """Read the rest."""
        while self.read(1 << 20):
            pass


def _key(name: str) -> str:
    """Return the key of a member ``<key>.<extension>``."""
    return name.rpartition(".")[0]


def _pair(name: str, image: bytes, json_name: str, data: bytes) -> StoredImage:
    key = _key(name)
    if json_name != f"{key}.json":
        raise ValueError(f"{json_name!r} follows {name!r}")
    record = parse_json(data, json_name)
    if not isinstance(record["texts"], list):
        raise ValueError(f"{json_name!r} has no list of texts")
    return StoredImage(key, name[len(key) + 1 :], image, record)


__all__ = ["DROPPED", "KEPT", "RECORD", "StoredImage", "StoredOutput", "StoredShard"]
