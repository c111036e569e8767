from __future__ import annotations

import pytest
import torch

from vlkit.errors import VlkitError
from vlkit.io.tensor_files import TensorSpool

CPU = torch.device("cpu")
BATCHES = [([0, 1], torch.randn(2, 3, 4)), ([2, 5], torch.randn(2, 3, 4)), ([6], torch.randn(1, 3, 4))]
ONE = BATCHES[0][1].nbytes


def filled(limit, batches=BATCHES, **settings) -> TensorSpool:
    spool = TensorSpool(CPU, limit, **settings)
    for index, rows in batches:
        spool.add(index, rows)
    return spool


@pytest.mark.parametrize("limit", [0, ONE, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_yields_what_was_added_each_time(limit, dtype, tmp_path):
    batches = [(index, rows.to(dtype)) for index, rows in BATCHES]
    with filled(limit, batches, folder=tmp_path / "new") as spool:
        for _ in range(2):
            found = list(spool)
            assert [list(index) for index, _ in found] == [index for index, _ in batches]
            assert all(torch.equal(mine, theirs) for (_, mine), (_, theirs) in zip(found, batches))
            assert found[0][1].dtype == dtype


@pytest.mark.parametrize(("limit", "batches_held"), [(10**6, 2.5), (2 * ONE, 2.0), (0, 0)])
def test_memory_is_bounded(limit, batches_held, tmp_path):
    with filled(limit, folder=tmp_path) as spool:
        assert spool.in_memory == batches_held * ONE
        assert sum(stored.nbytes for _, stored in spool._batches if torch.is_tensor(stored)) == spool.in_memory


def test_the_file_is_gone_afterwards(tmp_path):
    with filled(0, folder=tmp_path) as spool:
        assert spool._file is not None
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_file_is_named(tmp_path):
    with filled(0, folder=tmp_path, what="image tokens") as spool:
        next(iter(spool))  # written to the end
        spool._file.truncate(ONE + 1)
        with pytest.raises(VlkitError, match=r"image tokens .* no longer complete"):
            list(spool)


def test_a_disk_that_cannot_be_written_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VlkitError, match=r"cannot be kept on disk in .*Free disk space there, or raise the limit\."):
        filled(0, folder=tmp_path / "file", hint=", or raise the limit")
