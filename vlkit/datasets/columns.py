"""Columns of tables: which key of a row holds the image, the caption, the question, ...

A dataset declares the columns that it reads. Their keys are resolved once for each set of keys that rows have: the key
that the user set, else the dataset's own name, else one of the common other names. Two candidates are an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from vlkit.datasets.faults import lacks, short
from vlkit.errors import DataError

_MOST_SHAPES = 1000
_PATTERN = re.compile(r"(?:[^{}]|{{|}})*\{0?(?::((?:0?[1-9]?\d?d)?))?\}(?:[^{}]|{{|}})*", re.DOTALL)
Key = str | int
"""Key of a column: its name, or its position from 0 on."""


@dataclass(frozen=True)
class Column:
    """A column that a dataset reads.

    Args:
        name: the dataset's name for it.
        others: other names that are found automatically, regardless of case, spaces, hyphens and underscores.
        setting: the argument that sets its key; "": ``<name>_key``.
        also: further exact names, with precedence after ``name`` and before ``others``.
    """

    name: str
    others: tuple[str, ...] = ()
    setting: str = ""
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "setting", self.setting or f"{self.name}_key")


_FILES = ("file_name", "file_path", "file", "path")
_IMAGES = (
    "image_path image_file image_name image_file_name image_file_path img img_path img_file img_name picture photo"
)
IMAGE = Column("image", (*_IMAGES.split(), *_FILES))
_CAPTIONS = "captions text texts title sentence sentences description comment alt alt_text caption_text"
CAPTION = Column("caption", tuple(_CAPTIONS.split()))
IMAGE_ID = Column("image_id", ("coco_id",), also=("img_id",))  # img_id: nocaps
QUESTION = Column("question", ("questions", "question_text", "query"))
ANSWER = Column("answer", ("answers", "answer_text", "multiple_choice_answer"))
QUESTION_ID = Column("question_id", ("qid",))
SENTENCE = Column("sentence", ("text", "caption", "statement"))
LABEL = Column("label", ("target", "answer"))
VIDEO = Column("video", ("video_name", "video_path", "video_file", "video_id", "clip", *_FILES), also=("clip_name",))
IMAGES = Column("images", ("image_pair",), "image_key")
LEFT = Column("image0", ("left", "left_image", "image_left", "img0"), "image_key")
RIGHT = Column("image1", ("right", "right_image", "image_right", "img1"), "image_key")


class Fields(dict[str, Any]):
    """A row by the dataset's column names; other keys of the row are kept.

    Args:
        values: of the row.
        labels: column to its key in the file.
        in_splits: whether the file holds several splits, of which a dataset reads its own.
    """

    __slots__ = ("_labels", "in_splits")

    def __init__(
        self, values: Mapping[str, Any], labels: Mapping[str, Key] = MappingProxyType({}), in_splits: bool = False
    ):
        super().__init__(values)
        self._labels, self.in_splits = labels, in_splits

    def label(self, name: str) -> str:
        """Return the file's name for the column ``name``."""
        key = self._labels.get(name, name)
        return f"position {key}" if isinstance(key, int) else key

    def shown(self, name: str) -> str:
        """Return :meth:`label` in quotes, for messages."""
        return repr(self.label(name))


@dataclass(frozen=True)
class ColumnKeys:
    """The columns of a dataset and the keys that its user set.

    Args:
        columns: columns that the dataset reads.
        needed: names of columns that every row needs.
        keys: column to its key in rows, to its position (from 0) in rows that are lists and in CSV files without a
            header, or to None: found by name.
        pattern: makes file names of the values of the columns ``patterned``: ``images/{}.png``.
        patterned: names of columns.
        pattern_setting: the argument that sets ``pattern``.
    """

    columns: Sequence[Column]
    needed: Sequence[str]
    keys: Mapping[str, Key | None] = field(default_factory=dict)
    pattern: str | None = None
    patterned: Sequence[str] = ("image",)
    pattern_setting: str = "image_pattern"

    @property
    def positional(self) -> bool:
        """Whether keys are positions."""
        return any(isinstance(key, int) for key in self.keys.values())

    def setting(self, name: str) -> str:
        """Return the argument that sets the key of a column."""
        return next((column.setting for column in self.columns if column.name == name), f"{name}_key")

    def problems(self) -> list[str]:
        """Return what is wrong with the keys and the pattern, one sentence each."""
        given = {name: key for name, key in self.keys.items() if key is not None}
        found = [
            f"{self.setting(name)}: {key!r} given; a name of a column, or a position from 0 on, is needed."
            for name, key in given.items()
            if (isinstance(key, int) and key < 0) or key == ""
        ]
        if self.positional:
            names = [f"{self.setting(name)}: {key!r}" for name, key in given.items() if isinstance(key, str)]
            names += [f"{self.setting(name)}: null" for name in self.needed if given.get(name) is None]
            if names:
                one = next(f"{self.setting(name)}: {key}" for name, key in given.items() if isinstance(key, int))
                found.append(f"{', '.join(names)} and {one}: where one key is a position, all have to be.")
        if self.pattern is not None and _format_of(self.pattern) is None:
            found.append(
                f"{self.pattern_setting}: {self.pattern!r} given; it needs {{}} once, where the value of the "
                "column goes, as in images/{}.jpg or COCO_{:012d}.jpg."
            )
        return found

    def of(self, file: Path | str) -> TableColumns:
        """Return the columns of one file."""
        return TableColumns(self, file)


def _format_of(pattern: str) -> str | None:
    """Return the format of the only replacement field of ``pattern``, "" or that of an integer; None: invalid."""
    found = _PATTERN.fullmatch(pattern)
    return found and (found[1] or "")


class _Shape(NamedTuple):
    """Columns among one set of names: their keys, the first needed one that is missing, whether names differ."""

    found: Mapping[str, Key]
    missing: str | None
    renamed: bool


class TableColumns:
    """The columns of one file, found in its header or its rows.

    Args:
        keys: of the dataset.
        file: named in errors.
    """

    def __init__(self, keys: ColumnKeys, file: Path | str):
        self.keys, self.file = keys, file
        self.positional = keys.positional
        """Whether rows are lists, and files have no header."""
        self._own = {column.name for column in keys.columns}
        self._shapes: dict[tuple[Any, ...], _Shape] = {}
        self._first: tuple[Any, ...] = ()
        self._met: set[str] = set()

    @property
    def width(self) -> int:
        """Number of values that a row needs if columns are positions."""
        return 1 + max((key for key in self.keys.keys.values() if isinstance(key, int)), default=-1)

    def resolve(self, names: Sequence[Any]) -> Mapping[str, Key]:
        """Map columns to those of ``names``; columns that are missing are left out.

        Raises:
            DataError: a column has several candidates.
        """
        return self._shape(tuple(names)).found

    def table(self, names: Sequence[str], header: int = 0) -> Mapping[str, Key]:
        """Map columns to those of a table.

        Args:
            names: of the columns of the table.
            header: number of the line with the names, for messages; 0: none.

        Raises:
            DataError: a column is missing or has several candidates.
        """
        shape = self._shape(tuple(names))
        self._check_given()
        if shape.missing:
            before, after = "", ""
            if header:
                before = f"the header, line {header}, has "
                places = ", ".join(f"{self.keys.setting(name)}: {i}" for i, name in enumerate(self.keys.needed))
                after = f" If the file has no header, set positions, such as {places}."
            raise DataError(f"{self.file}: {before}{self.lacks(shape.missing, names)}{after}")
        return shape.found

    def fits(self, names: Sequence[str]) -> bool:
        """Return whether ``names`` can only be the header of a table: the needed columns, and at least two in all."""
        try:
            found = self._resolve(tuple(names))
        except DataError:
            return True
        return len(found) > 1 and all(name in found for name in self.keys.needed)

    def count(self, names: Sequence[str]) -> int:
        """Return the number of columns among ``names``."""
        try:
            return len(self._resolve(tuple(names)))
        except DataError:
            return len(self.keys.columns)

    def own_format(self, what: str) -> None:
        """Check that no key was set for a file of a format with fixed keys.

        Args:
            what: name of the format.

        Raises:
            DataError: keys were set.
        """
        given = [self.keys.setting(name) for name, key in self.keys.keys.items() if key is not None]
        given += [self.keys.pattern_setting] * (self.keys.pattern is not None)
        if given:
            raise DataError(f"{self.file}: {what} format has its own keys. Leave out {', '.join(given)}.")

    def fields(self, row: Any) -> Fields | str:
        """Return a row by the dataset's column names, or a sentence that says why it is not valid."""
        if isinstance(row, dict):
            if self.positional:
                return f"{short(row)} is a mapping, and {self._positions()} are positions in lists."
            shape = self._shape(tuple(row))
            if shape.missing:
                return self.lacks(shape.missing, row)
            found, values = shape.found, row
            if shape.renamed:
                values = {key: value for key, value in row.items() if key not in self._own}
                values.update((name, row[key]) for name, key in found.items())
        elif isinstance(row, (list, tuple)):
            if not self.positional:
                settings = ", ".join(dict.fromkeys(column.setting for column in self.keys.columns))
                return f"{short(row)} is not a mapping. If rows are lists, set the positions, from 0 on: {settings}."
            places = {name: key for name, key in self.keys.keys.items() if isinstance(key, int)}
            beyond = next((name for name, place in places.items() if place >= len(row)), None)
            if beyond:
                return f"it has {len(row)} values, and {self.keys.setting(beyond)} is {places[beyond]}, counted from 0."
            found, values = dict(places), {name: row[place] for name, place in places.items()}
        else:
            return f"{short(row)} is not a mapping."
        fields = Fields(values, found)
        return fields if self.keys.pattern is None else self._formatted(fields)

    def finish(self) -> None:
        """Check after the last row that every key that was set occurred.

        Raises:
            DataError: one did not.
        """
        if self._shapes:
            self._check_given()

    def lacks(self, name: str, names: Any) -> str:
        """Return a sentence: the column ``name`` is missing in ``names``."""
        key = self.keys.keys.get(name)
        advice = f" Set {self.keys.setting(name)}." if key is None and len(names) else ""
        return lacks(name if key is None else str(key), dict.fromkeys(map(str, names))) + advice

    def _shape(self, names: tuple[Any, ...]) -> _Shape:
        shape = self._shapes.get(names)
        if shape is None:
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes.clear()
            found = self._resolve(names)
            missing = next((name for name in self.keys.needed if name not in found), None)
            renamed = bool((self._own & set(names)) - found.keys()) or any(name != key for name, key in found.items())
            shape = self._shapes[names] = _Shape(found, missing, renamed)
            self._met.update(found)
            self._first = self._first or names
        return shape

    def _resolve(self, names: tuple[Any, ...]) -> dict[str, Key]:
        found: dict[str, Key] = {}
        plain = [(name, _plain(name)) for name in names if isinstance(name, str)]
        taken = {key for key in self.keys.keys.values() if key is not None}
        for column in self.keys.columns:
            given = self.keys.keys.get(column.name)
            own = [name for name in (column.name, *column.also) if name in names]
            if given is not None or own:
                key = own[0] if given is None else given
                found.update({column.name: key} if key in names else {})
                continue
            alike = [name for name, text in plain if text == _plain(column.name)]
            others = {_plain(other) for other in column.others}
            alike = alike or [name for name, text in plain if text in others and name not in taken]
            if len(alike) > 1:
                both = " and ".join(map(repr, alike))
                raise DataError(
                    f"{self.file}: {both} could be the column {column.name!r}: set {column.setting} to one of them."
                )
            found.update((column.name, name) for name in alike)
        return found

    def _check_given(self) -> None:
        for name, key in self.keys.keys.items():
            if isinstance(key, str) and name not in self._met:
                what = f"{self.keys.setting(name)} is {key!r}"
                raise DataError(f"{self.file}: {what}, and there is {self.lacks(name, self._first)}")

    def _positions(self) -> str:
        keys = self.keys.keys.items()
        return ", ".join(f"{self.keys.setting(name)}: {key}" for name, key in keys if isinstance(key, int))

    def _formatted(self, fields: Fields) -> Fields | str:
        """Replace values by the file names that the pattern makes of them, or return what is wrong with one."""
        pattern = self.keys.pattern or ""
        for name in filter(fields.__contains__, self.keys.patterned):
            values = fields[name]
            made = []
            for value in values if isinstance(values, list) else [values]:
                if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
                    return f"{fields.shown(name)} is {short(value)}, neither a text nor a whole number."
                try:
                    made.append(pattern.format(int(value) if _format_of(pattern) else value))
                except ValueError:
                    needed = f"the whole number that {self.keys.pattern_setting} needs"
                    return f"{fields.shown(name)} is {short(value)}, not {needed}."
            fields[name] = made if isinstance(values, list) else made[0]
        return fields


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()
