"""Shards of a few images, and models that annotate them in no time."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.unit.models import small
from vlkit.capfilt.annotator import ModelAnnotator
from vlkit.capfilt.decision import Decision
from vlkit.capfilt.engine import Worker
from vlkit.capfilt.input_shards import InputOptions, find_inputs
from vlkit.capfilt.job_file import JobOptions
from vlkit.capfilt.storage import Storage
from vlkit.models.blip.capfilt import BlipCapFilt
from vlkit.models.blip.caption import BlipCaption
from vlkit.models.blip.image_text_matching import BlipImageTextMatching
from vlkit.models.generation import GenerationConfig
from vlkit.processors.image import BlipImageEval
from vlkit.runner.context import autocast
from vlkit.tasks.capfilt import CapFiltTask

torch.set_num_threads(1)
WORDS = ("a red circle", "two shapes", "buy now", "a small blue square above a green star")


def picture(seed: int, size: int = 20) -> bytes:
    """A PNG file."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def members(shard: int, count: int) -> dict[str, bytes]:
    """Files of good samples; one in three has JSON beside its text."""
    found: dict[str, bytes] = {}
    for number in range(count):
        key = f"{shard}-{number:03d}"
        found[f"{key}.png"] = picture(100 * shard + number)
        found[f"{key}.txt"] = WORDS[(shard + number) % len(WORDS)].encode()
        if number % 3 == 0:
            found[f"{key}.json"] = json.dumps({"url": f"http://x/{key}", "width": 20}).encode()
    return found


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    """A tar of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_shards(folder: Path, sizes: Sequence[int]) -> Path:
    """Shards of good samples."""
    for shard, size in enumerate(sizes):
        write_tar(folder / f"{shard:05d}.tar", members(shard, size))
    return folder


def model() -> BlipCapFilt:
    """Captioner and filter whose texts and scores depend on the image."""
    torch.manual_seed(3)
    captioner = BlipCaption(small.vit(), small.med(initializer_range=0.4), tokenizer="shapes")
    with torch.no_grad():  # texts of different lengths
        captioner.text_decoder.cls.predictions.bias[captioner.tokenizer.sep_id] = 2.5
    judge = BlipImageTextMatching(small.vit(), small.med(initializer_range=0.3), tokenizer="shapes", embed_dim=12)
    return BlipCapFilt(captioner, judge).eval()


def annotator(generation: GenerationConfig | None = None, decision: Decision | None = None) -> ModelAnnotator:
    """The model at work on images of 16 pixels."""
    generation = generation or GenerationConfig(max_length=9, min_length=6, num_beams=1, sample=True)
    task = CapFiltTask(generation, decision or Decision(threshold=0.45))
    device = torch.device("cpu")
    return ModelAnnotator(model(), task, {"image": BlipImageEval(16)}, device, autocast(device, "fp32"), seed=0)


def worker(
    shards: Path, output: Path, annotate: Any, stop: Callable[[], bool] = lambda: False, **options: Any
) -> Worker:
    """A worker on all shards of a folder; batches of 5 images, groups of 3 shards."""
    limits = {name: options.pop(name) for name in ("max_pixels", "caption_key") if name in options}
    inputs = InputOptions(str(shards), **{"max_pixels": 10_000, **limits})
    options = {"batch_size": 5, "shards_at_once": 3, "decode_threads": 2, "lease": 600.0, **options}
    if not options.pop("store_images", True):
        options["output"] = "scores"
    return Worker(find_inputs(inputs), inputs, Storage(output), annotate, JobOptions(**options), stop)


def result(output: Path) -> dict[str, str]:
    """Checksums of everything that belongs to the result."""
    files = [file for file in sorted(output.rglob("*")) if file.is_file()]
    names = {file.relative_to(output).as_posix(): file for file in files}
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in names.items()
        if not name.startswith(("claims/", "log/", "."))
    }
