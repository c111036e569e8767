"""Feature extraction against the original's ``BLIP_Base``, which has no projections."""

import pytest
import torch

from tests.parity.golden import Case, check_tokens, filled_state, manifest
from tests.parity.test_med import med_config
from tests.parity.test_pretrain import vit_config
from vlkit.models.blip.feature_extractor import BlipFeatureExtractor
from vlkit.models.med import MedConfig
from vlkit.models.vit import VitConfig


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("features")


@pytest.fixture(scope="module")
def model(case) -> BlipFeatureExtractor:
    config = case.info["config"]
    model = BlipFeatureExtractor(vit_config(config["vit"]), med_config(config["med"]), embed_dim=None)
    return load(model, case, case.info["model"]["state_dict"])


def load(model: BlipFeatureExtractor, case: Case, shapes: dict) -> BlipFeatureExtractor:
    report = model.eval().load_state_dict(filled_state(case.info["model"], shapes), strict=False)
    assert not report.unexpected_keys
    assert set(report.missing_keys) <= set(case.info["model"]["integer_buffers"])
    return model


def test_tokens(case, model):
    ids, mask = model.tokenize(case.info["texts"]).padded()
    assert torch.equal(ids, case["input_ids"])
    assert mask.all()


@pytest.mark.parametrize("mode", ["image", "text", "multimodal"])
def test_features(case, model, mode):
    samples = {"image": case.input("input.features.image"), "text_input": case.info["texts"]}
    case.expect(mode, getattr(model.extract_features(samples, mode=mode), f"{mode}_embeds"))


@pytest.mark.slow
def test_large_size():
    case = Case("full_features_large_224")
    entries = manifest(case.info["manifest"])["state_dict"]
    image = case.input("input.full_large.image")
    blocks = {name.split(".")[2] for name in entries if name.startswith("visual_encoder.blocks.")}
    width = entries["visual_encoder.cls_token"][0][-1]
    vit = VitConfig(image.shape[-1], embed_dim=width, depth=len(blocks), num_heads=width // 64)
    model = BlipFeatureExtractor(vit, MedConfig(), embed_dim=None)
    load(model, case, {name: entry[0] for name, entry in entries.items()})
    samples = {"image": image, "text_input": case.info["texts"]}
    for mode in ("image", "text", "multimodal"):
        check_tokens(case, mode, getattr(model.extract_features(samples, mode=mode), f"{mode}_embeds"))
