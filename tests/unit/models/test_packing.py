from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.models.packing import CrossPlan, Segments, TextBatch

CPU = torch.device("cpu")
texts_strategy = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=7), min_size=1, max_size=6)
lengths_strategy = st.lists(st.integers(1, 7), min_size=1, max_size=6)


def unpacked(batch: TextBatch) -> list[list[int]]:
    return [part.tolist() for part in batch.ids.split(batch.lengths)]


@settings(deadline=None, max_examples=40)
@given(texts=texts_strategy, pad=st.integers(-3, 0))
def test_pack_and_pad_are_inverse(texts, pad):
    batch = TextBatch.from_lists(texts)
    assert len(batch) == len(texts)
    assert unpacked(batch) == texts
    ids, mask = batch.padded(pad)
    longest = max(map(len, texts))
    assert ids.tolist() == [text + [pad] * (longest - len(text)) for text in texts]
    assert mask.tolist() == [[1] * len(text) + [0] * (longest - len(text)) for text in texts]
    again = TextBatch.from_padded(ids, mask)
    assert torch.equal(again.ids, batch.ids)
    assert again.lengths == batch.lengths


@settings(deadline=None, max_examples=40)
@given(texts=texts_strategy, data=st.data())
def test_select_first_and_positions(texts, data):
    batch = TextBatch.from_lists(texts)
    index = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=9))
    assert unpacked(batch.select(index)) == [texts[i] for i in index]
    assert len(batch.select(index)) == len(index)
    assert unpacked(batch.with_first(77)) == [[77, *text[1:]] for text in texts]
    assert unpacked(batch) == texts  # nothing was changed in place
    assert batch.positions.tolist() == [i for text in texts for i in range(len(text))]
    assert batch.ids[batch.first_rows()].tolist() == [text[0] for text in texts]
    assert batch.starts.tolist() == np.cumsum([0, *map(len, texts)])[:-1].tolist()


def test_an_empty_batch():
    batch = TextBatch.from_lists([])
    assert len(batch) == 0
    assert batch.ids.dtype == torch.int64
    assert batch.positions.tolist() == batch.starts.tolist() == []


def test_padding_in_front_is_dropped():
    batch = TextBatch.from_padded(torch.tensor([[0, 5, 6], [7, 8, 9]]), torch.tensor([[0, 1, 1], [1, 1, 1]]))
    assert unpacked(batch) == [[5, 6], [7, 8, 9]]


@settings(deadline=None, max_examples=40)
@given(lengths=lengths_strategy)
def test_segments_pad_and_unpad_rows(lengths):
    segments = Segments(lengths, CPU)
    x = torch.randn(sum(lengths), 2, 3)
    padded = segments.pad(x)
    assert padded.shape == (len(lengths), max(lengths), 2, 3)
    assert torch.isfinite(padded).all()
    for text, part in zip(padded, x.split(lengths)):
        assert torch.equal(text[: len(part)], part)
    assert torch.equal(segments.unpad(padded), x)
    expected = torch.tensor([[place < length for place in range(max(lengths))] for length in lengths])
    assert torch.equal(segments.valid, expected)
    mask = segments.key_mask()
    if len(set(lengths)) == 1:
        assert mask is None
        assert padded.data_ptr() == x.data_ptr()  # no copy
        assert segments.unpad(padded).data_ptr() == x.data_ptr()
    else:
        assert torch.equal(mask[:, 0, 0], expected)


def group_rows(plan: CrossPlan, rows: torch.Tensor) -> list[torch.Tensor]:
    gathered = [rows if group.gather is None else rows[group.gather] for group in plan.groups]
    return [part.reshape(-1, group.rows) for part, group in zip(gathered, plan.groups)]


cross_strategy = st.integers(1, 6).flatmap(
    lambda images: st.tuples(
        st.just(images),
        st.lists(st.tuples(st.integers(1, 9), st.integers(0, images - 1)), min_size=1, max_size=10),
        st.booleans(),
    )
)


@settings(deadline=None, max_examples=150)
@given(case=cross_strategy)
def test_cross_plan_brings_every_row_to_its_image_once(case):
    images, texts, split = case
    counts, index = [count for count, _ in texts], [image for _, image in texts]
    plan = CrossPlan(counts, index, images, CPU, split)
    image_of_row = torch.tensor(index).repeat_interleave(torch.tensor(counts))
    rows = torch.arange(sum(counts))
    attended = []
    for group, table in zip(plan.groups, group_rows(plan, rows)):
        members = torch.arange(images) if group.images is None else group.images
        assert len(table) == len(members)
        attended.append(members[:, None].expand_as(table).reshape(-1))
    back = torch.cat(attended) if plan.inverse is None else torch.cat(attended)[plan.inverse]
    assert torch.equal(back, image_of_row)
    tables = torch.cat([table.reshape(-1) for table in group_rows(plan, rows)])
    assert torch.equal(tables if plan.inverse is None else tables[plan.inverse], rows)
    if not split:
        assert len(plan.groups) == 1


@settings(deadline=None, max_examples=60)
@given(case=cross_strategy)
def test_groups_are_not_mostly_padding(case):
    """Each image of a split plan fills most of its rows, or all images together do."""
    images, texts, _ = case
    counts, index = [count for count, _ in texts], [image for _, image in texts]
    plan = CrossPlan(counts, index, images, CPU)
    padded = sum((images if group.images is None else len(group.images)) * group.rows for group in plan.groups)
    assert padded * 0.65 <= sum(counts) + 1e-9


def test_equal_texts_in_order_need_no_tables():
    plan = CrossPlan([2, 2, 2, 2], [0, 0, 1, 1], 2, CPU)
    assert plan.inverse is None
    assert [(group.images, group.rows, group.gather) for group in plan.groups] == [(None, 4, None)]
    one_each = CrossPlan([3, 3], None, 2, CPU)
    assert one_each.inverse is None
    assert one_each.groups[0].rows == 3


def test_images_of_very_different_use_are_separate_groups():
    plan = CrossPlan([10, 9, 1, 1], None, 4, CPU)
    assert [(group.images.tolist(), group.rows) for group in plan.groups] == [([2, 3], 1), ([0, 1], 10)]
    assert len(CrossPlan([10, 9, 1, 1], None, 4, CPU, split=False).groups) == 1


@pytest.mark.parametrize("index", [[0, 0], [0, 2], [2, 1]])
def test_unused_images_in_one_group(index):
    """The last image without a text once pointed behind the rows."""
    plan = CrossPlan([2, 1], index, 3, CPU, split=False)
    rows = torch.arange(3)
    assert torch.equal(torch.cat([t.reshape(-1) for t in group_rows(plan, rows)])[plan.inverse], rows)
