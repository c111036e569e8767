"""Records and options of an input, names of its members, and local copies of remote files."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from vlkit.capfilt.backends import Store, store_of
from vlkit.config.durations import Count
from vlkit.datasets.shard_files import escaped
from vlkit.errors import ConfigError, VlkitError, redacted
from vlkit.io.disk_errors import full_disk, is_full_disk
from vlkit.io.fetch import local_path as package_path
from vlkit.processors.encoded import MAX_PIXELS
from vlkit.registry.bounds import FilledText, PositiveInt

REASONS = (
    "undecodable image",
    "empty image",
    "oversized image",
    "duplicate key",
    "no image",
    "unsafe name",
    "no text",
    "oversized text",
    "unreadable text",
    "truncated shard",
    "unreadable shard",
    "missing image file",
    "incomplete row",
    "unread member",
)
"""Why an input gives no output."""
_IMAGE_BYTES, _PIXELS, _TEXT_BYTES = Count(64_000_000), Count(MAX_PIXELS), Count(1_000_000)


@dataclass(frozen=True)
class Item:
    """An image to be captioned, with the texts that came with it.

    Args:
        key: unique in its shard; a safe relative name, printable.
        image: the encoded file, not yet decoded.
        extension: of the image file, in lower case, such as "jpg".
        texts: the web's captions; none: there is none that can be used, and a :class:`Refused` said why.
        fields: plain data that belong to the sample (address, scene, ...), unchanged, without the caption.
    """

    key: str
    image: bytes
    extension: str
    texts: tuple[str, ...]
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """An input that gives no output.

    Every image that a shard holds leads to exactly one :class:`Item` or one of these with the kind "image". Every
    text (each of a list of captions) leads to exactly one of ``Item.texts`` or one of these with the kind "text"; an
    item without any text has one too. The texts of a refused image are refused as "no image".

    Args:
        key: of the sample; the name of the shard for one and for members.
        kind: "image", "text", "fields" (the other data of a sample, which is used without them), "member" (files of a
            tar that are neither image nor text) or "shard" (all that is left of it).
        reason: one of ``REASONS``.
        detail: what is known beyond that, for people; may be empty.
        count: how many this stands for.
    """

    key: str
    kind: Literal["image", "text", "fields", "member", "shard"]
    reason: str
    detail: str = ""
    count: int = 1


@dataclass(frozen=True)
class InputOptions:
    """The section ``input`` of a job: where images and texts are, and limits.

    Args:
        path: tar files as img2dataset writes them, or lists (.jsonl, .parquet, .json): a path, a pattern, a folder,
            an address that fsspec or an iopath handler reads, or several of these.
        max_image_bytes: of an encoded image.
        max_pixels: of a decoded image.
        max_text_bytes: of a text file, a JSON file, or a row of a list.
        rows_per_shard: rows of a list in each shard.
        image_root: where the image names of a list start from; None: the folder of the list.
        image_key, caption_key: what holds them in a row; captions also in JSON files. None: ``image`` and ``caption``,
            or another common name (``jpg``, ``file_name``, ``text``, ``title``, ...).
        text: which file of a sample is its text where it has both.
    """

    path: FilledText | list[FilledText]
    max_image_bytes: Count = _IMAGE_BYTES
    max_pixels: Count = _PIXELS
    max_text_bytes: Count = _TEXT_BYTES
    rows_per_shard: PositiveInt = 10_000
    image_root: str | None = None
    image_key: str | None = None
    caption_key: str | None = None
    text: Literal["txt", "json"] = "txt"

    def __post_init__(self) -> None:
        limits = ("max_image_bytes", "max_pixels", "max_text_bytes")
        problems = [f"{name}: 0 given, at least 1 allowed." for name in limits if getattr(self, name) < 1]
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class InputShard:
    """A part of the input: the unit of work.

    Args:
        name: unique in the input, and safe as a file name without suffix.
        kind: "tar", or "rows" of a list.
        path: of the tar or the list; may be an address.
        first: the row it starts with, from 0.
        count: how many rows it has; None: a tar, or up to the end of the list.
        offset: bytes before row ``first`` in a list of JSON.
    """

    name: str
    kind: Literal["tar", "rows"]
    path: str
    first: int = 0
    count: int | None = None
    offset: int = 0


logger = logging.getLogger(__name__)
T = TypeVar("T")
TRIES = 3
PAUSE = 1.0
"""Seconds before the second try; twice that before the third."""
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_LASTING_NUMBERS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


def local_path(path: str) -> Path | None:
    """Return the local file that ``path`` means; None: it is remote."""
    scheme = urlsplit(path).scheme if "://" in path else ""
    if scheme == "package":
        return package_path(path)
    if scheme in ("file", "local"):
        return Path(url2pathname(urlsplit(path).path))
    return None if scheme else Path(os.path.expanduser(path))


def beside(url: str) -> tuple[Store, str]:
    """Return the storage of a remote file, and its name there.

    Raises:
        VlkitError: there is no such kind of address, or the package for it is not installed.
    """
    folder, _, name = url.rpartition("/")
    return store_of(folder), name


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """Yield a local file: ``path`` itself, or a copy of a remote one that is removed afterwards.

    Raises:
        OSError: it cannot be read, several times.
        VlkitError: no such kind of address; or this machine's disk is full.
    """
    here = local_path(path)
    if here is not None:
        yield here
        return
    with tempfile.TemporaryDirectory(prefix="vlkit-") as folder:
        yield _download(path, Path(folder, "input"))


@functools.lru_cache(maxsize=2)
def kept_copy(path: str) -> KeptCopy:
    """Return a copy that is kept until others replace it or the process ends: for a list, which is read
    once for every shard of it."""
    return KeptCopy(path)


class KeptCopy:
    """A local file, or the copy of a remote one that is removed with this object.

    Args:
        path: of it, or its address.
    """

    def __init__(self, path: str):
        here = local_path(path)
        self._folder = None if here else tempfile.TemporaryDirectory(prefix="vlkit-")
        self.file = here or _download(path, Path(self._folder.name, "input"))  # type: ignore[union-attr]


def tried(action: Callable[[], T], what: str, errors: type[Exception] = OSError) -> T:
    """Return the result of ``action``; retry after errors that may be temporary.

    Args:
        action: done up to three times.
        what: for the log.
        errors: those that may pass; a library of a storage raises any.

    Raises:
        OSError: it failed each time, or in a way that will not pass.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return action()
        except (*_LASTING, VlkitError):
            raise
        except errors as error:
            lasts = is_full_disk(error) or getattr(error, "errno", None) in _LASTING_NUMBERS
            if lasts or attempt == TRIES:
                raise error if isinstance(error, OSError) else OSError(type(error).__name__) from error
            logger.warning("%s: %s; trying again", redacted(what), redacted(str(error), what))
            time.sleep(PAUSE * 2 ** (attempt - 1))
    raise RuntimeError("unreachable")


def reason(error: OSError) -> str:
    """Describe an error in words that are the same on every machine, without its path or a request number."""
    return error.strerror or type(error.__cause__ or error).__name__


def _download(url: str, target: Path) -> Path:
    store, name = beside(url)

    def copy() -> Path:
        with store.open(name) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        return target

    try:
        return tried(copy, url, Exception)
    except OSError as error:
        if is_full_disk(error):
            raise full_disk(target, target.stat().st_size if target.exists() else 0) from error
        raise


LONGEST_PART, LONGEST = 240, 1000  # bytes; file systems take 255 in a part, and a suffix is still to come
_SHOWN = 120
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def fault(name: str) -> str:
    """Explain why files must not be called ``name``; "": they may."""
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return "an absolute path"
    parts = re.split(r"[/\\]", name)
    if ".." in parts:
        return "leads out of its folder"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        return "holds control characters"
    if len(name.encode()) > LONGEST or any(len(part.encode()) > LONGEST_PART for part in parts):
        return f"longer than {LONGEST_PART} bytes"
    return "" if parts[-1] else "empty"


def shown(name: str) -> str:
    """Make a name printable; different names stay different."""
    text = "".join(c if c.isprintable() else f"%{ord(c):02X}" for c in escaped(name))
    if len(text) <= _SHOWN:
        return text
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{text[:_SHOWN]}...{digest}"


def shard_names(stems: list[str]) -> list[str]:
    """Return safe and unique names of shards: ``stems``, or with their number in front where those are not unique."""
    safe = [re.sub(r"[^\w.-]", "_", stem, flags=re.ASCII).lstrip(".-")[:100] or "shard" for stem in stems]
    if len({name.casefold() for name in safe}) == len(safe):
        return safe
    width = max(5, len(str(len(safe))))
    return [f"{number:0{width}d}-{name}" for number, name in enumerate(safe)]


def seed_of(key: str, seed: int) -> int:
    """Return the seed of the image ``key`` in a job with ``seed``, the same in any batch and process.

    Returns:
        0 .. 2**63 - 1.
    """
    digest = hashlib.blake2b(f"{seed}:{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
