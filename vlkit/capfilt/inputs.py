"""What CapFilt reads: the records that a reader gives, the options of an input, and the shards that it consists of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vlkit.config.durations import Count
from vlkit.errors import ConfigError
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
    """Where images and texts are, and how much of them is taken in.

    Args:
        path: tar files as img2dataset writes them, or lists (.jsonl, .parquet, .json): a path, a pattern, a folder,
            an address that fsspec or an iopath handler reads, or several of these.
        max_image_bytes: of an encoded image.
        max_pixels: of a decoded image.
        max_text_bytes: of a text file, a JSON file, or a row of a list.
        rows_per_shard: how lists are cut.
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
