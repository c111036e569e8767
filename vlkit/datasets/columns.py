"""Columns of tables: which key of a row holds the image, the caption, the question, ...

A dataset says which columns it reads. Names are found for each shape of a row (its set of keys) once: the key that the
user set, else the dataset's own name, else one of the common other names. Two keys that could be meant are an error."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlkit.datasets.faults import lacks, short
from vlkit.errors import DataError

Key = str | int
"""Of a column: its name, or its position from 0 on."""


@dataclass(frozen=True)
class Column:
    """A column that a dataset reads.

    Args:
        name: what the dataset calls it.
        others: other names that are found automatically. Case, spaces, hyphens and underscores do not count.
        setting: the argument that sets its key; "": ``<name>_key``.
        also: further names of the dataset's own, which count after ``name`` and before ``others``.
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
IMAGE_ID = Column("image_id", ("coco_id",), also=("img_id",))  # img_id: the rows of nocaps
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
    """A row by the dataset's own names; other keys of the row are kept.

    Args:
        values: of the row.
        labels: own name to the key in the file.
        in_splits: whether the file holds several splits, of which a dataset reads its own.
    """

    __slots__ = ("_labels", "in_splits")

    def __init__(
        self, values: Mapping[str, Any], labels: Mapping[str, Key] = MappingProxyType({}), in_splits: bool = False
    ):
        super().__init__(values)
        self._labels, self.in_splits = labels, in_splits

    def label(self, name: str) -> str:
        """What the file calls the column ``name``."""
        key = self._labels.get(name, name)
        return f"position {key}" if isinstance(key, int) else key

    def shown(self, name: str) -> str:
        """:meth:`label` in quotes, for messages."""
        return repr(self.label(name))


_MOST_SHAPES = 1000


@dataclass(frozen=True)
class ColumnKeys:
    """The columns of a dataset and the keys that its user set.

    Args:
        columns: that the dataset reads.
        needed: names of those without which a row is of no use.
        keys: name of a column to a key of the rows, to a position (from 0) in rows that are lists and in CSV files
            without a header, or to None: found by name.
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
        """The argument that sets the key of a column."""
        return next((column.setting for column in self.columns if column.name == name), f"{name}_key")

    def problems(self) -> list[str]:
        """What is wrong with the keys and the pattern; one sentence each."""
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
        self.positional = keys.positional
        """Whether rows are lists, and files have no header."""
        self._own = {column.name for column in keys.columns}
        self._renamed: dict[tuple[Any, ...], bool] = {}
        self._known: dict[tuple[Any, ...], dict[str, Key]] = {}
        self._first: tuple[Any, ...] = ()
        self._met: set[str] = set()

    @property
    def width(self) -> int:
        """Values that a row needs where columns are positions."""
        return 1 + max((key for key in self.keys.keys.values() if isinstance(key, int)), default=-1)

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
                self._renamed.clear()
            found = self._known[shape] = self._resolve(shape)
            hidden = (self._own & set(shape)) - found.keys()
            self._renamed[shape] = bool(hidden) or any(name != key for name, key in found.items())
            self._met.update(found)
            self._first = self._first or shape
        return found

    def header(self, names: Sequence[str], line: int = 1) -> None:
        """Check the header of a table, which is in line ``line``.

        Raises:
            DataError: a column is missing, or several names could be meant.
        """
        self._needed(names, f"the header, line {line}, has ", self._no_header)

    def table(self, names: Sequence[str]) -> Mapping[str, Key]:
        """Own names to those of the columns of a table.

        Raises:
            DataError: a column is missing, or several names could be meant.
        """
        return self._needed(names)

    def _needed(
        self, names: Sequence[str], before: str = "", after: Callable[[], str] = lambda: ""
    ) -> Mapping[str, Key]:
        """Resolve ``names``; raise where a column that is needed is not among them."""
        found = self.resolve(names)
        self._check_given()
        for name in self.keys.needed:
            if name not in found:
                raise DataError(f"{self.file}: {before}{self._lacks(name, names)}{after()}")
        return found

    def fits(self, names: Sequence[str]) -> bool:
        """Whether ``names`` can only be the header of a table: the needed columns, and at least two in all."""
        try:
            found = self._resolve(tuple(names))
        except DataError:
            return True
        return len(found) > 1 and all(name in found for name in self.keys.needed)

    def count(self, names: Sequence[str]) -> int:
        """How many columns ``names`` hold."""
        try:
            return len(self._resolve(tuple(names)))
        except DataError:
            return len(self.keys.columns)

    def own_format(self, what: str) -> None:
        """Check that no key was set, in a file of a format that has its own keys.

        Args:
            what: whose format it is.

        Raises:
            DataError: keys were set.
        """
        given = [self.keys.setting(name) for name, key in self.keys.keys.items() if key is not None]
        given += [self.keys.pattern_setting] * (self.keys.pattern is not None)
        if given:
            raise DataError(f"{self.file}: {what} format has its own keys. Leave out {', '.join(given)}.")

    def fields(self, row: Any) -> Fields | str:
        """A row by own names, or a sentence that says why it is none."""
        if isinstance(row, dict):
            if self.positional:
                return f"{short(row)} is a mapping, and {self._positions()} are positions in lists."
            shape = tuple(row)
            found: Mapping[str, Key] = self.resolve(shape)
            for name in self.keys.needed:
                if name not in found:
                    return self._lacks(name, row)
            values = row
            if self._renamed[shape]:
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
            own = next((name for name in (column.name, *column.also) if name in names), None)
            if own is not None:
                found[column.name] = own
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
                raise DataError(f"{self.file}: {what}, and there is {self._lacks(name, self._first)}")

    def _lacks(self, name: str, names: Any) -> str:
        key = self.keys.keys.get(name)
        wanted = name if key is None else str(key)
        return lacks(wanted, dict.fromkeys(map(str, names))) + (
            f" Set {self.keys.setting(name)}." if key is None and len(names) else ""
        )

    def _no_header(self) -> str:
        places = ", ".join(f"{self.keys.setting(name)}: {i}" for i, name in enumerate(self.keys.needed))
        return f" If the file has no header, set positions, such as {places}."

    def _positions(self) -> str:
        keys = self.keys.keys.items()
        return ", ".join(f"{self.keys.setting(name)}: {key}" for name, key in keys if isinstance(key, int))

    def _formatted(self, fields: Fields) -> Fields | str:
        """The row with file names in place of the values that they are made of, or what is wrong with one."""
        for name in self.keys.patterned:
            values = fields.get(name)
            if name not in fields:
                continue
            made = [self._made(value) for value in (values if isinstance(values, list) else [values])]
            bad = next((each for each, good in made if not good), None)
            if bad is not None:
                return f"{fields.shown(name)} is {bad}"
            fields[name] = [each for each, _ in made] if isinstance(values, list) else made[0][0]
        return fields

    def _made(self, value: Any) -> tuple[str, bool]:
        """A file name and True, or what is wrong with ``value`` and False."""
        pattern = self.keys.pattern or ""
        if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
            return f"{short(value)}, neither a text nor a whole number.", False
        try:
            return pattern.format(int(value) if _format_of(pattern) else value), True
        except ValueError:
            return f"{short(value)}, not the whole number that {self.keys.pattern_setting} needs.", False


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()
