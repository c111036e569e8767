"""What a stage left behind is read, or named as damaged."""

from __future__ import annotations

import pytest

from vlkit.errors import VlkitError
from vlkit.pipeline.record import RECORD, read_record, write_record


def test_a_record_comes_back(tmp_path):
    assert read_record(tmp_path) is None
    write_record(tmp_path, {"status": "finished", "metrics": {"a": float("nan")}})
    assert read_record(tmp_path) == {"status": "finished", "metrics": {"a": None}}


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"status": 3}', b"\xff", b"[" * 100_000, b"", b"\0" * 9])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / RECORD).write_bytes(content)
    with pytest.raises(VlkitError, match=r"stage\.json.*Delete the folder to run the stage again"):
        read_record(tmp_path)


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / RECORD).mkdir()
    with pytest.raises(VlkitError, match=r"stage\.json: cannot be read there \(Is a directory\)"):
        read_record(tmp_path)
