"""Texts of datasets: text processors, captions of a sample, answer lists."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vlkit.datasets.faults import short
from vlkit.errors import BadSample, DataError, VlkitError
from vlkit.io.fetch import fetch
from vlkit.io.json import parse_json
from vlkit.io.text import TextError, encoding_fault, open_text, plain_suffix, read_bytes, start_of

_SHOWN = 60
_NEED = "An answer list is a JSON list of texts (or a mapping of texts to numbers), or a file of one answer a line."


class Text(NamedTuple):
    """A text of a dataset.

    Args:
        place: its position, ``file:row``.
        written: as in the file.
        processed: as given to a model.
    """

    place: str
    written: str
    processed: str


def texts_of(written: Iterable[tuple[str, str]], processor: Any) -> list[Text]:
    """Apply ``processor`` (None: identity) to pairs of position and text."""
    return [Text(place, text, text if processor is None else processor(text)) for place, text in written]


def process(processor: Any, text: str, place: str, kind: str, training: bool = True) -> str:
    """Apply a text processor.

    Args:
        processor: a text processor, or None.
        text: not empty in training.
        place: position of the text.
        kind: of text: "caption".
        training: whether an empty result is an error.

    Raises:
        BadSample: nothing is left of the text, in training.
    """
    if processor is None:
        return text
    processed = processor(text)
    if training and is_emptied(processor, processed):
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        raise BadSample(place, f"the text processor leaves nothing of the {kind} {shown!r}")
    return processed


def is_emptied(processor: Any, processed: str) -> bool:
    """Return whether ``processed`` is the result of an empty text: nothing, or the processor's prompt alone."""
    if not processed.strip():
        return True
    try:
        return processor is not None and processed == processor("")
    except Exception:  # a user's code, which may not accept empty texts
        return False


def valid_text(text: str) -> str:
    """Replace halves of surrogate pairs, which truncated emoji leave in JSON: tokenizers fail on them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def draw_caption(
    captions: list[str], name: str, training: bool, text_processor: Any, rng: np.random.Generator
) -> dict[str, Any]:
    """Return the texts of the sample ``name`` of a dataset with one sample per image: in training one caption, sampled;
    otherwise the first, and all under ``references``.

    Raises:
        BadSample: there is no caption to train on, or the processor leaves nothing of it.
    """
    if training and not captions:
        raise BadSample(name, "it has no caption")
    chosen = int(rng.integers(len(captions))) if training and len(captions) > 1 else 0
    text = process(text_processor, captions[chosen] if captions else "", name, "caption", training)
    return {"sample_id": name, **({} if training else {"references": captions}), "text_input": text}


def read_answer_list(path: str | PathLike[str]) -> list[str]:
    """Return the different answers of a file, in its order.

    Args:
        path: of a file, or a URL: ``.json`` holds a list of texts, or a mapping of texts to whole numbers, which order
            them (``ans2label`` files); other files hold one answer a line. Either may be gzip data.

    Raises:
        DataError: the file does not exist or is no such list.
    """
    try:
        file = fetch(str(path))
    except VlkitError as error:
        raise DataError(f"answer list: {error} {_NEED}") from error
    try:
        start = start_of(file)
        found = _json(file) if plain_suffix(file) == ".json" or start[:1] in ("[", "{") else _lines(file)
    except TextError as error:
        raise DataError(f"answer list: {error} {_NEED}") from error
    answers = [valid_text(answer).strip() for answer in found]
    blank = next((number for number, answer in enumerate(answers, 1) if not answer), None)
    if blank is not None:
        raise DataError(f"{file}: answer {blank} is empty. Delete it.")
    if not answers:
        raise DataError(f"{file}: holds no answers. {_NEED}")
    return list(dict.fromkeys(answers))


def _lines(file: Path) -> list[str]:
    found = []
    with open_text(file) as stream:
        for number, line in enumerate(stream, 1):
            fault = encoding_fault(line)
            if fault:
                raise DataError(f"{file}: line {number}: {fault} {_NEED}")
            if line.strip():
                found.append(line.strip())
    return found


def _json(file: Path) -> list[str]:
    found: Any = parse_json(read_bytes(file), str(file))
    what = "" if isinstance(found, (dict, list)) else f"it is {short(found)}"
    if isinstance(found, dict):
        wrong = next((number for number in found.values() if type(number) is not int), None)
        what = "" if wrong is None else f"a number of the mapping is {short(wrong)}"
        found = found if what else sorted(found, key=found.__getitem__)
    elif isinstance(found, list):
        texts = (f"entry {n} is {short(answer)}" for n, answer in enumerate(found, 1) if not isinstance(answer, str))
        what = next(texts, "")
    if what:
        raise DataError(f"{file}: not a list of texts: {what}. {_NEED}")
    return found


class Source(NamedTuple):
    """Rows of one annotation file.

    Args:
        name: of the file in sample ids.
        folder: prefix of the names of its images or videos; may be empty.
        rows: of the file.
    """

    name: str
    folder: str
    rows: Iterable[Any]


class PackedStrings:
    """A list of strings in one buffer of bytes, with the end of each.

    Args:
        texts: any str, including halves of surrogate pairs (in file names that are not UTF-8).
    """

    def __init__(self, texts: Iterable[str] = ()):
        self._bytes, self._ends = bytearray(), array("q", [0])
        for text in texts:
            self.append(text)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = self._ends[index], self._ends[index + 1]
        return self._bytes[start:end].decode("utf-8", "surrogatepass")

    def append(self, text: str) -> None:
        """Add ``text`` at the end."""
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))


class RowOffsets:
    """Positions in annotation files: file, row, and the part of a row that holds several texts."""

    def __init__(self) -> None:
        self._files, self._rows, self._parts = array("i"), array("i"), array("i")

    def add(self, file: int, row: int, part: int = 0) -> None:
        """Append a position: number of the file from 0, row from 1, part from 1 (0: the row has no parts)."""
        self._files.append(file)
        self._rows.append(row)
        self._parts.append(part)

    def show(self, index: int, files: list[str]) -> str:
        """Return ``file:row`` or ``file:row.part``."""
        part = self._parts[index]
        return f"{files[self._files[index]]}:{self._rows[index]}" + (f".{part}" if part else "")
