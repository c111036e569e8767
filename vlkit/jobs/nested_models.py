"""Models that are arguments of another one (captioner and filter of ``blip_capfilt``): their weights, their pixels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from vlkit.config.parts import ComponentSpec, ModelPart
from vlkit.errors import ConfigError, VlkitError
from vlkit.jobs.initial_weights import StartingWeights, from_card, from_path, named_card
from vlkit.models.weights.load import build_with_weights
from vlkit.registry import PROCESSORS

logger = logging.getLogger(__name__)


def build_with_models(part: ModelPart) -> nn.Module:
    """The model of ``part`` on the CPU. The models inside it have their weights; what is drawn in itself depends on
    torch's generator.

    Raises:
        ConfigError: weights are not there, cannot be read or are of another model; all such mistakes at once.
    """
    found = _weights(part)
    models: dict[str, nn.Module] = {}
    problems: list[str] = []
    for key, inside in part.models.items():
        try:
            models[key] = _build_inside(inside, found[key])
        except VlkitError as error:
            problems += _placed(error, inside)
    if problems:
        raise ConfigError(problems)
    return part.build(**models)


def model_weights(part: ModelPart) -> dict[str, StartingWeights]:
    """Where the weights of the models inside ``part`` come from, by argument ("captioner"); those without are left out.

    Raises:
        ConfigError: named weights are not there; all such mistakes at once.
    """
    return {key: weights for key, weights in _weights(part).items() if weights is not None}


def image_processors(part: ModelPart) -> dict[str, ComponentSpec]:
    """What makes the pixels that the models inside ``part`` read in an evaluation, by the name of the pixels.

    Returns:
        ``image`` for the first model inside; ``<argument>_image`` (``filter_image``) for another one if it differs.

    Raises:
        ConfigError: the card of a model says nothing of it.
    """
    parts = {key: _image_processor(inside) for key, inside in part.models.items()}
    names = list(parts)
    processors = {"image": parts[names[0]]}
    others = {f"{name}_image": parts[name] for name in names[1:] if parts[name].mapping != parts[names[0]].mapping}
    return processors | others


def _weights(part: ModelPart) -> dict[str, StartingWeights | None]:
    found: dict[str, StartingWeights | None] = {}
    problems: list[str] = []
    for key, inside in part.models.items():
        try:
            found[key] = _weights_of(inside)
        except VlkitError as error:
            problems += _placed(error, inside)
    if problems:
        raise ConfigError(problems)
    return found


def _weights_of(inside: ModelPart) -> StartingWeights | None:
    given = inside.weights
    if given is None:
        return from_card(inside) if inside.card.get("weights") else None
    if given.startswith("card:"):
        return named_card(given.removeprefix("card:"))
    return from_path(given)


def _build_inside(inside: ModelPart, weights: StartingWeights | None) -> nn.Module:
    if weights is not None:
        return build_with_weights(inside.build, weights.file(), weights.adapter)[0]
    if not inside.models:
        logger.warning("%s: no weights; the model is initialized at random.", inside.where)
    return build_with_models(inside)


def _image_processor(inside: ModelPart) -> ComponentSpec:
    entry: Any = (inside.card.get("preprocess") or {}).get("image") or {}
    where = "preprocess.image"
    if "name" not in entry:
        where, entry = f"{where}.eval", entry.get("eval")
    if entry is None:
        raise ConfigError(
            f"{inside.origin(inside.where)}: it has no card that says how its images are prepared. Give a type."
        )
    vit = inside.mapping.get("vit")
    size = vit.get("image_size") if isinstance(vit, Mapping) else None
    # The card's own size may have been changed together with the encoder's.
    if size is not None and "image_size" in entry:
        entry = {**entry, "image_size": size}
    return ComponentSpec(PROCESSORS, dict(entry), where, inside.card_origin)


def _placed(error: VlkitError, inside: ModelPart) -> list[str]:
    place = inside.origin(f"{inside.where}.weights" if inside.weights is not None else inside.where)
    found = error.problems if isinstance(error, ConfigError) else [str(error)]
    return [problem if problem.startswith(place) else f"{place}: {problem}" for problem in found]
