"""The job of CapFilt: caption and filter web images, in one process or in several that share the work."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vlkit.capfilt.annotator import ModelAnnotator
from vlkit.capfilt.engine import Worker, summary_of
from vlkit.capfilt.input_reader import Ready
from vlkit.capfilt.input_shards import described, find_all, find_inputs, read_shard
from vlkit.capfilt.inputs import InputOptions, InputShard, Item, local_path
from vlkit.capfilt.job_file import NEUTRAL, check_job
from vlkit.capfilt.launch import check_workers, launch
from vlkit.capfilt.output import NOT_READ
from vlkit.capfilt.record import done_shards, is_replaceable, write_record
from vlkit.capfilt.shard_output import SUMMARY
from vlkit.capfilt.storage import Storage
from vlkit.config.build import accepts
from vlkit.config.load import Config, expanded
from vlkit.config.parts import ComponentSpec
from vlkit.config.yamlfile import dump_yaml
from vlkit.errors import ConfigError, VlkitError, redacted_data
from vlkit.io.files import why_unwritable
from vlkit.io.processes import cores, end_with_parent
from vlkit.jobs.base import NOTHING, Job, Pending, Problems, Result
from vlkit.jobs.capfilt_output import fingerprint, shares
from vlkit.jobs.models import build_with_models, image_processors, model_weights
from vlkit.registry import PROCESSORS
from vlkit.runner.config_changes import plain
from vlkit.runner.context import autocast, choose_device
from vlkit.runner.signals import StopRequest

logger = logging.getLogger(__name__)
_FIRST_IMAGES = 100  # of which the texts are compared with the tokenizer
_PROMISE = "the worker stops after this batch; the same command resumes after the last finished shard"


@dataclass(frozen=True)
class CheckResult:
    """The result of the checks that need no model.

    Args:
        shards: of the input.
        record: what the output folder records of the job.
        summary: of the output, if nothing is left to do.
    """

    shards: list[InputShard]
    record: dict[str, Any]
    summary: dict[str, Any] | None


class CapFiltJob(Job):
    """Caption and filter web images; ``kept/`` in the output folder holds the bootstrapped shards.

    Attributes:
        file: the checked sections of the job file.
    """

    command = "capfilt"
    in_every_process = True

    def __init__(self, config: Config):
        super().__init__(config)
        self.file = check_job(config)

    @property
    def output_dir(self) -> str:
        """The output folder, or its address."""
        return self.file.output_dir

    @property
    def device(self) -> str:
        return self.file.run.device

    def prepare(self, pending: Pending = NOTHING, fresh: bool = False) -> None:
        if not fresh and not pending:
            self.inspect()
            return
        problems, file = Problems(), self.file
        if "input" not in pending:
            with problems.of(self.config.origin("input")):
                find_inputs(file.input)
        models = {role: each for role, each in file.model.models.items() if f"{each.where}.weights" not in pending}
        with problems.of(""):  # their messages name the place
            model_weights(dataclasses.replace(file.model, models=models))
            if not file.model.models:
                raise ConfigError(f"{self.config.origin('model')}: {file.model.name} has no captioner.")
        problems.end()

    def inspect(self) -> CheckResult:
        """Check input, weights and output folder without building models. Nothing is written.

        Raises:
            ConfigError: everything that is wrong.
        """
        problems, file, origin = Problems(), self.file, self.config.origin
        with problems.of(origin("input")):
            found = find_all(file.input)
        with problems.of(""):  # their messages name the place
            weights = self._weights()
        with problems.of(origin("run.output_dir")):
            place = Storage(self.output_dir)
            if place.local is not None and (why := why_unwritable(place.local)):
                raise ConfigError(f"{place} cannot be made: {why}. Choose another run.output_dir.")
        problems.end()
        inputs = {shard.name: dataclasses.asdict(shard) for shard in found.shards}
        not_read = {NOT_READ: described(found.not_read)} if found.not_read else {}
        record = redacted_data(plain({**file.essential(), "weights": weights, "inputs": inputs, **not_read}))
        replaced = False
        with problems.of(origin("run.output_dir")):
            replaced = is_replaceable(place, record)
        problems.end()
        finished = not replaced and place.exists(SUMMARY) and done_shards(place).issuperset(inputs)
        return CheckResult(found.shards, record, summary_of(place) if finished else None)

    def build(self, checked: CheckResult) -> ModelAnnotator:
        """Build models and processors, and annotate one blank image. Nothing is written.

        Raises:
            ConfigError: everything that is wrong.
        """
        problems, file = Problems(), self.file
        with problems.of(self.config.origin("run.device")):
            device = choose_device(file.run.device, int(os.environ.get("LOCAL_RANK") or 0))
        with problems.of(self.config.origin("task")):
            task = file.task.build()
        problems.end()
        with problems.of(""):  # their messages name the place
            processors = {name: self._processor(part) for name, part in image_processors(file.model).items()}
            model = build_with_models(file.model).eval().to(device)
            cast = autocast(device, file.run.precision)
            annotator = ModelAnnotator(model, task, processors, device, cast, file.run.seed)
            _annotate_blank(annotator)
            annotator.see(_first_texts(checked.shards[0], file.input))
        problems.end()
        return annotator

    def worker(
        self, annotator: ModelAnnotator, checked: CheckResult, place: Storage, stop: Callable[[], bool]
    ) -> Worker:
        """Make one worker of the job; write the record of the job, unless it is written.

        Args:
            annotator: from :meth:`build`.
            checked: from :meth:`inspect`.
            place: output folder.
            stop: polled between batches; True stops after the current one.

        Raises:
            ConfigError: the folder meanwhile holds another job.
        """
        write_record(place, checked.record)
        return Worker(checked.shards, self.file.input, place, annotator, self.file.run, stop)

    def run(
        self,
        workers: int | None = None,
        show: Callable[[str], object] = logger.info,
        arguments: Sequence[str] | None = None,
    ) -> Result:
        """Do what is left of the job.

        Args:
            workers: processes to start on this machine; None: this process does the work.
            show: given each line that the first of several processes prints.
            arguments: of ``vlkit capfilt`` that give this job, for several processes; None: it is written to a file.

        Returns:
            ``status``: "finished" with the counts of the whole job, or "interrupted" with ``signal``; ``seconds`` of
            this call. ``worked``: images, images a second etc. of this process alone; None where it did nothing.

        Raises:
            VlkitError: everything that is wrong with the job, or the output cannot be written.
        """
        start, worked = time.monotonic(), None
        if workers is not None:
            check_workers(workers)
        checked = self.inspect()
        if checked.summary is not None:
            result = {"status": "finished", **checked.summary}
        elif workers is not None:
            result = self._run_workers(workers, show, arguments)
        else:
            result, worked = self._run_here(checked)
        return {**result, "seconds": time.monotonic() - start, "worked": worked}

    def record(self, result: Result) -> Result:
        if result["status"] == "interrupted":
            return {"status": "interrupted", "signal": result["signal"], "metrics": {}}
        return {"status": "finished", "metrics": shares(result), "worked": result["worked"]}

    def output_fingerprint(self) -> str:
        return fingerprint(Path(self.output_dir))

    def relevant(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        run = {key: value for key, value in (config.get("run") or {}).items() if key not in NEUTRAL}
        return {**config, "run": run}

    def as_yaml(self) -> str:
        """Return a job file that gives this job from any working directory."""
        config = self.config
        data = {**config.data, "run": {**(config.data.get("run") or {}), "output_dir": self.output_dir}}
        if entries := data.get("plugins"):
            sources = [config.source(f"plugins.{index}") for index in range(len(entries))]
            folders = [source.parent if source else Path() for source in sources]
            data["plugins"] = [str(Path(folder, expanded(each)).resolve()) for folder, each in zip(folders, entries)]
        return dump_yaml(data)

    def _run_here(self, checked: CheckResult) -> tuple[Result, dict[str, Any]]:
        threads = self.file.run.threads
        with StopRequest(_PROMISE) as request, Storage(self.output_dir) as place, _torch_threads(threads):
            end_with_parent()
            annotator = self.build(checked)
            free = cores() // threads
            if annotator.device.type == "cpu" and free > 1 and "LOCAL_RANK" not in os.environ:
                logger.info("one process with %d of %d cores; --workers %d uses all", threads, cores(), free)
            worker = self.worker(annotator, checked, place, lambda: request.received is not None)
            summary = worker.run()
            if summary is None:
                return {"status": "interrupted", "signal": request.received}, worker.progress.facts()
            return {"status": "finished", **summary}, worker.progress.facts()

    def _run_workers(self, workers: int, show: Callable[[str], object], arguments: Sequence[str] | None) -> Result:
        with Storage(self.output_dir) as place, tempfile.TemporaryDirectory(prefix="vlkit-") as folder:
            if arguments is None:
                file = Path(folder, "job.yaml")
                file.write_text(self.as_yaml(), encoding="utf-8")
                arguments = [str(file)]
            if place.local is not None:
                log_folder = place.local / "log"
            else:
                log_folder = Path(tempfile.mkdtemp(prefix="vlkit-log-"))
                logger.info("the workers' logs are in %s", log_folder)
            code = launch(workers, arguments, log_folder, show)
            if code in (128 + signal.SIGTERM, 128 + signal.SIGINT):
                return {"status": "interrupted", "signal": code - 128}
            if code or not place.exists(SUMMARY):
                raise VlkitError(f"a worker failed (exit code {code}); the same command resumes where they stopped.")
            return {"status": "finished", **summary_of(place)}

    def _weights(self) -> dict[str, str]:
        """Return the SHA-256 of the weights of each model."""
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

    def _processor(self, part: ComponentSpec) -> Any:
        """Build an image processor; its limit of pixels is that of the input unless it is given."""
        if "max_pixels" in part.mapping or not accepts(PROCESSORS.get(part.name), "max_pixels"):
            return part.build()
        return part.build(max_pixels=int(self.file.input.max_pixels))


@contextlib.contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with ``count`` threads while entered."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first_texts(shard: InputShard, options: InputOptions) -> list[str]:
    """Return some texts of a shard; none of a remote one, because all of it would be copied."""
    if local_path(shard.path) is None:
        return []
    items = (found for found in read_shard(shard, options) if isinstance(found, Item))
    return [text for item in islice(items, _FIRST_IMAGES) for text in item.texts]


def _annotate_blank(annotator: ModelAnnotator) -> None:
    """Annotate one blank image, so that what the models refuse is reported before anything is written."""
    blank = Image.new("RGB", (32, 32), "white")
    images = {name: processor(blank) for name, processor in annotator.processors.items()}
    try:
        annotator.annotate([Ready(0, Item("blank", b"", "png", ("a picture",)), images)])
    except VlkitError:
        raise
    except Exception as error:  # a model is anyone's code
        raise ConfigError(f"a first image fails: {type(error).__name__}: {error}") from error
