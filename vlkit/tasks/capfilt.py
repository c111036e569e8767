"""CapFilt (paper, section 3.3): generate texts of images, score them and the web texts, and decide which to keep.

A row of an image holds ``index``, ``image_id``, ``texts`` (:class:`ScoredText`), and for each text ``kept`` and maybe
``correct``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlkit.capfilt.decision import Decision
from vlkit.contracts import GenerationConfig, ScoredText
from vlkit.errors import ConfigError
from vlkit.io.json import finite_or_none
from vlkit.metrics.classification import auc, best_threshold
from vlkit.processors.text import pre_caption
from vlkit.registry import TASKS
from vlkit.registry.bounds import PositiveInt
from vlkit.tasks.base import Batch, EvalContext, Row, Task


@TASKS.register("capfilt")
class CapFiltTask(Task):
    """Annotate images with ``blip_capfilt``, for the engine and as an evaluation.

    Scores: ``images_kept``, ``web_kept``, ``synthetic_kept`` (fractions); means of ``web_itm``, ``web_itc``,
    ``synthetic_itm``, ``synthetic_itc``, ``synthetic_log_prob``; ``duplicates`` (fraction of texts equal to an earlier
    one of their image) and ``distinct`` (fraction of unique texts among all synthetic ones). On scenes of the toy
    dataset, whose checker knows which texts are correct: ``purity_before`` (correct ones among the web texts) and
    ``purity_after`` (among those kept), the same by source (``web_correct``, ``web_correct_kept``, ...), ``auc`` and
    ``itc_auc`` of the scores against correctness, and ``best_threshold``, the ITM probability with the best
    ``balanced_accuracy``, for ``decision.threshold``. The texts are written to ``capfilt_<set>.json``.

    Args:
        generation: decoding of synthetic texts; None: one by nucleus sampling with p 0.9, 5 to 20 tokens. Paper: 4.3.
        decision: which texts are kept; None: those that match with a probability of 0.5 or more.
        max_words: words of a web text that the filter reads, after the preprocessing of captions; None: texts as they
            are.
    """

    evaluation_keys = ("generation", "decision", "max_words")

    def __init__(
        self,
        generation: GenerationConfig | None = None,
        decision: Decision | None = None,
        max_words: PositiveInt | None = 30,
    ):
        if max_words is not None and max_words < 1:
            raise ConfigError(f"max_words is {max_words}; it must be at least 1, or null.")
        self.generation = generation or GenerationConfig(max_length=20, min_length=5, num_beams=1, sample=True)
        self.decision, self.max_words = decision or Decision(), max_words

    def annotate(
        self, model: Any, samples: dict[str, Any], web: Sequence[str | Sequence[str] | None], seeds: Tensor
    ) -> list[list[ScoredText]]:
        """Return the texts of B images with their scores; see :meth:`BlipCapFilt.annotate`.

        A web text that is empty after preprocessing gets an ITM probability of 0.

        Args:
            model: ``blip_capfilt``.
            samples: ``image``, maybe ``filter_image``.
            web: a text or a list of texts for each image; None: no text.
            seeds: [B] for sampling.
        """
        read = [
            self.read(given) if isinstance(given, str) else [self.read(each) for each in given or ()] for given in web
        ]
        found = model.annotate(samples, read, self.generation, seeds)
        return [_with_web(_listed(given), _listed(seen), texts) for given, seen, texts in zip(web, read, found)]

    def evaluate(self, model: Any, loader: Iterable[Batch], context: EvalContext) -> dict[str, float]:
        rows: list[Row] = []
        for batch in loader:
            rows += self._rows(model, batch, batch["index"], context)
        rows = context.gather_rows(rows)
        if context.writes:
            images = [{"image_id": row["image_id"], "texts": _plain_texts(row)} for row in rows]
            context.write_json("capfilt", finite_or_none(images), ensure_ascii=False, indent=0, allow_nan=False)
        scores = self._scores(rows)
        if all("correct" in row for row in rows):
            scores |= _purity(rows)
        return scores

    def describe(self, model: Any, batch: Batch, context: EvalContext) -> list[str]:
        """Return each text after + (kept) or - and its ITM probability."""
        rows = self._rows(model, batch, range(len(batch["image"])), context)
        return [
            " | ".join(f"{'+' if kept else '-'}{each.itm:.2f} {each.text}" for each, kept in zip(*_of(row)))
            for row in rows
        ]

    def read(self, text: str) -> str:
        """Preprocess a web text for the filter; the result may be empty."""
        return text if self.max_words is None else pre_caption(text, self.max_words)

    def _rows(self, model: Any, batch: Batch, index: Iterable[int], context: EvalContext) -> list[Row]:
        web = batch["text_input"] if "text_input" in batch else [texts[0] for texts in batch["references"]]
        index = list(index)
        images: dict[str, Any] = {key: batch[key] for key in ("image", "filter_image") if key in batch}
        with context.autocast():
            found = self.annotate(model, images, web, torch.tensor(index))
        rows = []
        for place, texts in enumerate(found):
            row: Row = {"index": index[place], "texts": texts, "kept": self.decision.kept(texts)}
            row["image_id"] = batch["image_id"][place] if "image_id" in batch else index[place]
            if "scene" in batch:
                row["correct"] = _correct(texts, batch["scene"][place])
            rows.append(row)
        return rows

    def _scores(self, rows: list[Row]) -> dict[str, float]:
        scores = {"images_kept": float(np.mean([any(row["kept"]) for row in rows]))}
        for source in ("web", "synthetic"):
            texts = [(each, kept) for row in rows for each, kept in zip(*_of(row)) if each.source == source]
            judged = [each for each, _ in texts if each.text.strip()]
            if texts:
                scores[f"{source}_kept"] = float(np.mean([kept for _, kept in texts]))
            for name in ("itm", "itc", "log_prob"):
                values = [getattr(each, name) for each in judged if getattr(each, name) is not None]
                if values:
                    scores[f"{source}_{name}"] = float(np.mean(values))
        repeated = [len(texts) - len(set(texts)) for texts in ([self.read(t.text) for t in r["texts"]] for r in rows)]
        synthetic = [each.text for row in rows for each in row["texts"] if each.source == "synthetic"]
        scores["duplicates"] = sum(repeated) / max(sum(len(row["texts"]) for row in rows), 1)
        scores["distinct"] = len(set(synthetic)) / max(len(synthetic), 1)
        return scores


def _listed(texts: str | Sequence[str] | None) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts or ())


def _with_web(web: list[str], read: list[str], texts: list[ScoredText]) -> list[ScoredText]:
    """Replace the web texts in ``texts`` by the original ones."""
    scored = iter(texts)
    found = [
        dataclasses.replace(next(scored), text=given) if seen.strip() else ScoredText(given, "web", 0.0)
        for given, seen in zip(web, read)
        if given
    ]
    return [*found, *scored]


def _of(row: Row) -> tuple[list[ScoredText], list[bool]]:
    return row["texts"], row["kept"]


def _correct(texts: Sequence[ScoredText], scene: Any) -> list[bool]:
    from vlkit.datasets.shapes.checker import check

    return [check(each.text, scene).strict for each in texts]


def _purity(rows: list[Row]) -> dict[str, float]:
    """Return the fractions of correct texts before and after filtering, and how well the scores predict correctness."""
    flat = [each for row in rows for each in zip(row["texts"], row["kept"], row["correct"])]
    scores: dict[str, float] = {}

    def share(name: str, chosen: Callable[[ScoredText, bool], bool]) -> None:
        correct = [right for each, kept, right in flat if chosen(each, kept)]
        if correct:
            scores[name] = float(np.mean(correct))

    share("purity_before", lambda each, _: each.source == "web")
    share("purity_after", lambda _, kept: kept)
    for source in ("web", "synthetic"):
        share(f"{source}_correct", lambda each, _, source=source: each.source == source)  # type: ignore[misc]
        share(f"{source}_correct_kept", lambda each, kept, source=source: kept and each.source == source)  # type: ignore[misc]
    judged = [(each, right) for each, _, right in flat if each.text.strip()]
    labels = [right for _, right in judged]
    if len(set(labels)) == 2:
        itm = [each.itm for each, _ in judged]
        scores["auc"] = auc(itm, labels)
        scores["best_threshold"], scores["balanced_accuracy"] = best_threshold(itm, labels)
        if all(each.itc is not None for each, _ in judged):
            scores["itc_auc"] = auc([each.itc for each, _ in judged], labels)
    return scores


def _plain_texts(row: Row) -> list[dict[str, Any]]:
    texts = [{**dataclasses.asdict(each), "kept": kept} for each, kept in zip(*_of(row))]
    for text, correct in zip(texts, row.get("correct", ())):
        text["correct"] = correct
    return texts
