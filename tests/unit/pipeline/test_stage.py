"""What a stage left behind is read, or named as damaged."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from vlkit.errors import ConfigError, VlkitError
from vlkit.pipeline.stage import RECORD, read_record, set_aside, write_record
from vlkit.runner.writer import FILE


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
    with pytest.raises(VlkitError, match=r"stage\.json: cannot be read \(Is a directory\)"):
        read_record(tmp_path)


def test_a_stage_that_is_being_written_is_not_moved_away(tmp_path):
    stages = [SimpleNamespace(key=key, folder=tmp_path / key) for key in ("first", "second")]
    for stage in stages:
        stage.folder.mkdir()
    facts = {"owner": f"other-ffffffff-17-99-{'0' * 8}", "host": "far", "pid": 17, "started": "now", "command": "x"}
    (stages[1].folder / FILE).write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match="second is being written by process 17 on far"):
        set_aside(stages, tmp_path)
    assert all(stage.folder.exists() for stage in stages)
    (stages[1].folder / FILE).unlink()
    set_aside(stages, tmp_path)
    assert sorted(path.name for path in (tmp_path / "replaced").iterdir()) == ["first-1", "second-1"]
