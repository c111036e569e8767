"""A CapFilt job: checks a job file and runs its workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from vlkit.capfilt.annotator import ModelAnnotator
from vlkit.capfilt.engine import Worker, done_shards, summary_of
from vlkit.capfilt.input_reader import Ready
from vlkit.capfilt.input_shards import described, find_all, read_shard
from vlkit.capfilt.inputs import InputOptions, InputShard, Item, local_path
from vlkit.capfilt.job_file import JobFile, check_job
from vlkit.capfilt.output import NOT_READ, RECORD
from vlkit.capfilt.refusals import forget_all, nothing_came
from vlkit.capfilt.shard_output import SUMMARY
from vlkit.capfilt.storage import Storage
from vlkit.config.build import accepts
from vlkit.config.load import Config, expanded, load_config
from vlkit.config.old_keys import capfilt_with_current_keys
from vlkit.config.parts import ComponentSpec
from vlkit.config.yamlfile import dump_yaml
from vlkit.errors import ConfigError, DataError, VlkitError, redacted_data
from vlkit.io.files import why_unwritable
from vlkit.io.json import json_text, parse_json
from vlkit.jobs.base import Problems
from vlkit.jobs.models import build_with_models, image_processors, model_weights
from vlkit.registry import PROCESSORS
from vlkit.runner.config_changes import differences, plain
from vlkit.runner.context import autocast, choose_device

_FIRST_IMAGES = 100  # of which the texts are compared with the tokenizer


@dataclass(frozen=True)
class CheckResult:
    """What a job needs, looked at.

    Args:
        shards: of the input.
        record: what the output says of the job.
        summary: of the output, if nothing is left to do.
    """

    shards: list[InputShard]
    record: dict[str, Any]
    summary: dict[str, Any] | None


@dataclass(frozen=True)
class Prepared:
    """A job whose parts are built and looked at.

    Args:
        annotator: the models at work.
        shards: of the input.
        record: what the output says of the job.
    """

    annotator: ModelAnnotator
    shards: list[InputShard]
    record: dict[str, Any]


class Job:
    """A job file that was found to be right.

    Args:
        file: what it says.
    """

    def __init__(self, file: JobFile):
        self.file = file

    @classmethod
    def open(cls, path: str | Path, overrides: Sequence[str] = ()) -> Job:
        """The job of a file.

        Args:
            path: job file.
            overrides: ``key.path=value``.

        Raises:
            ConfigError: everything that is wrong with the file.
        """
        return cls.of(load_config(path, overrides))

    @classmethod
    def of(cls, config: Config) -> Job:
        """The job of a configuration that is loaded already."""
        return cls(check_job(config))

    @property
    def output_dir(self) -> str:
        """Where it writes: a folder, or an address."""
        return self.file.output_dir

    def as_yaml(self) -> str:
        """The job as a file that gives it again, wherever it lies."""
        config = self.file.config
        data = {**config.data, "run": {**(config.data.get("run") or {}), "output_dir": self.output_dir}}
        if entries := data.get("plugins"):
            sources = [config.source(f"plugins.{index}") for index in range(len(entries))]
            folders = [source.parent if source else Path() for source in sources]
            data["plugins"] = [str(Path(folder, expanded(each)).resolve()) for folder, each in zip(folders, entries)]
        return dump_yaml(data)

    def prepare(self, looked: CheckResult | None = None) -> Prepared:
        """Build everything and look at it: one image goes through the models. Nothing is written.

        Args:
            looked: what :meth:`check` gave a moment ago; None: look.

        Raises:
            ConfigError: everything that is wrong.
        """
        looked = looked or self.check()
        problems, file = Problems(), self.file
        with problems.of(self._at("run.device")):
            device = choose_device(file.run.device, int(os.environ.get("LOCAL_RANK") or 0))
        with problems.of(self._at("task")):
            task = file.task.build()
        problems.end()
        with problems.of(""):  # these say themselves where
            processors = {name: self._processor(part) for name, part in image_processors(file.model).items()}
            model = build_with_models(file.model).eval().to(device)
            cast = autocast(device, file.run.precision)
            annotator = ModelAnnotator(model, task, processors, device, cast, file.run.seed)
            _rehearse(annotator)
            annotator.see(_first_texts(looked.shards[0], file.input))
        problems.end()
        return Prepared(annotator, looked.shards, looked.record)

    def _processor(self, part: ComponentSpec) -> Any:
        """What makes the pixels of an image. How large an image may be is said by the input."""
        if "max_pixels" in part.mapping or not accepts(PROCESSORS.get(part.name), "max_pixels"):
            return part.build()
        return part.build(max_pixels=int(self.file.input.max_pixels))

    def check(self) -> CheckResult:
        """Look at everything that the job needs without building its models. Nothing is written.

        Raises:
            ConfigError: everything that is wrong.
        """
        problems, file = Problems(), self.file
        with problems.of(self._at("input")):
            found = find_all(file.input)
        with problems.of(""):  # these say themselves where
            weights = self._weights()
        with problems.of(self._at("run.output_dir")):
            self._check_folder()
        problems.end()
        shards = found.shards
        inputs = {shard.name: asdict(shard) for shard in shards}
        not_read = {NOT_READ: described(found.not_read)} if found.not_read else {}
        record = {**file.essential(), "weights": weights, "inputs": inputs, **not_read}
        record = redacted_data(plain(record))
        place = Storage(self.output_dir)
        replaced = False
        with problems.of(self._at("run.output_dir")):
            replaced = self._compare(place, record)
        problems.end()
        finished = (
            not replaced and place.exists(SUMMARY) and done_shards(place).issuperset(shard.name for shard in shards)
        )
        return CheckResult(shards, record, summary_of(place) if finished else None)

    def worker(self, ready: Prepared, place: Storage, stop: Callable[[], bool]) -> Worker:
        """One process that works on the job; writes what job it is, unless that is written.

        Args:
            ready: what :meth:`prepare` gave.
            place: output folder.
            stop: asked whether to end soon.

        Raises:
            ConfigError: the folder meanwhile holds another job.
        """
        data = json_text(ready.record, indent=1).encode() + b"\n"
        if not place.create(RECORD, data) and self._compare(place, ready.record):
            forget_all(place)
            place.write_bytes(RECORD, data)
        run = self.file.run
        return Worker(
            ready.shards,
            self.file.input,
            place,
            ready.annotator,
            batch_size=run.batch_size,
            shards_at_once=run.shards_at_once,
            readers=run.readers,
            lease=run.lease,
            store_dropped=run.store_dropped,
            store_images=run.output == "shards",
            max_refused=run.max_refused,
            stop=stop,
        )

    def _weights(self) -> dict[str, str]:
        """SHA-256 of the weights of each model."""
        model = self.file.model
        if not model.models:
            raise ConfigError(f"{model.name} has no captioner. Give model: {{name: blip_capfilt, captioner: {{...}}}}.")
        found = model_weights(model)
        lacking = [
            f"{part.origin(f'{part.where}.weights')}: there are no weights: its card names none. Give a file, the "
            "folder of a run, an address or card:<model>/<type>."
            for role, part in model.models.items()
            if role not in found
        ]
        if lacking:
            raise ConfigError(lacking)
        return {role: each.fingerprint() for role, each in found.items()}

    def _check_folder(self) -> None:
        place = Storage(self.output_dir)
        if place.local is not None and (why := why_unwritable(place.local)):
            raise ConfigError(f"{place} cannot be made: {why}. Choose another run.output_dir.")

    def _compare(self, place: Storage, record: dict[str, Any]) -> bool:
        """Whether the folder holds another job that may be replaced, because nothing came of it."""
        if not place.exists(RECORD):
            if place.list("done"):
                raise ConfigError(f"{place} holds shards, but no {RECORD}. Choose another run.output_dir.")
            return False
        try:
            before = parse_json(place.read_bytes(RECORD), f"{place}/{RECORD}")
        except DataError as error:
            raise ConfigError(f"{error} Choose another run.output_dir.") from error
        changed = differences(_compared(before), _compared(record))
        if changed and not nothing_came(place):
            raise ConfigError(
                f"{place} holds another job: {changed}. Choose another run.output_dir, or delete the folder to start "
                "over."
            )
        return bool(changed)

    def _at(self, key_path: str) -> str:
        return self.file.config.origin(key_path)


def _first_texts(shard: InputShard, options: InputOptions) -> list[str]:
    """Some texts of a shard; of one that lies elsewhere none, because all of it would be copied."""
    if local_path(shard.path) is None:
        return []
    items = (found for found in read_shard(shard, options) if isinstance(found, Item))
    return [text for item in islice(items, _FIRST_IMAGES) for text in item.texts]


def _compared(record: Any) -> Any:
    """What of a record two commands have to agree on."""
    if not isinstance(record, dict):
        return record
    return {key: value for key, value in capfilt_with_current_keys(record).items() if key != NOT_READ}


def _rehearse(annotator: ModelAnnotator) -> None:
    """One blank image through the models: whatever they refuse is told before anything is written."""
    blank = Image.new("RGB", (32, 32), "white")
    images = {name: processor(blank) for name, processor in annotator.processors.items()}
    try:
        annotator.annotate([Ready(0, Item("blank", b"", "png", ("a picture",)), images)])
    except VlkitError:
        raise
    except Exception as error:  # a model is anyone's code
        raise ConfigError(f"a first image fails: {type(error).__name__}: {error}") from error
