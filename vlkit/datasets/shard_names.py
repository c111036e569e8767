"""Names in webdataset shards: which members of a tar belong to one sample.

``web_shards`` and CapFilt both group members by :func:`split_name` and :func:`is_further_image`, so that a shard holds
the same samples for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

IMAGES = ("jpg", "jpeg", "png", "webp")
OTHER_IMAGES = ("gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jp2", "jxl")
"""Suffixes of images that are not read from shards."""
TEXTS = ("txt", "json")


class MemberName(NamedTuple):
    """What the name of a member says.

    Args:
        key: of the sample that it belongs to.
        suffix: what is behind the last dot, in lower case; "" if there is none.
        kind: "image", "txt", "json", "other image", or "" for anything else.
    """

    key: str
    suffix: str
    kind: str


def escaped(name: str) -> str:
    """``name`` with every byte that is not UTF-8 as ``%FF``."""
    return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name)


def split_name(name: str, image_key: str | None = None) -> MemberName | None:
    """The key and the suffix of a member.

    The suffix starts at the last dot of the base name, everything before it is the key: ``a.b.jpg`` and ``a.c.jpg`` are
    two samples. (The package webdataset splits at the first dot and takes both for parts of the sample ``a``, where
    one hides the other. For keys without dots the rules are equal.) ``./000.jpg`` and ``000.jpg`` have one key.

    Args:
        name: as the tar has it.
        image_key: the suffix of the images ("png", "seg.png"); None: any of ``IMAGES``. Other images are then no part
            of a sample.

    Returns:
        None for folders and for what macOS adds to archives (``._000.jpg``, ``__MACOSX/``). The key is empty, or ends
        with a slash, where a name is a suffix alone.
    """
    parts = name.split("/")
    if not parts[-1] or parts[-1].startswith("._") or parts[0] == "__MACOSX":
        return None
    plain = [part for part in parts[:-1] if part not in ("", ".")]
    folder = "/" * name.startswith("/") + "".join(f"{part}/" for part in plain)
    if image_key is not None and parts[-1].lower().endswith(f".{image_key.lower()}"):
        suffix = image_key.rpartition(".")[2].lower()
        return MemberName(folder + parts[-1][: -len(image_key) - 1], suffix, suffix if suffix in TEXTS else "image")
    base, dot, suffix = parts[-1].rpartition(".")
    if not dot:
        return MemberName(folder + parts[-1], "", "")
    return MemberName(folder + base, suffix.lower(), _kind(suffix.lower(), image_key is None))


def _kind(suffix: str, images: bool) -> str:
    if suffix in TEXTS:
        return suffix
    kind = "image" if suffix in IMAGES else "other image" if suffix in OTHER_IMAGES else ""
    return kind if images else ""


def is_further_image(key: str, samples: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the image of ``key`` is one more image of another sample, as ``a.seg.png`` is of ``a``, and no sample.

    It is where it has no text, and a sample of a shorter key (``a`` for ``a.seg``) has an image and a text.

    Args:
        key: of a sample with an image.
        samples: key to what there is of it: "image", "txt", "json".
    """
    if any(kind in samples[key] for kind in TEXTS):
        return False
    folder, slash, base = key.rpartition("/")
    while "." in base:
        base = base.rpartition(".")[0]
        other = samples.get(f"{folder}{slash}{base}", {})
        if "image" in other and any(kind in other for kind in TEXTS):
            return True
    return False
