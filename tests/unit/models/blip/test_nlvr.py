from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models import small
from vlkit.errors import VlkitError
from vlkit.models.blip.nlvr import BlipNlvr
from vlkit.models.weights.load import load_weights
from vlkit.runner.activation_checkpointing import checkpoint_activations

TEXTS = [
    "both images contain a red circle",
    "a star",
    "the left image contains a small blue square and the right image contains a star",
    "two shapes in total",
    "exactly one image contains a ring",
    "the left image has more shapes than the right image",
]


def build(seed: int = 0, merge_from: int = 1, **med) -> BlipNlvr:
    torch.manual_seed(seed)
    return BlipNlvr(small.vit(), small.med(initializer_range=0.3, **med), "shapes", merge_from).eval()


@pytest.fixture(scope="module")
def model() -> BlipNlvr:
    return build()


@pytest.fixture(scope="module")
def samples() -> dict:
    images = torch.randn(6, 2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 3
    return {"images": images, "text_input": TEXTS, "label": [1, 0, 0, 1, 1, 0]}


def part(samples: dict, index: list[int]) -> dict:
    return {
        "images": samples["images"][index],
        "text_input": [samples["text_input"][i] for i in index],
        "label": [samples["label"][i] for i in index],
    }


def test_upper_layers_merge(model):
    names = {name for name in model.state_dict() if "merge_layer" in name}
    assert names == {f"text_encoder.encoder.layer.1.crossattention.output.merge_layer.{n}" for n in ("weight", "bias")}
    assert not any("merge_layer" in name for name in build(merge_from=6).state_dict())
    assert not any(".crossattention.self." in name for name in model.state_dict())


@settings(deadline=None, max_examples=8, derandomize=True)
@given(order=st.permutations(range(6)))
def test_logits_of_a_batch_are_those_of_singles(model, samples, order):
    joint = model.predict(part(samples, order))["predictions"]
    for row, i in zip(joint, order):
        alone = model.predict(part(samples, [i]))["predictions"][0]
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-5)
    assert joint.std(0).min() > 1e-3


def test_each_image_is_seen_and_by_its_own_projections(model, samples):
    left = samples["images"].clone().requires_grad_()
    model.logits({**samples, "images": left})[0, 1].backward()
    share = left.grad.abs().sum((2, 3, 4))
    assert (share[0] > 0).all()
    assert not share[1:].any()
    exchanged = model.predict({**samples, "images": samples["images"].flip(1)})["predictions"]
    assert not torch.allclose(exchanged, model.predict(samples)["predictions"], atol=1e-3)


def test_equal_twins_that_average_do_not_know_left_from_right(samples):
    """What a model is that has just been filled from one of single images."""
    model = build(merge_from=6)
    state = model.state_dict()
    for name in state:
        for one, other in (("self0.", "self1."), ("dense0.", "dense1.")):
            if one in name:
                state[name.replace(one, other)].copy_(state[name])
    exchanged = model.predict({**samples, "images": samples["images"].flip(1)})["predictions"]
    torch.testing.assert_close(exchanged, model.predict(samples)["predictions"], atol=1e-5, rtol=1e-5)


def test_both_forms_of_samples(model, samples):
    apart = {k: v for k, v in samples.items() if k != "images"}
    apart |= {"image0": samples["images"][:, 0], "image1": samples["images"][:, 1]}
    found, expected = model.predict(apart), model.predict(samples)
    torch.testing.assert_close(found["predictions"], expected["predictions"])
    assert found["targets"].tolist() == samples["label"]
    assert "targets" not in model.predict({k: v for k, v in samples.items() if k != "label"})
    tokens = {"images": samples["images"], "texts": model.tokenize(TEXTS)}
    torch.testing.assert_close(model.predict(tokens)["predictions"], expected["predictions"])


def test_several_sentences_of_one_pair_share_its_projections(model, samples):
    with torch.no_grad():
        states = model.text_encoder.project_images(model.pair_embeds(part(samples, [0, 1])))
        assert states.count == 2
        shared = model.judge(model.tokenize(TEXTS[:3]), states, [1, 0, 1])
    for row, (text, i) in zip(shared, zip(TEXTS, (1, 0, 1))):
        alone = model.predict({"images": samples["images"][[i]], "text_input": [text]})["predictions"][0]
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-5)


def test_loss_by_hand(model, samples):
    with torch.no_grad():
        out = model(samples)
    log_probs = model.predict(samples)["predictions"].log_softmax(-1)
    expected = -sum(row[label] for row, label in zip(log_probs, samples["label"])) / 6
    torch.testing.assert_close(out.loss, expected)
    assert out.loss is out.loss_nlvr


def test_texts_are_not_cut_before_positions_end(model):
    assert model.tokenize(["star " * 60]).lengths == (40,)


def test_the_wrong_samples_are_explained(model, samples):
    with pytest.raises(VlkitError, match=r"needs samples with 'images'; given: 'image', 'text_input'"):
        model.predict({"image": samples["images"][:, 0], "text_input": TEXTS})
    with pytest.raises(VlkitError, match=r"two for each text; given: \[6, 3, 16, 16\]"):
        model.predict({**samples, "images": samples["images"][:, 0]})
    with pytest.raises(VlkitError, match="needs samples with 'image1'"):
        model.predict({"image0": samples["images"][:, 0], "text_input": TEXTS})
    with pytest.raises(VlkitError, match=r"image0 \[6, 3, 16, 16\], image1 \[5, 3, 16, 16\]"):
        model.predict({"image0": samples["images"][:, 0], "image1": samples["images"][1:, 1], "text_input": TEXTS})
    with pytest.raises(VlkitError, match="needs samples with 'label'"):
        model({k: v for k, v in samples.items() if k != "label"})


def test_a_pre_trained_model_fills_both_twins():
    torch.manual_seed(3)
    source = small.pretrainer()
    model = build(seed=4)
    report = load_weights(model, source.state_dict())
    assert all(name.startswith("cls_head.") or ".merge_layer." in name for name in report.missing)
    given, own = source.state_dict(), model.state_dict()
    for layer in range(2):
        old, new = f"text_encoder.encoder.layer.{layer}.crossattention", []
        for twin in (0, 1):
            for name in ("query", "key", "value"):
                new.append((f"{old}.self.{name}.weight", f"{old}.self{twin}.{name}.weight"))
            new.append((f"{old}.output.dense.weight", f"{old}.output.dense{twin}.weight"))
        assert all(torch.equal(given[one], own[two]) for one, two in new)


@pytest.mark.parametrize("kind", ["torch", "fairscale"])
def test_gradients_under_activation_checkpointing(samples, kind):
    if kind == "fairscale":
        pytest.importorskip("fairscale")
    gradients = []
    for name in ("none", kind):
        model = build(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
        checkpoint_activations(model, name)
        model(samples).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        assert expected is not None, name
        # Both images of a pair add to one gradient, in another order when blocks are recomputed.
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-5, rtol=1e-4, msg=name)


def test_overfits_a_few_pairs(samples):
    model = build(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(25):
        loss = model(samples).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert model.predict(samples)["predictions"].argmax(-1).tolist() == samples["label"]
