"""Which shard files a path means: a file, a brace pattern, a pattern of the shell, a folder."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from vlkit.datasets.foreign_files import COMPRESSED, is_tar_name, stem_of, why_not_tar
from vlkit.errors import DataError, VlkitError
from vlkit.io import local_path

WILD = "*?["
CAPFILT_RECORD = "capfilt.json"


def expand(path: str) -> list[Path]:
    """The files that a path on this machine means, in order; of a folder its ``*.tar``, in upper or lower case.

    Those that a brace pattern or a plain path names need not exist. Of a folder, compressed tars are given too, unless
    they lie next to the tar that they hold: :func:`check_found` names them.

    Raises:
        DataError: a folder or a pattern holds nothing.
    """
    from webdataset.shardlists import expand_urls

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
    for each in expand_urls(str(place)):
        matches = sorted(map(Path, glob.glob(each, recursive=True))) if set(WILD) & set(each) else [Path(each)]
        if not matches:
            raise DataError(f"{each}: no file is called like that. Correct 'path'.")
        found += matches
    return found


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
