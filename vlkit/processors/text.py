"""Text transforms of BLIP: lower case, little punctuation, a limited number of words."""

from __future__ import annotations

import re

from vlkit.errors import ConfigError, DataError
from vlkit.registry import PROCESSORS
from vlkit.registry.bounds import PositiveInt

_PUNCTUATION = re.compile(r'[.!"()*#:;~]')
_SPACES = re.compile(r"\s{2,}")


def pre_caption(text: str, max_words: int = 50) -> str:
    """Clean a caption as in the training of BLIP: punctuation and runs of white space become one space.

    Args:
        text: any caption.
        max_words: longest text in words; the rest is dropped.

    Raises:
        DataError: ``text`` is not a string.
    """
    spaced = _SPACES.sub(" ", _PUNCTUATION.sub(" ", _lower("caption", text)))
    return _first_words(spaced.rstrip("\n").strip(" "), max_words)


def pre_question(text: str, max_words: int = 50) -> str:
    """Clean a question as in the training of BLIP: punctuation is deleted, spaces stay except at the end.

    Args:
        text: any question.
        max_words: longest text in words; the rest is dropped. Each space ends a word.

    Raises:
        DataError: ``text`` is not a string.
    """
    return _first_words(_PUNCTUATION.sub("", _lower("question", text)).rstrip(" "), max_words)


def _lower(kind: str, text: str) -> str:
    if not isinstance(text, str):
        raise DataError(f"a {kind} must be a string, not {text!r} ({type(text).__name__}).")
    return text.lower()


def _first_words(text: str, count: int) -> str:
    return " ".join(text.split(" ")[:count])


def _check_max_words(max_words: int) -> None:
    if max_words < 1:
        raise ConfigError(f"max_words: {max_words}; it must be 1 or more.")


@PROCESSORS.register("blip_caption")
class BlipCaption:
    """:func:`pre_caption` with a prompt in front.

    Args:
        prompt: put before every caption as it is ("a picture of ").
        max_words: of the caption, without the prompt.
    """

    def __init__(self, prompt: str = "", max_words: PositiveInt = 50):
        _check_max_words(max_words)
        self.prompt, self.max_words = prompt, max_words

    def __call__(self, text: str) -> str:
        return self.prompt + pre_caption(text, self.max_words)


@PROCESSORS.register("blip_question")
class BlipQuestion:
    """:func:`pre_question` as a processor.

    Args:
        max_words: of a question.
    """

    def __init__(self, max_words: PositiveInt = 50):
        _check_max_words(max_words)
        self.max_words = max_words

    def __call__(self, text: str) -> str:
        return pre_question(text, self.max_words)
