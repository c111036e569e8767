"""Tables in text: CSV as in RFC 4180, and columns separated by TABs, which have no quotes.

CSV: a field that starts with a quote ends with one, and may hold separators, line ends and doubled quotes; a quote
inside another field is an ordinary character. A record that is not closed, or with a field of several lines that look
like rows, is a fault of its first line, and the following lines are read as rows. The separator is that of the header:
comma, semicolon, TAB or vertical bar. With TABs a quote is an ordinary character everywhere, and fields hold neither
TABs nor line ends.
"""

from __future__ import annotations

import csv
import logging
import re
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from vlkit.datasets.columns import TableColumns
from vlkit.datasets.faults import Faults
from vlkit.errors import DataError
from vlkit.io.text import encoding_fault, open_text, start_of

logger = logging.getLogger(__name__)
_SHOWN = 3
_FIRST = 20  # lines that determine the separator of a table without a header
_SEPARATORS = ",;\t|"
_HINT = re.compile(r'"?sep=(.)"?\s*$', re.IGNORECASE)  # a first line that Excel writes and reads
_LINE_END = re.compile(r"\r\n|\n|\r")
_FILE = re.compile(r"\S+\.\w{2,5}")
_NUMBERED = re.compile(r"\S*[0-9]\S*")
_ADVICE = (
    'Put quotes around the whole text and write a quote inside of it twice (""), or save the file as .tsv or .jsonl.'
)
_OPEN = f"a quote left open: the text would hold the rows that follow. {_ADVICE}"
_LONG = f"a text of more than {{:,}} characters, or a quote left open. {_ADVICE}"
_ALONE = f"text follows a closing quote. {_ADVICE}"


def header_of(line: str, columns: TableColumns, tabs: bool = False) -> tuple[str, list[str]]:
    """Return the separator and the column names of a header.

    Args:
        line: the first line of a table.
        columns: that the header should hold.
        tabs: whether the file is separated by TABs, regardless of the header.
    """
    line = line.rstrip("\r\n")
    found = [(separator, _names(line, separator)) for separator in ("\t" if tabs else _SEPARATORS)]
    return max(found, key=lambda each: (columns.count(each[1]), len(each[1])))


def separator_of(start: str, least: int, tabs: bool = False) -> str:
    """Return the separator of a table without a header: the one that gives most of its first lines equal field counts.

    Args:
        start: first characters of the table.
        least: number of fields that a row needs.
        tabs: as for :func:`header_of`.
    """
    lines = [line for line in _LINE_END.split(start) if line.strip()]
    lines = lines[: max(1, len(lines) - 1)][:_FIRST]  # the last one may be truncated

    def alike(separator: str) -> tuple[int, int]:
        counts = [len(_names(line, separator)) for line in lines]
        return (counts.count(counts[0]) if counts[0] >= least else 0, counts[0])

    return "\t" if tabs or not lines else max("\t,;|", key=alike)


def _names(line: str, separator: str) -> list[str]:
    line = line.rstrip("\r\n").replace("\0", "")
    fields = line.split("\t") if separator == "\t" else next(csv.reader([line], delimiter=separator), [])
    return [name.strip() for name in fields]


def separated_rows(
    file: Path, faults: Faults, columns: TableColumns, tabs: bool = False
) -> Iterator[tuple[int, dict[str, str] | list[str]]]:
    """Yield line numbers and rows of a table: mappings by its header, or lists if columns are positions.

    Args:
        file: the table.
        faults: receives records that are not rows.
        columns: that the header must have.
        tabs: as for :func:`header_of`.

    Raises:
        DataError: the file cannot be read, or its header is invalid.
    """
    with open_text(file, newline="") as stream:
        lines = _Lines(stream)
        separator, names = _header(file, lines, columns, tabs)
        records = _tab_records(lines) if separator == "\t" else _csv_records(lines, separator, len(names))
        spanning: list[int] = []
        like = "first row" if columns.positional else "header"
        for number, fields in records:
            if len(fields) < 2 and not "".join(fields).strip():  # a blank line
                continue
            fault = fields if isinstance(fields, str) else _fault(fields, len(names), separator, like)
            if fault:
                faults.add(number, fault)
                continue
            if len(lines.taken) > 1 and any(separator in field and _LINE_END.search(field) for field in fields):
                spanning.append(number)
            yield number, list(fields) if columns.positional else dict(zip(names, fields))
        if spanning:
            logger.warning(
                "%s: %d texts span several lines and hold the separator (from line %s on): each was read as one text. "
                "Is a quote left open there?",
                file,
                len(spanning),
                ", ".join(map(str, spanning[:_SHOWN])),
            )


def _header(file: Path, lines: _Lines, columns: TableColumns, tabs: bool) -> tuple[str, list[str]]:
    """Read the header and return the separator and the names; without a header, those of the first row.

    Raises:
        DataError: the header lacks a column or repeats one.
    """
    first = next(lines, "")
    hint = _HINT.match(first)
    if hint:
        first = next(lines, "")
    while columns.positional and first and not first.strip():
        first = next(lines, "")
    if hint and hint[1] in _SEPARATORS:
        separator = hint[1]
    elif columns.positional:
        separator = separator_of(start_of(file), columns.width, tabs)
    else:
        separator = header_of(first, columns, tabs)[0]
    names = _names(first, separator)
    if columns.positional:
        lines.push(first)
        return separator, names
    columns.table(names, lines.number)
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise DataError(f"{file}: the header, line {lines.number}, names the column {twice[0]!r} twice. Rename one.")
    return separator, names


def _fault(fields: Sequence[str], count: int, separator: str, like: str) -> str:
    """Return why the fields of a record are not a row, or ""."""
    if len(fields) != count:
        advice = ""
        if len(fields) > count:
            advice = ": put quotes around texts that hold the separator"
            if separator == "\t":
                advice = ": a text holds a TAB, for which this format has no quotes"
        return f"{len(fields)} fields where the {like} has {count}{advice}."
    if all(map(str.isascii, fields)):
        return ""
    return next(filter(None, map(encoding_fault, fields)), "")


class _Lines:
    """Numbered lines that can be pushed back."""

    def __init__(self, lines: Iterator[str]):
        self._lines, self._back = lines, deque[str]()
        self.number = 0
        self.taken: list[str] = []
        """Lines since :meth:`start`."""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._lines)
        self.number += 1
        self.taken.append(line)
        return line

    def start(self) -> int:
        """Begin a record; return the number of its first line."""
        self.taken = []
        return self.number + 1

    def push(self, *lines: str) -> None:
        """Push back the last lines."""
        self._back.extendleft(reversed(lines))
        self.number -= len(lines)

    def push_rest(self) -> None:
        """Push back all lines of the record but the first."""
        self.push(*self.taken[1:])
        self.taken = self.taken[:1]


def _tab_records(lines: _Lines) -> Iterator[tuple[int, list[str] | str]]:
    for line in lines:
        yield lines.number, line.rstrip("\r\n").split("\t")
        lines.start()


def _csv_records(lines: _Lines, separator: str, columns: int) -> Iterator[tuple[int, list[str] | str]]:
    """Yield numbers and fields of records, or what is wrong with them. After a bad quote, resume at the next line."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        number, fault = lines.start(), ""
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            alone = len(lines.taken) == 1 and "expected after" in str(error)
            fault = _ALONE if alone else _OPEN
            if "field limit" in str(error):
                fault = _LONG.format(csv.field_size_limit())
        else:
            if len(lines.taken) > 1 and (len(fields) != columns or _holds_rows(fields, separator, columns)):
                fault = _OPEN
        if fault:
            lines.push_rest()
            reader = csv.reader(lines, delimiter=separator, strict=True)
        yield number, fault or fields


def _holds_rows(fields: list[str], separator: str, columns: int) -> bool:
    """Return whether a field of several lines holds a line that looks like a row: then the quote before it is stray.

    A line of a text may hold separators, too. It is a row if it has as many fields, with a file name (or a number)
    where this record has one.
    """
    spanning = [field for field in fields if _LINE_END.search(field)]
    for like in (_FILE, _NUMBERED):
        own = [place for place, field in enumerate(fields) if field not in spanning and like.fullmatch(field.strip())]
        if own:
            break
    for line in (line for field in spanning for line in _LINE_END.split(field)):
        pieces = [piece.strip(' "') for piece in line.split(separator)]
        if len(pieces) >= columns and all(like.fullmatch(pieces[place]) for place in own):
            return True
    return False
