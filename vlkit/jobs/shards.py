"""Write a dataset as webdataset shards: the job of ``vlkit shards``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlkit.config.build import build, check
from vlkit.config.load import Config
from vlkit.config.parts import dataset_part
from vlkit.config.schema import load_plugins
from vlkit.datasets.base import VLDataset
from vlkit.datasets.faults import collect_faults
from vlkit.datasets.shard_writer import RECORD, encoded_picture, samples_in, write_shards
from vlkit.errors import ConfigError, VlkitError
from vlkit.jobs.base import NOTHING, Job, Pending, Result, digest, problems_of
from vlkit.registry import DATASETS
from vlkit.registry.bounds import PositiveInt, Seed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardsEntries:
    """Schema of the file.

    Args:
        dataset: ``{name: ..., split: ...}``, as in a run; images are written as they are, so it takes no processors.
        samples_per_shard: upper limit of samples in a shard.
        seed: of random choices in a training set, such as one of an image's captions.
        output_dir: null: ``output/<name of the file>``.
        plugins: as in a run.
    """

    dataset: dict[str, Any]
    samples_per_shard: PositiveInt = 1000
    seed: Seed = 0
    output_dir: Path | None = None
    plugins: list[str] = field(default_factory=list)


class ShardsJob(Job):
    """Write a dataset as shards."""

    command = "shards"
    output_key = "output_dir"
    seed_key = None

    def __init__(self, config: Config):
        super().__init__(config)
        self.entries: ShardsEntries = build(ShardsEntries, config.data, "", config.origin)
        problems = load_plugins(config)
        if problems:
            raise ConfigError(problems)
        processors = [key for key in self.entries.dataset if key.endswith("_processor")]
        if processors:
            raise ConfigError(
                f"{config.origin(f'dataset.{processors[0]}')}: shards hold images and texts as they are. Leave "
                f"{' and '.join(processors)} out."
            )
        self.dataset = dataset_part(self.entries.dataset, "dataset", config.origin)
        problems = check(DATASETS, self.dataset.mapping, "dataset", self.dataset.origin, ("image_processor",))
        if problems:
            raise ConfigError(problems)

    @property
    def output_dir(self) -> Path:
        """The output folder."""
        name = self.config.path.stem if self.config.path else "shards"
        return self.entries.output_dir or Path("output") / name

    def prepare(self, pending: Pending = NOTHING, fresh: bool = False) -> VLDataset | None:
        """Build the dataset; None: it is pending. See :meth:`Job.prepare`."""
        if "dataset" in pending:
            return None
        try:
            return self.build_dataset()
        except VlkitError as error:
            raise ConfigError(problems_of(error)) from error

    def build_dataset(self) -> VLDataset:
        """Build the dataset, with encoded images. Unusable rows of its annotation files are left out, with a warning
        each.

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

    def run(self) -> Result:
        """Write the shards that do not exist yet.

        Returns:
            ``folder``; numbers of ``shards`` and ``samples`` in it, and of samples and rows that were ``left_out``.

        Raises:
            DataError: the folder holds other shards, or the dataset has no images.
            VlkitError: the disk is full.
        """
        dataset = self.build_dataset()
        shards = write_shards(dataset, self.output_dir, self.entries.samples_per_shard, self.entries.seed)
        samples = samples_in(shards)
        left_out = len(dataset) - samples + len(dataset.bad_rows)
        return {"folder": str(self.output_dir), "shards": len(shards), "samples": samples, "left_out": left_out}

    def record(self, result: Result) -> Result:
        return {"status": "finished", "metrics": {key: value for key, value in result.items() if key != "folder"}}

    def output_fingerprint(self) -> str:
        sizes = {shard.name: shard.stat().st_size for shard in self.output_dir.glob("*.tar")}
        return digest([self.output_dir / RECORD], sizes)

    def relevant(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        return {key: value for key, value in config.items() if key != "output_dir"}
