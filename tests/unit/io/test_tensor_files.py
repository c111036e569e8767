"""Values that are not finite, and the permissions of what is written."""

from __future__ import annotations

import os
import stat

import pytest
import torch

from vlkit.io.tensor_files import describe_non_finite, load_tensors, non_finite, save_tensors

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2])
@pytest.mark.parametrize("value", [NAN, INFINITE, -INFINITE])
def test_values_that_are_not_finite_are_counted(dtype, value):
    wrong = torch.ones(3, 4)
    wrong[1, 2] = value
    tensors = {"a": torch.ones(2).to(dtype), "b": wrong.to(dtype), "empty": torch.ones(0), "ids": torch.arange(3)}
    tensors["again"] = tensors["b"]
    found = non_finite(tensors)
    assert found == {"b": "1 of 12 values", "again": "1 of 12 values"}
    assert describe_non_finite(found) == "b (1 of 12 values), again (1 of 12 values)"


def test_the_largest_values_are_finite():
    assert non_finite({"a": torch.full((3,), torch.finfo(torch.float16).max, dtype=torch.float16)}) == {}
    assert non_finite({"a": torch.full((9,), torch.finfo(torch.float32).max)}) == {}


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_obey_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        save_tensors(tmp_path / "t", {"a": torch.ones(2)})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == 0o666 & ~umask
    assert [file.name for file in tmp_path.iterdir()] == ["t"]
    assert load_tensors(tmp_path / "t")["a"].tolist() == [1, 1]
