"""Pre-training against the original: three optimizer steps, gradients, queues, momentum encoders."""

import pytest
import torch

from tests.parity.golden import Case, check_gradients, check_logits, filled_state
from tests.parity.test_med import med_config
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.models.vit import VitConfig


def vit_config(info: dict) -> VitConfig:
    return VitConfig(info["img_size"], info["patch_size"], info["embed_dim"], info["depth"], info["num_heads"])


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("pretrain")


def build(case: Case) -> BlipPretrain:
    config = case.info["config"]
    med = med_config(config["med"])
    med.vocab_size = config["vocab_size_after_resize"]
    model = BlipPretrain(
        vit_config(config["vit"]),
        med,
        embed_dim=config["embed_dim"],
        queue_size=config["queue_size"],
        momentum=config["momentum"],
        max_words=case["input_ids"].shape[1],
    ).eval()
    report = model.load_state_dict(filled_state(case.info["model"]), strict=False)
    assert not report.unexpected_keys
    assert set(report.missing_keys) <= set(case.info["model"]["integer_buffers"])
    model.queue_ptr.fill_(case.info["queue_ptr_before"])
    model.draw_negative = lambda weights: weights.argmax(1)
    return model


def test_tokens(case):
    ids, mask = build(case).tokenize(case.info["texts"]).padded()
    width = ids.shape[1]
    assert torch.equal(ids, case["input_ids"][:, :width])
    assert torch.equal(mask, case["attention_mask"][:, :width])
    assert not case["attention_mask"][:, width:].any()


def test_three_steps(case):
    model = build(case)
    samples = {"image": case.input("input.pretrain.image"), "text_input": case.info["texts"]}
    optimizer = torch.optim.AdamW(model.parameters(), **case.said("losses", "lr", "weight_decay"))
    losses = []
    for step in range(len(case["losses"])):
        out = model(samples, alpha=case.info["alpha"])
        losses.append(torch.stack([out.loss_itc, out.loss_itm, out.loss_lm]).detach())
        optimizer.zero_grad()
        out.loss.backward()
        if step == 0:
            case.expect("itm_logits", out.itm_logits)
            check_first_step(case, model, samples)
        optimizer.step()
    case.expect_close("losses", torch.stack(losses)[:1], case["losses"][:1])
    torch.testing.assert_close(torch.stack(losses), case["losses"], atol=2e-3, rtol=0)
    for name, value in model.state_dict().items():
        expected = case.info["after_last_step"].get(name)
        if expected is not None:
            assert value.double().norm().item() == pytest.approx(expected["norm"], rel=1e-4), name


def check_first_step(case: Case, model: BlipPretrain, samples: dict) -> None:
    for name in ("image_queue", "text_queue", "queue_ptr"):
        case.expect(f"after_step_1.{name}", getattr(model, name))
    check_gradients(case, dict(model.named_parameters(remove_duplicate=False)))
    state = model.state_dict()
    for name, expected in case.info["momentum_after_step_1"].items():
        assert state[name].double().norm().item() == pytest.approx(expected["norm"], rel=1e-5), name
        assert state[name].double().sum().item() == pytest.approx(expected["sum"], rel=1e-4, abs=1e-3), name
    without = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert without == set(case.info["parameters_without_gradient"])
    with torch.no_grad():
        texts = model.tokenize(samples["text_input"]).with_first(model.tokenizer.dec_id)
        states = model.text_encoder.project_images(model.image_embeds(samples))
        logits = model.text_decoder.logits(model.text_decoder(texts, states))
    mask = case["attention_mask"].bool()
    padded = logits.new_zeros((*mask.shape, logits.shape[-1]))
    padded[mask] = logits
    check_logits(case, "lm_logits", padded, mask)


def test_negatives_are_drawn_by_similarity():
    """Over many draws the hard negative follows softmax(similarity) + 1e-4 off the diagonal."""
    from vlkit.models.losses import hard_negatives

    torch.manual_seed(0)
    similarity = torch.tensor([[9.0, 2.0, 1.0], [0.0, 9.0, 0.0], [3.0, 0.0, 9.0]])
    weights = similarity.softmax(1) + 1e-4
    weights.fill_diagonal_(0)
    same = torch.eye(3, dtype=torch.bool)
    counts = torch.zeros(3, 3)
    for _ in range(3000):
        counts[torch.arange(3), torch.from_numpy(hard_negatives(similarity, same, 1e-4))] += 1
    torch.testing.assert_close(counts / 3000, weights / weights.sum(1, keepdim=True), atol=0.04, rtol=0)
