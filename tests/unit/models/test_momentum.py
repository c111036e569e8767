from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vlkit.models.momentum import (
    enqueue,
    gather_batch,
    gather_texts,
    gather_with_gradient,
    momentum_copy,
    random_queue,
    rank,
    update_momentum,
    world_size,
)
from vlkit.models.packing import TextBatch


@settings(deadline=None, max_examples=100)
@given(size=st.integers(1, 7), start=st.integers(0, 6), batches=st.lists(st.integers(0, 17), max_size=8))
def test_a_ring_of_the_newest_entries(size, start, batches):
    """Against a plain list that is written one entry after the other."""
    start %= size
    queue, numbers, pointer = torch.full((3, size), -1.0), torch.full((1, size), -1), torch.tensor([start])
    expected, place, number = [-1] * size, start, 0
    for count in batches:
        entries = torch.arange(number, number + count)
        enqueue([(queue, entries[:, None] + torch.tensor([0.0, 0.1, 0.2])), (numbers, entries)], pointer)
        for _ in range(count):
            expected[place] = number
            place, number = (place + 1) % size, number + 1
        assert numbers[0].tolist() == expected
        assert pointer.tolist() == [place]
        written = numbers[0] >= 0
        features = numbers + torch.tensor([0.0, 0.1, 0.2])[:, None]
        torch.testing.assert_close(queue[:, written], features[:, written])
        assert (queue[:, ~written] == -1).all()


def test_no_queue_at_all():
    queue, pointer = torch.zeros(3, 0), torch.zeros(1, dtype=torch.long)
    enqueue([(queue, torch.randn(4, 3))], pointer)
    assert queue.shape == (3, 0)
    assert pointer.item() == 0


def test_entries_take_the_type_of_the_queue_and_no_gradient():
    queue, pointer = torch.zeros(2, 4), torch.zeros(1, dtype=torch.long)
    enqueue([(queue, torch.ones(1, 2, dtype=torch.bfloat16, requires_grad=True))], pointer)
    assert queue.dtype == torch.float32
    assert not queue.requires_grad
    assert queue.sum() == 2


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.995, 1.0])
def test_moving_average(momentum):
    torch.manual_seed(0)
    online = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    slow = momentum_copy(online)
    assert all(not p.requires_grad for p in slow.parameters())
    assert all(p.requires_grad for p in online.parameters())
    expected = [p.detach().clone() for p in slow.parameters()]
    for _ in range(3):
        with torch.no_grad():
            for parameter in online.parameters():
                parameter.add_(torch.randn_like(parameter))
        before = [p.detach().clone() for p in online.parameters()]
        update_momentum([(online, slow)], momentum)
        expected = [momentum * m + (1 - momentum) * p for m, p in zip(expected, before)]
        for mine, theirs in zip(slow.parameters(), expected):
            torch.testing.assert_close(mine.detach(), theirs)
        assert all(torch.equal(p, q) for p, q in zip(online.parameters(), before))


def test_several_pairs_at_once():
    pairs = [(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2)]
    update_momentum(pairs, 0.0)
    for online, slow in pairs:
        assert torch.equal(online.weight, slow.weight)


def test_a_copy_shares_nothing():
    online = nn.Linear(2, 2)
    copy = momentum_copy(online)
    assert torch.equal(copy.weight, online.weight)
    assert copy.weight.data_ptr() != online.weight.data_ptr()


def test_queues_start_with_random_unit_columns():
    torch.manual_seed(0)
    queue = random_queue(5, 50)
    torch.testing.assert_close(queue.norm(dim=0), torch.ones(50))
    assert queue.mean(1).abs().max() < 0.3
    assert not torch.equal(queue[:, 0], queue[:, 1])


def test_one_process():
    x = torch.randn(3, 2)
    assert world_size() == 1
    assert rank() == 0
    assert torch.equal(gather_batch(x), x)


def test_one_process_gathers_nothing():
    """Several processes: tests/parity/test_retrieval_all_rank.py and tests/integration/test_two_processes.py."""
    x, texts = torch.randn(3, 2, requires_grad=True), TextBatch.from_lists([[1, 2, 3], [4]])
    assert gather_with_gradient(x) is x
    assert gather_texts(texts) is texts
