"""What a pipeline asks of a stage."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vlkit.config.load import Config
from vlkit.errors import ConfigError, VlkitError, redacted_data
from vlkit.io.files import sha256
from vlkit.jobs.awaited import Awaited
from vlkit.runner.config_changes import differences, plain

if TYPE_CHECKING:
    from vlkit.jobs.check import Report

Record = dict[str, Any]


@dataclass(frozen=True)
class StageLocation:
    """Where a stage stands in its pipeline.

    Args:
        key: unique: the name, or ``seed_0/<name>``.
        name: of the stage in the file.
        seed: of a pipeline with seeds; None: of one without, or for all of them.
        folder: where it writes.
        after: keys of the earlier stages whose folders its configuration names.
        alone: whether nothing is to run beside it.
    """

    key: str
    name: str
    seed: int | None
    folder: Path
    after: tuple[str, ...] = ()
    alone: bool = False


class Stage(ABC):
    """One stage; a kind of stage is a subclass.

    Args:
        spot: where it stands; its key, name, folder, ``after`` and ``alone`` are attributes.
        config: its configuration.

    Raises:
        ConfigError: everything that is wrong with the configuration.
    """

    command: ClassVar[str]
    """What a pipeline file calls it."""
    folder_key: ClassVar[str] = "run.output_dir"
    """Key path over which the stage's folder is laid."""
    seed_key: ClassVar[str | None] = "run.seed"
    """Key path over which the seed of the pipeline is laid."""
    in_every_process: ClassVar[bool] = False
    """Whether all processes of ``torchrun`` take part; otherwise the first one does it alone."""

    def __init__(self, spot: StageLocation, config: Config):
        self.config = config
        self.key, self.name, self.folder, self.after = spot.key, spot.name, spot.folder, spot.after
        self.alone = spot.alone

    @property
    def device(self) -> str:
        """What ``run.device`` asks for."""
        return "auto"

    @property
    def sets(self) -> Sequence[str] | None:
        """Evaluation sets, which its scores' names begin with; None: they have no such names."""
        return None

    @abstractmethod
    def problems(self, awaited: Awaited, folder_freed: bool) -> list[str]:
        """What is wrong with it before it is run, as far as that can be seen.

        Args:
            awaited: what earlier stages are still to make; nothing is looked for in there.
            folder_freed: what its folder holds will be moved away.
        """

    def rehearse(self, awaited: Awaited, every_image: bool = False) -> Report | None:
        """Do in small what it would do, for ``vlkit check``; None: there is nothing to report.

        Args:
            awaited: as for :meth:`problems`.
            every_image: decode all images and videos, and not a few.

        Raises:
            ConfigError: everything that is wrong.
        """
        found = self.problems(awaited, folder_freed=True)
        if found:
            raise ConfigError(found)
        return None

    def outside(self) -> dict[str, str | None]:
        """What it depends on besides configuration and earlier stages: name to what identifies the content."""
        return {}

    @abstractmethod
    def product(self) -> str:
        """What identifies the content of its folder, for those that use it; it is finished when this is asked."""

    @abstractmethod
    def run(self) -> Record:
        """Do it, going on where an earlier call stopped.

        Returns:
            ``status`` ("finished", or "interrupted" with ``signal``), ``metrics`` (name to number), and what else is
            to be recorded; ``picture`` and ``seconds`` where they are not ``samples.png`` and the time of this call.
        """

    def essential(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """What of a configuration of such a stage matters to its outcome."""
        return config

    def changes(self, before: Mapping[str, Any], finished: bool) -> str:
        """What in the configuration is not as it was ``before`` and matters, in words; empty if nothing is.

        Args:
            before: the configuration that it was begun with.
            finished: whether it was finished with that one.
        """
        now = redacted_data(plain(self.config.data))
        return differences(self.essential(redacted_data(before)), self.essential(now))


def digest(files: Iterable[Path], more: Any = None) -> str:
    """What identifies these files (names and content), and ``more``, plain data."""
    found = {file.name: sha256(file) for file in sorted(files)}
    return hashlib.sha256(json.dumps([found, more], sort_keys=True).encode()).hexdigest()


def problems_of(error: VlkitError) -> list[str]:
    """The sentences of an error."""
    return error.problems if isinstance(error, ConfigError) else [str(error)]
