from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.models.losses import (
    differentiate_now,
    hard_negatives,
    itm_loss,
    lm_count,
    lm_loss,
    lm_targets,
    soft_contrast,
    sum_by_text,
)
from vlkit.models.packing import TextBatch

lengths_strategy = st.lists(st.integers(1, 7), min_size=1, max_size=6)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 5), more=st.integers(0, 7), alpha=st.floats(0, 1))
def test_soft_contrast_is_the_textbooks(seed, rows, more, alpha):
    torch.manual_seed(seed)
    logits, teacher = torch.randn(2, rows, rows + more) * 4
    targets = torch.randint(rows + more, (rows,))
    mixed = alpha * teacher.softmax(1) + (1 - alpha) * F.one_hot(targets, rows + more)
    expected = -(mixed * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(soft_contrast(logits, teacher, alpha, targets), expected, atol=1e-5, rtol=1e-5)
    one_hot = F.one_hot(targets, rows + more).float()
    torch.testing.assert_close(soft_contrast(logits, teacher, alpha, one_hot), expected, atol=1e-5, rtol=1e-5)


def test_soft_contrast_without_a_teacher_and_with_several_matches():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    assert soft_contrast(logits, None, 0.0, torch.tensor([0])).item() == pytest.approx(math.log(2))
    several = torch.tensor([[0.5, 0.5, 0.0]])
    assert soft_contrast(logits, None, 0.0, several).item() == pytest.approx(1.5 * math.log(2))
    assert soft_contrast(logits.bfloat16(), None, 0.0, several).dtype == torch.float32


def test_the_teacher_gets_no_say_in_gradients_of_hard_targets():
    logits = torch.randn(2, 3, requires_grad=True)
    soft_contrast(logits, torch.randn(2, 3), 0.0, torch.tensor([0, 1])).backward()
    expected = (logits.detach().softmax(1) - torch.eye(2, 3)) / 2
    torch.testing.assert_close(logits.grad, expected)


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 10**6),
    images=st.lists(st.integers(0, 3), min_size=1, max_size=7),
    scale=st.sampled_from([1.0, 30.0, 1000.0]),
    floor=st.sampled_from([0.0, 1e-4]),
    likeliest=st.booleans(),
)
def test_a_negative_is_never_a_match_where_there_is_another(seed, images, scale, floor, likeliest):
    torch.manual_seed(seed)
    size, images = len(images), torch.tensor(images)
    same = images[:, None] == images
    similarity = torch.randn(size, size) * scale + same * 2 * scale
    draw = {"draw": lambda weights: weights.argmax(1)} if likeliest else {}
    index = hard_negatives(similarity, same, floor, **draw)
    assert isinstance(index, np.ndarray)
    for row, column in enumerate(index):
        if same[row].all():
            assert column == (row + 1) % size
        else:
            assert not same[row, column]
            if likeliest:
                others = similarity[row].masked_fill(same[row], -torch.inf)
                # Where matches leave nothing in float32, the floor makes all others equal.
                assert floor or column == others.argmax()


def test_matches_that_hold_all_probability_leave_the_most_similar_other():
    """exp(-200) is 0 in float32; the neighbor, row 1, is a match of row 0."""
    similarity = torch.tensor([[200.0, 200.0, 0.0, -9.0], [200.0, 200.0, 0.0, 9.0], [0.0] * 4, [0.0] * 4])
    same = torch.zeros(4, 4, dtype=torch.bool)
    same[:2, :2] = True
    same.fill_diagonal_(True)
    draws = np.stack([hard_negatives(similarity, same) for _ in range(20)])
    assert (draws[:, 0] == 2).all()
    assert set(draws[:, 1]) <= {2, 3}
    assert (draws[:, 1] == 3).mean() > 0.9


def test_candidates_of_several_processes():
    """More columns than rows: the second of two processes with two pairs each."""
    similarity = torch.tensor([[3.0, 1.0, 9.0, 2.0], [0.0, 5.0, 4.0, 9.0]])
    same = torch.tensor([[False, True, True, False], [False, True, False, True]])
    assert hard_negatives(similarity, same, draw=lambda weights: weights.argmax(1)).tolist() == [0, 2]
    all_same = torch.ones(2, 4, dtype=torch.bool)
    assert hard_negatives(similarity, all_same, draw=lambda weights: weights.argmax(1)).tolist() == [1, 2]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_diverged_similarity_does_not_fail_in_the_draw(bad):
    """The loss shall become non-finite, which the runner reports."""
    index = hard_negatives(torch.full((3, 3), bad), torch.eye(3, dtype=torch.bool), 1e-4)
    assert (index != np.arange(3)).all()


def test_no_negative_is_out_of_reach_with_a_floor():
    torch.manual_seed(0)
    similarity = torch.tensor([[5.0, 0.0, -100.0]] * 3)
    same = torch.eye(3, dtype=torch.bool)
    third = [hard_negatives(similarity, same, 1e-2)[0] for _ in range(300)]
    # p(1) = e^-5 + .01, p(2) = .01
    expected = 0.01 / (0.01 + math.exp(-5) / (1 + math.exp(-5)) + 0.01)
    assert np.mean(np.array(third) == 2) == pytest.approx(expected, abs=0.1)


def test_itm_loss_by_hand():
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0], [0.0, 0.0]])
    one, two = math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1))
    assert itm_loss(logits, 1).item() == pytest.approx((one + two + math.log(2)) / 3)
    assert itm_loss(logits, 3).item() == pytest.approx((one + two + 1 + math.log(2)) / 3)
    assert itm_loss(logits.bfloat16(), 1).dtype == torch.float32


@settings(deadline=None, max_examples=60)
@given(lengths=lengths_strategy, prompt=st.integers(0, 8))
def test_targets_are_the_next_tokens_behind_the_prompt(lengths, prompt):
    texts = TextBatch.from_lists([[100 * i + j for j in range(length)] for i, length in enumerate(lengths)])
    rows, targets = lm_targets(texts, prompt)
    expected = [100 * i + j for i, length in enumerate(lengths) for j in range(max(prompt, 1), length)]
    assert targets.tolist() == expected
    assert texts.ids[rows].tolist() == [token - 1 for token in expected]
    assert lm_count(texts, prompt) == len(expected)


@settings(deadline=None, max_examples=30)
@given(lengths=lengths_strategy, prompt=st.integers(1, 4))
def test_sums_by_text(lengths, prompt):
    texts = TextBatch.from_lists([list(range(length)) for length in lengths])
    rows, targets = lm_targets(texts, prompt)
    values = targets.double() + 0.5
    expected = [sum(j + 0.5 for j in range(prompt, length)) for length in lengths]
    assert sum_by_text(values, texts, rows).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_label_smoothing_by_hand(smoothing):
    """The target gets 1 - s + s / V, every other token s / V."""
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]]))
    logs = [[math.log(p) for p in row] for row in ((0.7, 0.2, 0.1), (0.25, 0.5, 0.25))]
    expected = [-(1 - smoothing) * row[target] - smoothing * sum(row) / 3 for row, target in zip(logs, (0, 2))]
    targets = torch.tensor([0, 2])
    assert lm_loss(logits, targets, smoothing, "none").tolist() == pytest.approx(expected, rel=1e-5)
    assert lm_loss(logits, targets, smoothing).item() == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert lm_loss(logits.bfloat16(), targets, smoothing).dtype == torch.float32


def test_smoothing_is_a_tenth_by_default():
    logits = torch.randn(4, 9)
    targets = torch.tensor([0, 3, 8, 1])
    assert torch.equal(lm_loss(logits, targets), lm_loss(logits, targets, 0.1))


@settings(deadline=None, max_examples=50)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 7),
    needs=st.tuples(st.booleans(), st.booleans()),
    factor=st.floats(-3, 3),
    seed=st.integers(0, 2**16),
)
def test_a_loss_differentiated_at_once_has_the_gradients_of_one_differentiated_later(
    rows, columns, needs, factor, seed
):
    generator = torch.Generator().manual_seed(seed)
    queue = torch.randn(4, columns, generator=generator)
    first, second = torch.randn(rows, 4, generator=generator), torch.rand((), generator=generator) + 0.1

    def compute(x, temperature):
        logits = x @ queue / temperature
        return logits.logsumexp(-1).mean(), logits

    found = []
    for now in (False, True):
        leaves = [t.clone().requires_grad_(need) for t, need in zip((first, second), needs)]
        inputs = [leaf * 2 for leaf in leaves]
        kept = queue.clone()
        loss, logits = differentiate_now(compute, *inputs) if now else compute(*inputs)
        if now:
            assert not logits.requires_grad
            queue.zero_()  # as a ring queue that is written before the backward pass
        if any(needs):
            (loss * factor).backward()
        queue.copy_(kept)
        found.append([loss.detach(), *[leaf.grad for leaf in leaves]])
    for expected, mine in zip(*found):
        assert (mine is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(mine, expected)


def test_nothing_is_differentiated_without_a_gradient():
    x = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        (loss,) = differentiate_now(lambda x: (x.sum(),), x)
    assert loss == 2
    assert not loss.requires_grad


def test_negatives_of_several_similarities_are_those_of_each():
    torch.manual_seed(0)
    first, second = torch.randn(2, 5, 5)
    same, draw = torch.eye(5, dtype=torch.bool), {"draw": lambda weights: weights.argmax(1)}
    both = hard_negatives([first, second], same, 1e-4, **draw)
    assert both.tolist() == [hard_negatives(each, same, 1e-4, **draw).tolist() for each in (first, second)]
