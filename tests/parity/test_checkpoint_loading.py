"""Checkpoints of the original in models of another kind, at another image size, and with another queue."""

from pathlib import Path

import pytest
import torch

from tests.parity.golden import Case, filled_state
from tests.parity.test_med import med_config
from tests.parity.test_pretrain import vit_config
from vlkit.errors import CheckpointError
from vlkit.models.blip.image_text_matching import BlipImageTextMatching
from vlkit.models.blip.nlvr import BlipNlvr
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.models.blip.retrieval import BlipRetrieval
from vlkit.models.vit import VitConfig
from vlkit.models.weights.load import load_weights


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("checkpoint_loading")


def saved(info: dict, path: Path) -> Path:
    """The file that the original's training script writes of a filled model."""
    state = filled_state(info)
    state.update({name: torch.zeros(info["state_dict"][name], dtype=torch.long) for name in info["integer_buffers"]})
    torch.save({"model": state, "optimizer": {}, "config": {"vit": "base"}, "epoch": 5}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(case, tmp_path_factory) -> Path:
    return saved(case.info["retrieval_model"], tmp_path_factory.mktemp("checkpoint") / "retrieval.pth")


def enlarged_vit(case: Case, name: str = "config") -> VitConfig:
    config = vit_config(case.info[name]["vit"])
    config.image_size = case.info["config"]["image_size_of_model"]
    return config


def resized(case: Case, *names: str) -> list[str]:
    """The position embeddings ``names``, if the case does change the image size."""
    sizes = {case.info["config"][f"image_size_of_{what}"] for what in ("model", "checkpoint")}
    return list(names) if len(sizes) > 1 else []


def test_retrieval_checkpoint_into_matching_at_another_image_size(case, checkpoint):
    config = case.info["config"]
    model = BlipImageTextMatching(
        enlarged_vit(case), med_config(config["med"]), embed_dim=config["embed_dim"], first_token="cls"
    ).eval()
    report = load_weights(model, checkpoint)
    assert report.resized == resized(case, "visual_encoder.pos_embed")
    assert sorted(report.missing) == sorted(case.info["retrieval_to_itm"]["missing"])
    assert sorted(report.ignored) == sorted(case.info["retrieval_to_itm"]["unexpected"])
    expected = case["itm_pos_embed_first"]
    case.expect("itm_pos_embed_first", model.visual_encoder.pos_embed.flatten(0, 1)[: len(expected)])
    samples = {"image": case.input("input.checkpoint.image"), "text_input": case.info["texts"]}
    with torch.no_grad():
        case.expect("itm_itm", model(samples, match_head="itm"))
        case.expect("itm_itc", model(samples, match_head="itc"))


def test_retrieval_checkpoint_with_another_queue(case, checkpoint):
    config = case.info["config"]
    model = BlipRetrieval(
        enlarged_vit(case),
        med_config(config["med"]),
        embed_dim=config["embed_dim"],
        queue_size=2 * config["queue_size"],
    )
    before = {name: getattr(model, name).clone() for name in ("image_queue", "text_queue", "idx_queue")}
    report = load_weights(model, checkpoint)
    recorded = case.info["retrieval_to_retrieval_with_twice_the_queue"]
    assert sorted(report.missing) == sorted(recorded["missing"]) == sorted(before)
    assert report.unexpected + report.ignored == recorded["unexpected"]
    assert report.resized == resized(case, "visual_encoder.pos_embed", "visual_encoder_m.pos_embed")
    own, stored = model.state_dict(), filled_state(case.info["retrieval_model"])
    assert all(torch.equal(before[name], own[name]) for name in before)
    for name in stored.keys() - before.keys() - set(report.resized):
        assert torch.equal(own[name], stored[name]), name


def test_pretraining_takes_what_a_retrieval_checkpoint_has(case, checkpoint):
    config = case.info["config"]
    model = BlipPretrain(
        vit_config(config["vit"]), med_config(config["med"]), embed_dim=config["embed_dim"], queue_size=8
    )
    with pytest.raises(CheckpointError, match=r"missing in it \(text_decoder\.bert\."):
        load_weights(model, checkpoint)
    report = load_weights(model, checkpoint, strict=False)
    stored = filled_state(case.info["retrieval_model"])
    own = model.state_dict()
    assert report.loaded > 100
    for name in stored.keys() & own.keys() - {"image_queue", "text_queue"}:
        assert torch.equal(own[name], stored[name]), name


def test_starting_nlvr_from_encoders_trained_on_single_images(case, tmp_path):
    config = case.info["nlvr_config"]
    model = BlipNlvr(enlarged_vit(case, "nlvr_config"), med_config(config["med"])).eval()
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    own = {
        "seed": case.info["seed"],
        "state_dict": shapes,
        "integer_buffers": case.info["base_model"]["integer_buffers"],
    }
    model.load_state_dict(filled_state(own), strict=False)
    report = load_weights(model, saved(case.info["base_model"], tmp_path / "base.pth"))
    recorded = case.info["base_to_nlvr"]
    assert sorted(report.missing) == sorted(recorded["missing"])
    once = {name for name in recorded["unexpected"] if ".crossattention." in name}
    assert once == set(recorded["unexpected"])  # the original keeps the names it copies from
    assert not report.unexpected + report.ignored
    image = case.input("input.checkpoint.image")
    found = model.predict({"image0": image, "image1": image.flip(0), "text_input": case.info["texts"]})
    case.expect("nlvr_prediction", found["predictions"])
