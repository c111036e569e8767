"""Every model card: it loads, its models can be built, and the released ones have the original's names and shapes."""

import math

import pytest
import torch

from tests.parity.golden import ASSETS, manifest
from vlkit.api import load_preprocess
from vlkit.config.cards import list_cards, model_card
from vlkit.config.parts import model_part

CARDS = [(name, kind) for name, kinds in list_cards().items() for kind in kinds]
RELEASED = [(name, kind) for name, kind in CARDS if model_card(name, kind).get("weights")]
LAVIS_FILES = {"blip_coco_caption_base.pth": "decoder_base_384"}


def file_of(name: str, kind: str) -> str:
    return model_card(name, kind)["weights"]["url"].rpartition("/")[2]


def manifest_of(file: str) -> dict:
    known = {**manifest("manifests/index.json")["checkpoint_file_to_class_manifest"], **LAVIS_FILES}
    return manifest(f"manifests/{known[file]}.json")


def test_the_cards_cover_the_released_captioners_and_pretrained_models():
    files = {file_of(name, kind) for name, kind in RELEASED}
    assert ASSETS.is_dir()
    index = manifest("manifests/index.json")["checkpoint_file_to_class_manifest"]
    assert files >= {file for file, kind in index.items() if kind.startswith(("decoder", "pretrain"))}


@pytest.mark.parametrize(("name", "kind"), CARDS)
def test_card(name, kind):
    card = model_card(name, kind)
    assert model_part({"name": name, "type": kind}).check() == []
    assert card["license"] == "BSD-3-Clause"
    assert card["description"].endswith(".")
    image, text = load_preprocess(name, kind)
    assert set(image) == set(text) == {"train", "eval"}
    assert {processor.image_size for processor in image.values()} == {card["model"]["vit"]["image_size"]}
    assert text["eval"]("A Dog (running)!") == "a dog running"


@pytest.mark.parametrize(("name", "kind"), RELEASED)
def test_released_names_and_shapes(name, kind):
    with torch.device("meta"):
        model = model_part({"name": name, "type": kind}).build()
    found = {n: [list(t.shape), str(t.dtype).removeprefix("torch.")] for n, t in model.state_dict().items()}
    expected = manifest_of(file_of(name, kind))
    assert found == expected["state_dict"]
    assert sum(p.numel() for p in model.parameters()) == expected["num_parameters"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected["num_trainable_parameters"]


@pytest.mark.parametrize("name", [name for name, kind in CARDS if kind == "tiny"])
def test_tiny_models_learn_from_the_world(name):
    """Around a million trained parameters, and finite gradients for every one of them from one batch."""
    torch.manual_seed(0)
    model = model_part({"name": name, "type": "tiny"}).build().train()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert 3e5 < sum(p.numel() for p in trained.values()) < 3e6
    texts = ["a red circle", "two shapes a blue square and a small green star", "a big yellow triangle"]
    loss = model({"image": torch.randn(3, 3, 48, 48), "text_input": texts}).loss
    loss.backward()
    assert 0 < loss.item() < 10 * math.log(len(model.tokenizer))
    assert all(torch.isfinite(p.grad).all() for p in trained.values() if p.grad is not None)
