"""Lists of answers that a model chooses from."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from vlkit.datasets.faults import short
from vlkit.errors import BadSample, DataError, VlkitError
from vlkit.io.files import fetch
from vlkit.io.json_reader import parse_json
from vlkit.io.text_encoding import TextError
from vlkit.io.text_files import encoding_fault, open_text, plain_suffix, read_bytes, start_of

_TEXT_SHOWN = 60


class Text(NamedTuple):
    """A text of a dataset.

    Args:
        place: where it is written, ``file:row``.
        written: as it stands there.
        processed: as a model reads it.
    """

    place: str
    written: str
    processed: str


def texts_of(written: Iterable[tuple[str, str]], processor: Any) -> list[Text]:
    """Texts with what ``processor`` (None: nothing) makes of them.

    Args:
        written: place and text.
        processor: a text processor.
    """
    return [Text(place, text, text if processor is None else processor(text)) for place, text in written]


def process(processor: Any, text: str, place: str, kind: str) -> str:
    """``text`` as a model is to be trained on it.

    Args:
        processor: a text processor, or None.
        text: not empty.
        place: of the text.
        kind: of text: "caption".

    Raises:
        BadSample: the processor leaves nothing of the text.
    """
    if processor is None:
        return text
    processed = processor(text)
    if is_emptied(processor, processed):
        shown = text if len(text) <= _TEXT_SHOWN else f"{text[:_TEXT_SHOWN]}..."
        raise BadSample(place, f"the text processor leaves nothing of the {kind} {shown!r}")
    return processed


def is_emptied(processor: Any, processed: str) -> bool:
    """Whether ``processed`` is what ``processor`` makes of an empty text: nothing, or its prompt alone."""
    if not processed.strip():
        return True
    try:
        return processor is not None and processed == processor("")
    except Exception:  # anyone's code, which need not know empty texts
        return False


_NEED = "An answer list is a JSON list of texts (or a mapping of texts to numbers), or a file of one answer a line."


def read_answer_list(path: str | PathLike[str]) -> list[str]:
    """The answers in a file, in its order; repeated ones are dropped.

    Args:
        path: of a file, or a URL: ``.json`` holds a list of texts, or a mapping of texts to whole numbers, which order
            them (``ans2label`` files); anything else one answer a line. Either may be gzip data.

    Raises:
        DataError: the file is not there or is no such list.
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
    # Half of a surrogate pair, as cut-off emoji leave it in JSON, is no text: tokenizers fail on it.
    answers = [answer.encode("utf-8", "replace").decode().strip() for answer in found]
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
    if isinstance(found, dict):
        wrong = next((number for number in found.values() if type(number) is not int), None)
        if wrong is not None:
            raise DataError(f"{file}: not a list of texts: a number of the mapping is {short(wrong)}. {_NEED}")
        return sorted(found, key=found.__getitem__)
    if not isinstance(found, list):
        raise DataError(f"{file}: not a list of texts: it is {short(found)}. {_NEED}")
    for number, answer in enumerate(found, 1):
        if not isinstance(answer, str):
            raise DataError(f"{file}: not a list of texts: entry {number} is {short(answer)}. {_NEED}")
    return found
