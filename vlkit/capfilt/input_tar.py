"""Read the images and texts of a webdataset tar in its order; every member is used or counted as refused."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Literal, NamedTuple

from vlkit.capfilt.input_texts import Fault, RowKeys, TextFile, WebText, web_text
from vlkit.capfilt.inputs import InputOptions, Item, Refused, fault, reason, shown, tried
from vlkit.datasets.shard_files import IMAGES, OTHER_IMAGES, TEXTS, escaped, is_further_image, split_name, why_not_tar
from vlkit.datasets.tar_index import FILES, entries

MOST_MEMBERS = 1_000_000
"""Of a shard. They are held in memory, at some hundred bytes each; img2dataset writes 30,000."""
_NAMED = 3


class _Member(NamedTuple):
    start: int
    size: int
    suffix: str
    fault: Fault | None


@dataclass
class _Sample:
    """The members with one key; of those with one kind the first."""

    fault: str
    parts: dict[str, _Member] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)


class _Listing:
    """The samples of a tar in the order of their first members, by whether the key is safe and how it is written.

    Attributes:
        unread: members that are neither image nor text, by suffix.
        damage: why it cannot be read to its end.
    """

    def __init__(self, file: Path):
        self.samples: dict[tuple[bool, str], _Sample] = {}
        self.unread: dict[str, list[str]] = {}
        self.damage = ""
        try:
            for number, (name, start, size, type) in enumerate(entries(file)):
                if number == MOST_MEMBERS:
                    self.damage = f"more than {MOST_MEMBERS} members"
                    break
                self._add(name, start, size, type)
        except tarfile.ReadError as error:
            self.damage = (not self.samples and why_not_tar(file)) or str(error)
        self._leave_further_images()

    def _leave_further_images(self) -> None:
        """Move masks and the like, ``a.seg.png`` of the sample ``a``, to the unread members, as ``web_shards`` does."""
        parts = {
            key: {kind: part for kind, part in sample.parts.items() if not part.fault}
            for (safe, key), sample in self.samples.items()
            if safe
        }
        for key in [key for key in parts if "image" in parts[key] and is_further_image(key, parts)]:
            suffix = f".{key.rpartition('/')[2].partition('.')[2]}.{parts[key]['image'].suffix}"
            self.unread.setdefault(suffix, []).append(key)
            del self.samples[True, key]

    def _add(self, name: str, start: int, size: int, type: bytes) -> None:
        found = split_name(name)
        if found is None or type == tarfile.DIRTYPE:
            return
        suffix = found.suffix
        if not found.kind:
            self.unread.setdefault(f".{suffix}" if suffix else "without a suffix", []).append(name)
            return
        kind = suffix if suffix in TEXTS else "image"
        problem: Fault | None = None
        if type not in FILES:
            problem = Fault("unsafe name", "a link, a sparse file, or another thing that is no plain file")
        elif suffix in OTHER_IMAGES:
            problem = Fault("undecodable image", f".{suffix} given; shards hold {', '.join(IMAGES)}")
        stem = escaped(found.key)
        wrong = fault(stem)
        sample = self.samples.setdefault((not wrong, shown(stem) if wrong else stem), _Sample(wrong))
        first = sample.parts.get(kind)
        if first is not None:
            sample.repeated.append(kind)
        if first is None or (first.fault and not problem):  # a.gif does not hide a.jpg
            sample.parts[kind] = _Member(start, size, suffix, problem)


def read_tar(name: str, file: Path, options: InputOptions) -> Iterator[Item | Refused]:
    """Read a tar.

    Names are keys and nothing more: no file is ever made of them. Nothing is read that is larger than the options
    allow, whatever headers claim.

    Args:
        name: of the shard, for what is said about all of it.
        file: on this machine.
        options: limits.
    """
    try:
        listing = tried(partial(_Listing, file), name)
    except OSError as error:
        yield Refused(name, "shard", "unreadable shard", reason(error))
        return
    last, keys = "", RowKeys(options)
    try:
        with open(file, "rb") as stream:
            for (_, key), sample in listing.samples.items():
                yield from _SampleReader(key, sample, stream, keys, options).read()
                last = key
    except OSError as error:
        yield _damage(name, f"after {last!r}: {reason(error)}" if last else reason(error), bool(last))
        return
    for suffix, members in sorted(listing.unread.items()):
        some = ", ".join(shown(each) for each in members[:_NAMED]) + ", ..." * (len(members) > _NAMED)
        yield Refused(name, "member", "unread member", f"{shown(suffix)} ({some})", len(members))
    if listing.damage:
        yield _damage(name, listing.damage, bool(listing.samples))


def _damage(name: str, detail: str, begun: bool) -> Refused:
    return Refused(name, "shard", "truncated shard" if begun else "unreadable shard", detail)


@dataclass
class _SampleReader:
    """Read one sample."""

    key: str
    sample: _Sample
    stream: IO[bytes]
    keys: RowKeys
    options: InputOptions

    def read(self) -> Iterator[Item | Refused]:
        parts = self.sample.parts
        problem = self._image_fault()
        if problem is None:
            yield from self._item()
        else:
            if "image" in parts:
                yield Refused(self.key, "image", *problem)
            if "txt" in parts or "json" in parts:
                count = 1 if self.sample.fault else max(1, len(self._texts().texts))
                why = problem if self.sample.fault else Fault("no image", problem.reason)
                yield from [Refused(self.key, "text", *why)] * count
        for kind in self.sample.repeated:
            beside_text = kind == "json" and "txt" in parts
            said: Literal["image", "text", "fields"] = "fields" if beside_text else "text"
            yield Refused(self.key, "image" if kind == "image" else said, "duplicate key", f"another {kind}")

    def _image_fault(self) -> Fault | None:
        """Explain why the sample gives no item; None: it gives one."""
        if self.sample.fault:
            return Fault("unsafe name", self.sample.fault)
        image = self.sample.parts.get("image")
        if image is None:
            return Fault("no file of an image")
        if image.fault:
            return image.fault
        if image.size == 0:
            return Fault("empty image", "0 bytes")
        if image.size > self.options.max_image_bytes:
            return Fault("oversized image", f"{image.size} bytes, {self.options.max_image_bytes} allowed")
        return None

    def _item(self) -> Iterator[Item | Refused]:
        image = self.sample.parts["image"]
        data, found = self._bytes(image), self._texts()
        yield from found.refused
        yield Item(self.key, data, image.suffix, found.texts, found.fields)

    def _texts(self) -> WebText:
        texts = {kind: self.sample.parts[kind] for kind in TEXTS if kind in self.sample.parts}
        files = {kind: TextFile(each.size, partial(self._bytes, each)) for kind, each in texts.items()}
        return web_text(self.key, files, self.keys, self.options)

    def _bytes(self, member: _Member) -> bytes:
        """Raises:
        OSError: it cannot be read, or is not there any more.
        """

        def read() -> bytes:
            self.stream.seek(member.start)
            data = self.stream.read(member.size)
            if len(data) < member.size:
                raise OSError("the file became shorter")
            return data

        return tried(read, self.key)
