"""vlkit: vision-language models as configs. Importing it loads no torch; public names resolve on first use."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_model_and_preprocess": "vlkit.api",
    "load_model": "vlkit.api",
    "load_preprocess": "vlkit.api",
    "load_processor": "vlkit.api",
    "load_dataset": "vlkit.api",
    "list_models": "vlkit.config.cards",
    "model_zoo": "vlkit.config.cards",
    "dataset_zoo": "vlkit.config.cards",
    "list_datasets": "vlkit.config.cards",
    "list_processors": "vlkit.config.cards",
    "list_tasks": "vlkit.config.cards",
    "MODELS": "vlkit.registry",
    "PROCESSORS": "vlkit.registry",
    "DATASETS": "vlkit.registry",
    "TASKS": "vlkit.registry",
    "VlkitError": "vlkit.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'vlkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
