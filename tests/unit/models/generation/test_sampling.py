from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models import decoders
from tests.unit.models.decoders import BOS, EOS
from vlkit.models.generation import GenerationConfig, generate
from vlkit.models.generation.sampling import draw_uniform, nucleus


def naive_nucleus(logits: list[float], config: GenerationConfig) -> dict[int, float]:
    """Token to probability: temperature, the ``top_k`` likeliest, then as few as hold ``top_p``."""
    weights = {token: math.exp(value / config.temperature) for token, value in enumerate(logits)}
    ranked = sorted(weights, key=weights.__getitem__, reverse=True)[: config.top_k or None]
    total = sum(weights[token] for token in ranked)
    kept, mass = {}, 0.0
    for token in ranked:
        if mass > config.top_p:
            break
        kept[token] = weights[token] / total
        mass += kept[token]
    return {token: value / mass for token, value in kept.items()}


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    vocab=st.sampled_from([2, 5, 255, 256, 257, 700]),
    spread=st.sampled_from([0.01, 1.0, 8.0]),
    top_p=st.sampled_from([0.05, 0.37, 0.9, 0.999, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 50, 1000]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_nucleus_against_a_naive_one(seed, vocab, spread, top_p, top_k, temperature):
    """A small spread needs more than the 256 likeliest tokens, a large one does not; both stand in one batch."""
    torch.manual_seed(seed)
    logits = torch.randn(3, vocab) * torch.tensor([[spread], [0.01], [8.0]])
    config = GenerationConfig(sample=True, top_p=top_p, top_k=top_k, temperature=temperature)
    probs, ids = nucleus(logits, config)
    torch.testing.assert_close(probs.sum(1), torch.ones(3))
    assert (probs[:, 1:] <= probs[:, :-1]).all()
    for row in range(3):
        count = int((probs[row] > 0).sum())
        got = dict(zip(ids[row, :count].tolist(), probs[row, :count].tolist()))
        expected = naive_nucleus(logits[row].tolist(), config)
        if top_p == 1.0:  # the last tokens may be lost in rounding
            expected = {token: value for token, value in expected.items() if value > 1e-5 or token in got}
            got = {token: value for token, value in got.items() if value > 1e-5 or token in expected}
        assert got.keys() == expected.keys()
        assert got == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_the_likeliest_token_stays_however_small_top_p():
    probs, ids = nucleus(torch.tensor([[0.0, 3.0, 1.0]]), GenerationConfig(sample=True, top_p=1e-9))
    assert ids[0, 0] == 1
    assert probs[0].tolist() == [1.0, 0.0, 0.0]


def test_forbidden_tokens_are_never_drawn():
    probs, ids = nucleus(torch.tensor([[0.0, -torch.inf, 0.0]]), GenerationConfig(sample=True, top_p=1.0))
    assert dict(zip(ids[0].tolist(), probs[0].tolist())) == pytest.approx({0: 0.5, 2: 0.5, 1: 0.0})


def sample(model, embeds, seeds, **settings):
    config = GenerationConfig(**{"sample": True, "max_length": 10, "min_length": 0, **settings})
    return generate(model, decoders.states(model, embeds), torch.tensor([[BOS]]), EOS, config, seeds)


def test_frequencies_of_draws_are_the_probabilities():
    model, embeds = decoders.decoder(9, 4), decoders.image_embeds(1, 4)
    count = 4000
    found = sample(model, embeds, torch.tensor([5]), max_length=2, num_return_sequences=count, top_p=0.9)
    drawn = torch.tensor([text[1] for text in found.sequences[0]])
    frequency = torch.bincount(drawn, minlength=9) / count
    logits = decoders.log_probs(model, embeds[0], [BOS])[-1]
    expected = naive_nucleus(logits.tolist(), GenerationConfig(sample=True, top_p=0.9))
    assert len(expected) >= 3
    for token in range(9):
        p = expected.get(token, 0.0)
        assert float(frequency[token]) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / count))


@settings(deadline=None, max_examples=12, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    top_p=st.sampled_from([0.5, 0.9]),
    top_k=st.sampled_from([0, 4]),
    penalty=st.sampled_from([1.0, 1.2]),
    min_length=st.sampled_from([0, 5]),
)
def test_against_naive_sampling(seed, top_p, top_k, penalty, min_length):
    """Every draw is the inverse of the cumulative distribution at the image's own uniform number."""
    model, embeds = decoders.decoder(9, seed, 1.0), decoders.image_embeds(2, seed)
    settings = {"top_p": top_p, "top_k": top_k, "repetition_penalty": penalty, "num_return_sequences": 2}
    config = GenerationConfig(sample=True, max_length=8, min_length=min_length, temperature=0.8, **settings)
    seeds = torch.tensor([seed, seed + 1])
    found = generate(model, decoders.states(model, embeds), torch.tensor([[BOS, 3]]), EOS, config, seeds)
    uniform = draw_uniform(seeds, 2, config)
    for image in range(2):
        for k in range(2):
            text, score = [BOS, 3], 0.0
            while len(text) < 8 and text[-1] != EOS:
                batch = decoders.TextBatch.from_lists([text])
                with torch.no_grad():
                    logits = model.logits(model(batch, decoders.states(model, embeds[[image]])))[-1]
                values = logits.tolist()
                changed = [(v * penalty if v < 0 else v / penalty) if t in text else v for t, v in enumerate(values)]
                if len(text) < min_length:
                    changed[EOS] = -math.inf
                drawn = float(uniform[image, k, len(text)])
                kept = naive_nucleus(changed, config)
                reached = torch.tensor(list(kept.values())).cumsum(0).tolist()
                text.append(next((t for t, total in zip(kept, reached) if total > drawn), list(kept)[-1]))
                score += float(logits.log_softmax(-1)[text[-1]])
            assert found.sequences[image][k] == text
            assert found.scores[image][k] == pytest.approx(score, abs=1e-4)


def test_a_diverged_model_samples_something():
    """As searches do: an index that does not exist would take the whole process's GPU with it."""
    model, embeds = decoders.decoder(9, 2), decoders.image_embeds(2)
    expected = sample(model, embeds, torch.arange(2)).sequences
    embeds[1] = torch.nan
    found = sample(model, embeds, torch.arange(2))
    assert found.sequences[0] == expected[0]
    assert math.isnan(found.scores[1][0])


def test_seeds_decide_the_text():
    model, embeds = decoders.decoder(30, 1, -1.0), decoders.image_embeds(1, 1).expand(12, -1, -1)
    seeds = torch.arange(12)
    texts = [group[0] for group in sample(model, embeds, seeds).sequences]
    assert [group[0] for group in sample(model, embeds, seeds).sequences] == texts
    assert len(set(map(tuple, texts))) >= 10  # other seeds, other texts, of one image
    backwards = sample(model, embeds, seeds.flip(0)).sequences
    assert [group[0] for group in backwards] == texts[::-1]
    # The first sample of an image is the same however many are asked for.
    more = sample(model, embeds[:3], seeds[:3], num_return_sequences=4).sequences
    assert [group[0] for group in more] == texts[:3]
    assert all(len(set(map(tuple, group))) >= 3 for group in more)


def test_without_seeds_torchs_generator_decides():
    model, embeds = decoders.decoder(30, 1, -1.0), decoders.image_embeds(2, 1)
    torch.manual_seed(3)
    first = sample(model, embeds, None).sequences
    assert sample(model, embeds, None).sequences != first
    torch.manual_seed(3)
    assert sample(model, embeds, None).sequences == first
