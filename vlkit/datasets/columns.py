"""Columns of tables: which key of a row holds the image, the caption, the question, ...

A dataset says which columns it reads. Names are found for each shape of a row (its set of keys) once: the key that the
user set, else the dataset's own name, else one of the common other names. Two keys that could be meant are an error.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlkit.errors import DataError, did_you_mean

Key = str | int
_MOST_SHAPES = 1000


@dataclass(frozen=True)
class Column:
    """A column that a dataset reads.

    Args:
        name: what the dataset calls it; the argument that sets its key is ``<name>_key``.
        others: other names that are found automatically. Case, spaces, hyphens and underscores do not count.
    """

    name: str
    others: tuple[str, ...] = ()


_FILES = ("file_name", "file_path", "file", "path")
_IMAGES = (
    "image_path image_file image_name image_file_name image_file_path img img_path img_file img_name picture photo"
)
IMAGE = Column("image", (*_IMAGES.split(), *_FILES))
CAPTION = Column(
    "caption",
    ("captions", "text", "texts", "title", "sentence", "sentences", "description", "alt", "alt_text", "caption_text"),
)
IMAGE_ID = Column("image_id", ("img_id", "coco_id"))
QUESTION = Column("question", ("questions", "question_text", "query"))
ANSWER = Column("answer", ("answers", "answer_text", "multiple_choice_answer"))
QUESTION_ID = Column("question_id", ("qid",))
SENTENCE = Column("sentence", ("text", "caption", "statement"))
LABEL = Column("label", ("target", "answer"))
VIDEO = Column("video", ("clip_name", "video_name", "video_path", "video_file", "video_id", "clip", *_FILES))
IMAGES = Column("images", ("image_pair",))
LEFT = Column("image0", ("left", "left_image", "image_left", "img0"))
RIGHT = Column("image1", ("right", "right_image", "image_right", "img1"))


class Fields(dict[str, Any]):
    """A row by the dataset's own names; other keys of the row are kept.

    Args:
        values: of the row.
        labels: own name to the key in the file.
    """

    def __init__(self, values: Mapping[str, Any], labels: Mapping[str, Key]):
        super().__init__(values)
        self._labels = labels

    def shown(self, name: str) -> str:
        """What the file calls the column ``name``, for messages."""
        key = self._labels.get(name, name)
        return f"column {key}" if isinstance(key, int) else repr(key)


@dataclass(frozen=True)
class ColumnKeys:
    """The columns of a dataset and the keys that its user set.

    Args:
        columns: that the dataset reads.
        needed: names of those without which a row is of no use.
        keys: name of a column to a key of the rows, to a position (from 0) in rows that are lists and in CSV files
            without a header, or to None: found by name.
        pattern: makes a file name of the value of the column ``patterned``: ``images/{}.png``.
    """

    columns: Sequence[Column]
    needed: Sequence[str]
    keys: Mapping[str, Key | None] = field(default_factory=dict)
    pattern: str | None = None
    patterned: str = "image"

    @property
    def positional(self) -> bool:
        """Whether keys are positions."""
        return any(isinstance(key, int) for key in self.keys.values())

    def problems(self) -> list[str]:
        """What is wrong with the keys and the pattern; one sentence each."""
        given = {name: key for name, key in self.keys.items() if key is not None}
        found = [
            f"{name}_key: {key!r} given; a name of a column, or a position from 0 on, is needed."
            for name, key in given.items()
            if (isinstance(key, int) and key < 0) or key == ""
        ]
        if self.positional:
            names = [f"{name}_key: {key!r}" for name, key in given.items() if isinstance(key, str)]
            names += [f"{name}_key: null" for name in self.needed if given.get(name) is None]
            if names:
                one = next(f"{name}_key: {key}" for name, key in given.items() if isinstance(key, int))
                found.append(f"{', '.join(names)} and {one}: where one key is a position, all have to be.")
        if self.pattern is not None and _format_of(self.pattern) is None:
            found.append(
                f"{self.patterned}_pattern: {self.pattern!r} given; it needs {{}} once, where the value of the "
                "column goes, as in images/{}.jpg or COCO_{:012d}.jpg."
            )
        return found

    def of(self, file: Path | str) -> TableColumns:
        """The columns of one file."""
        return TableColumns(self, file)


def _format_of(pattern: str) -> str | None:
    """The format of the one replacement field of ``pattern``: "" or that of a whole number; None: it is none."""
    try:
        found = [part[1:] for part in string.Formatter().parse(pattern) if part[1] is not None]
    except ValueError:
        return None
    if len(found) != 1 or found[0][0] not in ("", "0") or found[0][2] is not None:
        return None
    return found[0][1] if re.fullmatch(r"(0?[1-9]?\d?d)?", found[0][1] or "") else None


class TableColumns:
    """The columns of one file, found by its header or its rows.

    Args:
        keys: of the dataset.
        file: named in errors.
    """

    def __init__(self, keys: ColumnKeys, file: Path | str):
        self.keys, self.file = keys, file
        self._known: dict[tuple[Any, ...], dict[str, Key]] = {}
        self._first: tuple[Any, ...] = ()
        self._met: set[str] = set()

    @property
    def positional(self) -> bool:
        """Whether rows are lists, and files have no header."""
        return self.keys.positional

    def resolve(self, names: Sequence[Any]) -> Mapping[str, Key]:
        """Own names to those of ``names``; a column that is not there is left out.

        Raises:
            DataError: several names could be meant.
        """
        shape = tuple(names)
        found = self._known.get(shape)
        if found is None:
            if len(self._known) >= _MOST_SHAPES:
                self._known.clear()
            found = self._known[shape] = self._resolve(shape)
            self._met.update(found)
            self._first = self._first or shape
        return found

    def header(self, names: Sequence[str]) -> None:
        """Check the header of a table.

        Raises:
            DataError: a column is missing, or several names could be meant.
        """
        found = self.resolve(names)
        self._check_given()
        for name in self.keys.needed:
            if name not in found:
                raise DataError(f"{self.file}: the header, line 1, has {self._lacks(name, names)}{self._no_header()}")

    def fits(self, names: Sequence[str]) -> bool:
        """Whether ``names`` are the header of a table with all needed columns."""
        try:
            found = self._resolve(tuple(names))
        except DataError:
            return True
        return all(name in found for name in self.keys.needed)

    def fields(self, row: Any) -> Fields | str:
        """A row by own names, or a sentence that says why it is none."""
        if isinstance(row, Mapping):
            if self.positional:
                return f"it is a mapping with the keys {_listed(row)}, and {self._positions()} name places in lists."
            found: Mapping[str, Key] = self.resolve(tuple(row))
            for name in self.keys.needed:
                if name not in found:
                    return self._lacks(name, row)
            own = {column.name for column in self.keys.columns}
            values = {key: value for key, value in row.items() if key not in own}
            values.update((name, row[key]) for name, key in found.items())
        elif isinstance(row, (list, tuple)):
            if not self.positional:
                settings = ", ".join(f"{column.name}_key" for column in self.keys.columns)
                return f"it is a list of {len(row)} values: set positions in it, from 0 on, as the keys: {settings}."
            places = {name: key for name, key in self.keys.keys.items() if isinstance(key, int)}
            short = next((name for name, place in places.items() if place >= len(row)), None)
            if short:
                return f"it has {len(row)} values, and {short}_key: {places[short]} counts from 0."
            found, values = dict(places), {name: row[place] for name, place in places.items()}
        else:
            return f"{repr(row)[:40]} ({type(row).__name__}) is not a mapping."
        return self._formatted(Fields(values, found))

    def finish(self) -> None:
        """Call after the last row.

        Raises:
            DataError: a key that was set is in no row.
        """
        if self._known:
            self._check_given()

    def _resolve(self, names: tuple[Any, ...]) -> dict[str, Key]:
        found: dict[str, Key] = {}
        plain = [(name, _plain(name)) for name in names if isinstance(name, str)]
        taken = {key for key in self.keys.keys.values() if key is not None}
        for column in self.keys.columns:
            given = self.keys.keys.get(column.name)
            if given is not None:
                if given in names:
                    found[column.name] = given
                continue
            if column.name in names and column.name not in taken:
                found[column.name] = column.name
                continue
            alike = [name for name, text in plain if text == _plain(column.name)]
            others = {_plain(other) for other in column.others}
            alike = alike or [name for name, text in plain if text in others and name not in taken]
            if len(alike) > 1:
                both = " and ".join(map(repr, alike))
                raise DataError(
                    f"{self.file}: {both} could be the column {column.name!r}: set {column.name}_key to one of them."
                )
            found.update((column.name, name) for name in alike)
        return found

    def _check_given(self) -> None:
        for name, key in self.keys.keys.items():
            if isinstance(key, str) and name not in self._met:
                raise DataError(f"{self.file}: {name}_key is {key!r}, and there is {self._lacks(name, self._first)}")

    def _lacks(self, name: str, names: Any) -> str:
        key = self.keys.keys.get(name)
        wanted = name if key is None else str(key)
        there = _listed(names)
        advice = f" Set {name}_key." if key is None and len(names) else ""
        return f"no key {wanted!r}, only {there or 'an empty mapping'}.{did_you_mean(wanted, map(str, names))}{advice}"

    def _no_header(self) -> str:
        places = ", ".join(f"{name}_key: {place}" for place, name in enumerate(self.keys.needed))
        return f" If the file has no header, set positions, such as {places}."

    def _positions(self) -> str:
        return ", ".join(f"{name}_key: {key}" for name, key in self.keys.keys.items() if isinstance(key, int))

    def _formatted(self, fields: Fields) -> Fields | str:
        name, pattern = self.keys.patterned, self.keys.pattern
        if pattern is None or name not in fields:
            return fields
        value = fields[name]
        if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
            return f"{fields.shown(name)} is {value!r} ({type(value).__name__}), neither a text nor a whole number."
        try:
            fields[name] = pattern.format(int(value) if _format_of(pattern) else value)
        except ValueError:
            return f"{fields.shown(name)} is {value!r}, not the whole number that {name}_pattern needs."
        return fields


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()


def _listed(names: Any) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:20]) + (", ..." if len(shown) > 20 else "")
