"""Model cards and dataset cards: files under ``vlkit/configs`` that a run names instead of repeating them.

The end of the module lists what there is: models with their cards, datasets, processors, tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from vlkit.config.build import check
from vlkit.config.load import Config, load_config
from vlkit.errors import ConfigError, did_you_mean
from vlkit.io.data_dir import DataFile
from vlkit.registry import DATASETS, MODELS, PROCESSORS, TASKS
from vlkit.registry.bounds import Range, Seed, WholeNumber

CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True)
class Weights:
    """Where released weights are and how to read them.

    Args:
        url, path: one of them; a repository of the Hugging Face hub is ``hf://owner/name``, a file inside an installed
            package ``package://name/path``.
        sha256, md5: of the file, when known.
        format: of the file ("blip", "hf", "lavis").
        adapter: name of the translation of state-dict names.
    """

    url: str | None = None
    path: str | None = None
    sha256: str | None = None
    md5: str | None = None
    format: str | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class Training:
    """How weights came about.

    Args:
        config: the run file.
        seed: of the run.
        samples: that it trained on.
        init_from: what it started from; null: random weights.
        log: where the run is described.
    """

    config: str
    seed: Seed
    samples: WholeNumber
    init_from: str | None = None
    log: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """What weights reach.

    Args:
        config: a run file for ``vlkit evaluate``, but for the model.
        metrics: ``<set>/<score>`` to its value there.
    """

    config: dict[str, Any]
    metrics: dict[str, Annotated[float, Range()]]


@dataclass(frozen=True)
class ModelCard:
    """What a file ``models/<name>/<type>.yaml`` may hold.

    Args:
        model: constructor arguments.
        weights: released weights, or null.
        preprocess: kind ("image", "text") to a processor mapping, or to ``{train: ..., eval: ...}`` of them.
        license: of the weights.
        description: one line.
        training: how the weights were made, where we made them.
        evaluation: what they reach, where that was measured.
    """

    model: dict[str, Any] = field(default_factory=dict)
    weights: Weights | None = None
    preprocess: dict[str, dict[str, Any]] = field(default_factory=dict)
    license: str = ""
    description: str = ""
    training: Training | None = None
    evaluation: Evaluation | None = None


@dataclass(frozen=True)
class DatasetCard:
    """What a file ``datasets/<name>.yaml`` may hold.

    Args:
        dataset: ``name`` of the dataset class and the arguments that all splits share.
        splits: name of a split to its arguments, laid over those of ``dataset``.
        files: path in the data folder to where the file or folder comes from.
        license: of the data.
        homepage: of those who own them.
        description: one line.
    """

    dataset: dict[str, Any]
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, DataFile] = field(default_factory=dict)
    license: str = ""
    homepage: str = ""
    description: str = ""


def model_card(name: str, type: str) -> dict[str, Any]:
    """Return the card of one type of a model: the keys of :class:`ModelCard`, as plain data.

    Raises:
        ConfigError: there is no such card, or it is wrong.
    """
    return model_card_config(name, type).data


def model_card_config(name: str, type: str) -> Config:
    """Return the card of one type of a model with the file and line of each key."""
    types = list_cards().get(name, [])
    if type not in types:
        known = f"Known types: {', '.join(types)}." if types else "This model has no cards: leave 'type' out."
        raise ConfigError(f"no card of model {name!r} is named {type!r}.{did_you_mean(type, types)} {known}")
    return _load(CONFIGS / "models" / name / f"{type}.yaml", ModelCard)


def dataset_card(name: str) -> dict[str, Any]:
    """Return the card of a dataset: the keys of :class:`DatasetCard`, as plain data.

    Raises:
        ConfigError: there is no such card, or it is wrong.
    """
    return dataset_card_config(name).data


def dataset_card_config(name: str) -> Config:
    """Return the card of a dataset with the file and line of each key."""
    names = list_dataset_cards()
    if name not in names:
        raise ConfigError(f"no dataset card is named {name!r}.{did_you_mean(name, names)} Known: {', '.join(names)}.")
    return _load(CONFIGS / "datasets" / f"{name}.yaml", DatasetCard)


def dataset_splits(name: str) -> list[str]:
    """Return the splits that the card ``name`` lists, in its order; none if there is no such card.

    Raises:
        ConfigError: the card is wrong.
    """
    return list(dataset_card(name).get("splits") or {}) if name in list_dataset_cards() else []


@lru_cache
def data_files() -> dict[str, DataFile]:
    """Map paths in the data folder to what the dataset cards say about the files.

    Raises:
        ConfigError: a card is wrong.
    """
    cards = [dataset_card(name) for name in list_dataset_cards()]
    return {path: DataFile(**entry) for card in cards for path, entry in (card.get("files") or {}).items()}


def list_cards() -> dict[str, list[str]]:
    """Map model names to the types that have a card, both sorted; files named ``_*.yaml`` are for ``extends``."""
    cards: dict[str, list[str]] = {}
    for file in sorted((CONFIGS / "models").glob("*/[!_]*.yaml")):
        cards.setdefault(file.parent.name, []).append(file.stem)
    return cards


def list_dataset_cards() -> list[str]:
    """Return the names of the datasets that have a card, sorted."""
    return sorted(file.stem for file in (CONFIGS / "datasets").glob("[!_]*.yaml"))


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``top`` over ``base``: mappings key by key, everything else replaced."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = overlay(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _load(file: Path, schema: type) -> Config:
    config = load_config(file)
    problems = check(schema, config.data, "", config.origin)
    if problems:
        raise ConfigError(problems)
    return config


class ModelZoo:
    """Models and the types that have a card; prints as a table."""

    def __iter__(self):
        return iter(list_models())

    def __len__(self) -> int:
        return sum(len(types) for _, types in list_models())

    def __str__(self) -> str:
        models = list_models()
        width = max(len(name) for name, _ in models) + 2
        rows = [f"{name:{width}}{', '.join(types)}" for name, types in models]
        return "\n".join([f"{'Model':{width}}Types", *rows])


class DatasetZoo:
    """Names of datasets."""

    def get_names(self) -> list[str]:
        """Return what :func:`list_datasets` gives."""
        return list_datasets()


model_zoo, dataset_zoo = ModelZoo(), DatasetZoo()


def list_models() -> list[tuple[str, list[str]]]:
    """Return the names of models with the types that have a card, both sorted."""
    cards = list_cards()
    return [(name, cards.get(name, [])) for name in sorted({*cards, *MODELS.names()})]


def list_datasets() -> list[str]:
    """Return the names of dataset classes and dataset cards, sorted."""
    return sorted({*DATASETS.names(), *list_dataset_cards()})


def list_processors() -> list[str]:
    """Return the names of processors, sorted."""
    return PROCESSORS.names()


def list_tasks() -> list[str]:
    """Return the names of tasks, sorted."""
    return TASKS.names()
