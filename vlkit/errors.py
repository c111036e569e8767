"""The exceptions that a user can cause. The command line prints their message alone and exits with 2."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HIDDEN = "***"
# Scheme, login, host and path, query, fragment. A login may hold "/" where somebody forgot to escape it. Of two slashes
# one is left where an address was taken for a path.
_ADDRESS = re.compile(
    r"""([A-Za-z][A-Za-z0-9+.-]*://|\b(?:https?|s?ftp|ftps|s3a?|gc?s|az|abfss?|hf|hdfs|webdavs?):/(?!/))"""
    r"""((?:[^\s/?#]*|[^\s/?#:@\[]*:(?!\d+/)[^\s?#]*)@)?([^\s?#"'<>]*)(\?[^\s#]*)?(\#\S*)?"""
)
_MOST_PROBLEMS = 100
_PAIRS = re.compile("[&;]")
_AFTER = ".,:;!)]}'\"`>"
_PLAIN = {"download", "dl", "raw", "ref", "rev", "revision", "version", "versionid", "format", "export", "plain"}


class VlkitError(Exception):
    """A mistake that the user can correct: the message says what was given, what is allowed and what to do.

    Credentials in addresses are hidden in every message; see :func:`redacted`.
    """

    def __init__(self, message: object = "", *others: object):
        super().__init__(redacted(str(message)), *others)

    def add(self, sentence: str) -> None:
        """Append a sentence: what was kept, how to continue."""
        self.args = (f"{self} {redacted(sentence)}", *self.args[1:])


class ConfigError(VlkitError):
    """One or more mistakes in a configuration, reported together.

    The message has the first 100 of them and the number of the others.

    Args:
        problems: one sentence each, with the file and the key path in front.
    """

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [redacted(each) for each in ([problems] if isinstance(problems, str) else problems)]
        more = len(self.problems) - _MOST_PROBLEMS
        shown = [*self.problems[:_MOST_PROBLEMS], *([f"... and {more:,} more problems."] if more > 0 else [])]
        super().__init__("\n".join(shown))

    def add(self, sentence: str) -> None:
        self.problems.append(redacted(sentence))
        self.args = (f"{self.args[0]}\n{self.problems[-1]}",)


class RegistryError(VlkitError):
    """A name that is not registered, or one that is registered twice."""


class DataError(VlkitError):
    """A dataset that cannot be opened or does not hold what it should."""


class BadSample(DataError):
    """One sample that cannot be used (an undecodable image, say). Loaders skip it and name it in the ledger.

    Args:
        source: what a person can look up: a path, or dataset and index.
        reason: why it gives no sample.
    """

    def __init__(self, source: str, reason: str):
        self.source, self.reason = redacted(source), redacted(reason)
        super().__init__(f"{source}: {reason}")

    def __reduce__(self):  # crosses process borders: worker to main
        return (BadSample, (self.source, self.reason))


class RunFailed(VlkitError):
    """A run that was ended by an error which is not a mistake in its configuration. Its cause is the error itself."""


class CheckpointError(VlkitError):
    """A checkpoint that is damaged, unsafe, or of another model."""


class LostProcess(VlkitError):
    """Another process of a distributed run died, stopped, or ended with an error, so this one cannot continue.

    The command line exits with 1: the run can be started again as it is.
    """


class MissingDependency(VlkitError):
    """An optional package that is not installed.

    Args:
        package: the import name.
        purpose: what needs it.
        extra: the extra of vlkit that installs it.
    """

    def __init__(self, package: str, purpose: str, extra: str):
        self._parts = (package, purpose, extra)
        super().__init__(f"{purpose} needs the package {package!r}: pip install 'vlkit[{extra}]'")

    def __reduce__(self):  # crosses process borders, too
        return (MissingDependency, self._parts)


def redacted(text: str, *addresses: str) -> str:
    """Return ``text`` without the credentials in its addresses: the parts before ``@``, after ``?`` and after ``#``.

    Names of query parameters stay, their values do not, but for a few that hold no secret (``revision``, ``dl``).
    Messages, file names, logs and records of runs are made from what this function gives.

    Args:
        text: an address, or any text that may hold some.
        addresses: further ones whose secrets may stand alone in ``text``, such as the message of another library.
    """
    if ":/" in text:
        text = _ADDRESS.sub(_hide, text)
    for secret in [part for address in addresses for part in secrets_of(address)]:
        text = text.replace(secret, HIDDEN)
    return text


def redacted_data(content: Any) -> Any:
    """Return ``content`` (mappings, lists, plain values) without the credentials of the addresses in it."""
    if isinstance(content, Mapping):
        return {key: redacted_data(each) for key, each in content.items()}
    if isinstance(content, (list, tuple)):
        return [redacted_data(each) for each in content]
    return redacted(content) if isinstance(content, str) else content


def secrets_of(address: str) -> list[str]:
    """Return the parts of an address that :func:`redacted` hides, longest first; none shorter than four characters."""
    found: list[str] = []
    for match in _ADDRESS.finditer(address):
        _, login, _, query, fragment = match.groups(default="")
        found += [login[:-1], *login[:-1].split(":", 1), query[1:], fragment[1:]]
        found += [pair.partition("=")[2] or pair for pair in _PAIRS.split(query[1:]) if _hides(pair)]
    return sorted({part for part in found if len(part) >= 4}, key=len, reverse=True)


def _hide(match: re.Match[str]) -> str:
    scheme, login, place, query, fragment = match.groups(default="")
    text = f"{scheme}{f'{HIDDEN}@' if login else ''}{place}"
    end = ""
    for mark, part in (("?", query), ("#", fragment)):
        if part:
            inside = part[1:].rstrip(_AFTER)
            end = part[1 + len(inside) :]
            shown = "&".join(_pair(pair) for pair in _PAIRS.split(inside)) if mark == "?" else HIDDEN
            text += f"{mark}{shown}" if inside else mark
    return text + end


def _pair(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    return pair if not _hides(pair) else f"{name}={HIDDEN}" if equals else HIDDEN


def _hides(pair: str) -> bool:
    name, _, value = pair.partition("=")
    return bool(pair) and not (name.lower() in _PLAIN and len(value) <= 40)


def shortened(value: object, length: int = 60) -> str:
    """Return ``repr`` of a value for a message, at most ``length`` characters of it."""
    text = redacted(repr(value))  # before it is cut: half an address shows what a whole one hides
    return text if len(text) <= length else text[: length - 3] + "..."


def closest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the ``count`` names of ``known`` most like ``name``, best first; none when nothing is like it."""
    return difflib.get_close_matches(str(name), [str(k) for k in known], n=count, cutoff=0.5)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'a' or 'b'?`` for names like ``name``, else an empty string: also where ``name`` is known,
    since then something else is wrong."""
    known = list(known)
    near = [] if name in known else closest(str(name)[:200], known)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
