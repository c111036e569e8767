"""Reasoning over pairs of images against the original: logits, loss, gradients, and loading other checkpoints."""

import pytest
import torch

from tests.parity.golden import Case, check_gradients, filled_state, manifest
from tests.parity.test_med import med_config
from tests.parity.test_pretrain import vit_config
from vlkit.models.blip.nlvr import BlipNlvr
from vlkit.models.med import MedConfig
from vlkit.models.vit import VitConfig


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("nlvr")


@pytest.fixture(scope="module")
def model(case) -> BlipNlvr:
    config = case.info["config"]
    return fill(BlipNlvr(vit_config(config["vit"]), med_config(config["med"])).eval(), case)


@pytest.fixture(scope="module")
def samples(case) -> dict:
    return {**pair(case.input("input.nlvr.image")), "text_input": case.info["texts"], "label": case["targets"]}


def fill(model: BlipNlvr, case: Case, shapes: dict | None = None) -> BlipNlvr:
    report = model.load_state_dict(filled_state(case.info["model"], shapes), strict=False)
    assert not report.unexpected_keys
    assert set(report.missing_keys) <= set(case.info["model"]["integer_buffers"])
    return model


def pair(images: torch.Tensor) -> dict:
    """The original takes the first images of all pairs, then the second ones."""
    first, second = images.chunk(2)
    return {"image0": first, "image1": second}


def test_tokens(case, model):
    ids, mask = model.tokenize(case.info["texts"]).padded()
    assert torch.equal(ids, case["input_ids"])
    assert torch.equal(mask, case["attention_mask"])


def test_logits(case, model, samples):
    found = model.predict(samples)
    case.expect("prediction", found["predictions"])
    assert torch.equal(found["targets"], case["targets"])
    exchanged = {**samples, "image0": samples["image1"], "image1": samples["image0"]}
    case.expect("prediction_swapped", model.predict(exchanged)["predictions"])


def test_loss_and_gradients(case, model, samples):
    model.zero_grad()
    loss = model(samples).loss
    case.expect("loss", loss)
    loss.backward()
    check_gradients(case, dict(model.named_parameters(remove_duplicate=False)))
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == set(case.info["parameters_without_gradient"])


@pytest.mark.parametrize(
    ("name", "vit"),
    [("base_384", VitConfig(384)), ("large_384", VitConfig(384, embed_dim=1024, depth=24, num_heads=16))],
)
def test_names_and_shapes(name, vit):
    expected = {key: entry[0] for key, entry in manifest(f"manifests/nlvr_{name}.json")["state_dict"].items()}
    with torch.device("meta"):
        model = BlipNlvr(vit, MedConfig())
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == expected


@pytest.mark.slow
def test_base_size():
    case = Case("full_nlvr_base_384")
    shapes = {name: entry[0] for name, entry in manifest(case.info["manifest"])["state_dict"].items()}
    model = fill(BlipNlvr(VitConfig(384), MedConfig()).eval(), case, shapes)
    samples = {**pair(case.input("input.full_nlvr.image")), "text_input": case.info["texts"]}
    case.expect("prediction", model.predict(samples)["predictions"])
    with torch.inference_mode():
        case.expect("loss", model({**samples, "label": case.info["targets"]}).loss)
