"""What a text processor makes of the texts of a dataset."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from vlkit.errors import BadSample

_SHOWN = 60


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
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
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
