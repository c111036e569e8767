"""Search and re-ranking against one pair after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models import small
from tests.unit.tasks.shares import context, evaluate_in_shares, parts
from vlkit.errors import DataError
from vlkit.metrics.retrieval import right_ranks
from vlkit.models.blip import text_prefix
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.tasks import reranking
from vlkit.tasks.reranking import UNSEEN, Direction, Pool, Ranking, most_similar, retrieve, search

# The fourth stands twice, for two images.
TEXTS = [
    "a red circle",
    "a blue square above a star",
    "two shapes",
    "a star",
    "a big yellow triangle",
    "blue",
    "a star",
]
OWNER = np.array([0, 0, 1, 2, 3, 4, 4])
INDEX = [3, 5, 6, 8, 20]


@pytest.fixture(scope="module")
def model() -> BlipPretrain:
    torch.manual_seed(0)
    return BlipPretrain(small.vit(), small.med(initializer_range=0.3), "shapes", embed_dim=12, queue_size=8).eval()


@pytest.fixture(scope="module")
def embeds(model) -> torch.Tensor:
    with torch.no_grad():
        return model.image_embeds({"image": torch.randn(5, 3, 16, 16) * 2})


def make_pool(seed=0, texts=TEXTS, owner=OWNER, images=5) -> Pool:
    generator = torch.Generator().manual_seed(seed)
    feats = torch.nn.functional.normalize(torch.randn(images + len(texts), 4, generator=generator), dim=1)
    return Pool(INDEX[:images], INDEX[:images], feats[:images], list(texts), feats[images:], owner)


@pytest.fixture(scope="module")
def logits(model, embeds) -> np.ndarray:
    """[I, T] matching logits, every pair alone."""
    found = np.zeros((len(embeds), len(TEXTS)), np.float32)
    with torch.no_grad():
        for i, t in np.ndindex(found.shape):
            states = model.text_encoder.project_images(embeds[[i]])
            found[i, t] = model.match(model.tokenize([TEXTS[t]]), states)[0, 1]
    return found


def by_hand(similarity: np.ndarray, logits: np.ndarray, k: int) -> np.ndarray:
    """The original's loop over queries."""
    scores = np.full_like(similarity, UNSEEN)
    for row, values in enumerate(similarity):
        for place in np.argsort(-values, kind="stable")[:k]:
            scores[row, place] = values[place] + logits[row, place]
    return scores


def run(model, embeds, found: Pool, k, lent=None):
    own = [(INDEX[:2], embeds[:2]), (INDEX[2:], embeds[2:])]
    with torch.inference_mode():
        return retrieve(model, found, own, k, lent or context())


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 9), st.integers(0, 10), st.integers(1, 20))
def test_most_similar_are_the_first_of_a_stable_sort(seed, rows, columns, k, values):
    similarity = np.random.default_rng(seed).integers(0, values, (rows, columns)).astype(np.float32)
    chosen = most_similar(torch.from_numpy(similarity), k).numpy()
    expected = np.sort(np.argsort(-similarity, axis=1, kind="stable")[:, :k], axis=1)
    assert np.array_equal(chosen, expected)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    k=st.integers(1, 9),
    block=st.integers(1, 40),
    limit=st.integers(1, 10_000),
    tokens=st.tuples(st.integers(1, 60), st.integers(1, 120)),
)
def test_reranking_is_the_plain_loop(model, embeds, logits, seed, k, block, limit, tokens):
    """Whatever the features, the candidates, and the sizes of what is computed at once."""
    found = make_pool(seed)
    found.text_feats[6] = found.text_feats[3]  # of equal texts
    similarity = (found.image_feats[:, None] * found.text_feats).sum(-1).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reranking, "_BLOCK", block)
        patch.setattr(text_prefix, "_CPU_BYTES", limit)
        patch.setattr(text_prefix, "_CPU_TOKENS", tokens)
        result = run(model, embeds, found, k)
    np.testing.assert_allclose(result.to_texts.matrix(), by_hand(similarity, logits, k), atol=2e-5)
    np.testing.assert_allclose(result.to_images.matrix(), by_hand(similarity.T, logits.T, k), atol=2e-5)


@pytest.mark.parametrize("limit", [1, 30, 10**9])
@pytest.mark.parametrize("k", [1, 3, 100])
def test_each_pair_is_scored_once_and_each_image_projected_once(model, embeds, k, limit, monkeypatch):
    asked, projected = [], []
    match, project = model.match, model.text_encoder.project_images

    def watched(texts, states, image_index):
        texts = getattr(texts, "texts", texts)  # of those that have begun
        rows = texts.ids.split(texts.lengths)
        keys = states.layers[0][0][torch.from_numpy(image_index)]
        asked.extend((tuple(row.tolist()), key.sum().item()) for row, key in zip(rows, keys))
        return match(texts, states, image_index)

    monkeypatch.setattr(text_prefix, "_CPU_BYTES", limit)
    monkeypatch.setattr(text_prefix, "_CPU_TOKENS", (limit, 2 * limit))
    monkeypatch.setattr(model, "match", watched)
    monkeypatch.setattr(model.text_encoder, "project_images", lambda e: projected.append(len(e)) or project(e))
    found = make_pool(1)
    result = run(model, embeds, found, k)
    wanted = {(i, TEXTS[t]) for i, row in enumerate(result.to_texts.candidates) for t in row}
    wanted |= {(i, TEXTS[t]) for t, row in enumerate(result.to_images.candidates) for i in row}
    assert len(asked) == len(set(asked)) == len(wanted)
    assert sum(projected) == len({i for i, _ in wanted})


def test_equal_texts_score_equally_and_count_against_each_other(model, embeds):
    found = make_pool(2)
    scores = run(model, embeds, found, 100).to_texts.matrix()
    assert np.array_equal(scores[:, 3], scores[:, 6])
    alike = Pool(INDEX[:2], INDEX[:2], torch.eye(2), ["a star", "a star"], torch.ones(2, 2) * 0.7, np.array([0, 1]))
    with torch.inference_mode():
        result = retrieve(model, alike, [(INDEX[:2], embeds[:2])], 2, context())
    assert result.ranks[0].tolist() == [1, 1]
    assert result.itc_ranks[0].tolist() == [1, 1]


def test_without_reranking_nothing_is_matched(embeds):
    result = retrieve(None, make_pool(), [], 0, context(), without_reranking=3)
    assert all(map(np.array_equal, result.ranks, result.itc_ranks))
    assert result.to_texts.candidates.shape == (5, 3)
    assert result.to_images.candidates.shape == (7, 3)


def test_what_was_not_scored_stands_behind_whatever_its_score():
    """Right answers outside the candidates rank last, even behind scores below the original's -100."""
    direction = make_pool(images=2, texts=["a"] * 4, owner=np.array([0, 0, 1, 1])).directions[0]
    ranking = Ranking(np.array([[2, 3], [0, 2]]), np.array([[-500.0, 1.0], [3.0, 2.0]], np.float32), 4)
    assert ranking.ranks(direction).tolist() == [2, 1]
    assert ranking.matrix().tolist() == [[UNSEEN, UNSEEN, -500.0, 1.0], [3.0, UNSEEN, 2.0, UNSEEN]]
    assert ranking.matrix(slice(1, 2), unseen=0).tolist() == [[3.0, 0.0, 2.0, 0.0]]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), queries=st.integers(1, 6), count=st.integers(1, 7), block=st.integers(1, 12))
def test_ranks_are_those_of_the_whole_matrix(seed, queries, count, block):
    """Queries of no image, of several right answers, of equal and of infinite scores; however many at once."""
    rng = np.random.default_rng(seed)
    kept = int(rng.integers(1, count + 1))
    candidates = np.stack([np.sort(rng.permutation(count)[:kept]) for _ in range(queries)])
    scores = rng.choice(np.array([-np.inf, -1, 0, 1], np.float32), (queries, kept))
    direction = Direction(
        torch.empty(queries, 0), torch.empty(count, 0), rng.integers(-1, 3, queries), rng.integers(0, 3, count)
    )
    ranking = Ranking(candidates, scores, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reranking, "_BLOCK", block)
        found = ranking.ranks(direction)
    assert np.array_equal(found, right_ranks(ranking.matrix(unseen=-np.inf), direction.right(slice(None))))


def test_features_that_are_not_numbers(embeds):
    broken = make_pool()
    broken.image_feats[0, 0] = float("nan")
    with pytest.raises(DataError, match="are NaN"):
        search(broken.directions[1], 2)


def test_a_long_reranking_tells_how_far_it_is(model, embeds, monkeypatch, caplog):
    monkeypatch.setattr(reranking, "_REPORT_EVERY", -1.0)
    with caplog.at_level("INFO", logger="vlkit"):
        run(model, embeds, make_pool(), 100)
    assert [record.getMessage() for record in caplog.records] == [
        f"re-ranking: {done} pairs done in this process, 30 in all to do" for done in (12, 30)
    ]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shares_of_several_processes_make_the_same_scores(model, embeds, count):
    """Seven processes for five images: some have none."""

    def work(rank, lent):
        own = list(parts(range(5), count)[rank])
        batches = [([INDEX[i] for i in own], embeds[own])] if own else []
        return retrieve(model, make_pool(), batches, 2, lent)

    expected = run(model, embeds, make_pool(), 2)
    for result in evaluate_in_shares(work, count):
        np.testing.assert_allclose(result.to_texts.matrix(), expected.to_texts.matrix(), atol=1e-5)
        np.testing.assert_allclose(result.to_images.matrix(), expected.to_images.matrix(), atol=1e-5)
        assert np.array_equal(result.ranks[0], expected.ranks[0])
