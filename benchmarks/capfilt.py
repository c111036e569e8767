"""CapFilt: images/s of the engine, from shards to shards, beside those of its models alone; in one process and in two.

Every process has one thread for its models. All figures are medians of rounds in which everything is measured in turn,
so that a machine whose speed drifts slows all of it.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare import Row
from vlkit.capfilt.annotator import Batch, Plan, batches, shard_groups
from vlkit.capfilt.input_reader import Decoder, Reader
from vlkit.capfilt.input_shards import read_shard
from vlkit.capfilt.shard_output import DONE, DROPPED, KEPT, LEDGER, SUMMARY, TABLES, file_name
from vlkit.capfilt.storage import Storage
from vlkit.capfilt.tables import COLUMNS, read_table, rounded, write_table
from vlkit.config.load import load_config
from vlkit.config.yamlfile import dump_yaml
from vlkit.datasets.shapes.dataset import Shapes
from vlkit.datasets.shard_writer import encoded_picture, write_shards
from vlkit.jobs.capfilt import CapFiltJob

MODEL = {
    "name": "blip_capfilt",
    "captioner": {"name": "blip_caption", "type": "tiny_shapes"},
    "filter": {"name": "blip_image_text_matching", "type": "tiny_shapes"},
}
ENGINE_SHARE, TWO_PROCESSES = 0.8, 1.6
"""What is wanted of the engine: images/s over those of its models alone, and of two processes over those of one."""
_SHARDS = 16
_BARRIER_SECONDS = 1800
_meeting: Any = None  # of the two processes, in each of them


@dataclass(frozen=True)
class Speed:
    """One figure.

    Args:
        work: what was done.
        images_per_s: median over rounds.
        beside: what ``ratio`` compares it with.
        ratio: median of the rounds' own ratios; None: it is compared with nothing.
        wanted: least ratio; None: any.
        outputs_equal: whether all ways gave the same texts and scores, or the same files to the last byte.
    """

    work: str
    images_per_s: float
    beside: str = ""
    ratio: float | None = None
    wanted: float | None = None
    outputs_equal: bool = True


@dataclass
class _Round:
    """Seconds that everything took."""

    encoder: float
    models: float
    engine: float
    two: float = 0.0


def capfilt_speeds(images: int = 4096, repeat: int = 3, model: Mapping[str, Any] | None = None) -> list[Speed]:
    """Figures of a job on scenes of the world ``shapes``.

    Args:
        images: in the shards, at least 16.
        repeat: rounds.
        model: section of the job; None: the small models of the package.
    """
    with tempfile.TemporaryDirectory(prefix="vlkit-bench-") as folder:
        file = _write_job(Path(folder), images, dict(model or MODEL))
        context = multiprocessing.get_context("spawn")
        meeting = context.Barrier(2, timeout=_BARRIER_SECONDS)
        with ProcessPoolExecutor(2, context, initializer=_meet_at, initargs=(meeting,)) as pool:
            first, second = pool.submit(_first, file, repeat), pool.submit(_second, file, repeat)
            (rounds, spans, texts_equal), others = first.result(), second.result()
        for each, mine, other in zip(rounds, spans, others):
            each.two = max(mine[1], other[1]) - min(mine[0], other[0])
        outputs = {_digest(output) for output in Path(folder).glob("output-*")}
    return _speeds(images, rounds, texts_equal, len(outputs) == 1)


def capfilt_rows(images: int = 4096, repeat: int = 3, judged: bool = True) -> Iterator[Row]:
    """The figures that are compared with others, as rows of the whole table: seconds for all the images.

    Args:
        images, repeat: see :func:`capfilt_speeds`.
        judged: whether rows say what is wanted.
    """
    for speed in capfilt_speeds(images, repeat):
        if speed.ratio is not None:
            ours_s = images / speed.images_per_s
            yield Row(
                f"CapFilt, {images} images: {speed.work}",
                "fp32",
                ours_s,
                speed.beside,
                ours_s * speed.ratio,
                speed.ratio,
                speed.outputs_equal,
                speed.wanted if judged else None,
            )


def report(speeds: Sequence[Speed]) -> str:
    """The figures as Markdown."""
    lines = ["| work | images/s | ratio | beside | wanted | outputs |", "|---|---|---|---|---|---|"]
    for each in speeds:
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        wanted = "" if each.wanted is None else f"{each.wanted:.2f}"
        outputs = "equal" if each.outputs_equal else "DIFFER"
        cells = (each.work, f"{each.images_per_s:.1f}", ratio, each.beside, wanted, outputs)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _write_job(folder: Path, images: int, model: dict[str, Any]) -> Path:
    """Shards, and the file of a job on them."""
    dataset = Shapes("train", images, captions="web", image_processor=encoded_picture)
    write_shards(dataset, folder / "shards", -(-images // _SHARDS))
    job = {
        "model": model,
        "task": {
            "name": "capfilt",
            "generation": {"sample": True, "num_beams": 1, "max_length": 20, "min_length": 5},
        },
        "input": {"path": str(folder / "shards")},
        "run": {"device": "cpu"},
    }
    file = folder / "job.yaml"
    file.write_text(dump_yaml(job))
    return file


def _speeds(images: int, rounds: Sequence[_Round], texts_equal: bool, files_equal: bool) -> list[Speed]:
    middle = statistics.median

    def speed(work: str, name: str, beside: str = "", other: str = "", wanted: float | None = None) -> Speed:
        ratio = middle([getattr(each, other) / getattr(each, name) for each in rounds]) if other else None
        return Speed(work, middle([images / getattr(each, name) for each in rounds]), beside, ratio, wanted)

    alone, one = "encoder, decoder and filter on images in memory", "engine, from shards to shards, one process"
    engine = speed(one, "engine", "its models alone", "models", ENGINE_SHARE)
    two = speed("engine, two processes", "two", "one process", "engine", TWO_PROCESSES)
    return [
        speed("image encoder alone", "encoder"),
        speed(alone, "models", "image encoder alone", "encoder"),
        replace(engine, outputs_equal=texts_equal),
        replace(two, outputs_equal=files_equal),
    ]


def _meet_at(meeting: Any) -> None:
    global _meeting
    _meeting = meeting
    torch.set_num_threads(1)


def _first(file: Path, repeat: int) -> tuple[list[_Round], list[tuple[float, float]], bool]:
    """All that one process does alone, then its part of what two do."""
    try:
        bench = _Bench(file)
        loaded = bench.in_memory()
        bench.models(loaded[:2])  # warm
        rounds, spans, texts_equal = [], [], True
        for number in range(repeat):
            encoder = bench.encoder(loaded)
            models, texts = bench.models(loaded)
            begin, end = bench.engine(f"output-one-{number}")
            texts_equal &= texts == bench.tables(f"output-one-{number}")
            rounds.append(_Round(encoder, models, end - begin))
            _meeting.wait()
            spans.append(bench.engine(f"output-two-{number}"))
            _meeting.wait()
        return rounds, spans, texts_equal
    except BaseException:
        _meeting.abort()  # or the other would wait
        raise


def _second(file: Path, repeat: int) -> list[tuple[float, float]]:
    """The part of a second process."""
    try:
        bench, spans = _Bench(file), []
        for number in range(repeat):
            _meeting.wait()
            spans.append(bench.engine(f"output-two-{number}"))
            _meeting.wait()
        return spans
    except BaseException:
        _meeting.abort()
        raise


class _Bench:
    """The job in one process, with its models built.

    Args:
        file: of the job.
    """

    def __init__(self, file: Path):
        self.file = file
        job = self._job("output-none")
        self.checked = job.inspect()
        self.annotator = job.build(self.checked)
        # The first table of a process imports pandas, where it is installed: a second that is no part of the work.
        write_table(io.BytesIO(), {name: [] for name in COLUMNS})

    def in_memory(self) -> list[Batch]:
        """The batches of the job, decoded."""
        job, annotator = self._job("output-none").file, self.annotator
        decode = Decoder(annotator.processors, int(job.input.max_pixels))
        found: list[Batch] = []
        for lot in shard_groups(self.checked.shards, job.run.shards_at_once):
            shards = list(enumerate(lot.shards))
            plan = Plan(0, 0, frozenset(range(len(shards))))
            with Reader(shards, lambda shard: read_shard(shard, job.input), decode, 1, lambda: None) as events:
                found += batches(events, plan, job.run.batch_size)
        return [batch for batch in found if batch.images]

    def encoder(self, loaded: Sequence[Batch]) -> float:
        """Seconds of the image encoder (of both, where there are two)."""
        annotator = self.annotator
        tensors = [torch.stack([image.images["image"] for image in batch.images]) for batch in loaded]
        start = time.monotonic()
        with torch.inference_mode():
            for image in tensors:
                annotator.model.encode({"image": image})  # type: ignore[operator]
        return time.monotonic() - start

    def models(self, loaded: Sequence[Batch]) -> tuple[float, list[tuple[str, str, float | None]]]:
        """Seconds of all that the models do, and the texts with their ITM probabilities."""
        annotator = self.annotator
        start = time.monotonic()
        found = [annotator(batch.images) for batch in loaded]
        taken = time.monotonic() - start
        texts = [text for batch in found for image in batch for text in image]
        return taken, [(text.source, text.text, rounded(text.itm)) for text in texts]

    def engine(self, output: str) -> tuple[float, float]:
        """Do the job, or what others leave of it; when that began and ended."""
        job = self._job(output)
        with Storage(job.output_dir) as place:
            worker = job.worker(self.annotator, self.checked, place, lambda: False)
            begin = time.monotonic()
            worker.run()
            return begin, time.monotonic()

    def tables(self, output: str) -> list[tuple[str, str, float | None]]:
        """What :meth:`models` gives, as the engine has written it."""
        rows: list[tuple[str, str, float | None]] = []
        for shard in self.checked.shards:
            columns = read_table(self.file.parent / output / file_name(TABLES, shard.name))
            rows += zip(columns["source"], columns["text"], columns["itm"])
        return rows

    def _job(self, output: str) -> CapFiltJob:
        return CapFiltJob(load_config(self.file, [f"run.output_dir={self.file.parent / output}"]))


def _digest(output: Path) -> str:
    """Of all files of an output, names and contents."""
    digest = hashlib.sha256()
    for folder in (KEPT, DROPPED, TABLES, LEDGER, DONE):
        for file in sorted((output / folder).iterdir()):
            digest.update(f"{folder}/{file.name}\n".encode() + file.read_bytes())
    digest.update((output / SUMMARY).read_bytes())
    return digest.hexdigest()
