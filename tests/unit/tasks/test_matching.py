from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models import small
from tests.unit.tasks.shares import context, evaluate_in_shares, parts
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.tasks.matching import UNSEEN, OwnImages, rerank, top_pairs

TEXTS = ["a red circle", "a blue square above a star", "two shapes", "a big yellow triangle", "a star", "blue"]


@pytest.fixture(scope="module")
def model() -> BlipPretrain:
    torch.manual_seed(0)
    return BlipPretrain(small.vit(), small.med(initializer_range=0.3), "shapes", embed_dim=12, queue_size=8).eval()


@pytest.fixture(scope="module")
def embeds(model) -> torch.Tensor:
    with torch.no_grad():
        return model.image_embeds({"image": torch.randn(5, 3, 16, 16) * 2})


@pytest.fixture(scope="module")
def similarity() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (5, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def brute_force(model, embeds) -> np.ndarray:
    """[I, T] probability of a match, one pair at a time."""
    found = np.zeros((5, 6), np.float32)
    with torch.no_grad():
        for i, t in np.ndindex(5, 6):
            logits = model.match(model.tokenize([TEXTS[t]]), model.text_encoder.project_images(embeds[[i]]))
            found[i, t] = logits.softmax(-1)[0, 1]
    return found


def run(model, embeds, similarity, k, **settings) -> np.ndarray:
    with torch.inference_mode():
        return rerank(model, OwnImages(list(range(5)), list(embeds)), TEXTS, similarity, k, context(), **settings)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 6), columns=st.integers(1, 6), k=st.integers(1, 9))
def test_top_pairs_are_the_best_of_rows_and_columns(seed, rows, columns, k):
    similarity = np.random.default_rng(seed).permutation(rows * columns).reshape(rows, columns).astype(float)
    wanted = top_pairs(similarity, k)
    for i, j in np.ndindex(rows, columns):
        in_row = (similarity[i] > similarity[i, j]).sum() < k
        in_column = (similarity[:, j] > similarity[i, j]).sum() < k
        assert wanted[i, j] == (in_row or in_column)


def test_all_pairs_equal_brute_force(model, embeds, similarity, brute_force):
    np.testing.assert_allclose(run(model, embeds, similarity, 100), brute_force + similarity, atol=1e-5)


@pytest.mark.parametrize("pairs_at_once", [1, 20, 50, 1024])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_each_wanted_pair_is_scored_once(model, embeds, similarity, brute_force, k, pairs_at_once, monkeypatch):
    asked = []
    match = model.match

    def watched(texts, states, image_index):
        asked.append((states.count, len(texts)))
        return match(texts, states, image_index)

    monkeypatch.setattr(model, "match", watched)
    scores = run(model, embeds, similarity, k, pairs_at_once=pairs_at_once)
    wanted = top_pairs(similarity, k)
    assert sum(pairs for _, pairs in asked) == wanted.sum()
    assert sum(images for images, _ in asked) == wanted.any(1).sum()  # each image's keys are made once
    assert all(pairs <= pairs_at_once or images == 1 for images, pairs in asked)
    np.testing.assert_allclose(scores[wanted], (brute_force + similarity)[wanted], atol=1e-5)
    np.testing.assert_allclose(scores[~wanted], UNSEEN + similarity[~wanted] * 1e-3, atol=1e-6)


def test_pairs_that_were_not_scored_stand_behind_in_the_order_of_similarity():
    class Never:
        """A model that is sure that nothing matches."""

        def __init__(self, model):
            self.tokenize, self.text_encoder = model.tokenize, model.text_encoder

        def match(self, texts, states, image_index):
            return torch.tensor([[100.0, -100.0]]).expand(len(texts), 2)

    torch.manual_seed(0)
    model = small.pretrainer().eval()
    similarity = np.array([[-1.0, -1.0, 0.5], [-0.9, -0.95, -0.8]], np.float32)
    embeds = model.image_embeds({"image": torch.randn(2, 3, 16, 16)})
    with torch.inference_mode():
        scores = rerank(Never(model), OwnImages([0, 1], list(embeds)), TEXTS[:3], similarity, 1, context())
    wanted = top_pairs(similarity, 1)
    assert scores[~wanted].max() < -1 <= scores[wanted].min()
    assert np.argsort(scores[~wanted]).tolist() == np.argsort(similarity[~wanted]).tolist()


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shares_of_several_processes_make_the_same_matrix(model, embeds, similarity, count):
    """Seven processes for five images: some have none."""

    def work(rank, lent):
        rows = list(parts(range(5), count)[rank])
        return rerank(model, OwnImages(rows, [embeds[i] for i in rows]), TEXTS, similarity, 2, lent)

    expected = run(model, embeds, similarity, 2)
    for scores in evaluate_in_shares(work, count):
        np.testing.assert_allclose(scores, expected, atol=1e-5)
