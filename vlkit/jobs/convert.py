"""Convert weight files between the original BLIP (and LAVIS), Hugging Face and vlkit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlkit.config.load import load_config
from vlkit.config.parts import ModelPart, model_part
from vlkit.errors import CheckpointError, VlkitError
from vlkit.io.files import atomic_dir, atomic_write
from vlkit.io.tensor_files import save_tensors
from vlkit.models.blip.base import BlipBase
from vlkit.models.vit import VitConfig
from vlkit.models.weights.files import check_precision, read_checkpoint, stored
from vlkit.models.weights.load import fit_weights, from_path
from vlkit.models.weights.match import LoadReport
from vlkit.models.weights.names import (
    HUGGING_FACE_CLASSES,
    QUEUES,
    describe,
    from_hugging_face,
    model_of,
    to_hugging_face,
)

FORMATS = ("blip", "lavis", "hf", "vlkit")
_DEPTHS = {768: 12, 1024: 24}  # ViT-B, ViT-L
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_HEAD_WIDTH = 64  # of all released models
_TEXT_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "layer_norm_eps",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
)
"""Keys that have the same name in the text configuration of Hugging Face."""


def convert(
    source: str | Path, target: str | Path, to: str, model: str | None = None, precision: str = "fp32"
) -> LoadReport:
    """Write the weights in ``source`` in the format of another library.

    Args:
        source: a path that :func:`vlkit.models.weights.load.read_checkpoint` reads, or an address.
        target: "hf": a new folder, which ``from_pretrained`` of ``transformers`` loads. "blip", "lavis": a file, by its
            suffix of ``torch.save`` (.pth, .pt, .bin; under the key ``model``) or safetensors. "vlkit": a safetensors
            file without tensors that only training needs (momentum encoders, queues).
        to: one of :data:`FORMATS`.
        model: the model to write, as "name" or "name/type" with the type of a card; it may be a part of the
            model in the file. None: the model in the file. Weights of other sizes than the released ones need a
            card, or a run's output folder as ``source``.
        precision: one of :data:`vlkit.models.weights.files.PRECISIONS`; "int8" is for "vlkit" alone.

    Returns:
        Which tensors of ``source`` were used.

    Raises:
        VlkitError: the file holds another model, the other library has no such model, or ``target`` cannot be
            written.
    """
    if to not in FORMATS:
        raise VlkitError(f"weights can be written for {', '.join(FORMATS)}; given: {to!r}.")
    target = Path(target)
    _check_target(target, to, precision)
    file = from_path(source).file()
    part = _part(Path(source), from_hugging_face(read_checkpoint(file)), to, model)
    with torch.device("meta"):
        built = part.build()
    values, report = fit_weights(built, file)
    if report.missing:
        raise CheckpointError(
            f"{source} is not all of a {part.name}: {len(report.missing)} tensors are missing in it "
            f"({', '.join(report.missing[:3])}). Train that model, and convert what the run wrote."
        )
    state = stored({name: values[name] for name in built.state_dict() if to != "vlkit" or not _trains(name)}, precision)
    if to == "hf":
        _write_hugging_face(target, state, built, part.name, precision)
    else:
        _write_file(target, state)
    return report


def hugging_face_config(model: BlipBase, name: str) -> dict[str, Any]:
    """Return the content of ``config.json`` for a model.

    Args:
        model: may be on the meta device.
        name: its registered name.

    Raises:
        VlkitError: the Hugging Face class does not support its sizes.
    """
    if model.vit_config.backbone is not None:
        raise VlkitError(
            f"the image encoder is timm's {model.vit_config.backbone}; Hugging Face's BLIP takes a ViT only."
        )
    if name == "blip_vqa" and model.image_width != model.med_config.hidden_size:
        raise VlkitError(
            f"Hugging Face's {HUGGING_FACE_CLASSES[name][0]} needs images and texts of one width, since its decoder "
            f"reads questions as if they were images; here they are {model.image_width} and "
            f"{model.med_config.hidden_size}."
        )
    config: dict[str, Any] = {
        "architectures": [HUGGING_FACE_CLASSES[name][0]],
        "model_type": "blip",
        "vision_config": _vision_config(model.vit_config),
        "text_config": _text_config(model),
    }
    if isinstance(projection := getattr(model, "vision_proj", None), nn.Linear):
        config["image_text_hidden_size"] = projection.out_features
    return config


def _vision_config(vit: VitConfig) -> dict[str, Any]:
    return {
        "hidden_size": vit.embed_dim,
        "intermediate_size": int(vit.embed_dim * vit.mlp_ratio),
        "num_hidden_layers": vit.depth,
        "num_attention_heads": vit.num_heads,
        "image_size": vit.image_size,
        "patch_size": vit.patch_size,
        "layer_norm_eps": 1e-6,  # as in the original; the default of transformers is 1e-5
    }


def _text_config(model: BlipBase) -> dict[str, Any]:
    tokenizer = model.tokenizer
    return {
        **{key: getattr(model.med_config, key) for key in _TEXT_SIZES},
        "encoder_hidden_size": model.vit_config.embed_dim,
        "bos_token_id": tokenizer.dec_id,
        "eos_token_id": tokenizer.sep_id,
        "sep_token_id": tokenizer.sep_id,
        "pad_token_id": tokenizer.pad_id,
    }


def _trains(name: str) -> bool:
    """Whether only training needs the tensor: a queue, or a part of a momentum encoder."""
    return name in QUEUES or name.partition(".")[0].endswith("_m")


def _check_target(target: Path, to: str, precision: str) -> None:
    """Report now what would otherwise fail after minutes."""
    if precision == "int8" and to != "vlkit":
        raise VlkitError(f"weights in int8 are read by vlkit alone: write them with --to vlkit. Given: {to!r}.")
    check_precision(precision)
    if to == "hf" and target.exists():
        raise VlkitError(f"{target} exists already. Give the path of a new folder, or remove it first.")
    suffixes = (".safetensors",) if to == "vlkit" else (".pth", ".pt", ".bin", ".safetensors")
    if to != "hf" and (target.suffix not in suffixes or target.is_dir()):
        raise VlkitError(f"{target}: a file is written for {to}; its name must end in {' or '.join(suffixes)}.")


def _part(source: Path, state: Mapping[str, Tensor], to: str, model: str | None) -> ModelPart:
    """Choose the model to build for ``state``, whose names are ours."""
    name, _, kind = (model or "").partition("/")
    if kind:
        return model_part({"name": name, "type": kind})
    config = source / "config.yaml"
    recorded = load_config(config).data.get("model") if config.is_file() else None
    if isinstance(recorded, dict) and recorded.get("name") == (name or recorded.get("name")):
        return model_part(recorded)
    name = name or model_of(state) or ""
    if to == "hf" and name == "blip_retrieval":
        name = "blip_image_text_matching"  # the task of that class
    if to == "hf" and name not in HUGGING_FACE_CLASSES:
        to_hugging_face(state, name)  # raises an error that lists the supported models
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    width = shapes.get("visual_encoder.pos_embed", (0, 0, 0))[-1]
    if not name or width not in _DEPTHS:
        raise CheckpointError(
            f"{source}: {describe(shapes)}, whose sizes are not those of released models. Say which model it is, as "
            f"--model NAME/TYPE with the name of a card."
        )
    return model_part({"name": name, **_released_sizes(shapes, width, name)})


def _released_sizes(shapes: Mapping[str, tuple[int, ...]], width: int, name: str) -> dict[str, Any]:
    patch = shapes.get("visual_encoder.patch_embed.proj.weight", (16,))[-1]
    tokens = shapes["visual_encoder.pos_embed"][1] - 1
    vit = {
        "image_size": round(tokens**0.5) * patch,
        "patch_size": patch,
        "embed_dim": width,
        "depth": _DEPTHS[width],
        "num_heads": width // _HEAD_WIDTH,
    }
    sizes: dict[str, Any] = {"vit": vit, "med": {}}
    if "image_queue" in shapes and name in ("blip_pretrain", "blip_retrieval"):
        sizes["queue_size"] = shapes["image_queue"][1]
    if name == "blip_feature_extractor" and "vision_proj.weight" not in shapes:
        sizes["embed_dim"] = None
    return sizes


def _write_hugging_face(target: Path, state: Mapping[str, Tensor], model: BlipBase, name: str, precision: str) -> None:
    config = {**hugging_face_config(model, name), "dtype": _DTYPES[precision]}
    named = to_hugging_face(state, name)
    with atomic_dir(target, need=_bytes(named)) as folder:
        save_tensors(folder / "model.safetensors", named, aliases=False)  # transformers ties shared weights itself
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_file(target: Path, state: Mapping[str, Tensor]) -> None:
    with atomic_write(target, need=_bytes(state)) as stream:
        if target.suffix == ".safetensors":
            save_tensors(Path(stream.name), state)  # by name: the library cannot write to a stream in parts
        else:
            torch.save({"model": dict(state)}, stream)


def _bytes(state: Mapping[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in {id(v): v for v in state.values()}.values())
