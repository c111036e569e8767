"""Whether images of an evaluation set are trained on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from vlkit.datasets.base import VLDataset

_SHOWN = 3


def overlap_notes(train: Mapping[str, VLDataset], evals: Mapping[str, VLDataset]) -> list[str]:
    """A sentence for each evaluation set that shares images (or videos) with the training data.

    Images are the same where their files are, or where datasets give them the same ``image_id`` although files differ.
    Only evaluation sets are held in memory; the training data pass by once.

    Args:
        train: training datasets by key path.
        evals: evaluation sets by key path.
    """
    files: dict[str, set[str]] = {}  # file to the evaluation sets that it is in
    named: dict[Any, set[str]] = {}
    for key, dataset in evals.items():
        for image_id, file in dataset.images():
            files.setdefault(os.path.abspath(file), set()).add(key)
            named.setdefault(image_id, set()).add(key)
    same: dict[str, dict[str, None]] = {key: {} for key in evals}
    alike: dict[str, dict[str, None]] = {key: {} for key in evals}
    for dataset in train.values() if files else ():
        for image_id, file in dataset.images():
            path = os.path.abspath(file)
            for key in files.get(path, ()):
                same[key][path] = None
            for key in named.get(image_id, set()) - files.get(path, set()):
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
                f"({_few(alike[key])}): is it the same image, or should the ids be told apart?"
            )
    return notes


def _count(found: Mapping[str, None]) -> str:
    return f"{len(found):,} images are" if len(found) > 1 else "1 image is"


def _few(found: Mapping[str, None]) -> str:
    return ", ".join(list(found)[:_SHOWN]) + ", ..." * (len(found) > _SHOWN)
