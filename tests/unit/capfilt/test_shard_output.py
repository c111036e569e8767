"""The files of a shard: what is in them, and that equal calls give equal bytes."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.unit.capfilt.small import result
from vlkit.capfilt.decision import Decision
from vlkit.capfilt.inputs import Item, Refused
from vlkit.capfilt.shard_output import ShardOutput, tar_member
from vlkit.capfilt.storage import Storage
from vlkit.capfilt.tables import read_table
from vlkit.models.blip.capfilt import ScoredText

GOOD = Item("a/é", b"image of a", "jpg", ("web a",), {"url": "http://a", "caption": "old", "n": 1.5, "x": [None]})
BAD = Item("b", b"image of b", "png", ())


def written(folder: Path, store_dropped: bool = True) -> Storage:
    place = Storage(folder)
    output = ShardOutput("s", place, Decision(threshold=0.7), store_dropped)
    texts = [
        ScoredText("web a", "web", 0.7000000001, 0.25, None),
        ScoredText("made", "synthetic", 0.9, 0.12345678, -3.25),
        ScoredText("made", "synthetic", 0.9, 0.12345678, -4.0),
        ScoredText("false", "synthetic", 0.1, None, -5.0),
    ]
    output.add(GOOD, texts)
    output.refuse(Refused("b", "text", "no text", "is empty"))
    output.add(BAD, [ScoredText("no", "synthetic", 0.2, 0.0, -1.0)])
    output.refuse(Refused("c", "image", "empty image"))
    counts = output.finish(images=3, texts=2)
    assert (counts.kept, counts.dropped, counts.synthetic_kept) == (1, 1, 2)
    place.close()
    return place


def members(place: Storage, name: str) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(place.read_bytes(name))) as tar:
        infos = tar.getmembers()
        assert all((i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) == (0, 0, 0, "", "", 0o644) for i in infos)
        return {info.name: tar.extractfile(info).read() for info in infos}  # type: ignore[union-attr]


def test_an_image_lies_beside_its_texts_and_the_fields_of_the_input(tmp_path):
    place = written(tmp_path)
    kept = members(place, "kept/s.tar")
    assert list(kept) == ["a/é.jpg", "a/é.json"]
    assert kept["a/é.jpg"] == b"image of a"
    assert json.loads(kept["a/é.json"]) == {
        "url": "http://a",
        "input_caption": "old",
        "caption": ["web a", "made"],
        "n": 1.5,
        "x": [None],
        "texts": [
            {"text": "web a", "source": "web", "itm": 0.7, "itc": 0.25, "log_prob": None, "kept": True},
            {"text": "made", "source": "synthetic", "itm": 0.9, "itc": 0.123457, "log_prob": -3.25, "kept": True},
            {"text": "made", "source": "synthetic", "itm": 0.9, "itc": 0.123457, "log_prob": -4.0, "kept": True},
            {"text": "false", "source": "synthetic", "itm": 0.1, "itc": None, "log_prob": -5.0, "kept": False},
        ],
    }
    dropped = members(place, "dropped/s.tar")
    assert list(dropped) == ["b.png", "b.json"]
    assert json.loads(dropped["b.json"])["caption"] == []


def test_the_table_has_a_row_for_each_text(tmp_path):
    table = read_table(io.BytesIO(written(tmp_path).read_bytes("tables/s.parquet")))
    assert table["key"] == ["a/é"] * 4 + ["b"]
    assert table["index"] == [0, 0, 0, 0, 1]
    assert table["number"] == [0, 0, 1, 2, 0]
    assert table["kept"] == [True, True, True, False, False]
    assert table["image"][0] == hashlib.sha256(b"image of a").hexdigest()[:16]


def test_the_manifest_has_checksums_and_counts_and_the_ledger_the_rest(tmp_path):
    place = written(tmp_path)
    manifest = json.loads(place.read_bytes("done/s.json"))
    assert list(manifest["files"]) == ["dropped/s.tar", "kept/s.tar", "ledger/s.jsonl", "tables/s.parquet"]
    for name, facts in manifest["files"].items():
        data = place.read_bytes(name)
        assert facts == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert manifest["counts"]["images"] == {"read": 3, "kept": 1, "dropped": 1, "refused": {"empty image": 1}}
    assert [json.loads(line) for line in place.read_bytes("ledger/s.jsonl").splitlines()] == [
        {"key": "b", "kind": "text", "reason": "no text", "detail": "is empty"},
        {"key": "c", "kind": "image", "reason": "empty image", "detail": ""},
    ]


def test_equal_calls_give_equal_bytes_and_nothing_else(tmp_path):
    written(tmp_path / "one")
    written(tmp_path / "two")
    assert result(tmp_path / "one") == result(tmp_path / "two")
    assert {file.name for file in (tmp_path / "one").iterdir()} == {"kept", "dropped", "ledger", "tables", "done"}


def test_dropped_images_are_not_stored_if_that_is_not_wanted(tmp_path):
    place = written(tmp_path, store_dropped=False)
    assert not place.exists("dropped/s.tar")
    assert len(read_table(io.BytesIO(place.read_bytes("tables/s.parquet")))["key"]) == 5


def test_nothing_appears_if_the_counts_do_not_add_up(tmp_path):
    place = Storage(tmp_path)
    output = ShardOutput("s", place, Decision())
    output.add(BAD, [])
    with pytest.raises(RuntimeError, match="do not add up"):
        output.finish(images=2, texts=0)
    output.discard()
    place.close()
    assert list(tmp_path.iterdir()) == []


def test_long_names_are_stored_as_they_are():
    name = "folder/" * 30 + "é" * 90 + ".png"
    with tarfile.open(fileobj=io.BytesIO(b"".join(tar_member(name, b"1234")) + bytes(1024))) as tar:
        assert tar.getnames() == [name]
