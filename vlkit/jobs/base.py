"""The base class of everything that a YAML file can start: load, prepare, check, run."""

from __future__ import annotations

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from vlkit.config.load import Config, load_config
from vlkit.config.old_keys import with_current_keys
from vlkit.errors import ConfigError, VlkitError, redacted_data
from vlkit.io.disk_errors import describe
from vlkit.io.files import sha256

Result = dict[str, Any]
J = TypeVar("J", bound="Job")


class Problems(list[str]):
    """Error messages collected over several attempts, to be raised together."""

    @contextlib.contextmanager
    def of(self, place: str) -> Iterator[None]:
        """Collect what is raised inside as a problem at ``place``."""
        try:
            yield
        except VlkitError as error:
            self += [text if text.startswith(place) else f"{place}: {text}" for text in problems_of(error)]
        except OSError as error:  # a path that is too long, a folder without permission
            self.append(f"{place}: {describe(error)}")

    def end(self) -> None:
        """Raise the collected problems, each once.

        Raises:
            ConfigError: there are any.
        """
        if self:
            raise ConfigError(list(dict.fromkeys(self)))


def problems_of(error: VlkitError) -> list[str]:
    """Return the messages of an error."""
    return error.problems if isinstance(error, ConfigError) else [str(error)]


@dataclass(frozen=True)
class Pending:
    """Key paths of a configuration whose value is an output that an earlier stage has yet to write.

    Args:
        keys: such as ``run.init_from`` or ``datasets.train.0.path``.
    """

    keys: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.keys)

    def __contains__(self, key_path: str) -> bool:
        """Whether the value at ``key_path``, or anything inside of it, is pending."""
        return any(key == key_path or key.startswith(f"{key_path}.") for key in self.keys)


NOTHING = Pending()
"""All files exist already."""


class Job(ABC):
    """Everything that a YAML file can start, alone or as a stage of a pipeline.

    ``load`` parses, validates and resolves the file. ``prepare`` builds what the job needs and checks names, contracts
    and files. ``check`` runs a first batch in addition. ``run`` does the work, and resumes it where an earlier call
    stopped. Only ``run`` writes.

    Args:
        config: the resolved file.

    Raises:
        ConfigError: everything that is wrong with it.
    """

    command: ClassVar[str]
    """Name of the command, also in pipeline files."""
    output_key: ClassVar[str] = "run.output_dir"
    """Key path of the output folder."""
    seed_key: ClassVar[str | None] = "run.seed"
    """Key path of the seed; None: nothing is random."""
    in_every_process: ClassVar[bool] = False
    """Whether all processes of ``torchrun`` take part in ``run``; otherwise the first one does it alone."""

    def __init__(self, config: Config):
        self.config = config

    @classmethod
    def load(cls: type[J], path: str | Path, overrides: Sequence[str] = ()) -> J:
        """Load the job of a file.

        Args:
            path: of the file.
            overrides: ``key.path=value``.

        Raises:
            ConfigError: everything that is wrong with the file.
        """
        return cls(load_config(path, overrides))

    @abstractmethod
    def prepare(self, pending: Pending = NOTHING, fresh: bool = False) -> Any:
        """Build what the job needs, and check everything that needs no batch.

        Args:
            pending: these outputs of earlier stages do not exist yet and are left out.
            fresh: the output folder will be moved away before the run, so its content does not matter.

        Raises:
            ConfigError: everything that is wrong.
        """

    def check(self, pending: Pending = NOTHING, every_image: bool = False) -> list[tuple[str, str]]:
        """Prepare, and try a first batch where the kind of job has one.

        Args:
            pending: as for :meth:`prepare`.
            every_image: decode all images and videos instead of a few.

        Returns:
            The report: title and text of each line.

        Raises:
            ConfigError: everything that is wrong.
        """
        self.prepare(pending, fresh=True)
        return []

    @abstractmethod
    def run(self) -> Result:
        """Do the work, resuming where an earlier call stopped.

        Raises:
            VlkitError: it fails.
        """

    @property
    def device(self) -> str:
        """The value of ``run.device``."""
        return "auto"

    @property
    def eval_sets(self) -> Sequence[str] | None:
        """Names of the evaluation sets, which prefix the metrics; None: metrics have no such prefix."""
        return None

    def record(self, result: Result) -> Result:
        """Select what a pipeline records of the result of :meth:`run`.

        Returns:
            ``status`` ("finished", or "interrupted" with ``signal``) and ``metrics`` (name to number); optionally
            ``picture`` (a path) and ``seconds``.
        """
        return result

    def input_fingerprints(self) -> dict[str, str | None]:
        """Identify inputs that no configuration and no earlier stage determine, such as weights."""
        return {}

    @abstractmethod
    def output_fingerprint(self) -> str:
        """Identify the content of the output folder of a finished job."""

    def relevant(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Select what the output depends on in a configuration of this kind."""
        return config

    def changes(self, before: Mapping[str, Any], finished: bool) -> str:
        """Describe relevant differences to the configuration that the job was started with; empty: none.

        Args:
            before: that configuration.
            finished: whether the job was finished with it.
        """
        from vlkit.runner.config_changes import plain  # the runner is slow to import, and load_model does without

        now = redacted_data(plain(self.config.data))
        return self.differences(redacted_data(with_current_keys(before)), now, finished)

    def differences(self, before: Mapping[str, Any], now: Mapping[str, Any], finished: bool) -> str:
        """Compare two configurations, both with current keys and without credentials; see :meth:`changes`."""
        from vlkit.runner.config_changes import differences

        return differences(self.relevant(before), self.relevant(now))


def digest(files: Iterable[Path], more: Any = None) -> str:
    """Return a SHA-256 of names and content of files, and of ``more``, plain data."""
    found = {file.name: sha256(file) for file in sorted(files)}
    return hashlib.sha256(json.dumps([found, more], sort_keys=True).encode()).hexdigest()
