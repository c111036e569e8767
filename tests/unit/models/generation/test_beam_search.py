from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models import decoders
from tests.unit.models.decoders import BOS, EOS
from vlkit.models.generation import Generated, GenerationConfig, generate
from vlkit.models.med import TextDecoder


def search(model: TextDecoder, embeds, prompt: list[int], **settings) -> Generated:
    images = decoders.states(model, embeds)
    return generate(model, images, torch.tensor([prompt]), EOS, GenerationConfig(**settings))


def every_text(model, embeds, prompt, min_length, max_length, vocab, length_penalty=1.0):
    """All texts with their scores, best first: complete ones end with [SEP], open ones have ``max_length`` tokens."""
    found = []
    others = [token for token in range(vocab) if token != EOS]
    for length in range(len(prompt), max_length + 1):
        for rest in itertools.product(others, repeat=length - len(prompt)):
            text = [*prompt, *rest]
            if length < max_length and length >= min_length:
                found.append([*text, EOS])
            elif length == max_length:
                found.append(text)
    scored = []
    for text in found:
        length = len(text) - (text[-1] == EOS)
        log_prob = decoders.text_log_prob(model, embeds, text, len(prompt))
        scored.append((log_prob / length**length_penalty, text))
    return sorted(scored, reverse=True)


@settings(deadline=None, max_examples=8, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    prompt=st.sampled_from([[BOS], [BOS, 3], [BOS, 4, 3]]),
    min_length=st.integers(0, 4),
    eos_bias=st.sampled_from([-1.0, 0.5, 2.0]),
)
def test_enough_beams_find_the_best_of_all_texts(seed, prompt, min_length, eos_bias):
    vocab = 5
    model = decoders.decoder(vocab, seed, eos_bias)
    embeds = decoders.image_embeds(2, seed)
    max_length = len(prompt) + 3
    found = search(model, embeds, prompt, num_beams=80, max_length=max_length, min_length=min_length)
    for image in range(2):
        score, text = every_text(model, embeds[image], prompt, min_length, max_length, vocab)[0]
        assert found.sequences[image] == [text]
        assert found.scores[image][0] == pytest.approx(score, abs=1e-5)


def test_enough_beams_rank_the_best_few_as_exhaustive_search_does():
    model, embeds = decoders.decoder(5, 7, 0.5), decoders.image_embeds(1, 7)
    found = search(model, embeds, [BOS], num_beams=80, num_return_sequences=10, max_length=4, min_length=0)
    best = every_text(model, embeds[0], [BOS], 0, 4, 5)[:10]
    assert found.sequences[0] == [text for _, text in best]
    assert found.scores[0] == pytest.approx([score for score, _ in best], abs=1e-5)


def naive_beam_search(model, embeds, prompt, config: GenerationConfig):
    """The rules of the module, for one image, without tensors, caches or batches."""
    beams, open_texts, closed = config.num_beams, [(0.0, prompt)], []
    for length in range(len(prompt), config.max_length):
        norm = length**config.length_penalty
        candidates = []
        for total, text in open_texts:
            follows = decoders.log_probs(model, embeds, text)[-1].tolist()
            for token, value in enumerate(follows):
                if token in text:
                    value = value * config.repetition_penalty
                if token != EOS or length >= config.min_length:
                    candidates.append((total + value, text, token))
        candidates = sorted(candidates, reverse=True)[: 2 * beams]
        closed += [(s / norm, [*text, EOS]) for s, text, token in candidates[:beams] if token == EOS]
        closed = sorted(closed, reverse=True)[:beams]
        open_texts = [(s, [*text, token]) for s, text, token in candidates if token != EOS][:beams]
        if len(closed) == beams and closed[-1][0] >= candidates[0][0] / norm:
            break
    else:
        closed += [(s / config.max_length**config.length_penalty, text) for s, text in open_texts]
    return sorted(closed, reverse=True)[: config.num_return_sequences]


def naive_diverse_search(model, embeds, prompt, config: GenerationConfig):
    """Groups of beams for one image, one group after the other in each step."""
    groups, beams = config.num_beam_groups, config.num_beams // config.num_beam_groups
    opens, closed, done = [[(0.0, prompt)] for _ in range(groups)], [[] for _ in range(groups)], [False] * groups
    for length in range(len(prompt), config.max_length):
        norm, taken = length**config.length_penalty, []
        for group in range(groups):
            if done[group]:
                continue
            candidates = []
            for total, text in opens[group]:
                for token, value in enumerate(decoders.log_probs(model, embeds, text)[-1].tolist()):
                    if token != EOS or length >= config.min_length:
                        cost = config.diversity_penalty * taken.count(token)
                        candidates.append((total + value - cost, text, token))
            candidates = sorted(candidates, reverse=True)[: 2 * beams]
            closed[group] += [(s / norm, [*text, EOS]) for s, text, token in candidates[:beams] if token == EOS]
            closed[group] = sorted(closed[group], reverse=True)[:beams]
            follow = [(s, [*text, token]) for s, text, token in candidates if token != EOS][:beams]
            opens[group] = follow
            taken += [text[-1] for _, text in follow]
            done[group] = len(closed[group]) == beams and closed[group][-1][0] >= candidates[0][0] / norm
    for group in range(groups):
        if not done[group]:
            closed[group] += [(s / config.max_length**config.length_penalty, text) for s, text in opens[group]]
            closed[group] = sorted(closed[group], reverse=True)[:beams]
    return sorted((each for group in closed for each in group), reverse=True)[: config.num_return_sequences]


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    groups=st.integers(2, 3),
    beams=st.integers(1, 2),
    penalty=st.sampled_from([0.2, 1.0, 5.0]),
    min_length=st.integers(0, 5),
    length_penalty=st.sampled_from([0.0, 1.0]),
    eos_bias=st.sampled_from([-1.0, 1.0, 2.0]),
)
def test_diverse_beams_against_a_naive_search(seed, groups, beams, penalty, min_length, length_penalty, eos_bias):
    model = decoders.decoder(9, seed, eos_bias)
    embeds = decoders.image_embeds(3, seed)
    config = GenerationConfig(
        num_beams=groups * beams,
        num_beam_groups=groups,
        diversity_penalty=penalty,
        num_return_sequences=groups * beams,
        max_length=7,
        min_length=min_length,
        length_penalty=length_penalty,
    )
    found = generate(model, decoders.states(model, embeds), torch.tensor([[BOS, 3]]), EOS, config)
    for image in range(3):
        expected = naive_diverse_search(model, embeds[image], [BOS, 3], config)
        assert found.scores[image] == pytest.approx([score for score, _ in expected], abs=1e-4)
        assert sorted(found.sequences[image]) == sorted(text for _, text in expected)


def test_a_high_penalty_makes_the_first_words_of_all_groups_differ():
    model, embeds = decoders.decoder(9, 3, -1.0), decoders.image_embeds(2, 3)
    groups = {"num_beams": 4, "num_beam_groups": 4, "diversity_penalty": 50.0}
    found = search(model, embeds, [BOS], num_return_sequences=4, max_length=5, min_length=3, **groups)
    assert all(len({text[1] for text in texts}) == 4 for texts in found.sequences)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    beams=st.integers(2, 4),
    returned=st.integers(1, 4),
    min_length=st.integers(0, 6),
    length_penalty=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    eos_bias=st.sampled_from([-1.0, 1.0, 2.0]),
)
def test_against_a_naive_search(seed, beams, returned, min_length, length_penalty, repetition_penalty, eos_bias):
    model = decoders.decoder(9, seed, eos_bias)
    embeds = decoders.image_embeds(3, seed)
    config = GenerationConfig(
        num_beams=beams,
        num_return_sequences=min(returned, beams),
        max_length=7,
        min_length=min_length,
        length_penalty=length_penalty,
        repetition_penalty=repetition_penalty,
    )
    found = generate(model, decoders.states(model, embeds), torch.tensor([[BOS, 3]]), EOS, config)
    for image in range(3):
        expected = naive_beam_search(model, embeds[image], [BOS, 3], config)
        assert found.sequences[image] == [text for _, text in expected]
        assert found.scores[image] == pytest.approx([score for score, _ in expected], abs=1e-4)


@pytest.mark.parametrize("repetition_penalty", [1.0, 1.5])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_large_vocabulary_against_a_naive_search(seed, repetition_penalty):
    """Its best few are searched in parts."""
    model, embeds = decoders.decoder(2600, seed, 7.0), decoders.image_embeds(2, seed)
    config = GenerationConfig(
        num_beams=3, num_return_sequences=3, max_length=6, min_length=2, repetition_penalty=repetition_penalty
    )
    found = generate(model, decoders.states(model, embeds), torch.tensor([[BOS]]), EOS, config)
    for image in range(2):
        expected = naive_beam_search(model, embeds[image], [BOS], config)
        assert found.sequences[image] == [text for _, text in expected]
        assert found.scores[image] == pytest.approx([score for score, _ in expected], abs=1e-4)


@settings(deadline=None, max_examples=12, derandomize=True)
@given(seed=st.integers(0, 10**6), length_penalty=st.sampled_from([0.0, 1.0, 1.7]))
def test_sequences_are_sorted_distinct_and_scored_as_the_model_does(seed, length_penalty):
    model, embeds = decoders.decoder(10, seed, 1.0), decoders.image_embeds(3, seed)
    settings = {"num_beams": 5, "num_return_sequences": 5, "max_length": 8, "min_length": 3}
    found = search(model, embeds, [BOS], length_penalty=length_penalty, **settings)
    for image, (texts, scores) in enumerate(zip(found.sequences, found.scores)):
        assert len(texts) == len(scores) == 5
        assert len(set(map(tuple, texts))) == 5
        assert scores == sorted(scores, reverse=True)
        for text, score in zip(texts, scores):
            length = len(text) - (text[-1] == EOS)
            assert EOS not in text[:-1]
            assert length == 8 or (text[-1] == EOS and length >= 3)
            log_prob = decoders.text_log_prob(model, embeds[image], text, 1)
            assert score == pytest.approx(log_prob / length**length_penalty, abs=1e-4)


@settings(deadline=None, max_examples=12, derandomize=True)
@given(seed=st.integers(0, 10**6), min_length=st.integers(0, 6), penalty=st.sampled_from([1.0, 1.3]))
def test_one_beam_is_the_likeliest_token_each_time(seed, min_length, penalty):
    model, embeds = decoders.decoder(9, seed, 1.0), decoders.image_embeds(2, seed)
    found = search(
        model, embeds, [BOS, 4], num_beams=1, max_length=8, min_length=min_length, repetition_penalty=penalty
    )
    for image in range(2):
        text, score = [BOS, 4], 0.0
        while len(text) < 8 and text[-1] != EOS:
            with torch.no_grad():
                hidden = model(decoders.TextBatch.from_lists([text]), decoders.states(model, embeds[[image]]))
                logits = model.logits(hidden)[-1]
            ranked = {
                t: (v * penalty if v < 0 else v / penalty) if t in text else v for t, v in enumerate(logits.tolist())
            }
            if len(text) < min_length:
                del ranked[EOS]
            text.append(max(ranked, key=ranked.__getitem__))
            score += float(logits.log_softmax(-1)[text[-1]])
        assert found.sequences[image] == [text]
        assert found.scores[image] == [pytest.approx(score, abs=1e-4)]


def test_length_penalty_and_minimum_make_texts_longer():
    model, embeds = decoders.decoder(9, 5, 2.5), decoders.image_embeds(6, 5)

    def mean_length(**settings):
        given = {"num_beams": 4, "max_length": 12, "min_length": 0, **settings}
        found = search(model, embeds, [BOS], **given)
        return sum(len(group[0]) for group in found.sequences) / 6

    assert mean_length(length_penalty=0.0) < mean_length(length_penalty=3.0)
    assert mean_length(min_length=10) >= 11 > mean_length()


def test_repetition_penalty_makes_texts_repeat_less():
    model, embeds = decoders.decoder(12, 2, -3.0), decoders.image_embeds(6, 2)

    def repeated(penalty):
        found = search(model, embeds, [BOS], num_beams=3, max_length=8, min_length=0, repetition_penalty=penalty)
        return sum(len(group[0]) - len(set(group[0])) for group in found.sequences)

    assert repeated(3.0) < repeated(1.0)


def test_prompts_of_their_own():
    model, embeds = decoders.decoder(9, 1), decoders.image_embeds(2, 1)
    prompts = torch.tensor([[BOS, 3], [BOS, 5]])
    config = GenerationConfig(num_beams=3, max_length=6, min_length=0)
    found = generate(model, decoders.states(model, embeds), prompts, EOS, config)
    for image in range(2):
        assert (
            found.sequences[image]
            == search(
                model, embeds[[image]], prompts[image].tolist(), num_beams=3, max_length=6, min_length=0
            ).sequences[0]
        )


def test_images_are_never_repeated(monkeypatch):
    """All beams of an image attend to its one copy of keys and values."""
    model, embeds = decoders.decoder(9, 1), decoders.image_embeds(4, 1)
    from vlkit.models import text_layers

    seen = []
    attend = text_layers.attend

    def watched(query, key, value, *args, **kwargs):
        if key.shape[2] == embeds.shape[1] and query.shape[2] == 5:
            seen.append(key.shape[0])
        return attend(query, key, value, *args, **kwargs)

    monkeypatch.setattr(text_layers, "attend", watched)
    search(model, embeds, [BOS], num_beams=5, max_length=6, min_length=5)
    assert seen
    assert max(seen) <= 4
