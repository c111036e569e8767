"""Folders as input: what of them is read, and that everything else is named."""

from __future__ import annotations

import json
import logging

import pytest

from tests.assets.tars import picture, write_tar
from vlkit.capfilt.input_shards import described, find_all
from vlkit.capfilt.inputs import InputOptions
from vlkit.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """What a download leaves behind."""
    write_tar(tmp_path / "a.tar", [])
    write_tar(tmp_path / "c.TAR", [])
    for name in (
        "b.tar.gz",
        "notes.txt",
        "x.jpg",
        "y.jpg",
        "z.jpg",
        "w.jpg",
        "00000_stats.json",
        "p.parquet",
        ".hidden",
    ):
        (tmp_path / name).write_bytes(b"")
    for name in ("shards.json", "capfilt.json", "summary.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "more").mkdir()
    (tmp_path / ".cache").mkdir()
    return tmp_path


def test_what_is_not_read_is_counted_and_named(folder, caplog):
    with caplog.at_level(logging.WARNING):
        found = find_all(InputOptions(str(folder)))
    assert [(shard.name, shard.kind) for shard in found.shards] == [("a", "tar"), ("c", "tar")]
    named = described(found.not_read)
    assert named == (
        "1 .json (00000_stats.json), 1 .tar.gz (b.tar.gz), 1 .txt (notes.txt), 1 .parquet (p.parquet), "
        "4 .jpg (w.jpg, x.jpg, y.jpg, ...), 1 folder (more/)"
    )
    assert len(found.not_read) == 9
    assert "9 files or folders of the input are not read" in caplog.text
    assert ".hidden" not in caplog.text


def test_of_an_address_too(tmp_path):
    import fsspec

    for name in ("a.tar", "b.tar.gz", "notes.txt"):
        with fsspec.open(f"memory://folders/{name}", "wb") as file:
            file.write(b"")
    found = find_all(InputOptions("memory://folders"))
    assert [shard.path for shard in found.shards] == ["memory://folders/a.tar"]
    assert found.not_read == ["b.tar.gz", "notes.txt"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["b.tar.gz", "c.tgz"], r"holds 1 \.tar\.gz \(b\.tar\.gz\), 1 \.tgz .* Decompress"),
        (["x.jpg", "list.jsonl"], r"1 \.jpg .* Set 'path' to a list itself, such as .*list\.jsonl"),
        (["x.jpg", "y.png"], r"holds no \*\.tar .*1 \.jpg \(x\.jpg\), 1 \.png"),
        (["deeper/"], r"1 folder \(deeper/\)\. Set 'path' to a folder that holds shards"),
        ([], r"holds no \*\.tar file and no \*\.parquet file\."),
        ([".hidden.tar"], r"holds no \*\.tar"),
    ],
)
def test_a_folder_of_which_nothing_is_read_is_refused(tmp_path, names, message):
    for name in names:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_bytes(picture())
    with pytest.raises(DataError, match=message):
        find_all(InputOptions(str(tmp_path)))


def test_links_that_lead_nowhere_are_not_passed_over(tmp_path):
    write_tar(tmp_path / "a.tar", [])
    (tmp_path / "list.txt").symlink_to("gone.txt")
    assert find_all(InputOptions(str(tmp_path))).not_read == ["list.txt"]
    (tmp_path / "b.tar").symlink_to("gone.tar")
    with pytest.raises(DataError, match=r"do not exist: .*b\.tar"):
        find_all(InputOptions(str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.tar.gz", "compressed: decompress it"),
        ("list.jsonl.gz", "It is compressed"),
        ("list.csv", "Write its rows as JSON lines or Parquet"),
        ("a.jpg", "It is an image"),
    ],
)
def test_a_file_that_is_not_read_is_refused_with_what_to_do(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=message):
        find_all(InputOptions(str(tmp_path / name)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (json.dumps({"image": "a.png"}).encode("utf-16"), "its encoding is UTF-16"),
        (json.dumps({"image": "a.png"}).encode("utf-16-le"), "zero bytes"),
        (b'{"image": "a.png"}\r{"image": "b.png"}\r', "end with CR alone"),
        (b"\x1f\x8b\x08\0", "it is gzip data"),
        (b"PAR1" + bytes(50), "it is a Parquet file"),
    ],
)
def test_a_list_in_another_encoding_is_named(tmp_path, data, message):
    for name in ("list.jsonl", "list.json"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=message):
            find_all(InputOptions(str(tmp_path / name)))
