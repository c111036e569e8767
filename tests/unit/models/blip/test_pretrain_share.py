"""What text encoder and decoder of the pre-training model share (Paper: table 3)."""

from __future__ import annotations

import pytest
import torch

from tests.unit.models.blip.test_pretrain import TEXTS, build, samples
from vlkit.errors import CheckpointError, VlkitError
from vlkit.models.blip.caption import BlipCaption
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.models.generation import GenerationConfig
from vlkit.models.med import MedConfig
from vlkit.models.vit import VitConfig
from vlkit.models.weights.load import load_weights

DEFAULT = "all_but_self_attention"
# Parts of a layer that are not shared.
APART = {
    DEFAULT: {"attention"},
    "all_but_cross_attention": {"crossattention"},
    "all": set(),
    "none": {"attention", "crossattention", "intermediate", "output"},
}


def shared(model: BlipPretrain) -> set[str]:
    theirs = {id(p) for p in model.text_decoder.bert.parameters()}
    return {name for name, p in model.text_encoder.named_parameters() if id(p) in theirs}


@pytest.mark.parametrize("share", APART)
def test_what_is_shared_is_one_object_and_everything_learns(share):
    model = build(share=share)
    names = {name for name, _ in model.text_encoder.named_parameters()}
    apart = {name for name in names if name.startswith("encoder.") and name.split(".")[3] in APART[share]}
    assert shared(model) == (set() if share == "none" else names - apart)
    model(samples()).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.text_decoder.bert.encoder.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.text_encoder.encoder.parameters())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = shared(model)
    optimizer.step()
    assert shared(model) == before


@pytest.mark.parametrize(
    ("share", "millions"), [(DEFAULT, 252), ("all_but_cross_attention", 252), ("all", 224), ("none", 361)]
)
def test_the_papers_numbers_of_parameters(share, millions):
    """Table 3. Momentum encoders, queues, projections and heads are not in its count."""
    with torch.device("meta"):
        model = BlipPretrain(VitConfig(), MedConfig(), share=share)
    parts = (model.visual_encoder, model.text_encoder, model.text_decoder.bert)
    count = sum({id(p): p.numel() for part in parts for p in part.parameters()}.values())
    assert count / 1e6 == pytest.approx(millions, abs=1.0)


def test_the_default_is_what_it_was_to_the_bit():
    one, other = build(), build(share=DEFAULT)
    assert list(one.state_dict()) == list(build(share="none").state_dict())
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert torch.equal(one(samples(), alpha=0.4).loss, other(samples(), alpha=0.4).loss)


@pytest.mark.parametrize("share", APART)
def test_the_decoder_reads_its_own_keys_and_values(share):
    model = build(share=share).eval()
    with torch.no_grad():
        out = model(samples(), update=False)
        embeds, texts = model.image_embeds(samples()), model.tokenize(TEXTS)
        states = model.text_decoder.bert.project_images(embeds)
        assert out.loss_lm.item() == pytest.approx(model._language(texts, states).item(), rel=1e-6)
        own = model.match(texts, model.text_encoder.project_images(embeds))
        torch.testing.assert_close(out.itm_logits[:4], own, atol=1e-5, rtol=1e-4)
        same = torch.allclose(model.match(texts, states), own, atol=1e-5)
    assert same == ("crossattention" not in APART[share])


def test_shared_weights_load_into_a_model_that_shares_less_and_not_the_other_way():
    shares, apart = build(share=DEFAULT), build(1, share="none")
    report = load_weights(apart, shares.state_dict())
    assert not report.missing
    assert shared(apart) == set()
    with torch.no_grad():
        losses = [model.eval()(samples(), update=False).loss.item() for model in (shares, apart)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    with pytest.raises(CheckpointError, match="are one tensor in this model"):
        load_weights(build(share="all"), build(2, share="none").state_dict())


@pytest.mark.parametrize("share", APART)
def test_its_decoder_starts_a_captioner(share):
    model = build(share=share).eval()
    captioner = BlipCaption(model.vit_config, model.med_config, tokenizer="shapes", prompt="").eval()
    load_weights(captioner, model.state_dict())
    config = GenerationConfig(max_length=8, min_length=3)
    assert captioner.caption(samples(2), config).texts == model.caption(samples(2), config).texts


def test_a_choice_that_does_not_exist():
    with pytest.raises(VlkitError, match=r"share is 'al'; it must be .*'all'"):
        build(share="al")
