"""The models of a job: where their weights come from, and what their images go through."""

from __future__ import annotations

from typing import Any

from torch import nn

from vlkit.config.parts import ModelPart, Part
from vlkit.errors import ConfigError
from vlkit.models.weights import build_with_weights
from vlkit.preflight import encoder_size
from vlkit.registry import PROCESSORS
from vlkit.starting_weights import StartingWeights, from_card, from_path, named_card

ROLES = ("captioner", "filter")


def weights_of(part: ModelPart) -> dict[str, StartingWeights]:
    """Where the weights of each model come from, by role ("captioner", "filter"; "model" where there is one alone).

    Raises:
        VlkitError: there are none, or nothing is where they should be.
    """
    return {role: _weights(each) for role, each in (part.models or {"model": part}).items()}


def _weights(part: ModelPart) -> StartingWeights:
    if part.weights is not None and part.weights.startswith("card:"):
        return named_card(part.weights.removeprefix("card:"))
    if part.weights is not None:
        return from_path(part.weights)
    if not part.card.get("weights"):
        card = f"the card {part.name}/{part.type} has" if part.type else f"{part.name} names no card and has"
        where = part.origin(f"{part.where}.weights")
        raise ConfigError(
            f"{where}: {card} no weights. Give weights: a file, the folder of a run, an address or card:<model>/<type>."
        )
    return from_card(part)


def build_models(part: ModelPart, weights: dict[str, StartingWeights]) -> nn.Module:
    """The model on the CPU, in eval mode.

    Args:
        part: what to build.
        weights: by role, as :func:`weights_of` gives them.

    Raises:
        VlkitError: weights cannot be read, or are of another model.
    """

    def loaded(role: str, each: ModelPart) -> nn.Module:
        own = weights[role]
        return build_with_weights(each.build, own.file(), own.adapter)[0]

    if not part.models:
        return loaded("model", part).eval()
    return part.build(**{role: loaded(role, each) for role, each in part.models.items()}).eval()


def image_processors(part: ModelPart, model: nn.Module) -> dict[str, Any]:
    """Input of the model to the image processor of its card; "filter_image" only where the filter's is another.

    Args:
        part: of the model.
        model: built of it.

    Raises:
        ConfigError: a card names no image processor.
    """
    mappings = {
        role: _processor(each, getattr(model, role, model)) for role, each in (part.models or {"model": part}).items()
    }
    first, *others = mappings.values()
    found = {"image": first, **({"filter_image": others[0]} if others and others[0] != first else {})}
    return {name: Part(PROCESSORS, mapping, f"preprocess of {name}").build() for name, mapping in found.items()}


def _processor(part: ModelPart, model: nn.Module) -> dict[str, Any]:
    entry = (part.card.get("preprocess") or {}).get("image")
    if not entry:
        where = part.origin(f"{part.where}.type")
        raise ConfigError(f"{where}: no card says how images are prepared for {part.name}. Name a type that has one.")
    mapping = dict(entry if "name" in entry else entry["eval"])
    size = encoder_size(model)  # a job may have changed it
    return mapping | ({"image_size": size[0]} if size is not None and "image_size" in mapping else {})
