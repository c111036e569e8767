"""The pieces of a run that registries build: each knows what to build, checks it, and builds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from vlkit.config.build import Origin, accepts, build, check, name_problems, processor_problems
from vlkit.config.cards import data_files, dataset_card_config, list_dataset_cards, model_card_config, overlay
from vlkit.config.convert import Problems, convert
from vlkit.config.load import Config
from vlkit.config.signature import describes_model, short, signature
from vlkit.errors import ConfigError, RegistryError, did_you_mean
from vlkit.io.data_dir import SCHEME, localize
from vlkit.registry import DATASETS, MODELS, PROCESSORS, TASKS, Registry
from vlkit.registry.bounds import Range

Weight = Annotated[float, Range(0, 1e9, open=True)]
"""Share of a dataset in a mixture, relative to the others."""


@dataclass(frozen=True)
class ComponentSpec:
    """One thing to build.

    Args:
        registry: where its name is looked up.
        mapping: ``name`` and constructor arguments.
        where: its key path in the run file.
        origin: says where a key path was written.
    """

    registry: Registry
    mapping: dict[str, Any]
    where: str
    origin: Origin = str

    @property
    def name(self) -> str:
        """Return the name that is looked up."""
        return str(self.mapping.get("name"))

    def check(self) -> list[str]:
        """Return the problems; build nothing."""
        return check(self.registry, self.mapping, self.where, self.origin)

    def build(self, **provided: Any) -> Any:
        """Build the object. What the mapping calls ``data://...`` is taken from the data folder.

        Args:
            **provided: constructor arguments that are objects, not configuration.

        Raises:
            ConfigError: what :meth:`check` reports.
            DataError: a file is missing in the data folder and cannot be downloaded.
        """
        given = localize(self.mapping, data_files()) if _holds_scheme(self.mapping) else self.mapping
        return build(self.registry, given, self.where, self.origin, **provided)


@dataclass(frozen=True)
class ModelPart(ComponentSpec):
    """A model.

    Args:
        type: name of its card, or None.
        card: the card as plain data; empty without one.
        card_origin: says where a key path of the card was written.
        models: constructor argument ("captioner") to the model that is built for it.
        weights: of a model that is an argument of another one: a path, an address or ``card:<model>/<type>``; None:
            those of its card.
        unreadable: what is so wrong with it that the rest could not be checked.
    """

    type: str | None = None
    card: dict[str, Any] = field(default_factory=dict)
    card_origin: Origin = str
    models: dict[str, ModelPart] = field(default_factory=dict)
    weights: Any = None
    unreadable: tuple[str, ...] = ()

    def check(self) -> list[str]:
        if self.unreadable:
            return list(self.unreadable)
        problems = check(self.registry, self.mapping, self.where, self.origin, self.models, self.models)
        if self.weights is not None and not (isinstance(self.weights, str) and self.weights.strip()):
            allowed = "a path, an address, card:<model>/<type> or null"
            problems.append(f"{self.origin(f'{self.where}.weights')}: {short(self.weights)} given, {allowed} allowed.")
        return problems + [problem for part in self.models.values() for problem in part.check()]

    def build(self, **provided: Any) -> Any:
        """Build the model; models inside it that are not ``provided`` are built without weights. It gets the image
        processor of its card, which its calls apply to pictures.

        Raises:
            ConfigError: what :meth:`check` reports.
            DataError: as for any part.
        """
        if self.unreadable:
            raise ConfigError(list(self.unreadable))
        models = {key: part.build() for key, part in self.models.items() if key not in provided}
        model = super().build(**models, **provided)
        processor = _default_processors(self, training=False).get("image_processor")
        if processor is not None and hasattr(model, "use_processor"):
            model.use_processor(processor.build())
        return model


@dataclass(frozen=True)
class DatasetSpec(ComponentSpec):
    """A dataset and its processors.

    Args:
        processors: constructor argument ("image_processor") to what is built for it.
        weight: share in a mixture, relative to the other entries; None: by size.
    """

    processors: dict[str, ComponentSpec] = field(default_factory=dict)
    weight: float | None = None

    def check(self) -> list[str]:
        problems = check(self.registry, self.mapping, self.where, self.origin, self.processors, self.processors)
        return problems + [problem for part in self.processors.values() for problem in part.check()]

    def build(self, **provided: Any) -> Any:
        processors = {key: part.build() for key, part in self.processors.items() if key not in provided}
        return super().build(**processors, **provided)


def task_part(mapping: Mapping[str, Any], where: str = "task", origin: Origin = str) -> ComponentSpec:
    """Describe a task by ``{name, ...arguments}``."""
    return ComponentSpec(TASKS, _mapping(mapping, where, origin), where, origin)


def model_part(mapping: Mapping[str, Any], where: str = "model", origin: Origin = str) -> ModelPart:
    """Describe a model by ``{name, type, ...arguments}``: the card's arguments with the given ones over them.

    An argument that is a model itself is a mapping of this kind too, which may say ``weights``.

    Raises:
        ConfigError: no mapping, or no such card.
    """
    given = _mapping(mapping, where, origin)
    kind = given.pop("type", None)
    problems = name_problems(MODELS, given, where, origin) if kind is not None else []
    if kind is not None and not isinstance(kind, str):
        problems.append(f"{origin(f'{where}.type')}: {short(kind)} given, the name of a card is needed: a text.")
    if problems:
        raise ConfigError(problems)
    if kind is None:
        models = _models_inside(given, where, origin)
        return ModelPart(MODELS, given, where, origin, models=models)
    try:
        card = model_card_config(given["name"], kind)
    except ConfigError as error:
        raise ConfigError([f"{origin(f'{where}.type')}: {problem}" for problem in error.problems]) from error
    merged = overlay(card.data.get("model") or {}, given)
    placed = _first_of(card, given, where, ["model"], origin)
    models = _models_inside(merged, where, placed)
    return ModelPart(MODELS, merged, where, placed, str(kind), card.data, card.origin, models)


def _models_inside(given: dict[str, Any], where: str, origin: Origin) -> dict[str, ModelPart]:
    """Take the mappings of arguments that are models out of ``given``."""
    mappings = [key for key, value in given.items() if isinstance(value, Mapping)]
    try:
        taken = signature(MODELS.get(str(given.get("name")))).parameters if mappings else {}
    except RegistryError:  # reported when the part itself is checked
        return {}
    inside = [key for key in mappings if key in taken and describes_model(taken[key].hint)]
    return {key: _model_inside(given.pop(key), f"{where}.{key}", origin) for key in inside}


def _model_inside(mapping: Mapping[str, Any], where: str, origin: Origin) -> ModelPart:
    given = dict(mapping)
    weights = given.pop("weights", None)
    try:
        return replace(model_part(given, where, origin), weights=weights)
    except ConfigError as error:  # reported together with what else is wrong
        return ModelPart(MODELS, given, where, origin, unreadable=tuple(error.problems))


def dataset_part(
    mapping: Mapping[str, Any],
    where: str,
    origin: Origin = str,
    model: ModelPart | None = None,
    training: bool = False,
) -> DatasetSpec:
    """Describe a dataset by ``{name, ...arguments}``.

    Args:
        mapping: may hold processors as ``image_processor: {name: ...}``, and ``weight`` when ``training``. A
            ``name`` is that of a dataset card or of a class; where both exist, a ``path`` says that the class is meant.
        model: its card gives the processors that the mapping does not.
        training: whether the card's processors for training or for evaluation are taken.

    Raises:
        ConfigError: no mapping, a card that is wrong, a split that it has not, or a weight that is not above 0.
    """
    given = _mapping(mapping, where, origin)
    weight = given.pop("weight", None) if training else None
    if weight is not None:
        wrong: Problems = []
        weight = convert(weight, Weight, f"{where}.weight", wrong)
        if wrong:
            raise ConfigError([f"{origin(path)}: {problem}" for path, problem in wrong])
    placed = origin
    if _is_card(given):
        given, placed = _with_card(given, where, origin)
    if problems := processor_problems(given, where, placed):
        raise ConfigError(problems)
    processors = {
        key: ComponentSpec(PROCESSORS, given.pop(key), f"{where}.{key}", placed)
        for key in [key for key in given if key.endswith("_processor") and isinstance(given[key], Mapping)]
    }
    for key, part in _default_processors(model, training).items():
        if key not in processors and key not in given and _takes(given.get("name"), key):
            processors[key] = part
    return DatasetSpec(DATASETS, given, where, placed, processors, weight)


def _is_card(given: Mapping[str, Any]) -> bool:
    name = given.get("name")
    return isinstance(name, str) and name in list_dataset_cards() and ("path" not in given or name not in DATASETS)


def _with_card(given: dict[str, Any], where: str, origin: Origin) -> tuple[dict[str, Any], Origin]:
    """Return the arguments of a dataset that a card describes, and where each was written."""
    card = dataset_card_config(given["name"])
    splits, split = card.data.get("splits") or {}, given.get("split")
    if splits and split is None and len(splits) == 1:
        split = next(iter(splits))
    if splits and split not in splits:
        lacks = "has several splits" if split is None else f"has no split {short(split)}"
        known, hint = ", ".join(splits), did_you_mean(str(split), splits)
        raise ConfigError(f"{origin(f'{where}.split')}: {given['name']!r} {lacks}.{hint} Give split: one of {known}.")
    sections = [f"splits.{split}", "dataset"] if splits else ["dataset"]
    arguments = overlay(card.data["dataset"], splits.get(split) or {})
    if splits and _takes(arguments.get("name"), "split"):
        arguments.setdefault("split", split)
    own = {key: value for key, value in given.items() if key != "name" and not (splits and key == "split")}
    return overlay(arguments, own), _first_of(card, own, where, sections, origin)


def _default_processors(model: ModelPart | None, training: bool) -> dict[str, ComponentSpec]:
    """Return the processors of the model's card by constructor argument; with models inside it, those of the first."""
    if model is not None and model.models and not model.card:
        model = next(iter(model.models.values()))
    split = "train" if training else "eval"
    found = {}
    for kind, entry in ((model.card if model else {}).get("preprocess") or {}).items():
        where = f"preprocess.{kind}"
        if "name" not in entry:
            where, entry = f"{where}.{split}", entry.get(split)
        if model is not None and entry is not None:
            found[f"{kind}_processor"] = ComponentSpec(PROCESSORS, entry, where, model.card_origin)
    return found


def _takes(name: Any, key: str) -> bool:
    try:
        return accepts(DATASETS.get(name), key)
    except RegistryError:  # reported when the part itself is checked
        return False


def _first_of(card: Config, given: Mapping[str, Any], where: str, sections: list[str], origin: Origin) -> Origin:
    """Return the places of keys that may come from the run file (``where``) or else from one of the card's sections."""

    def placed(path: str) -> str:
        inside = path[len(where) + 1 :] if path.startswith(f"{where}.") else ""
        if inside and not _holds(given, inside):
            for section in sections:
                if f"{section}.{inside}" in card:
                    return card.origin(f"{section}.{inside}")
        return origin(path)

    return placed


def _holds_scheme(value: Any) -> bool:
    if isinstance(value, (Mapping, list)):
        return any(map(_holds_scheme, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, str) and value.startswith(SCHEME)


def _holds(data: Any, path: str) -> bool:
    key, _, rest = path.partition(".")
    if not isinstance(data, Mapping) or key not in data:
        return False
    return not rest or not isinstance(data[key], Mapping) or _holds(data[key], rest)


def _mapping(mapping: Any, where: str, origin: Origin) -> dict[str, Any]:
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{origin(where)}: {short(mapping)} given, a mapping with 'name' is needed.")
    return dict(mapping)
