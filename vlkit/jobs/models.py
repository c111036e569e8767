"""Build models of a configuration with their weights; also models that are arguments of another one, such as the
captioner and the filter of ``blip_capfilt``.

Cards are configuration, which ``vlkit.models`` does not read: this module resolves them to files, and
``vlkit.models.weights.load`` identifies and loads those.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from vlkit.config.cards import Weights
from vlkit.config.parts import ComponentSpec, ModelPart, model_part
from vlkit.errors import ConfigError
from vlkit.io.fetch import fetch
from vlkit.jobs.base import Problems
from vlkit.models.weights.load import InitialWeights, from_path
from vlkit.registry import PROCESSORS

logger = logging.getLogger(__name__)
T = TypeVar("T")


def from_card(model: ModelPart) -> InitialWeights:
    """Return the released weights of a model's card.

    Raises:
        ConfigError: the card has none.
    """
    given = model.card.get("weights")
    if not given:
        card = f"the card {model.name}/{model.type}" if model.type else f"the model {model.name}, which names no card,"
        raise ConfigError(f"{card} has no weights. Give a checkpoint in run.init_from, or leave it out.")
    weights = Weights(**given)
    source = weights.path or str(weights.url)

    def file() -> Path:
        return fetch(source, sha256=weights.sha256, md5=weights.md5)

    return InitialWeights(source, file, weights.adapter or weights.format)


def from_name(source: str) -> InitialWeights:
    """Return the weights that ``source`` names: ``card:<model>/<type>``, where the model may be another one than the
    one to be built, a path or an address.

    Raises:
        VlkitError: there is no such card, or nothing is there.
    """
    if not source.startswith("card:"):
        return from_path(source)
    name = source.removeprefix("card:")
    model, _, kind = name.partition("/")
    if not kind:
        raise ConfigError(f"card:{name} given; write card:<model>/<type>, for example card:blip_pretrain/base.")
    # The adapter is detected: it depends on the model to be built.
    return InitialWeights(source, from_card(model_part({"name": model, "type": kind})).file)


def build_with_models(part: ModelPart) -> nn.Module:
    """Build a model on the CPU, with weights for the models inside it. Its own parameters are initialized with torch's
    global generator.

    Raises:
        ConfigError: weights do not exist, cannot be read or are of another model; all such problems at once.
    """
    weights = _inner_weights(part)
    models = _for_each_inner(part, lambda key, inner: _build_inner(inner, weights[key]))
    return part.build(**models)


def model_weights(part: ModelPart) -> dict[str, InitialWeights]:
    """Return the weights of the models inside ``part``, by argument ("captioner"); models without any are left out.

    Raises:
        ConfigError: named weights do not exist; all such problems at once.
    """
    return {key: weights for key, weights in _inner_weights(part).items() if weights is not None}


def image_processors(part: ModelPart) -> dict[str, ComponentSpec]:
    """Return the evaluation image processors of the models inside ``part``, by the name of their pixels.

    Returns:
        ``image`` for the first model; ``<argument>_image`` (``filter_image``) for another one if it differs.

    Raises:
        ConfigError: the card of a model names no processor.
    """
    parts = {key: _image_processor(inner) for key, inner in part.models.items()}
    names = list(parts)
    others = {f"{name}_image": parts[name] for name in names[1:] if parts[name].mapping != parts[names[0]].mapping}
    return {"image": parts[names[0]], **others}


def _for_each_inner(part: ModelPart, action: Callable[[str, ModelPart], T]) -> dict[str, T]:
    """Apply ``action`` to each model inside ``part``; the problems of all are raised together."""
    found, problems = {}, Problems()
    for key, inner in part.models.items():
        with problems.of(inner.origin(f"{inner.where}.weights" if inner.weights is not None else inner.where)):
            found[key] = action(key, inner)
    problems.end()
    return found


def _inner_weights(part: ModelPart) -> dict[str, InitialWeights | None]:
    def weights(_: str, inner: ModelPart) -> InitialWeights | None:
        if inner.weights is not None:
            return from_name(inner.weights)
        return from_card(inner) if inner.card.get("weights") else None

    return _for_each_inner(part, weights)


def _build_inner(inner: ModelPart, weights: InitialWeights | None) -> nn.Module:
    if weights is not None:
        return weights.build(inner.build)
    if not inner.models:
        logger.warning("%s: no weights; the model is initialized at random.", inner.where)
    return build_with_models(inner)


def _image_processor(inner: ModelPart) -> ComponentSpec:
    entry: Any = (inner.card.get("preprocess") or {}).get("image") or {}
    where = "preprocess.image"
    if "name" not in entry:
        where, entry = f"{where}.eval", entry.get("eval")
    if entry is None:
        raise ConfigError(
            f"{inner.origin(inner.where)}: it has no card that says how its images are prepared. Give a type."
        )
    vit = inner.mapping.get("vit")
    size = vit.get("image_size") if isinstance(vit, Mapping) else None
    # The card's own size may have been changed together with the encoder's.
    if size is not None and "image_size" in entry:
        entry = {**entry, "image_size": size}
    return ComponentSpec(PROCESSORS, dict(entry), where, inner.card_origin)
