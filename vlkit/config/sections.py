"""What files with sections have in common: their plugins, and sections that are checked together."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vlkit.config.convert import Problems, convert
from vlkit.config.load import Config, expanded
from vlkit.errors import ConfigError, VlkitError, did_you_mean
from vlkit.registry import load_plugin

T = TypeVar("T")
_NAME = re.compile(r"[\w.-]{1,40}")


def load_plugins(config: Config) -> list[str]:
    """Import the files under ``plugins``, relative to the file that lists them; the problems are returned."""
    found: Problems = []
    given = config.data.get("plugins")
    entries = convert([] if given is None else given, list[str], "plugins", found)
    problems = [f"{config.origin(path)}: {text}" for path, text in found]
    for index, entry in enumerate(entries if not found else []):
        source = config.source(f"plugins.{index}")
        try:
            load_plugin((source.parent if source else Path()) / expanded(entry))
        except VlkitError as error:
            problems.append(f"{config.origin(f'plugins.{index}')}: {error}")
    return problems


class Sections:
    """Collects the problems of one file.

    Args:
        config: the file.

    Attributes:
        problems: sentences with the file and the key path in front.
    """

    def __init__(self, config: Config):
        self.config = config
        self.problems: list[str] = []

    def open(self, known: Sequence[str]) -> None:
        """Report sections that are not ``known``, and load the plugins."""
        allowed = f"Allowed: extends, {', '.join(known)}."
        for key in self.config.data:
            if not _NAME.fullmatch(key):  # of another kind of file: what it holds may be a secret
                self.problems.append(
                    f"{self.config.origin('')}: there is a key that is no name of a section. {allowed}"
                )
            elif key not in known:
                self.report(key, f"unknown section {key!r}.{did_you_mean(key, known)} {allowed}")
        self.problems += load_plugins(self.config)

    def report(self, path: str, problem: str) -> None:
        """Add a problem at a key path."""
        self.problems.append(f"{self.config.origin(path)}: {problem}")

    def mapping(self, name: str) -> dict[str, Any]:
        """Return a section that may be absent or empty."""
        section = self.config.data.get(name)
        return section if isinstance(section, dict) else {}

    def section(self, name: str, schema: type[T]) -> T | None:
        """Return the options of a section that no registry builds; None when they are wrong."""
        found: Problems = []
        value = self.config.data.get(name)
        options = convert({} if value is None else value, schema, name, found)
        for path, problem in found:
            self.report(path, problem)
        return options if not found else None

    def part(self, name: str, make: Callable[..., Any]) -> Any:
        """Return a section that a registry builds, or None when it is absent or cannot even be read."""
        if self.config.data.get(name) is None:
            self.report(name, f"the section {name!r} is missing: {name}: {{name: ...}}.")
            return None
        return self.checked(make, self.config.data[name], name, self.config.origin)

    def checked(self, make: Callable[..., Any], *args: Any) -> Any:
        """Return the part that ``make`` gives, its problems reported; None when it cannot be made."""
        try:
            part = make(*args)
        except ConfigError as error:
            self.problems += error.problems
            return None
        problems = part.check()
        self.problems += problems
        return part
