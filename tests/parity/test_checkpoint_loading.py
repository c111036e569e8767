"""Reading a retrieval checkpoint of the original at another image size and with another queue."""

import pytest
import torch

from tests.parity.golden import Case, filled_state
from tests.parity.test_med import med_config
from tests.parity.test_pretrain import vit_config
from vlkit.models.blip.base import BlipBase
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.models.vit import VitConfig
from vlkit.models.weights import load_weights


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("checkpoint_loading")


@pytest.fixture(scope="module")
def checkpoint(case, tmp_path_factory):
    """The file of the original's training script."""
    path = tmp_path_factory.mktemp("checkpoint") / "retrieval.pth"
    info = case.info["retrieval_model"]
    state = filled_state(info)
    state.update({name: torch.zeros(info["state_dict"][name], dtype=torch.long) for name in info["integer_buffers"]})
    torch.save({"model": state, "epoch": 5}, path)
    return path


def enlarged_vit(case: Case) -> VitConfig:
    config = vit_config(case.info["config"]["vit"])
    config.image_size = case.info["config"]["image_size_of_model"]
    return config


def test_image_encoder_at_another_image_size(case, checkpoint):
    med = med_config(case.info["config"]["med"])
    model = BlipBase(enlarged_vit(case), med, "bert-base-uncased", 35)
    report = load_weights(model, checkpoint)
    assert report.resized == ["visual_encoder.pos_embed"]
    assert not report.missing + report.unexpected
    expected = case["itm_pos_embed_first"]
    case.expect("itm_pos_embed_first", model.visual_encoder.pos_embed.flatten(0, 1)[: len(expected)])
    # What the original's ITM model does not have, this part of it does not have either.
    assert set(case.info["retrieval_to_itm"]["unexpected"]) <= set(report.ignored)


def test_queue_of_another_size(case, checkpoint):
    config = case.info["config"]
    model = BlipPretrain(
        vit_config(config["vit"]),
        med_config(config["med"]),
        embed_dim=config["embed_dim"],
        queue_size=2 * config["queue_size"],
        max_words=35,
    )
    before = {name: getattr(model, name).clone() for name in ("image_queue", "text_queue")}
    report = load_weights(model, checkpoint, strict=False)
    own = model.state_dict()
    assert not report.unexpected
    kept = case.info["retrieval_to_retrieval_with_twice_the_queue"]["missing"]
    assert {name for name in report.missing if name.endswith("_queue")} == {name for name in kept if name in own}
    assert all(torch.equal(before[name], own[name]) for name in before)
    stored = filled_state(case.info["retrieval_model"])
    for name in stored.keys() & own.keys() - before.keys():
        assert torch.equal(own[name], stored[name]), name
