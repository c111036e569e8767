"""The sections of a CapFilt job file, validated together."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from vlkit.capfilt.inputs import InputOptions
from vlkit.capfilt.refusals import MOST
from vlkit.config.load import Config
from vlkit.config.parts import ComponentSpec, ModelPart, model_part, task_part
from vlkit.config.schema import Sections
from vlkit.errors import ConfigError
from vlkit.io.data_dir import localize
from vlkit.registry.bounds import BatchSize, FilledText, PositiveInt, Processes, Range, Seed, UnitInterval

SECTIONS = ("plugins", "model", "task", "input", "run")


@dataclass(frozen=True)
class JobOptions:
    """The section ``run`` of a job.

    Args:
        output_dir: a folder, or an address that fsspec or an iopath handler writes; null: ``output/<name of the
            file>``.
        batch_size: images that the models take at once.
        device: auto takes cuda, then mps, then cpu.
        precision: bf16 is autocast; the weights stay fp32.
        seed: of sampling, together with the key of each image.
        threads: of a process for computing on the CPU. The last digits of scores depend on it, therefore it belongs to
            the job; several workers of one thread are faster than one with several.
        decode_threads: threads of a process that decode images.
        shards_at_once: consecutive shards that one process takes as its work; batches are filled over their borders.
        lease: seconds without a sign of life after which the work of a process is free for others.
        store_dropped: whether images of which no text was kept are stored, too.
        output: "shards" stores images with their texts, and tables; "scores" tables alone.
        max_refused: share of the rows that may be refused before the job stops, checked after each shard once two
            shards and 1000 rows are done; 1 or null: any.
    """

    output_dir: FilledText | None = None
    batch_size: BatchSize = 64
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: Seed = 0
    threads: Processes = 1
    decode_threads: Processes = 2
    shards_at_once: PositiveInt = 2
    lease: Annotated[float, Range(0, 1e8, open=True)] = 600.0
    store_dropped: bool = True
    output: Literal["shards", "scores"] = "shards"
    max_refused: UnitInterval | None = MOST


NEUTRAL = ("output_dir", "device", "decode_threads", "lease", "max_refused")
"""Keys of ``run`` that leave the output as it is: a job may be continued with others."""


@dataclass(frozen=True)
class JobFile:
    """A validated job file.

    Args:
        model, task: ready to be built.
        input, run: the options of these sections.
        config: the data that all of it came from.
    """

    model: ModelPart
    task: ComponentSpec
    input: InputOptions
    run: JobOptions
    config: Config

    @property
    def output_dir(self) -> str:
        """Where the job writes: as configured, or ``output/<name of the job file>``."""
        name = self.config.path.stem if self.config.path else "capfilt"
        return self.run.output_dir or str(Path("output") / name)

    def essential(self) -> dict[str, Any]:
        """Return the part of the file that the output depends on; weights are identified by their content."""
        data = self.config.data
        run = {key: value for key, value in asdict(self.run).items() if key not in NEUTRAL}
        return {
            "model": _without_weights(data["model"]),
            "task": data["task"],
            "input": asdict(self.input),
            "run": run,
        }


def check_job(config: Config) -> JobFile:
    """Validate a job file, after loading its plugins.

    Raises:
        ConfigError: every problem of every section.
    """
    found = Sections(config)
    found.open(SECTIONS)
    model, task = found.part("model", model_part), found.part("task", task_part)
    if config.data.get("input") is None:
        found.report("input", "the section 'input' is missing: input: {path: <shards or a list>}.")
    options = found.section("input", InputOptions) if config.data.get("input") is not None else None
    run = found.section("run", JobOptions)
    if model is None or task is None or options is None or run is None or found.problems:
        raise ConfigError(list(dict.fromkeys(found.problems)))
    paths = localize({"path": options.path, "image_root": options.image_root}, {})
    return JobFile(model, task, replace(options, **paths), run, config)


def _without_weights(model: Any) -> Any:
    if not isinstance(model, dict):
        return model
    return {key: _without_weights(value) for key, value in model.items() if key != "weights"}
