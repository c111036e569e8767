"""Lists of images with texts: rows in any format, cut into shards, and what is wrong with single ones."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assets.tars import picture
from vlkit.capfilt.input_shards import find_inputs, read_shard
from vlkit.capfilt.inputs import REASONS, InputOptions, InputShard, Item, Refused
from vlkit.errors import DataError

FORMATS = ("jsonl", "json", "parquet")


def write_list(path: Path, rows: list, indent: int | None = None) -> Path:
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_all(path: Path, **options) -> list[Item | Refused]:
    chosen = InputOptions(str(path), **options)
    return [found for shard in find_inputs(chosen) for found in read_shard(shard, chosen)]


def reported(found) -> list[tuple[str, str, str]]:
    return [(each.key, each.kind, each.reason) for each in found if isinstance(each, Refused)]


def items(found) -> list[Item]:
    return [each for each in found if isinstance(each, Item)]


@pytest.fixture
def folder(tmp_path) -> Path:
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    return tmp_path


ROWS = [{"image": f"{i}.png", "caption": f"text ü{i}", "n": i} for i in range(8)]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows_per_shard", [1, 3, 4, 8, 100])
def test_shards_of_a_list_hold_all_rows_in_order(folder, format, rows_per_shard):
    options = InputOptions(str(write_list(folder / f"list.{format}", ROWS)), rows_per_shard=rows_per_shard)
    shards = find_inputs(options)
    assert [shard.name for shard in shards] == [f"list-{k:05d}" for k in range(-(-8 // rows_per_shard))]
    found = [list(read_shard(shard, options)) for shard in reversed(shards)][::-1]
    assert all(len(part) <= rows_per_shard for part in found)
    rows = [item for part in found for item in part]
    assert [(item.key, item.texts, item.extension) for item in rows] == [
        (f"{i:09d}", (f"text ü{i}",), "png") for i in range(8)
    ]
    assert rows[5].image == picture(5)
    assert rows[5].fields == {"image": "5.png", "n": 5}


def test_a_list_with_line_breaks_between_its_words(folder):
    path = write_list(folder / "list.json", ROWS, indent=4)
    assert [item.texts for item in items(read_all(path, rows_per_shard=3))] == [(row["caption"],) for row in ROWS]


def test_names_start_from_the_root(folder):
    (folder / "lists").mkdir()
    path = write_list(folder / "lists" / "list.jsonl", ROWS[:2])
    assert reported(read_all(path))[::2] == [(f"{i:09d}", "image", "missing image file") for i in range(2)]
    assert len(items(read_all(path, image_root=str(folder)))) == 2
    with pytest.raises(DataError, match=r"image_root: .*nowhere is not a folder"):
        read_all(path, image_root=str(folder / "nowhere"))
    absolute = write_list(folder / "lists" / "list.jsonl", [{"image": str(folder / "1.png"), "caption": "a"}])
    assert items(read_all(absolute))[0].image == picture(1)


@pytest.mark.parametrize("format", ["jsonl", "json"])
def test_a_bad_row_loses_itself_only(folder, format):
    (folder / "empty.png").write_bytes(b"")
    (folder / "large.png").write_bytes(bytes(2000))
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "x.dat").write_bytes(b"no image")
    (folder / "y").write_bytes(picture(3, "WEBP"))
    bad = [
        ({"caption": "a"}, ["incomplete row", "no image"]),
        ({"url": "http://a/b.jpg", "caption": "a"}, ["incomplete row", "no image"]),
        ({"image": 5}, ["incomplete row"]),
        ({"image": " ", "caption": ""}, ["incomplete row"]),
        ([1], ["incomplete row"]),
        ("text", ["incomplete row"]),
        ({"image": "none.png", "caption": "a"}, ["missing image file", "no image"]),
        ({"image": "none.png"}, ["missing image file"]),
        ({"image": "folder.png"}, ["missing image file"]),
        ({"image": "pipe.png"}, ["missing image file"]),
        ({"image": "a\0b.png"}, ["missing image file"]),
        ({"image": "n" * 5000}, ["missing image file"]),
        ({"image": "https://a.example/b.png"}, ["missing image file"]),
        ({"image": "\ud800.png"}, ["missing image file"]),
        ({"image": "nonsense://a/b.png"}, ["missing image file"]),
        ({"image": "empty.png", "caption": ["a"]}, ["empty image", "no image"]),
        ({"image": "large.png"}, ["oversized image"]),
        ({"image": "x.dat"}, ["undecodable image"]),
        ({"image": "0.png", "long": "x" * 9000}, ["oversized text"]),
        ({"image": "0.png"}, ["no text"]),
        ({"image": "1.png", "caption": 3}, ["no text"]),
        ({"image": "y", "caption": "webp"}, []),
    ]
    rows = [row for row, _ in bad]
    path = folder / f"list.{format}"
    path.write_text("\n".join(map(json.dumps, rows)) if format == "jsonl" else json.dumps(rows))
    for rows_per_shard in (100, 1):
        found = read_all(path, max_image_bytes=1500, max_text_bytes=8000, rows_per_shard=rows_per_shard)
        assert all(each.reason in REASONS for each in found if isinstance(each, Refused))
        for number, (_, reasons) in enumerate(bad):
            assert [reason for key, _, reason in reported(found) if key == f"{number:09d}"] == reasons, bad[number]
        assert [(item.key, item.texts, item.extension) for item in items(found)] == [
            ("000000019", (), "png"),
            ("000000020", (), "png"),
            ("000000021", ("webp",), "webp"),
        ]


def test_broken_lines_lose_themselves_only(folder):
    lines = [json.dumps(ROWS[0]).encode(), b"{", b"", b'{"caption": "\xff"}', b"x" * 5000, json.dumps(ROWS[1]).encode()]
    (folder / "list.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    found = read_all(folder / "list.jsonl", max_text_bytes=1000)
    assert reported(found) == [
        ("000000001", "image", "unreadable text"),
        ("000000002", "image", "unreadable text"),
        ("000000003", "image", "oversized text"),
    ]
    assert [item.key for item in items(found)] == ["000000000", "000000004"]
    assert found == read_all(folder / "list.jsonl", max_text_bytes=1000, rows_per_shard=2)


def test_a_list_that_breaks_off_keeps_what_is_before(folder):
    whole = json.dumps(ROWS)
    path = folder / "list.json"
    for end, said in ((whole.index('"3.png"'), "without ]"), (whole.index('{"image": "3.png"'), "without ]")):
        path.write_text(whole[:end])
        found = read_all(path, rows_per_shard=2)
        assert [item.key for item in items(found)] == ["000000000", "000000001", "000000002"]
        assert reported(found) == [("list-00001", "shard", "truncated shard")]
        assert said in found[-1].detail
    path.write_text(whole[: whole.index('{"image": "3.png"')] + "}{" * 90_000 + "]")
    found = read_all(path, max_text_bytes=1000)
    assert [len(items(found)), reported(found)] == [3, [("list-00000", "shard", "truncated shard")]]


def test_keys_are_the_rows_where_they_can_be(folder):
    keys = ["a", "d/e", "../up", "f.g", 7, "a", "", None, "./a", "._a", "b//c", "__MACOSX/a"]
    path = write_list(folder / "list.jsonl", [{**row, "key": key} for row, key in zip(ROWS + ROWS, keys)])
    found = read_all(path)
    assert [item.key for item in items(found)] == [
        "a", "d/e", "000000002", "f.g", "7", *(f"{number:09d}" for number in range(6, 12)),
    ]  # fmt: skip
    assert reported(found) == [("a", "image", "duplicate key"), ("a", "text", "duplicate key")]


def test_other_keys_for_image_and_caption(folder):
    path = write_list(folder / "list.jsonl", [{"file": "1.png", "text": "a", "caption": "other"}])
    (item,) = read_all(path, image_key="file", caption_key="text")
    assert (item.texts, item.fields) == (("a",), {"file": "1.png", "caption": "other"})


def test_parquet_with_other_columns(folder):
    import datetime

    rows = [{"image": "0.png", "caption": None, "raw": b"123", "when": datetime.date(2020, 1, 2), "tags": ["a"]}]
    refused, item = read_all(write_list(folder / "list.parquet", rows))
    assert refused.reason == "no text"
    assert item.fields == {"image": "0.png", "raw": "3 bytes", "when": "2020-01-02", "tags": ["a"]}
    json.dumps(item.fields)


def test_parquet_that_is_damaged_inside(folder):
    path = write_list(folder / "list.parquet", ROWS)
    shards = find_inputs(InputOptions(str(path), rows_per_shard=3))
    data = bytearray(path.read_bytes())
    data[10 : len(data) // 3] = bytes(len(data) // 3 - 10)
    path.write_bytes(data)
    found = [reported(read_shard(shard, InputOptions(str(path)))) for shard in shards]
    assert ("list-00000", "shard", "unreadable shard") in found[0]
    path.write_bytes(b"")
    assert reported(read_shard(shards[1], InputOptions(str(path)))) == [("list-00001", "shard", "unreadable shard")]


def test_a_list_that_is_gone_or_shorter(folder):
    path = write_list(folder / "list.jsonl", ROWS)
    options = InputOptions(str(path), rows_per_shard=4)
    first, last = find_inputs(options)
    write_list(path, ROWS[:2])
    assert reported(read_shard(first, options)) == [("list-00000", "shard", "truncated shard")]
    path.unlink()
    assert list(read_shard(last, options)) == [
        Refused("list-00001", "shard", "unreadable shard", "No such file or directory")
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "holds no rows"),
        ("a.json", b"[]", "holds no rows"),
        ("a.json", b'{"images": [],\n "annotations": []}', "neither a list"),
        ("a.parquet", b"no parquet", "no Parquet file"),
        ("a.json", b"[", "without ]"),
        ("a.json", b'[{"url": "u", "caption": "a"}]', "no key 'image', only 'url', 'caption'.* img2dataset does"),
        ("a.jsonl", b'{"images": "a.png"}', "Did you mean 'images'.* Set image_key"),
    ],
)
def test_what_is_no_list(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        find_inputs(InputOptions(str(tmp_path / name)))


def test_lists_and_images_of_elsewhere(folder):
    import fsspec

    files = {"list.jsonl": write_list(folder / "list.jsonl", ROWS[:3]).read_bytes(), "0.png": picture(0)}
    for name, data in files.items():
        with fsspec.open(f"memory://capfilt_lists/{name}", "wb") as file:
            file.write(data)
    far = InputOptions("memory://capfilt_lists/list.jsonl", rows_per_shard=2)
    shards = find_inputs(far)
    assert [shard.name for shard in shards] == ["list-00000", "list-00001"]
    found = [list(read_shard(shard, far)) for shard in shards]
    assert [item.key for item in items(found[0])] == ["000000000"]
    assert reported(found[0])[0] == ("000000001", "image", "missing image file")
    here = InputOptions("memory://capfilt_lists/list.jsonl", image_root=str(folder))
    assert len(items(read_shard(find_inputs(here)[0], here))) == 3


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_damaged_lists_raise_nothing_and_shards_do_not_overlap(data):
    format = data.draw(st.sampled_from(FORMATS))
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "0.png").write_bytes(picture(0))
        rows = [{"image": "0.png", "caption": f"text {i}"} for i in range(data.draw(st.integers(1, 9)))]
        path = write_list(Path(place, f"list.{format}"), rows)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            start = data.draw(st.integers(0, len(content)))
            content[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        path.write_bytes(content)
        options = InputOptions(str(path), rows_per_shard=data.draw(st.integers(1, 4)), max_text_bytes=500)
        try:
            shards = find_inputs(options)
        except DataError:
            return
        found = [each for shard in shards for each in read_shard(shard, options)]
        whole = [InputShard("w", "rows", str(path), 0, None, shards[0].offset)]
        at_once = [each for shard in whole for each in read_shard(shard, options)]
    # A damaged row group of Parquet ends the shard that meets it; a later shard starts behind it.
    assert items(at_once) == items(found)[: len(items(at_once))]
    assert format == "parquet" or len(items(at_once)) == len(items(found))
    assert len({item.key for item in items(found)}) == len(items(found))


def test_memory_stays_small(tmp_path):
    """A list is not read as a whole: a released one has 14 million rows."""
    import tracemalloc

    (tmp_path / "0.png").write_bytes(picture(0))
    row = json.dumps({"image": "0.png", "caption": "x" * 200})
    (tmp_path / "list.json").write_text("[" + ", ".join([row] * 30_000) + "]")
    options = InputOptions(str(tmp_path / "list.json"), rows_per_shard=10_000)
    tracemalloc.start()
    shards = find_inputs(options)
    reading = read_shard(shards[2], options)
    keys = [next(reading).key for _ in range(3)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(shards), keys[0]) == (3, "000020000")
    assert peak < 2_000_000 < (tmp_path / "list.json").stat().st_size
