"""Files with exactly the names and shapes of the original's classes at true size, wrapped as its training scripts wrap
them: every tensor finds its place in our model, and nothing is missing.

The values take no room: in a .pth file a tensor is one number, expanded; a safetensors file has holes, and the number
of each tensor at its first place. (Positions are 0, 1, 2, ... in both.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.golden import manifest
from vlkit.config.cards import CONFIGS
from vlkit.config.load import load_config
from vlkit.config.parts import ModelPart, model_part
from vlkit.models.weights.load import build_with_weights, fit_weights

MANIFESTS = list(manifest("manifests/index.json")["manifests"])
CARDS = {
    "decoder_base": {"name": "blip_caption", "type": "base_coco"},
    "decoder_large": {"name": "blip_caption", "type": "large_coco"},
    "itm_base": {"name": "blip_image_text_matching", "type": "base"},
    "itm_large": {"name": "blip_image_text_matching", "type": "large"},
    "pretrain_base": {"name": "blip_pretrain", "type": "base"},
    "pretrain_large": {"name": "blip_pretrain", "type": "large"},
    "retrieval_base": {"name": "blip_retrieval", "type": "base_coco"},
    "retrieval_large": {"name": "blip_retrieval", "type": "large_coco"},
    "vqa_base": {"name": "blip_vqa", "type": "vqav2"},
    "nlvr_base": {"name": "blip_nlvr", "type": "nlvr"},
    # The original's class has no projections.
    "feature_extractor_base": {"name": "blip_feature_extractor", "type": "base", "embed_dim": None},
}
SAFE_TYPES = {"float32": ("F32", 4), "int64": ("I64", 8)}
Entries = dict[str, tuple[list[int], str]]


def part_of(name: str) -> ModelPart:
    """Our model for a manifest; those of which no large weights were released take the sizes of ViT-L."""
    size, _, pixels = name.rpartition("_")
    mapping: dict[str, Any] = dict(CARDS.get(size) or CARDS[size.replace("large", "base")])
    if size not in CARDS:
        mapping["vit"] = load_config(CONFIGS / "models" / "_vit_large.yaml").data["model"]["vit"]
    part = model_part(mapping)
    assert part.mapping["vit"]["image_size"] == int(pixels)
    return part


def numbers(info: dict[str, Any]) -> dict[str, int]:
    """A number for each name; names of one tensor have one."""
    first = {name: group[0] for group in info["tied_groups"] for name in group}
    place = {name: index for index, name in enumerate(info["state_dict"])}
    return {name: place[first.get(name, name)] for name in place}


def positions(shape: list[int]) -> torch.Tensor:
    return torch.arange(shape[-1]).reshape(shape)


def save_pth(path: Path, info: dict[str, Any]) -> Path:
    values = numbers(info)
    state = {
        name: positions(shape)
        if name.endswith("position_ids")
        else torch.full((), values[name], dtype=getattr(torch, dtype)).expand(shape)
        for name, (shape, dtype) in info["state_dict"].items()
    }
    torch.save({"model": state, "optimizer": {"state": {}}, "config": {"vit": "base"}, "epoch": 4}, path)
    return path


def save_safetensors(path: Path, info: dict[str, Any]) -> Path:
    header, begin, values = {}, 0, numbers(info)
    for name, (shape, dtype) in info["state_dict"].items():
        kind, size = SAFE_TYPES[dtype]
        end = begin + size * torch.Size(shape).numel()
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        data = file.tell()
        for name, entry in header.items():
            file.seek(data + entry["data_offsets"][0])
            start = torch.tensor([values[name]], dtype=getattr(torch, info["state_dict"][name][1]))
            start = positions(entry["shape"]) if name.endswith("position_ids") else start
            file.write(start.numpy().tobytes())
        file.truncate(data + begin)
    return path


SAVE = {"pth": save_pth, "safetensors": save_safetensors}


@pytest.mark.parametrize("suffix", SAVE)
@pytest.mark.parametrize("name", MANIFESTS)
def test_every_tensor_finds_its_place(tmp_path, name, suffix):
    info = manifest(f"manifests/{name}.json")
    file = SAVE[suffix](tmp_path / f"model.{suffix}", info)
    with torch.device("meta"):
        model = part_of(name).build()
    values, report = fit_weights(model, file)
    assert not report.missing + report.unexpected + report.ignored + report.resized + report.filled
    assert report.loaded == len(info["state_dict"])
    assert values.keys() == model.state_dict().keys()
    for key, number in numbers(info).items():
        assert values[key].shape == tuple(info["state_dict"][key][0])
        assert first_of(values[key]) == (0 if key.endswith("position_ids") else number)


def first_of(value: torch.Tensor) -> float:
    return value[(0,) * value.ndim].item()


SIZED = [pytest.param(name, marks=pytest.mark.slow if "_large_" in name else ()) for name in MANIFESTS]


@pytest.mark.parametrize("true", SIZED)
def test_filled_at_true_size(tmp_path, true):
    """In memory; files of large models as .pth, whose mapped pages are few."""
    info = manifest(f"manifests/{true}.json")
    suffix = "pth" if "_large_" in true else "safetensors"
    model, report = build_with_weights(part_of(true).build, SAVE[suffix](tmp_path / f"model.{suffix}", info))
    assert not report.missing + report.unexpected + report.ignored + report.resized + report.filled
    own = model.state_dict(keep_vars=True)
    assert {name: [list(value.shape), str(value.dtype)[6:]] for name, value in own.items()} == info["state_dict"]
    for name, number in numbers(info).items():
        assert first_of(own[name]) == (0 if name.endswith("position_ids") else number)
    for group in info["tied_groups"]:
        assert len({id(own[name]) for name in group}) == 1
    assert sum(p.numel() for p in model.parameters()) == info["num_parameters"]
