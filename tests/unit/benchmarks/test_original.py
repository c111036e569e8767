"""The reference of the benchmarks does what our models do: scores, ranks, losses, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import original, pretrain, retrieval_eval
from benchmarks.original import weights
from benchmarks.retrieval_eval import Inputs, Work
from tests.unit.models import small
from vlkit.models.blip.image_text_matching import BlipImageTextMatching
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.models.blip.vqa import BlipVqa
from vlkit.models.med import MedConfig

WORDS = ["a", "red", "blue", "circle", "square", "star", "above", "left", "of", "two", "small", "big"]
SEEDS = st.integers(0, 2**16)


def texts(rng: np.random.Generator, count: int, longest: int = 12) -> list[str]:
    return [" ".join(rng.choice(WORDS, rng.integers(1, longest + 1))) for _ in range(count)]


def med() -> MedConfig:
    return small.med(initializer_range=0.3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def matcher(seed: int) -> BlipImageTextMatching:
    torch.manual_seed(seed)
    return BlipImageTextMatching(small.vit(), med(), "shapes", embed_dim=256).eval()


@settings(deadline=None, max_examples=6)
@given(seed=SEEDS, images=st.integers(2, 6), k=st.integers(1, 6))
def test_retrieval(seed, images, k):
    model, rng = matcher(seed), np.random.default_rng(seed)
    work = Work(images, min(k, images))
    references = [texts(rng, retrieval_eval.TEXTS_AN_IMAGE) for _ in range(images)]
    inputs = Inputs(torch.randn(images, 3, 16, 16) * 2, references)
    expected = retrieval_eval.reference(model, inputs, work, repeat=0).output
    found = retrieval_eval.picked(retrieval_eval.evaluate(model, inputs, work), work.sampled())
    # Texts may repeat: of equal similarities across the cut either is right.
    for mine, other in ((found.to_texts, expected.to_texts), (found.to_images, expected.to_images)):
        torch.testing.assert_close(np.sort(mine), np.sort(other), rtol=1e-4, atol=1e-4)
        both = (mine != -100) & (other != -100)
        torch.testing.assert_close(mine[both], other[both], rtol=1e-4, atol=1e-4)


def test_only_the_queries_that_are_named():
    model = matcher(0)
    work = Work(5, 3, (2, 4))
    inputs = Inputs(torch.randn(5, 3, 16, 16), [texts(np.random.default_rng(i), 5) for i in range(5)])
    some = retrieval_eval.reference(model, inputs, work, repeat=0).output
    everything = retrieval_eval.reference(model, inputs, Work(5, 3), repeat=0).output
    images, queries = work.sampled()
    assert (len(images), len(queries)) == (2, 4)
    np.testing.assert_array_equal(some.to_texts, everything.to_texts[images])
    np.testing.assert_array_equal(some.to_images, everything.to_images[queries])


@settings(deadline=None, max_examples=6)
@given(seed=SEEDS, frames=st.integers(1, 3))
def test_videos(seed, frames):
    model, rng = matcher(seed), np.random.default_rng(seed)
    theirs = weights.share_weights(original.retrieval.Matcher(model.vit_config, model.med_config), model)
    video, queries = torch.randn(3, frames, 3, 16, 16), texts(rng, 4)
    ids, mask = weights.pad_texts(model.tokenizer.encode(queries), 35)
    ids[:, 0] = model.tokenizer.enc_id
    candidates = torch.from_numpy(np.stack([rng.permutation(3)[:2] for _ in queries]))
    tokens, feats = original.video.encode_videos(theirs, [video[:2], video[2:]])
    logits = original.video.text_after_text(theirs, ids, mask, tokens, candidates)
    with torch.inference_mode():
        embeds = model.image_embeds({"video": video})
        states = model.text_encoder.project_images(embeds)
        pairs = model.tokenize(queries).select(np.repeat(np.arange(4), 2))
        expected = model.match(pairs, states, candidates.flatten().numpy())[:, 1].view(4, 2)
        torch.testing.assert_close(feats, model.image_feats(embeds, frames), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tokens, embeds, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=6)
@given(seed=SEEDS, questions=st.integers(1, 3), k=st.integers(1, 12))
def test_answers(seed, questions, k):
    torch.manual_seed(seed)
    model, rng = BlipVqa(small.vit(), med(), "shapes").eval(), np.random.default_rng(seed)
    theirs = weights.share_weights(original.vqa.Answerer(model.vit_config, model.med_config), model)
    answers = [*WORDS, "two small", "a red circle", "left of a star"]
    samples = {"image": torch.randn(questions, 3, 16, 16), "text_input": texts(rng, questions)}
    ids, seen = model.tokenize(samples["text_input"]).padded()
    states = original.vqa.read_questions(theirs, samples["image"], ids, seen)
    chosen, losses = original.vqa.rank_answers(theirs, states, seen, *model.tokenize_answers(answers).padded(), k)
    found = model.rank(samples, answers, k)
    for row in range(questions):
        expected = {answers[i]: -float(loss) for i, loss in zip(chosen[row], losses[row])}
        mine = dict(zip(found.texts[row], found.scores[row]))
        both = mine.keys() & expected.keys()
        assert len(both) >= k - 1  # "a" and "a red circle" are equally likely: either may be cut
        assert list(losses[row]) == sorted(losses[row])
        np.testing.assert_allclose([mine[t] for t in both], [expected[t] for t in both], rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=10)
@given(seed=SEEDS, count=st.integers(2, 6), longest=st.integers(1, 40), alpha=st.sampled_from([0.0, 0.4, 1.0]))
def test_pretraining(seed, count, longest, alpha):
    torch.manual_seed(seed)
    model = BlipPretrain(small.vit(), med(), "shapes", embed_dim=12, queue_size=count * 2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "_m." in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.draw_negative = lambda weights: weights.argmax(-1)
    tokenizer = model.tokenizer
    made = original.pretrain.Pretrainer(
        model.vit_config, model.med_config, tokenizer.enc_id, tokenizer.dec_id, 12, count * 2
    )
    theirs = weights.share_weights(made, model)
    theirs.draw = model.draw_negative
    samples = {"image": torch.randn(count, 3, 16, 16), "text_input": texts(np.random.default_rng(seed), count, longest)}
    ids, mask = weights.pad_texts(tokenizer.encode(samples["text_input"], max_length=30), 30)
    expected = theirs(samples["image"], ids, mask, alpha)
    torch.stack(expected).sum().backward()
    out = model(samples, alpha=alpha)
    out.loss.backward()
    torch.testing.assert_close((out.loss_itc, out.loss_itm, out.loss_lm), expected, rtol=1e-4, atol=1e-5)
    mine, other = ({name: p.grad for name, p in each.named_parameters() if p.requires_grad} for each in (model, theirs))
    assert max(pretrain.differences(mine, other)) < 1e-3
    torch.testing.assert_close(dict(model.named_buffers()), dict(theirs.named_buffers()), rtol=1e-4, atol=1e-5)
    for slow, same in zip(model.visual_encoder_m.parameters(), theirs.visual_encoder_m.parameters(), strict=True):
        torch.testing.assert_close(slow, same, rtol=1e-5, atol=1e-6)


def test_a_step_of_the_reference_moves_its_weights_as_adamw_does():
    torch.manual_seed(0)
    model = small.pretrainer()
    tokenizer = model.tokenizer
    made = original.pretrain.Pretrainer(model.vit_config, model.med_config, tokenizer.enc_id, tokenizer.dec_id, 12, 8)
    theirs = weights.share_weights(made, model)
    ids, mask = weights.pad_texts(tokenizer.encode(["a red circle", "two shapes"]), 30)
    before = theirs.itm_head.weight.detach().clone()
    original.pretrain.step(
        theirs, original.pretrain.optimizer_of(theirs, 1e-3), torch.randn(2, 3, 16, 16), ids, mask, 0.4
    )
    moved = (theirs.itm_head.weight - before * (1 - 5e-5)).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-3), rtol=1e-2, atol=1e-5)


def test_weights_are_shared_and_stay_fp32():
    model = matcher(0)
    theirs = weights.share_weights(original.retrieval.Matcher(model.vit_config, model.med_config), model)
    assert theirs.itm_head.weight.data_ptr() == model.itm_head.weight.data_ptr()
    before = theirs.itm_head.weight.detach().clone()
    model.to(torch.bfloat16)
    assert theirs.itm_head.weight.dtype == torch.float32
    torch.testing.assert_close(theirs.itm_head.weight.detach(), before, rtol=0, atol=0)


def test_gradients_that_differ_are_reported():
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.0, 0.0])}
    assert pretrain.differences(one, one) == (0.0, 0.0)
    each, whole = pretrain.differences({**one, "a": torch.tensor([1.0, 2.2])}, one)
    assert each == pytest.approx(0.1)
    assert whole == pytest.approx(0.2 / 5**0.5)
    assert pretrain.differences({**one, "b": torch.tensor([0.0, 0.01])}, one)[0] > 1
    assert pretrain.differences({"a": one["a"]}, one)[0] == float("inf")
    assert pretrain.differences({**one, "b": torch.tensor([0.0, float("nan")])}, one)[0] == float("inf")
