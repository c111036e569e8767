"""Which shard files a path means: a file, a brace pattern, a pattern of the shell, a folder."""

from __future__ import annotations

import glob
import math
import os
import re
from pathlib import Path

from vlkit.datasets.foreign_files import COMPRESSED, is_tar_name, stem_of, why_not_tar
from vlkit.errors import DataError, VlkitError
from vlkit.io.files import local_path

WILD = "*?["
CAPFILT_RECORD = "capfilt.json"
MAX_SHARDS = 1_000_000
"""Most names that the braces of a pattern may stand for."""


def expand(path: str) -> list[Path]:
    """The files that a path on this machine means, in order; of a folder its ``*.tar``, in upper or lower case.

    Those that a brace pattern or a plain path names need not exist. Of a folder, compressed tars are given too, unless
    they lie next to the tar that they hold: :func:`check_found` names them.

    Raises:
        DataError: a folder or a pattern holds nothing.
    """
    try:
        place = local_path(path)
    except VlkitError as error:
        raise DataError(str(error)) from error
    if place.is_dir():
        found = sorted(each for each in place.iterdir() if is_tar_name(each.name) and each.is_file())
        plain = {stem_of(each) for each in found if each.suffix.lower() == ".tar"}
        found = [each for each in found if each.suffix.lower() == ".tar" or stem_of(each) not in plain]
        if not found:
            raise DataError(f"{place}: the folder holds no *.tar file.{_advice(place)}")
        return found
    if place.is_file():  # a file may have braces in its name; a pattern names no file
        return [place]
    found = []
    for each in expand_braces(str(place)):
        matches = sorted(map(Path, glob.glob(each, recursive=True))) if set(WILD) & set(each) else [Path(each)]
        if not matches:
            raise DataError(f"{each}: no file is called like that. Correct 'path'.")
        found += matches
    return found


def expand_braces(pattern: str) -> list[str]:
    """The paths or addresses that a pattern with braces means: ``{0000..0331}``, ``{a,b}``.

    Raises:
        DataError: a brace has no other, or there are more than :data:`MAX_SHARDS` of them.
    """
    from webdataset.shardlists import expand_urls

    if _count(pattern) > MAX_SHARDS:
        raise DataError(f"{pattern}: the braces stand for more than {MAX_SHARDS:,} names.")
    try:
        return expand_urls(pattern)
    except ValueError as error:
        raise DataError(f"{pattern}: {error}. Each '{{' needs its '}}'.") from error


def _count(pattern: str) -> int:
    """How many names a pattern stands for at most, counted from the innermost braces outwards."""
    counts: list[int] = []

    def product(text: str) -> int:
        return math.prod(counts[int(number)] for number in re.findall("\0([0-9]+)\0", text))

    pattern = re.sub(r"\\.|\0", "", pattern, flags=re.DOTALL)
    while braces := re.search(r"\{([^{}]*)\}", pattern):
        span = re.fullmatch(r"(-?[0-9]{1,30})\.\.(-?[0-9]{1,30})(?:\.\.-?([0-9]{1,30}))?", braces[1])
        if span:
            counts.append(abs(int(span[2]) - int(span[1])) // (int(span[3] or 1) or 1) + 1)
        elif re.fullmatch(r"[A-Za-z]\.\.[A-Za-z](?:\.\..*)?", braces[1]):
            counts.append(52)
        else:
            counts.append(sum(map(product, braces[1].split(","))))
        pattern = f"{pattern[: braces.start()]}\0{len(counts) - 1}\0{pattern[braces.end() :]}"
    return product(pattern)


def check_found(path: object, shards: list[Path]) -> list[Path]:
    """``shards`` as they are, if all exist and are different.

    Args:
        path: what was given for them.

    Raises:
        DataError: one is missing, compressed, or named twice, or there is none.
    """
    missing = [str(shard) for shard in shards if not os.path.isfile(shard)]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(f"shards that do not exist: {', '.join(missing[:3])}{more}. Correct 'path', or fetch them.")
    named = [shard for shard in shards if shard.name.lower().endswith(COMPRESSED)]
    packed = [f"{shard}: {why}" for shard in named if (why := why_not_tar(shard))]
    if packed:
        more = f" And {len(packed) - 3} more." if len(packed) > 3 else ""
        raise DataError(f"{'. '.join(packed[:3])}.{more}")
    if not shards or len(set(shards)) < len(shards):
        raise DataError(f"path: {path} names {'a shard twice' if shards else 'no shard'}.")
    return shards


def _advice(folder: Path) -> str:
    if (folder / CAPFILT_RECORD).exists():
        if not (folder / "kept").is_dir() and (folder / "tables").is_dir():
            return " It is an output of vlkit capfilt without images: they were not stored (run.output: scores)."
        return f" It is an output of vlkit capfilt: what that kept is in {folder / 'kept'}."
    below = sorted({file.parent for file in folder.glob("*/*.tar")})
    if below:
        return f" Folders in it hold some: set 'path' to {below[0]}, or to the pattern {folder / '*/*.tar'}."
    return " Set 'path' to webdataset shards."
