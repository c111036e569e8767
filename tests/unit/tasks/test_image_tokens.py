from __future__ import annotations

import shutil
from collections import namedtuple

import pytest
import torch

from vlkit.errors import ConfigError, VlkitError
from vlkit.tasks.image_tokens import ImageTokens

CPU = torch.device("cpu")
BATCHES = [([0, 1], torch.randn(2, 3, 4)), ([2, 5], torch.randn(2, 3, 4)), ([6], torch.randn(1, 3, 4))]
ONE = BATCHES[0][1].nbytes


def again():
    return iter(BATCHES)


def filled(keep, batches=BATCHES, **settings) -> ImageTokens:
    tokens = ImageTokens(keep, again, CPU, **settings)
    for index, embeds in batches:
        tokens.add(index, embeds)
    return tokens


@pytest.mark.parametrize("keep", ["auto", "memory", "disk", "recompute"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gives_what_was_added_as_often_as_asked(keep, dtype, tmp_path, monkeypatch):
    batches = [(index, embeds.to(dtype)) for index, embeds in BATCHES]
    monkeypatch.setattr("tests.unit.tasks.test_image_tokens.BATCHES", batches)
    # The limit of "auto" is met in the middle: some in memory, some on disk.
    with filled(keep, batches, limit=ONE, folder=tmp_path / "new") as tokens:
        for _ in range(2):
            found = list(tokens)
            assert [list(index) for index, _ in found] == [index for index, _ in batches]
            assert all(torch.equal(mine, theirs) for (_, mine), (_, theirs) in zip(found, batches))
            assert found[0][1].dtype == dtype


@pytest.mark.parametrize(
    ("keep", "limit", "bytes_held"),
    [("auto", 10**6, 2.5), ("auto", 2 * ONE, 2.0), ("auto", 0, 0), ("memory", 0, 2.5), ("disk", 10**6, 0)],
)
def test_memory_is_bounded(keep, limit, bytes_held, tmp_path):
    with filled(keep, limit=limit, folder=tmp_path) as tokens:
        assert tokens.in_memory == bytes_held * ONE
        assert sum(kept.nbytes for _, kept in tokens._kept if torch.is_tensor(kept)) == tokens.in_memory


def test_the_file_is_gone_afterwards(tmp_path):
    with filled("disk", folder=tmp_path) as tokens:
        assert tokens._file is not None
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_lost_its_end_is_named(tmp_path):
    with filled("disk", folder=tmp_path) as tokens:
        next(iter(tokens))  # written to the end
        tokens._file.truncate(ONE + 1)
        with pytest.raises(VlkitError, match="no longer complete"):
            list(tokens)


def test_auto_recomputes_where_the_disk_has_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(2**31))
    with filled("auto", limit=ONE, folder=tmp_path) as tokens:
        assert tokens.keep == "recompute"
        assert tokens.in_memory == 0
        assert [index for index, _ in tokens] == [index for index, _ in BATCHES]


def test_a_disk_that_cannot_be_written_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VlkitError, match="set image_tokens to 'recompute'"):
        filled("disk", folder=tmp_path / "file")


def test_an_unknown_way_is_explained():
    with pytest.raises(ConfigError, match="'dsk' given"):
        filled("dsk")
