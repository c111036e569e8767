"""Check data, image sizes and disk space of a run before its first step."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vlkit.datasets.base import Sample, VLDataset, substitutes
from vlkit.datasets.texts import Text, is_emptied
from vlkit.errors import BadSample, DataError
from vlkit.processors.tokenizer import Tokenizer, unknown_note

logger = logging.getLogger(__name__)
Origin = Callable[[str], str]
_TRIES = 8
_SHOWN = 20
_SHOWN_OVERLAP = 3
_PLACES = 10  # of texts that become empty
_TOKENIZED = 500  # samples whose texts are compared with the vocabulary
_ROWS = 50  # bad rows shown with their reason
_RUNS = 200  # number ranges shown of the others
_OPTIMIZER_STATES = 2  # of AdamW, each as large as the trained parameters


def data_problems(
    datasets: Mapping[str, VLDataset], origin: Origin, raise_bad: bool = True, every_image: bool = False
) -> list[str]:
    """Find problems of the datasets, in part from samples of their content.

    Args:
        datasets: by key path.
        origin: returns the file and line of a key path.
        raise_bad: whether unusable samples are a problem; otherwise they are only logged.
        every_image: decode all images and videos instead of a few.
    """
    problems: list[str] = []
    rows: list[str] = []
    bad: list[str] = []
    for key, dataset in datasets.items():
        if len(dataset) == 0:
            problems.append(f"{origin(key)}: the dataset is empty.")
            problems += bad_row_problems(dataset.bad_rows, origin(key))
            continue
        if every_image:
            dataset.check_media(every=True)  # whose problems are among the dataset's
        bad += [f"{origin(key)}: {problem}" for problem in dataset.problems()]
        emptied = [f"{origin(key)}: {problem}" for problem in text_problems(dataset)]
        if key.startswith("datasets.eval."):  # where they count as empty texts
            for problem in emptied:
                logger.warning("%s", problem)
        else:
            bad += emptied
        if raise_bad:
            rows += bad_row_problems(dataset.bad_rows, origin(key))
        elif dataset.bad_rows:
            bad.append(f"{origin(key)}: {len(dataset.bad_rows):,} rows are left out: {_first(dataset.bad_rows)}")
    if (rows or bad) and raise_bad:
        more = [f"and {len(bad) - _SHOWN} more problems like these."] if len(bad) > _SHOWN else []
        advice = (
            "Correct the data, or set run.bad_samples=skip: unusable samples are then left out and named in "
            "ledger.jsonl."
        )
        return problems + rows + bad[:_SHOWN] + more + [advice]
    for problem in bad:
        logger.warning("%s", problem)
    return problems


def text_problems(dataset: VLDataset) -> list[str]:
    """Count and name texts of which the dataset's text processor leaves nothing."""
    processor = getattr(dataset, "text_processor", None)
    texts = [text for text in _texts(dataset) if text.written.strip()] if processor is not None else []
    emptied = [text for text in texts if is_emptied(processor, text.processed)]
    if not emptied:
        return []
    named = f"{', '.join(text.place for text in emptied[:_PLACES])}{', ...' * (len(emptied) > _PLACES)}"
    return [
        f"{len(emptied):,} of {len(texts):,} texts checked are empty after text_processor ({named}), such as "
        f"{emptied[0].written[:60]!r}. Correct or delete them, or set another text_processor."
    ]


def tokenizer_notes(model: nn.Module, datasets: Mapping[str, VLDataset], origin: Origin) -> list[str]:
    """Return a note for each dataset whose texts the model's tokenizer does not know."""
    tokenizer: Any = getattr(model, "tokenizer", None)
    notes = []
    for key, dataset in datasets.items() if isinstance(tokenizer, Tokenizer) else ():
        note = unknown_note(tokenizer, [text.processed for text in _texts(dataset, _TOKENIZED)][: 5 * _TOKENIZED])
        if note:
            notes.append(f"{origin(key)}: {note}")
    return notes


def _texts(dataset: VLDataset, limit: int = 20_000) -> list[Text]:
    try:
        return dataset.texts(limit)
    except Exception:  # of a plugin's processor; the first sample raises it again
        return []


def bad_row_problems(rows: Sequence[tuple[str, str]], place: str) -> list[str]:
    """List all unusable rows: the first ones with the reason, of the others only the numbers.

    Args:
        rows: position ``file:row`` and reason of each.
        place: file and line of the dataset in the configuration.
    """
    problems = [f"{place}: {source}: {reason}" for source, reason in rows[:_ROWS]]
    others: dict[str, list[str]] = {}
    for source, _ in rows[_ROWS:]:
        file, _, number = source.rpartition(":")
        others.setdefault(file, []).append(number)
    for file, numbers in others.items():
        problems.append(f"{place}: {file}: {len(numbers):,} more rows: {', '.join(_runs(numbers))}.")
    return problems


def _runs(numbers: list[str]) -> list[str]:
    """Join consecutive numbers: "3", "7-12"; long lists are cut."""

    def offset(pair: tuple[int, str]) -> Any:  # equal for consecutive numbers
        return int(pair[1]) - pair[0] if pair[1].isdecimal() else pair[1]

    spans = [[number for _, number in group] for _, group in itertools.groupby(enumerate(numbers), offset)]
    texts = [span[0] if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans]
    return texts[:_RUNS] + ["..."] * (len(texts) > _RUNS)


def _first(rows: Sequence[tuple[str, str]]) -> str:
    return "; ".join(f"{source}: {reason}" for source, reason in rows[:3]) + " ..." * (len(rows) > 3)


def image_size_problems(model: nn.Module, datasets: Mapping[str, VLDataset], origin: Origin) -> list[str]:
    """Find datasets without a usable sample, or whose image size the model's image encoder does not take."""
    problems = []
    wanted = encoder_size(model)
    for key, dataset in datasets.items():
        if len(dataset) == 0:
            continue
        try:
            image = first_sample(dataset).get("image")
        except DataError as error:
            problems.append(f"{origin(key)}: {error}")
            continue
        if wanted is None or not torch.is_tensor(image) or image.ndim < 3:
            continue
        size = tuple(image.shape[-2:])
        if size != wanted:
            problems.append(
                f"{origin(key)}: its images have {size[0]}x{size[1]} pixels, the model's image encoder takes "
                f"{wanted[0]}x{wanted[1]}. Set image_size of the image processor (or of the dataset), or "
                "model.vit.image_size, so that they agree."
            )
    return problems


def encoder_size(model: nn.Module) -> tuple[int, int] | None:
    """Return height and width in pixels that the model's image encoder takes; None: unknown."""
    size: Any = getattr(getattr(getattr(model, "visual_encoder", None), "patch_embed", None), "img_size", None)
    return None if size is None else (int(size[0]), int(size[1]))


def first_sample(dataset: VLDataset) -> Sample:
    """Return a usable sample, among the first few and some others.

    Raises:
        DataError: none is usable, or the dataset fails.
    """
    reasons = []
    for index in substitutes(0, len(dataset), _TRIES):
        try:
            return dataset.sample(index, np.random.default_rng([index]))
        except BadSample as error:
            reasons.append(str(error))
        except Exception as error:  # of a plugin's dataset
            raise DataError(f"the dataset fails at index {index}: {type(error).__name__}: {error}") from error
    which = f"first {len(reasons)} samples" if len(reasons) <= _TRIES else f"{len(reasons)} samples that were tried"
    raise DataError(f"none of its {which} can be used: {reasons[-1]}")


def checkpoint_bytes(model: nn.Module) -> int:
    """Return the size of a checkpoint: each tensor of the model once, and the optimizer's."""
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return sum(t.numel() * t.element_size() for t in tensors.values()) + _OPTIMIZER_STATES * trained


def disk_problems(model: nn.Module, folder: Path, keep: int) -> list[str]:
    """Check that the disk has room for the checkpoints of a run.

    Args:
        model: to be trained.
        folder: output folder, which need not exist yet.
        keep: checkpoints that are kept; one more exists while it is written.
    """
    size, free = checkpoint_bytes(model), free_bytes(folder)
    present = sum(1 for _ in (folder / "checkpoints").glob("step_*"))
    needed = size * max(1, keep + 1 - present)
    if free >= needed:
        return []
    return [
        f"no space for the checkpoints in {folder}: {human(free)} are free, {human(needed)} are needed "
        f"({human(size)} each). Make room, or choose another run.output_dir."
    ]


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk that ``folder`` is, or would be, on."""
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    return shutil.disk_usage(existing).free


def human(count: float) -> str:
    """Format a number of bytes: ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def overlap_notes(train: Mapping[str, VLDataset], evals: Mapping[str, VLDataset]) -> list[str]:
    """Return a note for each evaluation set that shares images (or videos) with the training data.

    Images are equal if their files are, and may be equal if their ``image_id`` is. Only evaluation sets are held in
    memory; the training data are read once.

    Args:
        train: training datasets by key path.
        evals: evaluation sets by key path.
    """
    by_file: dict[str, set[str]] = defaultdict(set)  # to the evaluation sets with this file
    by_id: dict[Any, set[str]] = defaultdict(set)
    for key, dataset in evals.items():
        for image_id, file in dataset.images():
            by_file[os.path.abspath(file)].add(key)
            by_id[image_id].add(key)
    same: dict[str, dict[str, None]] = {key: {} for key in evals}
    alike: dict[str, dict[str, None]] = {key: {} for key in evals}
    for dataset in train.values() if by_file else ():
        for image_id, file in dataset.images():
            path = os.path.abspath(file)
            sets = by_file.get(path, set())
            for key in sets:
                same[key][path] = None
            for key in by_id.get(image_id, set()) - sets:
                alike[key][str(image_id)] = None
    notes = []
    for key in evals:
        if same[key]:
            notes.append(
                f"{key}: {_count(same[key])} in the training data too ({_few(same[key])}): scores mean little."
            )
        if alike[key]:
            notes.append(
                f"{key}: {len(alike[key])} image ids occur in the training data too, for other files "
                f"({_few(alike[key])}): is it the same image, or should the ids differ?"
            )
    return notes


def _count(found: Mapping[str, None]) -> str:
    return f"{len(found):,} images are" if len(found) > 1 else "1 image is"


def _few(found: Mapping[str, None]) -> str:
    return ", ".join(list(found)[:_SHOWN_OVERLAP]) + ", ..." * (len(found) > _SHOWN_OVERLAP)
