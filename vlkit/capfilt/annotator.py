"""The models at work: from decoded images to scored texts."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlkit.capfilt.reading import Ready
from vlkit.capfilt.seeds import seed_of
from vlkit.errors import VlkitError
from vlkit.processors.tokenizer import FitWatch

logger = logging.getLogger(__name__)
_SCORES = {"captioner's log-probabilities": ("log_prob",), "filter's scores": ("itm", "itc")}


class ModelAnnotator:
    """Captions and scores batches of images.

    Args:
        model: captioner and filter, on its device and in eval mode.
        task: has ``annotate`` and ``decision``.
        processors: input of the model ("image", "filter_image") to its image processor.
        device: of the model.
        autocast: makes the context of the precision.
        seed: of the job.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Any,
        processors: dict[str, Any],
        device: torch.device,
        autocast: Callable[[], Any],
        seed: int,
    ):
        self.model, self.task, self.processors = model, task, processors
        self.device, self.autocast, self.seed = device, autocast, seed
        self.decision = task.decision
        tokenizer = getattr(getattr(model, "filter", None), "tokenizer", None)
        self._fit = FitWatch(tokenizer, "the tokenizer of model.filter")

    def __call__(self, images: Sequence[Ready]) -> list[list[Any]]:
        """The texts of each image with their scores, those of the web first.

        Raises:
            VlkitError: a score is not a number.
        """
        found = self.annotate(images)
        self.see(text for ready in images for text in ready.item.texts)
        return found

    def annotate(self, images: Sequence[Ready]) -> list[list[Any]]:
        """The same without a warning of texts that the tokenizer does not know."""
        seeds = torch.tensor([seed_of(ready.item.key, self.seed) for ready in images])
        web = [ready.item.texts for ready in images]
        with torch.inference_mode(), self.autocast():
            found = self.task.annotate(self.model, self._samples(images), web, seeds)
        for ready, texts in zip(images, found):
            for whose, names in _SCORES.items():
                if not all(math.isfinite(getattr(text, name) or 0.0) for text in texts for name in names):
                    raise VlkitError(
                        f"the {whose} of {ready.item.key!r} are not finite numbers. Nothing is written of them. Are "
                        f"its weights intact? With run.precision bf16, try fp32."
                    )
        return found

    def see(self, texts: Iterable[str]) -> None:
        """Warn once if the filter's tokenizer does not fit the texts of the web."""
        note = self._fit.see(texts)
        if note:
            logger.warning("the texts of the web: %s", note)

    def reads(self, text: str) -> bool:
        """Whether anything is left of a web text after the preprocessing of captions."""
        return bool(self.task.read(text).strip()) if hasattr(self.task, "read") else True

    def encoder_speed(self, images: Sequence[Ready]) -> float | None:
        """Images a second that the image encoder (both, where there are two) alone takes; None: the model has none."""
        if not hasattr(self.model, "encode"):
            return None
        samples = self._samples(images)
        with torch.inference_mode(), self.autocast():
            start = time.monotonic()
            ends = self.model.encode(samples)  # type: ignore[operator]
            float(ends[-1].flatten()[0])  # waits for the device
        return len(images) / (time.monotonic() - start)

    def _samples(self, images: Sequence[Ready]) -> dict[str, Tensor]:
        stacked = {name: torch.stack([ready.images[name] for ready in images]) for name in self.processors}
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in stacked.items()}
