"""Writes a dataset as webdataset shards, as a file says: ``vlkit shards FILE.yaml``, or a stage of a pipeline."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlkit.config.build import build, check
from vlkit.config.load import Config, load_config
from vlkit.config.parts import DatasetSpec, dataset_part
from vlkit.config.sections import load_plugins
from vlkit.datasets.base import VLDataset
from vlkit.datasets.faults import collect_faults
from vlkit.datasets.shard_writer import encoded_picture, samples_in, write_shards
from vlkit.errors import ConfigError
from vlkit.registry import DATASETS
from vlkit.registry.bounds import PositiveInt, Seed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardsEntries:
    """What such a file may hold.

    Args:
        dataset: ``{name: ..., split: ...}``, as in a run; images are written as they are, so it takes no processors.
        samples_per_shard: how the dataset is cut.
        seed: of what a training set draws: which of an image's captions.
        output_dir: null: ``output/<name of the file>``.
        plugins: as in a run.
    """

    dataset: dict[str, Any]
    samples_per_shard: PositiveInt = 1000
    seed: Seed = 0
    output_dir: Path | None = None
    plugins: list[str] = field(default_factory=list)


class ShardsJob:
    """A dataset to be written as shards.

    Args:
        entries: what the file holds.
        dataset: ready to be built.
        config: the data that all of it came from.
    """

    def __init__(self, entries: ShardsEntries, dataset: DatasetSpec, config: Config):
        self.entries, self.dataset, self.config = entries, dataset, config

    @classmethod
    def open(cls, path: str | Path, overrides: Sequence[str] = ()) -> ShardsJob:
        """The job of a file.

        Args:
            overrides: ``key.path=value``.

        Raises:
            ConfigError: everything that is wrong with the file.
        """
        return cls.of(load_config(path, overrides))

    @classmethod
    def of(cls, config: Config) -> ShardsJob:
        """The job of a configuration that is loaded already."""
        entries: ShardsEntries = build(ShardsEntries, config.data, "", config.origin)
        problems = load_plugins(config)
        if problems:
            raise ConfigError(problems)
        processors = [key for key in entries.dataset if key.endswith("_processor")]
        if processors:
            raise ConfigError(
                f"{config.origin(f'dataset.{processors[0]}')}: shards hold images and texts as they are. Leave "
                f"{' and '.join(processors)} out."
            )
        part = dataset_part(entries.dataset, "dataset", config.origin)
        problems = check(DATASETS, part.mapping, "dataset", part.origin, ("image_processor",))
        if problems:
            raise ConfigError(problems)
        return cls(entries, part, config)

    @property
    def output_dir(self) -> Path:
        """Where it writes."""
        name = self.config.path.stem if self.config.path else "shards"
        return self.entries.output_dir or Path("output") / name

    def build_dataset(self) -> VLDataset:
        """The dataset, with encoded images. Rows of its annotation files that cannot be used are left out, each with a
        warning.

        Raises:
            VlkitError: it cannot be built.
        """
        with collect_faults() as bad:
            try:
                dataset = self.dataset.build(image_processor=encoded_picture)
            finally:
                for source, reason in bad:
                    logger.warning("left out: %s: %s", source, reason)
        dataset.bad_rows = bad
        return dataset

    def run(self) -> dict[str, Any]:
        """Write the shards that are not there yet.

        Returns:
            ``folder``; how many ``shards`` and ``samples`` it holds now; how many samples and rows were ``left_out``.

        Raises:
            DataError: the folder holds other shards, or the dataset has no images.
            VlkitError: the disk is full.
        """
        dataset = self.build_dataset()
        shards = write_shards(dataset, self.output_dir, self.entries.samples_per_shard, self.entries.seed)
        samples = samples_in(shards)
        return {
            "folder": str(self.output_dir),
            "shards": len(shards),
            "samples": samples,
            "left_out": len(dataset) - samples + len(dataset.bad_rows),
        }
