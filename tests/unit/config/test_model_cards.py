"""Every model card: it loads, its models can be built, and the released ones have the original's names and shapes."""

import math

import pytest
import torch

from tests.parity.golden import ASSETS, manifest
from vlkit.api import load_preprocess
from vlkit.config.cards import list_cards, model_card
from vlkit.config.parts import model_part

CARDS = [(name, kind) for name, kinds in list_cards().items() for kind in kinds]
RELEASED = [(name, kind) for name, kind in CARDS if (model_card(name, kind).get("weights") or {}).get("url")]
ORIGINAL = "https://storage.googleapis.com/sfr-vision-language-research/"
HUB = "hf://Salesforce/"
# Every released file, its model, and what the original's class for it is called in the manifests.
FILES = {
    "BLIP/models/model_base_14M.pth": ("blip_pretrain", "pretrain_base_224"),
    "BLIP/models/model_base.pth": ("blip_pretrain", "pretrain_base_224"),
    "BLIP/models/model_base_capfilt_large.pth": ("blip_pretrain", "pretrain_base_224"),
    "BLIP/models/model_large.pth": ("blip_pretrain", "pretrain_large_224"),
    "BLIP/models/model_base_retrieval_coco.pth": ("blip_retrieval", "retrieval_base_384"),
    "BLIP/models/model_large_retrieval_coco.pth": ("blip_retrieval", "retrieval_large_384"),
    "BLIP/models/model_base_retrieval_flickr.pth": ("blip_retrieval", "retrieval_base_384"),
    "BLIP/models/model_large_retrieval_flickr.pth": ("blip_retrieval", "retrieval_large_384"),
    "LAVIS/models/BLIP/blip_coco_retrieval.pth": ("blip_retrieval", "retrieval_base_384"),
    "LAVIS/models/BLIP/blip_flickr_retrieval.pth": ("blip_retrieval", "retrieval_base_384"),
    "BLIP/models/model_base_caption_capfilt_large.pth": ("blip_caption", "decoder_base_384"),
    "LAVIS/models/BLIP/blip_coco_caption_base.pth": ("blip_caption", "decoder_base_384"),
    "BLIP/models/model_large_caption.pth": ("blip_caption", "decoder_large_384"),
    "BLIP/models/model_vqa.pth": ("blip_vqa", "vqa_base_480"),
    "BLIP/models/model_base_vqa_capfilt_large.pth": ("blip_vqa", "vqa_base_480"),
    "LAVIS/models/BLIP/blip_okvqa.pth": ("blip_vqa", "vqa_base_480"),
    "LAVIS/models/BLIP/blip_aokvqa.pth": ("blip_vqa", "vqa_base_480"),
    "BLIP/models/model_base_nlvr.pth": ("blip_nlvr", "nlvr_base_384"),
    "blip-image-captioning-base": ("blip_caption", "decoder_base_384"),
    "blip-image-captioning-large": ("blip_caption", "decoder_large_384"),
    "blip-vqa-base": ("blip_vqa", "vqa_base_480"),
    "blip-vqa-capfilt-large": ("blip_vqa", "vqa_base_480"),
    "blip-itm-base-coco": ("blip_image_text_matching", "itm_base_384"),
    "blip-itm-large-coco": ("blip_image_text_matching", "itm_large_384"),
    "blip-itm-base-flickr": ("blip_image_text_matching", "itm_base_384"),
    "blip-itm-large-flickr": ("blip_image_text_matching", "itm_large_384"),
}
# Models that read a part of another model's file.
PARTS = {
    ("blip_image_text_matching", "base"): "itm_base_384",
    ("blip_image_text_matching", "large"): "itm_large_384",
    ("blip_feature_extractor", "base"): "feature_extractor_base_224",
}
LAVIS_TYPES = {
    "blip_caption": {"base_coco", "large_coco"},
    "blip_retrieval": {"coco", "flickr"},
    "blip_image_text_matching": {"base", "large"},
    "blip_vqa": {"vqav2", "okvqa", "aokvqa"},
    "blip_nlvr": {"nlvr"},
    "blip_feature_extractor": {"base"},
    "blip_pretrain": {"base"},
}


def file_of(name: str, kind: str) -> str:
    return model_card(name, kind)["weights"]["url"].removeprefix(ORIGINAL).removeprefix(HUB)


def manifest_of(name: str, kind: str) -> dict:
    return manifest(f"manifests/{PARTS.get((name, kind)) or FILES[file_of(name, kind)][1]}.json")


def test_every_released_file_has_a_card_of_its_model():
    found = {file_of(name, kind): name for name, kind in RELEASED if (name, kind) not in PARTS}
    assert found == {file: name for file, (name, _) in FILES.items()}
    assert {file_of(*card) for card in PARTS} <= FILES.keys()


def test_files_are_of_the_classes_that_the_manifests_name():
    assert ASSETS.is_dir()
    index = manifest("manifests/index.json")["checkpoint_file_to_class_manifest"]
    known = {file.rpartition("/")[2]: kind for file, (_, kind) in FILES.items()}
    assert index.items() <= known.items()


def test_the_types_of_lavis_have_cards_with_weights():
    for name, kinds in LAVIS_TYPES.items():
        assert {(name, kind) for kind in kinds} <= set(RELEASED)


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
    theirs = manifest_of(name, kind)
    expected, more = dict(theirs["state_dict"]), 0  # numbers that ours has more, or fewer
    if kind.startswith("hf_"):
        pixels = model_card(name, kind)["model"]["vit"]["image_size"]
        tokens, width = (pixels // 16) ** 2 + 1, expected["visual_encoder.pos_embed"][0][2]
        more = (tokens - expected["visual_encoder.pos_embed"][0][1]) * width
        expected["visual_encoder.pos_embed"] = [[1, tokens, width], "float32"]
    if name == "blip_feature_extractor":  # LAVIS's has projections, the original's has none
        for projection in ("vision_proj", "text_proj"):
            expected |= {f"{projection}.weight": [[256, 768], "float32"], f"{projection}.bias": [[256], "float32"]}
            more += 256 * 768 + 256
    assert found == expected
    assert sum(p.numel() for p in model.parameters()) == theirs["num_parameters"] + more
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == theirs["num_trainable_parameters"] + more


TURN = {"question": "what color", "answer": "red", "answer_options": ["red", "blue"], "gt_index": 0}
MORE_SAMPLES = {
    "blip_retrieval": {"image_id": torch.arange(3)},
    "blip_vqa": {"answers": [["red"], ["blue", "small"], ["yellow"]]},
    "blip_nlvr": {"images": torch.randn(3, 2, 3, 48, 48), "label": [0, 1, 1]},
    "blip_dialog": {"dialog": [[TURN], [TURN, TURN], [TURN]]},
}
UNTRAINED = ("blip_feature_extractor", "blip_image_text_matching")  # their weights come from the others


@pytest.mark.parametrize("name", [n for n, kind in CARDS if kind == "tiny" and n not in UNTRAINED])
def test_tiny_models_learn_from_the_world(name):
    """Around a million trained parameters, and finite gradients for every one of them from one batch."""
    torch.manual_seed(0)
    model = model_part({"name": name, "type": "tiny"}).build().train()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert 3e5 < sum(p.numel() for p in trained.values()) < 3e6
    texts = ["a red circle", "two shapes a blue square and a small green star", "a big yellow triangle"]
    samples = {"image": torch.randn(3, 3, 48, 48), "text_input": texts, **MORE_SAMPLES.get(name, {})}
    loss = model(samples).loss
    loss.backward()
    assert 0 < loss.item() < 10 * math.log(len(model.tokenizer))
    assert all(torch.isfinite(p.grad).all() for p in trained.values() if p.grad is not None)
