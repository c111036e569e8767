"""Public Python API: models with their weights and processors, datasets.

Names and arguments are those of LAVIS. Everything that LAVIS has in ``lavis.models``, ``lavis.processors``,
``lavis.datasets.builders`` and ``lavis.common.registry`` is imported from ``vlkit``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from vlkit.config.build import accepts, check
from vlkit.config.cards import dataset_splits, list_cards, list_datasets, model_card
from vlkit.config.load import load_config
from vlkit.config.parts import ComponentSpec, ModelPart, dataset_part, model_part
from vlkit.datasets.base import VLDataset
from vlkit.errors import ConfigError, VlkitError, did_you_mean, shortened
from vlkit.io.image_urls import fetch_image
from vlkit.jobs.models import from_card
from vlkit.models.arguments import as_mapping, check_flag, checked_keywords
from vlkit.models.inputs import PictureReader
from vlkit.models.weights.load import from_path
from vlkit.processors.open_image import open_image
from vlkit.registry import DATASETS, PROCESSORS

logger = logging.getLogger(__name__)
Processors = dict[str, Any]


@checked_keywords
def load_model_and_preprocess(
    name: str,
    model_type: str | None = None,
    is_eval: bool = True,
    device: str | torch.device = "cpu",
    checkpoint: str | Path | None = None,
    allow_urls: bool = False,
) -> tuple[nn.Module, Processors, Processors]:
    """Load a model and its processors.

    Args:
        name, model_type, is_eval, device, checkpoint, allow_urls: as for :func:`load_model`.

    Returns:
        The model; image processors and text processors, each ``{"train": ..., "eval": ...}``.

    Raises:
        VlkitError: as for :func:`load_model`.
    """
    image_processors, text_processors = load_preprocess(name, model_type)
    model = load_model(name, model_type, is_eval, device, checkpoint, allow_urls)
    return model, image_processors, text_processors


@checked_keywords
def load_model(
    name: str,
    model_type: str | None = None,
    is_eval: bool = True,
    device: str | torch.device = "cpu",
    checkpoint: str | Path | None = None,
    allow_urls: bool = False,
) -> nn.Module:
    """Load a model with weights. Its methods process images with the image processor of its card.

    Args:
        name: of the model ("blip_caption").
        model_type: of its card ("base_coco"); :func:`list_models` lists them.
        is_eval: evaluation mode, else training mode.
        device: "cpu", "cuda", "cuda:1", "mps"; "auto": the first available of cuda and mps, else cpu.
        checkpoint: weights file, checkpoint folder, a run's output folder, or an address (``https://...``, or
            ``hf://owner/name`` on the Hugging Face hub). None: the weights of the card, cached or downloaded; without
            any in the card, the model is initialized at random.
        allow_urls: let the model's methods download images from http and https addresses, each of at most 64 MB and
            within 10 s; not where ``VLKIT_OFFLINE`` is set.

    Raises:
        VlkitError: no such model, type or device, an argument of another type, or the weights are unavailable or of
            another model.
    """
    _check_type(name, model_type)
    for key, flag in (("is_eval", is_eval), ("allow_urls", allow_urls)):
        check_flag(key, flag)
    if checkpoint is not None and (not isinstance(checkpoint, (str, os.PathLike)) or not str(checkpoint)):
        given = "empty" if isinstance(checkpoint, str) else f"of the type {type(checkpoint).__name__}"
        raise VlkitError(
            f"checkpoint is {given}; give the path of a weights file, of a checkpoint "
            f"or of a run's output folder, an address, or None."
        )
    target = _device(device)
    part = _checked_part(name, str(model_type), checkpoint)
    model = build_model(part, checkpoint).to(target)
    if allow_urls:
        _open_urls(model)
    return model.eval() if is_eval else model  # a new model is in training mode, except for parts that it froze


def _open_urls(model: nn.Module) -> None:
    reader = getattr(model, "pictures", None)
    if not isinstance(reader, PictureReader):
        raise VlkitError(f"allow_urls: {type(model).__name__} reads no pictures by itself; open them before the call.")
    reader.open_url = fetch_image


def build_model(part: ModelPart, checkpoint: str | Path | None = None, pretrained: bool = True) -> nn.Module:
    """Build the model of ``part`` on the CPU, with weights.

    Args:
        part: what to build.
        checkpoint: as for :func:`load_model`.
        pretrained: whether the weights of the card are loaded if ``checkpoint`` is None.

    Raises:
        VlkitError: the weights are unavailable or of another model.
    """
    if checkpoint is None and not (pretrained and part.card.get("weights")):
        logger.warning("%s/%s: no weights; the model is initialized at random.", part.name, part.type)
        return part.build()
    weights = from_card(part) if checkpoint is None else from_path(checkpoint)
    return weights.build(part.build)


@checked_keywords
def load_preprocess(name: str, model_type: str | None = None) -> tuple[Processors, Processors]:
    """Build image processors and text processors of a model, each ``{"train": ..., "eval": ...}``.

    Raises:
        VlkitError: no such model or type.
    """
    _check_type(name, model_type)
    entries = model_card(name, str(model_type)).get("preprocess", {})
    where = f"{name}/{model_type}.preprocess"
    image, text = (_both_splits(entries.get(kind), f"{where}.{kind}") for kind in ("image", "text"))
    return image, text


@checked_keywords
def load_processor(name: str, cfg: Mapping[str, Any] | None = None) -> Any:
    """Build a processor of images or texts.

    Args:
        name: of the processor ("blip_image_eval"); :func:`list_processors` lists them.
        cfg: its arguments.

    Raises:
        VlkitError: no such processor, or an argument is wrong.
    """
    _check_name("processor", name, PROCESSORS.names())
    arguments = as_mapping("cfg", {} if cfg is None else cfg, "{'image_size': 384}")
    return ComponentSpec(PROCESSORS, {**arguments, "name": name}, name).build()


def load_dataset(
    name: str, split: str | None = None, vis_path: str | Path | None = None, **arguments: Any
) -> VLDataset | dict[str, VLDataset]:
    """Build a dataset, or all of its splits.

    Args:
        name: of a dataset class or dataset card.
        split: one split; None: a dictionary of all, if the dataset has several.
        vis_path: folder of the images (``image_root``, as LAVIS calls it).
        **arguments: of its constructor. A processor is an object or a mapping (``{"name": ...}``). Without an
            ``image_processor``, datasets of image files return PIL images.

    Raises:
        VlkitError: no such dataset, or an argument is wrong.
    """
    _check_name("dataset", name, list_datasets())
    _check_split(name, split)
    if vis_path is not None:
        if not isinstance(vis_path, (str, os.PathLike)):
            raise VlkitError(f"vis_path is of the type {type(vis_path).__name__}; give the path of a folder.")
        arguments["image_root"] = str(vis_path)
    provided = {
        key: value for key, value in arguments.items() if key.endswith("_processor") and not isinstance(value, Mapping)
    }
    mapping = {"name": name, **{key: value for key, value in arguments.items() if key not in provided}}
    if split is not None:
        mapping["split"] = split
    elif len(listed := dataset_splits(name)) > 1 and not ("path" in mapping and name in DATASETS):
        return {each: load_dataset(name, each, **arguments) for each in listed}  # type: ignore[misc]
    part = dataset_part(mapping, name)
    if problems := check(
        DATASETS, part.mapping, part.where, part.origin, (*part.processors, *provided, "image_processor")
    ):
        raise ConfigError(problems)  # before files are opened
    kind = DATASETS.get(part.name)
    for key, value in provided.items():
        if not accepts(kind, key):
            raise ConfigError(f"the dataset {name!r} takes no {key!r}; leave it out.")
        if value is not None and not callable(value):
            raise ConfigError(f"{key} is of the type {type(value).__name__}; give a processor, or {{'name': ...}}.")
    if getattr(kind, "plain_images", False) and "image_processor" not in arguments:
        provided["image_processor"] = _as_picture
    splits = getattr(kind, "splits", ()) if "split" not in part.mapping else ()
    if not splits:
        return part.build(**provided)
    return {each: dataset_part({**mapping, "split": each}, name).build(**provided) for each in splits}


def _as_picture(source: Any, _: Any = None) -> Image.Image:
    return open_image(source)


def _check_name(kind: str, name: Any, known: Sequence[str]) -> None:
    if not isinstance(name, str):
        raise ConfigError(f"the name of a {kind} is a string, such as {known[0]!r}; given: {shortened(name)}.")


def _check_type(name: str, model_type: str | None) -> None:
    cards = list_cards()
    _check_name("model", name, list(cards))
    if name not in cards:
        hint = did_you_mean(name, cards)
        raise ConfigError(f"no model with cards is named {name!r}.{hint} Known: {', '.join(cards)}.")
    if not isinstance(model_type, str) or model_type not in cards[name]:
        hint = did_you_mean(str(model_type), cards[name])
        raise ConfigError(f"{name} has no type {model_type!r}.{hint} Known: {', '.join(cards[name])}.")


def _check_split(name: str, split: Any) -> None:
    if split is not None and not isinstance(split, str):
        raise ConfigError(f"split of {name!r} is {shortened(split)}; it must be a string, or None for all splits.")


def _device(name: str | torch.device) -> torch.device:
    if name == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:  # ImportError: a plugin of torch is absent
        reason = str(error).partition("\n")[0]
    else:
        if device.type != "meta":
            return device
        reason = "it holds no values"
    known, lower = ("auto", "cpu", "cuda", "mps"), str(name).lower()
    hint = f" Did you mean {lower!r}?" if lower in known and lower != name else did_you_mean(lower, known)
    raise VlkitError(
        f"device {str(name)!r} cannot be used ({reason}). Give 'cpu', 'cuda', 'cuda:N', 'mps' or 'auto'.{hint}"
    )


def _checked_part(name: str, model_type: str, checkpoint: str | Path | None) -> ModelPart:
    """Return the card, or the configuration of the run that wrote ``checkpoint``."""
    _check_type(name, model_type)
    mapping: dict[str, Any] = {"name": name, "type": model_type}
    where = f"{name}/{model_type}"
    config = Path(checkpoint, "config.yaml") if checkpoint is not None else None
    if config is not None and config.is_file():
        recorded = load_config(config).data.get("model")
        if isinstance(recorded, dict) and mapping.items() <= recorded.items():
            mapping, where = recorded, "model"
    part = model_part(mapping, where)
    problems = part.check()
    if problems:
        raise ConfigError(problems)
    return part


def _both_splits(entry: dict[str, Any] | None, where: str) -> Processors:
    """Build the processors of a card's entry: one mapping for both splits, or one each."""
    if entry is None:
        return {}
    by_split = {"train": entry, "eval": entry} if "name" in entry else entry
    return {
        split: ComponentSpec(PROCESSORS, mapping, f"{where}.{split}").build() for split, mapping in by_split.items()
    }
