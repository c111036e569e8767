"""Retrieval against the original: three optimizer steps, gradients, queues, momentum encoders."""

import re

import pytest
import torch

from tests.parity.golden import Case, check_gradients, filled_state
from tests.parity.test_med import med_config
from tests.parity.test_pretrain import vit_config
from vlkit.models.blip.retrieval import BlipRetrieval


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("retrieval")


def build(case: Case, max_words: int, idx_queue: torch.Tensor) -> BlipRetrieval:
    config = case.info["config"]
    model = BlipRetrieval(
        vit_config(config["vit"]),
        med_config(config["med"]),
        embed_dim=config["embed_dim"],
        queue_size=config["queue_size"],
        momentum=config["momentum"],
        max_words=max_words,
        negative_all_rank=config["negative_all_rank"],
        gather=False,  # as the original: the contrast sees this process's pairs and the queue
    ).eval()
    report = model.load_state_dict(filled_state(case.info["model"]), strict=False)
    assert not report.unexpected_keys
    assert set(report.missing_keys) <= set(case.info["model"]["integer_buffers"])
    assert set(model.state_dict()) == set(case.info["model"]["state_dict"])
    model.idx_queue.copy_(idx_queue)
    model.ptr_queue.fill_(case.info["ptr_queue_before"])
    model.draw_negative = lambda weights: weights.argmax(1)
    return model


def build_one(case: Case) -> BlipRetrieval:
    return build(case, case["input_ids"].shape[1], case["before.idx_queue"])


def images(case: Case) -> torch.Tensor:
    """The generated images, with the copies that the notes tell of."""
    image = case.input("input.retrieval.image")
    for copy, original in re.findall(r"image (\d+) is a copy of image (\d+)", " ".join(case.info["notes"])):
        image[int(copy)] = image[int(original)]
    return image


def test_tokens(case):
    ids, mask = build_one(case).tokenize(case.info["texts"]).padded()
    width = ids.shape[1]
    assert torch.equal(ids, case["input_ids"][:, :width])
    assert torch.equal(mask, case["attention_mask"][:, :width])
    assert not case["attention_mask"][:, width:].any()


def test_three_steps(case):
    model = build_one(case)
    samples = {"image": images(case), "text_input": case.info["texts"], "image_id": case["idx"]}
    optimizer = torch.optim.AdamW(model.parameters(), **case.said("losses", "lr", "weight_decay"))
    losses = []
    for step in range(len(case["losses"])):
        out = model(samples, alpha=case.info["alpha"])
        losses.append(torch.stack([out.loss_itc, out.loss_itm]).detach())
        optimizer.zero_grad()
        out.loss.backward()
        if step == 0:
            case.expect("itm_logits", out.itm_logits)
            check_first_step(case, model)
        optimizer.step()
    case.expect_close("losses", torch.stack(losses)[:1], case["losses"][:1])
    torch.testing.assert_close(torch.stack(losses), case["losses"], atol=2e-3, rtol=0)
    state = model.state_dict()
    assert case.info["after_last_step"]
    for name, expected in case.info["after_last_step"].items():
        assert state[name].double().norm().item() == pytest.approx(expected["norm"], rel=1e-4), name


def check_first_step(case: Case, model: BlipRetrieval) -> None:
    for name in ("image_queue", "text_queue", "idx_queue", "ptr_queue"):
        case.expect(f"after_step_1.{name}", getattr(model, name))
    check_gradients(case, dict(model.named_parameters()))
    check_momentum(case, model)
    without = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert without == set(case.info["parameters_without_gradient"])


def check_momentum(case: Case, model: BlipRetrieval) -> None:
    state = model.state_dict()
    for name, expected in case.info["momentum_after_step_1"].items():
        assert state[name].double().norm().item() == pytest.approx(expected["norm"], rel=1e-5), name
        assert state[name].double().sum().item() == pytest.approx(expected["sum"], rel=1e-4, abs=1e-3), name
