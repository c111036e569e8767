"""Evaluate a model on all evaluation sets, and draw samples of one."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from vlkit.datasets.base import VLDataset, collate
from vlkit.datasets.loading import EvalLoader
from vlkit.errors import BadSample, DataError
from vlkit.io.files import atomic_write
from vlkit.runner.context import RunContext
from vlkit.runner.model_state import evaluating
from vlkit.tasks.base import Batch, EvalContext, Task

logger = logging.getLogger(__name__)
_TILE, _MARGIN, _LINES, _COLUMNS = 192, 8, 4, 4
_LINE_HEIGHT, _CHARACTERS = 14, 31


class Interrupted(Exception):
    """The evaluation ended early because the run stops; a resumed run repeats it."""


class Evaluator:
    """Evaluates a task on named sets.

    Args:
        task: computes scores.
        sets: evaluation sets by name, not empty.
        batch_size: samples a batch, per process.
        context: of the run; tasks write result files into its output folder.
        num_workers: loader processes, per process.
    """

    def __init__(
        self,
        task: Task,
        sets: Mapping[str, VLDataset],
        batch_size: int,
        context: RunContext,
        num_workers: int = 0,
    ):
        for name, dataset in sets.items():
            if len(dataset) == 0:
                raise DataError(f"evaluation set {name!r} ({type(dataset).__name__}) is empty.")
        self.task, self.sets, self.batch_size = task, dict(sets), batch_size
        self.context, self.num_workers = context, num_workers
        self.bad: list[tuple[str, str, str]] = []

    def __call__(self, model: nn.Module, step: int, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Return all scores under ``<set>/<score>``, the same in every process.

        Args:
            model: not wrapped.
            step: optimizer steps done.
            stop: polled before each batch; return True to end the evaluation.

        Raises:
            Interrupted: ``stop`` returned True.
        """
        scores: dict[str, float] = {}
        with evaluating(model):
            for name in self.sets:
                found = self._evaluate(model, name, step, stop)
                scores.update({f"{name}/{key}": float(value) for key, value in found.items()})
        return scores

    def draw_samples(self, model: nn.Module, count: int, name: str, step: int) -> Path | None:
        """Draw the first images of a set with the model's texts for them; for one process alone.

        Returns:
            The PNG, or None when the task describes nothing or samples have no image.
        """
        dataset = self.sets[name]
        samples = []
        for index in range(min(count, len(dataset))):
            try:
                samples.append(dataset.sample(index, np.random.default_rng([index])))
            except BadSample as error:
                logger.warning("left out of samples.png: %s", error)
        if not samples or not all(torch.is_tensor(sample.get("image")) for sample in samples):
            return None
        with evaluating(model), torch.inference_mode():
            self.context.seed_all(step)
            context = EvalContext(self.context.device, self.context.autocast, name=name, step=step, dataset=dataset)
            texts = self.task.describe(model, collate(samples), context)
        if not texts:
            return None
        path = self.context.output.path / "samples.png"
        draw_sample_grid([sample["image"] for sample in samples], texts, path, *_normalization(dataset))
        return path

    def _evaluate(self, model: nn.Module, name: str, step: int, stop: Callable[[], bool]) -> dict[str, float]:
        world, device = self.context.world, self.context.device
        dataset, pin_memory = self.sets[name], device.type == "cuda"
        loader = EvalLoader(dataset, self.batch_size, world.rank, world.size, self.num_workers, pin_memory=pin_memory)
        folder, autocast = self.context.output.path, self.context.autocast
        context = EvalContext(device, autocast, world.gather, world.rank, folder, name, step, dataset)
        self.context.seed_all(step, world.rank)
        with torch.inference_mode():
            scores = self.task.evaluate(model, _Stoppable(loader, stop), context)
        self.bad += [(source, reason, f"evaluation set {name}") for source, reason in loader.bad]
        missing = int(world.sum([float(len(loader.bad))])[0])
        if missing and world.is_main:
            text = "%s: %d of %d samples could not be used and are not counted."
            logger.warning(text, name, missing, len(dataset))
        return scores


def _normalization(dataset: VLDataset) -> tuple[list[float] | None, list[float] | None]:
    """Return mean and standard deviation of the images' channels, if their processor normalizes them."""
    normalize: Any = getattr(getattr(dataset, "image_processor", None), "normalize", None)
    mean, std = getattr(normalize, "mean", None), getattr(normalize, "std", None)
    if mean is None or std is None:  # of a plugin, "normalize" may be a method or a flag
        return None, None
    return torch.as_tensor(mean).flatten().tolist(), torch.as_tensor(std).flatten().tolist()


class _Stoppable:
    """A loader that raises Interrupted when asked to stop."""

    def __init__(self, loader: EvalLoader, stop: Callable[[], bool]):
        self.loader, self.stop = loader, stop

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            if self.stop():
                raise Interrupted
            yield batch


def draw_sample_grid(
    images: Sequence[Tensor],
    texts: Sequence[str],
    path: Path,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Write a grid of images with their texts below as PNG.

    Args:
        images: [3, H, W] each, normalized; of a video or pair [..., 3, H, W] the first is shown.
        texts: one for each image; cut after four lines.
        path: the PNG.
        mean: of the normalization, by channel; None: each image is stretched from its smallest to its largest value.
        std: of the normalization, by channel.
    """
    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    width, height = _TILE + _MARGIN, _TILE + _LINES * _LINE_HEIGHT + 2 * _MARGIN
    canvas = Image.new("RGB", (columns * width + _MARGIN, rows * height + _MARGIN), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for number, (image, text) in enumerate(zip(images, texts)):
        left, top = _MARGIN + number % columns * width, _MARGIN + number // columns * height
        canvas.paste(_tile(image, mean, std), (left, top))
        lines = textwrap.wrap(text, _CHARACTERS, max_lines=_LINES, placeholder=" ...")
        draw.multiline_text((left, top + _TILE + 4), "\n".join(lines), fill="black", font=font, spacing=1)
    with atomic_write(path) as file:
        canvas.save(file, "PNG")


def _tile(image: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Image.Image:
    array = image.detach().float().cpu().reshape(-1, *image.shape[-3:])[0].permute(1, 2, 0).numpy()
    if mean is not None and std is not None:
        array = array * np.asarray(std) + np.asarray(mean)
    else:
        low, high = array.min(), array.max()
        array = (array - low) / max(float(high - low), 1e-12)
    pixels = np.clip(array * 255 + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((_TILE, _TILE), Image.Resampling.BICUBIC)
