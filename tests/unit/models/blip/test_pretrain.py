from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from tests.unit.models import small
from vlkit.errors import VlkitError
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.models.generation import GenerationConfig
from vlkit.models.losses import draw_index

TEXTS = ["a red circle", "a small blue square above a green star", "two shapes", "a big yellow triangle"]


def build(seed: int = 0, **settings) -> BlipPretrain:
    """Without dropout, so that losses can be compared."""
    torch.manual_seed(seed)
    med = small.med(initializer_range=0.15, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    given = {"tokenizer": "shapes", "embed_dim": 12, "queue_size": 8, **settings}
    model = BlipPretrain(small.vit(), med, **given)
    model.draw_negative = lambda weights: weights.argmax(1)
    return model


def samples(count: int = 4) -> dict:
    image = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return {"image": image[:count], "text_input": TEXTS[:count]}


def states(model: nn.Module, suffix: str) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items() if k.split(".")[0].endswith(suffix)}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_trained_parameter_gets_a_gradient_and_no_momentum_encoder_does(count):
    model = build()
    out = model(samples(count), alpha=0.4)
    assert torch.isfinite(out.loss)
    assert out.itm_logits.shape == (3 * count, 2)
    out.loss.backward()
    for name, parameter in model.named_parameters():
        slow = name.split(".")[0].endswith("_m")
        assert parameter.requires_grad != slow, name
        assert (parameter.grad is None) == slow, name
    assert model.temp.grad.abs() > 0


def shared(model: BlipPretrain) -> set[str]:
    """Names in the text encoder whose tensor the decoder holds too."""
    theirs = {p.data_ptr() for p in model.text_decoder.parameters()}
    return {name for name, p in model.text_encoder.named_parameters() if p.data_ptr() in theirs}


def test_tied_parameters_stay_tied():
    model = build()
    expected = {name for name, _ in model.text_encoder.named_parameters() if ".attention." not in name}
    assert shared(model) == expected
    clone = copy.deepcopy(model)
    assert shared(clone) == expected
    assert not {p.data_ptr() for p in clone.parameters()} & {p.data_ptr() for p in model.parameters()}
    clone.load_state_dict(build(1).state_dict())
    assert shared(clone) == expected
    head, words = clone.text_decoder.cls.predictions, clone.text_decoder.bert.embeddings.word_embeddings
    assert head.decoder.weight is words.weight
    assert head.decoder.bias is head.bias
    # The momentum encoder is a copy of its own.
    assert not {p.data_ptr() for p in model.text_encoder_m.parameters()} & {
        p.data_ptr() for p in model.text_encoder.parameters()
    }


def test_tied_parameters_stay_tied_through_training():
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(samples()).loss.backward()
    optimizer.step()
    mine = model.text_encoder.encoder.layer[1].crossattention.self.key.weight
    theirs = model.text_decoder.bert.encoder.layer[1].crossattention.self.key.weight
    assert torch.equal(mine, theirs)


def test_momentum_encoders_start_as_copies_and_move_only_when_asked():
    model = build(momentum=0.9)
    for name in ("visual_encoder", "vision_proj", "text_encoder", "text_proj"):
        online, slow = getattr(model, name).state_dict(), getattr(model, f"{name}_m").state_dict()
        assert all(torch.equal(online[k], slow[k]) for k in online)
    with torch.no_grad():
        for parameter in model.vision_proj.parameters():
            parameter.add_(1.0)
    before = states(model, "_m")
    model(samples(), update=False)
    assert all(torch.equal(before[k], v) for k, v in states(model, "_m").items())
    model(samples(), update=True)
    after = states(model, "_m")
    torch.testing.assert_close(after["vision_proj_m.weight"], before["vision_proj_m.weight"] + 0.1)
    assert torch.equal(after["text_proj_m.weight"], before["text_proj_m.weight"])


@pytest.mark.parametrize("update", [True, False])
def test_the_queue_moves_by_the_batch(update):
    model = build(queue_size=6)
    before = model.image_queue.clone()
    model(samples(), update=update)
    assert model.queue_ptr.tolist() == [4]
    with torch.no_grad():
        image_feats, text_feats = model._momentum_feats(samples()["image"], model.tokenize(TEXTS))
    torch.testing.assert_close(model.image_queue[:, :4], image_feats.T)
    torch.testing.assert_close(model.text_queue[:, :4], text_feats.T)
    assert torch.equal(model.image_queue[:, 4:], before[:, 4:])
    out = model(samples(), update=update)
    assert model.queue_ptr.tolist() == [2]
    assert out.queue_age == 6 / 4


def test_a_queue_that_is_no_multiple_of_the_batch_or_smaller_or_none():
    for size in (0, 1, 3, 5):
        model = build(queue_size=size)
        for _ in range(3):
            assert torch.isfinite(model(samples()).loss)
        assert model.queue_ptr.item() == (12 % size if size else 0)


@pytest.mark.parametrize(("value", "expected"), [(3.0, 0.5), (1e-9, 0.001), (-1.0, 0.001), (0.2, 0.2)])
def test_the_temperature_is_clamped(value, expected):
    model = build()
    with torch.no_grad():
        model.temp.fill_(value)
    out = model(samples())
    assert out.temperature.item() == pytest.approx(expected)
    assert model.temp.item() == pytest.approx(expected)
    assert torch.isfinite(out.loss)


def test_losses_by_hand():
    """Every loss from the features and single passes, one pair at a time."""
    model = build().eval()
    batch, queues = samples(), (build().image_queue, build().text_queue)
    with torch.no_grad():
        out = model(batch, alpha=0.0, update=False)
        embeds, texts = model.image_embeds(batch), model.tokenize(TEXTS)
        image_feats, text_feats = model.image_feats(embeds), model.text_feats(texts)
        # The momentum encoders equal the encoders here.
        i2t = image_feats @ torch.cat([text_feats.T, queues[1]], 1) / model.temp
        t2i = text_feats @ torch.cat([image_feats.T, queues[0]], 1) / model.temp
        own = torch.arange(4)
        contrast = -(i2t.log_softmax(1)[own, own] + t2i.log_softmax(1)[own, own]).mean() / 2
        torch.testing.assert_close(out.loss_itc, contrast)
        far = torch.eye(4).bool()
        negative_image = t2i[:, :4].masked_fill(far, -torch.inf).argmax(1).tolist()
        negative_text = i2t[:, :4].masked_fill(far, -torch.inf).argmax(1).tolist()
        pairs = [*zip(range(4), range(4)), *zip(negative_image, range(4)), *zip(range(4), negative_text)]
        logits = torch.cat(
            [model.match(texts.select([t]), model.text_encoder.project_images(embeds[[i]])) for i, t in pairs]
        )
        torch.testing.assert_close(out.itm_logits, logits, atol=1e-5, rtol=1e-4)
        labels = torch.tensor([1] * 4 + [0] * 8)
        torch.testing.assert_close(out.loss_itm, nn.functional.cross_entropy(logits, labels), atol=1e-5, rtol=1e-4)
        parts, count = 0.0, 0
        for i in range(4):
            one = texts.select([i])
            decoded = one.with_first(model.tokenizer.dec_id)
            hidden = model.text_decoder(decoded, model.text_encoder.project_images(embeds[[i]]))
            log_probs = model.text_decoder.logits(hidden[:-1]).log_softmax(-1)
            chosen = log_probs.gather(1, one.ids[1:, None]).squeeze(1)
            parts -= float((0.9 * chosen + 0.1 * log_probs.mean(1)).sum())
            count += len(chosen)
        assert out.loss_lm.item() == pytest.approx(parts / count, rel=1e-4)
        assert model.target_count(texts) == count


def test_alpha_mixes_in_the_teacher():
    def itc(alpha):
        model = build()
        with torch.no_grad():
            for parameter in model.text_proj_m.parameters():
                parameter.mul_(-1.0)  # a teacher of its own opinion
            return model(samples(), alpha=alpha, update=False).loss_itc.item()

    assert itc(0.5) == pytest.approx((itc(0.0) + itc(1.0)) / 2, rel=1e-5)
    assert itc(1.0) != pytest.approx(itc(0.0), rel=1e-3)


def test_one_process_does_not_mind_gather():
    outs = [build(gather=gather)(samples(), alpha=0.4) for gather in (True, False)]
    assert outs[0].loss.item() == outs[1].loss.item()
    assert torch.equal(outs[0].itm_logits, outs[1].itm_logits)


def test_bf16_autocast_on_a_cpu():
    model = build()
    exact = build()(samples(), alpha=0.4)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(samples(), alpha=0.4)
    for name in ("loss_itc", "loss_itm", "loss_lm"):
        loss = getattr(out, name)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(getattr(exact, name).item(), abs=2e-2), name
    out.loss.backward()
    exact.loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
    assert model.image_queue.dtype == torch.float32


def test_overfits_four_pairs():
    model = build()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    first = last = model(samples())
    for _ in range(40):
        optimizer.zero_grad()
        last = model(samples())
        last.loss.backward()
        optimizer.step()
    assert last.loss_lm < 0.6 * first.loss_lm
    assert last.loss_itc < first.loss_itc - 0.5
    assert last.loss_itm < 0.65 * first.loss_itm


def test_missing_keys_and_numbers_that_do_not_fit():
    model = build()
    with pytest.raises(VlkitError, match="BlipPretrain needs samples with 'image'; given: 'text_input'"):
        model({"text_input": TEXTS})
    with pytest.raises(VlkitError, match="BlipPretrain needs samples with 'text_input'; given: 'image'"):
        model({"image": samples()["image"]})
    with pytest.raises(VlkitError, match="one text an image; given: 4 images, 3 texts"):
        model({**samples(), "text_input": TEXTS[:3]})
    assert model.queue_ptr.item() == 0


def test_a_diverged_model_ends_in_a_loss_that_is_not_finite():
    model = build()
    with torch.no_grad():
        model.vision_proj.weight.fill_(math.nan)
    model.draw_negative = draw_index
    assert not torch.isfinite(model(samples()).loss)


def test_features_are_unit_vectors_and_texts_do_not_see_their_batch():
    model = build().eval()
    with torch.no_grad():
        feats = model.text_feats(model.tokenize(TEXTS))
        torch.testing.assert_close(feats.norm(dim=1), torch.ones(4))
        for i, text in enumerate(TEXTS):
            torch.testing.assert_close(model.text_feats(model.tokenize([text]))[0], feats[i], atol=1e-5, rtol=1e-5)
        images = model.image_feats(model.image_embeds(samples()))
    torch.testing.assert_close(images.norm(dim=1), torch.ones(4))


def test_captions_have_no_prompt():
    model = build().eval()
    captions = model.caption(samples(2), GenerationConfig(max_length=8, min_length=3))
    assert [sequence[0][0] for sequence in captions.sequences] == [model.tokenizer.dec_id] * 2
    decoded = [model.tokenizer.decode(group[0][1:]) for group in captions.sequences]
    assert [group[0] for group in captions.texts] == [text.removeprefix("##").strip() for text in decoded]
