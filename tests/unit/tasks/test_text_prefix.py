"""Beginnings of texts on disk against the same in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.errors import VlkitError
from vlkit.models.med import TextPrefix
from vlkit.models.packing import TextBatch
from vlkit.tasks.text_prefix import StoredTexts


def both(lengths, folder, dtype=torch.float32) -> tuple[StoredTexts, TextPrefix]:
    texts = TextBatch.from_lists([[7 + i] * length for i, length in enumerate(lengths)])
    hidden = torch.randn(len(texts.ids), 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    middle = sum(lengths[: len(lengths) // 2])
    return StoredTexts(texts, iter([hidden[:middle], hidden[middle:]]), folder), TextPrefix(texts, hidden)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12), data=st.data())
def test_selects_what_is_selected_in_memory(tmp_path_factory, dtype, lengths, data):
    stored, begun = both(lengths, tmp_path_factory.getbasetemp(), dtype)
    index = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=15)))
    found, expected = stored.select(index), begun.select(index)
    assert torch.equal(found.hidden, expected.hidden)
    assert found.hidden.dtype == dtype
    assert torch.equal(found.texts.ids, expected.texts.ids)
    assert found.texts.lengths == expected.texts.lengths


def test_the_file_is_nowhere_to_be_found(tmp_path):
    stored, _ = both([2, 3], tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    file = stored._file
    del stored
    assert file.closed


def test_a_file_that_lost_its_end_is_named(tmp_path):
    stored, _ = both([2, 3], tmp_path)
    stored._file.truncate(4 * 3 * 4)
    assert len(stored.select([0]).hidden) == 2
    with pytest.raises(VlkitError, match="no longer complete"):
        stored.select([1])


def test_a_disk_that_cannot_be_written_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VlkitError, match=r"texts cannot be kept on disk in .* set image_tokens to 'recompute'"):
        both([2], tmp_path / "file")
