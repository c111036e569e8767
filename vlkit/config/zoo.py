"""Lists of what there is: models with their cards, datasets, processors, tasks."""

from __future__ import annotations

from vlkit.config.cards import list_cards, list_dataset_cards
from vlkit.registry import DATASETS, MODELS, PROCESSORS, TASKS


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
        """What :func:`list_datasets` gives."""
        return list_datasets()


model_zoo, dataset_zoo = ModelZoo(), DatasetZoo()


def list_models() -> list[tuple[str, list[str]]]:
    """Names of models with the types that have a card, both sorted."""
    cards = list_cards()
    return [(name, cards.get(name, [])) for name in sorted({*cards, *MODELS.names()})]


def list_datasets() -> list[str]:
    """Names of dataset classes and dataset cards, sorted."""
    return sorted({*DATASETS.names(), *list_dataset_cards()})


def list_processors() -> list[str]:
    """Names of processors, sorted."""
    return PROCESSORS.names()


def list_tasks() -> list[str]:
    """Names of tasks, sorted."""
    return TASKS.names()
