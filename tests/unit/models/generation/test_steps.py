from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models import decoders
from tests.unit.models.decoders import BOS, EOS
from vlkit.errors import ConfigError, VlkitError
from vlkit.models.generation import GenerationConfig, generate
from vlkit.models.generation.steps import largest, penalize_repetition, penalize_used


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_length": 0}, "max_length is 0"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_k": -1}, "top_k is -1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"repetition_penalty": -1.0}, "repetition_penalty is -1.0"),
        ({"min_length": 31}, "min_length 31 is above max_length 30"),
        ({"num_return_sequences": 4}, "4 sequences cannot come from 3 beams"),
        ({"num_beam_groups": 0}, "num_beam_groups is 0"),
        ({"num_beam_groups": 3}, "num_beam_groups is 3 and diversity_penalty 0.0"),
        ({"diversity_penalty": 1.0}, "num_beam_groups is 1 and diversity_penalty 1.0"),
        ({"num_beam_groups": 2, "diversity_penalty": 1.0}, "num_beam_groups is 2 and num_beams is 3"),
        ({"num_beam_groups": 3, "diversity_penalty": 1.0, "sample": True}, "num_beam_groups is 3 and sample is true"),
    ],
)
def test_contradictory_settings(wrong, message):
    with pytest.raises(ConfigError, match=message):
        GenerationConfig(**wrong)


def test_samples_need_no_beams():
    assert GenerationConfig(sample=True, num_return_sequences=9).num_return_sequences == 9


@settings(deadline=None, max_examples=40)
@given(
    scores=st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4),
    used=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    penalty=st.floats(0.5, 2),
)
def test_repetition_penalty_by_hand(scores, used, penalty):
    expected = [(s * penalty if s < 0 else s / penalty) if i in used else s for i, s in enumerate(scores)]
    before = torch.tensor([scores])
    got = penalize_repetition(before, torch.tensor([used]), penalty)
    assert got[0].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-30)
    assert before[0].tolist() == scores  # not in place


@pytest.mark.parametrize(
    ("prompt", "config", "seeds", "message"),
    [
        ([[BOS] * 5], {"max_length": 5}, None, "prompt has 5 tokens and max_length is 5"),
        ([[BOS]], {"max_length": 25}, None, "max_length is 25; this model reads at most 24"),
        ([[BOS]] * 3, {"max_length": 5}, None, "3 prompts were given for 2 images"),
        ([[BOS]], {"max_length": 5, "sample": True}, [1, 2, 3], "3 seeds were given for 2 images"),
    ],
)
def test_what_cannot_be_generated(prompt, config, seeds, message):
    model = decoders.decoder()
    images = decoders.states(model, decoders.image_embeds(2))
    config = GenerationConfig(min_length=0, **config)
    with pytest.raises(VlkitError, match=message):
        generate(model, images, torch.tensor(prompt), EOS, config, None if seeds is None else torch.tensor(seeds))


@pytest.mark.parametrize(
    "config",
    [
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 1},
        {"sample": True, "num_return_sequences": 2, "top_p": 0.95},
    ],
    ids=["beam", "greedy", "nucleus"],
)
@settings(deadline=None, max_examples=6, derandomize=True)
@given(data=st.data(), seed=st.integers(0, 999))
def test_a_text_does_not_depend_on_its_batch(config, data, seed):
    """Eight images in any order, finishing at different times, equal eight batches of one."""
    model = decoders.decoder(seed=seed, eos_bias=1.0)
    order = data.draw(st.permutations(range(8)))
    embeds, seeds = decoders.image_embeds(8, seed), torch.arange(8) * 31
    prompts = torch.tensor([[BOS, 3 + i % 4] for i in range(8)])
    config = GenerationConfig(max_length=12, min_length=4, **config)

    def run(index):
        images = decoders.states(model, embeds[index])
        return generate(model, images, prompts[index], EOS, config, seeds[index])

    joint, alone = run(order), [run([i]) for i in order]
    assert joint.sequences == [one.sequences[0] for one in alone]
    for mine, one in zip(joint.scores, alone):
        assert mine == pytest.approx(one.scores[0], abs=1e-4)  # sums of up to ten


@pytest.mark.parametrize(
    "config", [{"num_beams": 3}, {"num_beams": 1}, {"sample": True}], ids=["beam", "greedy", "nucleus"]
)
def test_images_do_finish_at_different_times(config):
    """What the test above relies on."""
    model = decoders.decoder(seed=3, eos_bias=1.0)
    images = decoders.states(model, decoders.image_embeds(8, 3))
    config = GenerationConfig(max_length=12, min_length=0, **config)
    found = generate(model, images, torch.tensor([[BOS]]), EOS, config, torch.arange(8))
    assert len({len(group[0]) for group in found.sequences}) >= 3


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([5, 64, 128, 700, 1024, 3333]),
    count=st.integers(1, 12),
    equal=st.booleans(),
    infinite=st.booleans(),
)
def test_the_largest_are_those_of_topk(seed, size, count, equal, infinite):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 3, size, generator=generator)
    if equal:
        scores = scores.round()
    if infinite:
        scores[..., ::2] = -torch.inf
    count = min(count, size)
    values, places = largest(scores, count)
    assert torch.equal(values, scores.topk(count)[0])
    assert torch.equal(scores.gather(-1, places), values)
    assert all(len(set(row)) == count for row in places.flatten(0, 1).tolist())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 6), penalty=st.sampled_from([0.5, 1.0, 1.7]))
def test_penalties_of_the_tokens_so_far(seed, length, penalty):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 3, 9, generator=generator)
    tokens = torch.randint(0, 9, (2, 3, 6), generator=generator)
    found = penalize_used(scores, tokens, torch.tensor([length]), penalty)
    expected = scores.clone()
    for row, used in zip(expected.flatten(0, 1), tokens[..., :length].flatten(0, 1).tolist()):
        for token in set(used):
            row[token] = row[token] * penalty if row[token] < 0 else row[token] / penalty
    assert torch.equal(found, expected)
