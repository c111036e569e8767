"""Passes of many pairs against every pair alone."""

from __future__ import annotations

import contextlib
import copy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models import small
from vlkit.models.blip import text_prefix
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.models.blip.text_prefix import PairScorer, PassLimits, split_evenly

WORDS = ["a", "red", "blue", "circle", "star", "above", "two", "small"]
ATOL = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
AUTOCAST = partial(torch.autocast, "cpu", torch.bfloat16)


@pytest.fixture(scope="module")
def models() -> dict[torch.dtype, BlipPretrain]:
    torch.manual_seed(0)
    model = BlipPretrain(small.vit(), small.med(initializer_range=0.15), "shapes", embed_dim=12, queue_size=8).eval()
    return {dtype: copy.deepcopy(model).to(dtype) for dtype in ATOL}


@st.composite
def works(draw):
    """Texts of different lengths, some of them equal; images with none, few or many of them; and bounds."""
    lengths = draw(st.lists(st.integers(0, 12), min_size=1, max_size=12))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    texts = [" ".join(rng.choice(WORDS, length)) for length in lengths]
    counts = draw(st.lists(st.integers(0, len(texts)), min_size=1, max_size=5))
    wanted = [np.sort(rng.permutation(len(texts))[:count]) for count in counts]
    enough = draw(st.integers(1, 100))
    return texts, wanted, (enough, enough + draw(st.integers(0, 100))), draw(st.integers(1, 6000))


def scored(model, embeds, texts, wanted, tokens, limit, autocast=contextlib.nullcontext) -> np.ndarray:
    found = np.full(sum(map(len, wanted)), np.nan, np.float32)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode(), autocast():
        patch.setattr(text_prefix, "_CPU_TOKENS", tokens)
        patch.setattr(text_prefix, "_CPU_BYTES", limit)
        for places, logits in PairScorer(model, texts).passes(embeds, wanted):
            assert np.isnan(found[places]).all()
            found[places] = logits.float().numpy()
    return found


def alone(model, embeds, texts, wanted) -> np.ndarray:
    with torch.inference_mode():
        states = [model.text_encoder.project_images(one[None]) for one in embeds]
        found = [model.match(model.tokenize([texts[t]]), states[i])[0, 1] for i, own in enumerate(wanted) for t in own]
    return np.array([logit.float().item() for logit in found], np.float32)


@pytest.mark.parametrize("dtype", list(ATOL))
@settings(deadline=None, max_examples=30)
@given(work=works())
def test_logits_are_those_of_each_pair_alone(models, dtype, work):
    texts, wanted, tokens, limit = work
    model = models[dtype]
    embeds = torch.randn(len(wanted), 5, 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = scored(model, embeds, texts, wanted, tokens, limit)
    np.testing.assert_allclose(found, alone(model, embeds, texts, wanted), atol=ATOL[dtype])


@settings(deadline=None, max_examples=10)
@given(work=works())
def test_logits_under_autocast(models, work):
    texts, wanted, tokens, limit = work
    model = models[torch.float32]
    embeds = torch.randn(len(wanted), 5, 24, generator=torch.Generator().manual_seed(0))
    found = scored(model, embeds, texts, wanted, tokens, limit, AUTOCAST)
    with AUTOCAST():
        expected = alone(model, embeds, texts, wanted)
    np.testing.assert_allclose(found, expected, atol=ATOL[torch.bfloat16])


@settings(deadline=None, max_examples=100)
@given(lengths=st.lists(st.integers(1, 40), max_size=40), most=st.integers(1, 200), seed=st.integers(0, 100))
def test_runs_are_even_and_few(lengths, most, seed):
    sizes = np.array(lengths, np.int64)
    order = np.random.default_rng(seed).permutation(len(sizes))
    runs = split_evenly(order, sizes, most)
    assert np.array_equal(np.concatenate([np.empty(0, np.int64), *runs]), order)
    assert all(len(run) for run in runs)
    assert len(runs) <= -(-sizes.sum() // most)
    # A run is more than its even share by less than one text.
    assert all(sizes[run].sum() < most + sizes.max() for run in runs)


def test_a_gpu_takes_more_but_no_more_than_it_has(monkeypatch):
    gpu, free = torch.device("cuda"), 2**40
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**41))
    roomy = PassLimits.of(gpu)
    assert roomy.enough > PassLimits.of(torch.device("cpu")).enough
    free = 4000
    assert PassLimits.of(gpu).bytes == 1000
    assert roomy.bytes == text_prefix._GPU_BYTES


def test_what_goes_through_together(models, monkeypatch):
    """Images by number of tokens, an image's texts by length; a hub alone and in even parts."""
    model, seen = models[torch.float32], []
    match = model.match

    def watched(texts, states, image_index):
        seen.append((list(texts.texts.lengths), image_index.tolist()))
        return match(texts, states, image_index)

    monkeypatch.setattr(model, "match", watched)
    texts = ["a " * words for words in (6, 2, 4)]  # and two tokens of their own
    wanted = [np.arange(3), np.array([1]), np.array([], int), np.array([0, 1]), np.array([2])]
    scored(model, torch.randn(5, 5, 24), texts, wanted, (10, 16), 10**9)
    assert seen == [([4, 6], [0, 1]), ([4, 8], [0, 0]), ([4], [0]), ([6, 8], [0, 0])]


def test_texts_begin_once_where_there_is_room(models, monkeypatch):
    model, begun = models[torch.float32], []
    begin = model.begin_match
    monkeypatch.setattr(model, "begin_match", lambda texts: begun.extend(texts.lengths) or begin(texts))
    texts, wanted, embeds = ["a star", "two", "a red circle"], [np.arange(3)] * 3, torch.randn(3, 5, 24)
    room = 4 * 12 * 16  # bytes of three texts of 4, 3 and 5 tokens
    found = [scored(model, embeds, texts, wanted, (10, 16), bytes) for bytes in (room, room - 1)]
    assert begun == [3, 4, 5]
    np.testing.assert_allclose(*found, atol=1e-5)
