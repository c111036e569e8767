"""Passes of many pairs against every pair alone."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models import small
from tests.unit.tasks.shares import context, evaluate_in_shares
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.models.med import TextPrefix
from vlkit.tasks import passes
from vlkit.tasks.base import EvalContext
from vlkit.tasks.passes import Bounds, PairScorer, cut
from vlkit.tasks.pool import text_feats
from vlkit.tasks.text_prefix import StoredTexts

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


def scored(model, embeds, texts, wanted, tokens, limit, lent, on_disk=False) -> np.ndarray:
    found = np.full(sum(map(len, wanted)), np.nan, np.float32)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(passes, "_CPU_TOKENS", tokens)
        patch.setattr(passes, "_CPU_BYTES", limit)
        for places, logits in PairScorer(model, texts, lent, on_disk).passes(embeds, wanted):
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
@given(work=works(), on_disk=st.booleans())
def test_logits_are_those_of_each_pair_alone(models, dtype, work, on_disk):
    texts, wanted, tokens, limit = work
    model = models[dtype]
    embeds = torch.randn(len(wanted), 5, 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = scored(model, embeds, texts, wanted, tokens, limit, context(), on_disk)
    np.testing.assert_allclose(found, alone(model, embeds, texts, wanted), atol=ATOL[dtype])


@settings(deadline=None, max_examples=10)
@given(work=works())
def test_logits_under_autocast(models, work):
    texts, wanted, tokens, limit = work
    model = models[torch.float32]
    embeds = torch.randn(len(wanted), 5, 24, generator=torch.Generator().manual_seed(0))
    lent = EvalContext(torch.device("cpu"), AUTOCAST)
    found = scored(model, embeds, texts, wanted, tokens, limit, lent)
    with AUTOCAST():
        expected = alone(model, embeds, texts, wanted)
    np.testing.assert_allclose(found, expected, atol=ATOL[torch.bfloat16])


@settings(deadline=None, max_examples=100)
@given(lengths=st.lists(st.integers(1, 40), max_size=40), most=st.integers(1, 200), seed=st.integers(0, 100))
def test_runs_are_even_and_few(lengths, most, seed):
    sizes = np.array(lengths, np.int64)
    order = np.random.default_rng(seed).permutation(len(sizes))
    runs = cut(order, sizes, most)
    assert np.array_equal(np.concatenate([np.empty(0, np.int64), *runs]), order)
    assert all(len(run) for run in runs)
    assert len(runs) <= -(-sizes.sum() // most)
    # A run is more than its even share by less than one text.
    assert all(sizes[run].sum() < most + sizes.max() for run in runs)


def test_a_gpu_takes_more_but_no_more_than_it_has(monkeypatch):
    gpu, free = torch.device("cuda"), 2**40
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**41))
    roomy = Bounds.of(gpu)
    assert roomy.enough > Bounds.of(torch.device("cpu")).enough
    free = 4000
    assert Bounds.of(gpu).bytes == 1000
    assert roomy.bytes == passes._GPU_BYTES


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
    scored(model, torch.randn(5, 5, 24), texts, wanted, (10, 16), 10**9, context())
    assert seen == [([4, 6], [0, 1]), ([4, 8], [0, 0]), ([4], [0]), ([6, 8], [0, 0])]


def test_texts_begin_once_where_there_is_room(models, monkeypatch):
    model, begun = models[torch.float32], []
    begin = model.begin_match
    monkeypatch.setattr(model, "begin_match", lambda texts: begun.extend(texts.lengths) or begin(texts))
    texts, wanted, embeds = ["a star", "two", "a red circle"], [np.arange(3)] * 3, torch.randn(3, 5, 24)
    room = 4 * 12 * 16  # bytes of three texts of 4, 3 and 5 tokens
    found = [scored(model, embeds, texts, wanted, (10, 16), bytes, context()) for bytes in (room, room - 1)]
    assert begun == [3, 4, 5]
    np.testing.assert_allclose(*found, atol=1e-5)


def test_on_disk_wait_more_than_go_through_at_once(models, monkeypatch, tmp_path):
    """Each text begins once, whatever the room in memory, and the scores are the same to the last bit."""
    model, begun = models[torch.float32], []
    begin = model.begin_match
    monkeypatch.setattr(model, "begin_match", lambda texts: begun.extend(texts.lengths) or begin(texts))
    texts, wanted, embeds = ["a star", "two", "a red circle"], [np.arange(3)] * 3, torch.randn(3, 5, 24)
    lent = context(folder=tmp_path)
    found = [scored(model, embeds, texts, wanted, (6, 8), *how) for how in ((10**9, lent), (1, lent, True))]
    assert begun == 2 * [3, 4, 5]
    assert np.array_equal(*found)
    monkeypatch.setattr(passes, "_CPU_TOKENS", (6, 11))
    assert isinstance(PairScorer(model, texts, lent, True).texts, StoredTexts)
    monkeypatch.setattr(passes, "_CPU_TOKENS", (6, 12))
    assert isinstance(PairScorer(model, texts, lent, True).texts, TextPrefix)


@settings(deadline=None, max_examples=15)
@given(work=works(), count=st.integers(1, 4))
def test_text_features_in_any_order_and_share(models, work, count):
    texts, _, tokens, _ = work
    model = models[torch.float32]
    with torch.inference_mode():
        expected = torch.cat([model.text_feats(model.tokenize([text])) for text in texts])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "_CPU_TOKENS", tokens)
        for found in evaluate_in_shares(lambda rank, lent: text_feats(model, texts, lent), count):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_shares_of_texts_have_as_many_tokens(models):
    """However long texts are spread: here, all long ones come first."""
    model = copy.copy(models[torch.float32])
    texts = ["a" + " star" * words for words in range(20, 0, -1)]
    shares: dict[int, int] = {}

    def work(rank, lent):
        class Watched:
            tokenize = staticmethod(model.tokenize)

            @staticmethod
            def text_feats(packed):
                shares[rank] = shares.get(rank, 0) + sum(packed.lengths)
                return model.text_feats(packed)

        return text_feats(Watched, texts, lent)

    evaluate_in_shares(work, 2)
    assert sum(shares.values()) == sum(model.tokenize(texts).lengths)
    assert abs(shares[0] - shares[1]) <= 10
