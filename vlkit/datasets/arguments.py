"""What the constructors of datasets check alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlkit.errors import ConfigError, did_you_mean

SPLITS = ("train", "val", "test")


def check_arguments(
    dataset: str,
    choices: Mapping[str, tuple[str, Sequence[str]]],
    limit: int | None,
    image_processor: Any,
    paths: Sequence[Any] = ("",),
    others: Sequence[str] = (),
) -> None:
    """Raise all that is wrong with a dataset's arguments.

    Args:
        dataset: its name.
        choices: argument to the value given and the values allowed.
        limit: at least 1, or None.
        image_processor: must not be None.
        paths: different files, at least one.
        others: problems found elsewhere.

    Raises:
        ConfigError: something is wrong.
    """
    problems = []
    if not paths or len(set(map(str, paths))) < len(paths):
        problems.append(f"path: {paths} given; name one annotation file or several different ones.")
    for name, (given, allowed) in choices.items():
        if given not in allowed:
            problems.append(f"{name}: {given!r} given, {', '.join(allowed)} allowed.{did_you_mean(given, allowed)}")
    problems += others
    if limit is not None and limit < 1:
        problems.append(f"limit: {limit} given; it must be 1 or more (null: no limit).")
    if image_processor is None:
        problems.append(
            "image_processor: none is set. In a run the model's card gives one; else set it, for example "
            "image_processor: {name: blip_image_eval, image_size: 384}."
        )
    if problems:
        raise ConfigError([f"{dataset}: {problem}" for problem in problems])
