"""Caption scores: hand-computed values, bounds, invariances, mistakes of the caller."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.errors import DataError
from vlkit.metrics.caption import bleu, caption_scores, cider_d, rouge_l

WORDS = ["red", "blue", "dog", "cat", "sits", "runs", "on", "a", "the"]
CAPTION = st.lists(st.sampled_from(WORDS), min_size=4, max_size=9).map(" ".join)
CORPUS = st.lists(st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=3)), min_size=2, max_size=6)


def test_bleu_by_hand():
    # words: a dog runs here (3 of 4 right), pairs: a dog, dog runs (2 of 3), triples 1 of 2, fours 0 of 1
    corpus, images = bleu(["a dog runs here"], [["a dog runs far away"]])
    brevity = math.exp(1 - 5 / 4)
    expected = [brevity * 3 / 4, brevity * math.sqrt(3 / 4 * 2 / 3), brevity * (3 / 4 * 2 / 3 / 2) ** (1 / 3)]
    np.testing.assert_allclose(corpus[:3], expected, atol=1e-8)
    np.testing.assert_allclose(images[0], corpus)
    assert corpus[3] < 1e-3


def test_bleu_clips_counts_and_takes_the_closest_reference():
    corpus, _ = bleu(["the the the"], [["the cat", "a dog and the cat"]])
    assert corpus[0] == pytest.approx(1 / 3, abs=1e-8)  # no brevity: the reference of two words is closest


def test_rouge_by_hand():
    # longest common subsequence "a runs here": 3 of 4 words, 3 of 5 words
    score, images = rouge_l(["a dog runs here"], [["a cat runs away here"]])
    expected = (1 + 1.2**2) * 0.75 * 0.6 / (0.6 + 1.2**2 * 0.75)
    assert score == pytest.approx(expected)
    assert images.tolist() == [score]


def test_cider_by_hand():
    # Two images, no word in both: each n-gram weighs log 2. Image 0 is right, image 1 wrong.
    score, images = cider_d(["red dog", "red dog"], [["red dog"], ["blue cat"]])
    np.testing.assert_allclose(images, [10 * 2 / 4, 0])  # pairs and words agree, there are no longer n-grams
    assert score == pytest.approx(2.5)


def test_cider_of_one_image_is_zero():
    assert cider_d(["a dog"], [["a dog"]])[0] == 0


def test_empty_captions_score_zero_and_are_finite():
    scores = caption_scores(["", "a dog"], [["a cat"], ["a dog", ""]])
    assert all(math.isfinite(value) for value in scores.values())
    assert bleu([""], [["a cat"]])[0][0] < 1e-6


@given(CORPUS)
@settings(deadline=None, max_examples=40)
def test_identical_candidates_are_perfect(corpus):
    texts = [text for text, _ in corpus]
    scores = caption_scores(texts, [[text] for text in texts])
    for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l"):
        assert scores[name] == pytest.approx(1, abs=1e-6)
    _, images = cider_d(texts, [[text] for text in texts])
    everywhere = set.intersection(*(set(text.split()) for text in texts))
    assert (images <= 10 + 1e-9).all()
    if not everywhere:  # a word of all images weighs nothing
        np.testing.assert_allclose(images, 10)


@given(CORPUS, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_bounds_and_order(corpus, rng: random.Random):
    texts, groups = [text for text, _ in corpus], [group for _, group in corpus]
    scores = caption_scores(texts, groups)
    assert all(-1e-12 <= value <= (10 if name == "cider" else 1) + 1e-6 for name, value in scores.items())
    order = rng.sample(range(len(texts)), len(texts))
    shuffled = caption_scores({i: texts[i] for i in order}, {i: rng.sample(g, len(g)) for i, g in enumerate(groups)})
    assert shuffled == pytest.approx(scores, abs=1e-12)


def test_mapping_and_list_agree():
    texts, groups = ["a red dog.", "the cat's hat"], [["A red dog runs"], ["a cat has a hat", "hats"]]
    by_id = caption_scores(dict(zip("xy", texts)), dict(zip("yx", groups[::-1])))
    assert by_id == caption_scores(texts, groups)


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ({"a": "x"}, {"b": ["x"]}, r"different images: 1 without candidate \['b'\], 1 without references \['a'\]"),
        (["x"], [["x"], ["y"]], "different images"),
        ([], [], "no captions"),
        ({}, {}, "no captions"),
        ({"a": "x"}, [["x"]], "both be mappings or both be lists"),
        ("x", [["x"]], "must be a mapping from image id or a list"),
        ([["x"]], [["x"]], "candidate of 0 must be a text, got list"),
        (["x"], ["x"], "references of 0 must be a list of at least one text"),
        (["x"], [[]], "references of 0 must be a list of at least one text"),
        (["x"], [[1]], "references of 0 must be texts"),
        ([None], [["x"]], "candidate of 0 must be a text, got NoneType"),
        ([float("nan")], [["x"]], "candidate of 0 must be a text, got float"),
        (["x"], [["x", None]], r"references of 0 must be texts, got None \(NoneType\)"),
        (None, [["x"]], "must be a mapping from image id or a list"),
    ],
)
@pytest.mark.parametrize("metric", [caption_scores, bleu, rouge_l, cider_d])
def test_mistakes(metric, candidates, references, message: str):
    with pytest.raises(DataError, match=message):
        metric(candidates, references)


def test_an_empty_caption_is_valid_and_scores_nothing():
    scores = caption_scores(["", "a red dog"], [["a cat"], ["a red dog"]])
    alone = caption_scores([""], [["a cat"]])
    assert alone == pytest.approx(dict.fromkeys(scores, 0.0), abs=1e-6)
    assert cider_d(["", "a red dog"], [["a cat"], ["a red dog"]])[1][0] == 0
