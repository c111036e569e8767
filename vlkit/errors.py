"""The exceptions that a user can cause. The command line prints their message alone and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class VlkitError(Exception):
    """A mistake that the user can correct: the message says what was given, what is allowed and what to do."""

    def add(self, sentence: str) -> None:
        """Say more: what was kept, how to continue."""
        self.args = (f"{self} {sentence}", *self.args[1:])


class ConfigError(VlkitError):
    """One or more mistakes in a configuration, reported together.

    Args:
        problems: one sentence each, with the file and the key path in front.
    """

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def add(self, sentence: str) -> None:
        self.problems.append(sentence)
        self.args = ("\n".join(self.problems),)


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
        self.source, self.reason = source, reason
        super().__init__(f"{source}: {reason}")

    def __reduce__(self):  # crosses process borders: worker to main
        return (BadSample, (self.source, self.reason))


class RunFailed(VlkitError):
    """A run that was ended by an error which is not a mistake in its configuration. Its cause is the error itself."""


class CheckpointError(VlkitError):
    """A checkpoint that is damaged, unsafe, or of another model."""


class LostProcess(VlkitError):
    """Another process of a distributed run died, stopped, or ended with an error, so this one cannot go on.

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
        self._told = (package, purpose, extra)
        super().__init__(f"{purpose} needs the package {package!r}: pip install 'vlkit[{extra}]'")

    def __reduce__(self):  # crosses process borders, too
        return (MissingDependency, self._told)


def shortened(value: object, length: int = 60) -> str:
    """``repr`` of a value that stands in a message, at most ``length`` characters of it."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def closest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The ``count`` names of ``known`` most like ``name``, best first; none when nothing is like it."""
    return difflib.get_close_matches(str(name), [str(k) for k in known], n=count, cutoff=0.5)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'a' or 'b'?`` for names like ``name``, else an empty string."""
    near = closest(name, known)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
