"""Parquet files that hold encoded images: img2dataset's, and Hugging Face's struct."""

from __future__ import annotations

import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.assets.tars import picture
from vlkit.capfilt.input_shards import find_inputs, read_shard
from vlkit.capfilt.inputs import InputOptions, Item, Refused
from vlkit.errors import DataError


def read_all(path, **options) -> list[Item | Refused]:
    chosen = InputOptions(str(path), **options)
    return [found for shard in find_inputs(chosen) for found in read_shard(shard, chosen)]


def said(found) -> list[tuple[str, str, str]]:
    return [(each.key, each.kind, each.reason) for each in found if isinstance(each, Refused)]


def img2dataset(path, column="jpg", format="JPEG"):
    """As its parquet writer leaves it: failed downloads have no bytes."""
    rows = [
        {"key": f"{i:09d}", "caption": f"text {i}", "url": f"http://a/{i}", "status": "success", "error_message": None}
        | {"width": 4, "exif": "{}", column: picture(i, format)}
        for i in range(5)
    ]
    rows[2] |= {"status": "failed_to_download", "error_message": "HTTP Error 404", "width": None, column: None}
    rows[3][column] = b""
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


@pytest.mark.parametrize(("column", "format"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
@pytest.mark.parametrize("rows_per_shard", [2, 3, 100])
def test_what_img2dataset_writes(tmp_path, column, format, rows_per_shard):
    found = read_all(img2dataset(tmp_path / "0.parquet", column, format), rows_per_shard=rows_per_shard)
    items = [each for each in found if isinstance(each, Item)]
    assert [(item.key, item.texts, item.extension) for item in items] == [
        (f"{i:09d}", (f"text {i}",), column) for i in (0, 1, 4)
    ]
    assert items[0].image == picture(0, format)
    assert items[0].fields == {
        "key": "000000000", "url": "http://a/0", "status": "success", "error_message": None, "width": 4, "exif": "{}",
    }  # fmt: skip
    assert said(found) == [
        ("000000002", "image", "no image"),
        ("000000002", "text", "no image"),
        ("000000003", "image", "empty image"),
        ("000000003", "text", "no image"),
    ]
    detail = next(each.detail for each in found if isinstance(each, Refused))
    assert "failed_to_download" in detail
    assert "HTTP Error 404" in detail


def test_hugging_faces_struct_of_bytes_and_path(tmp_path):
    (tmp_path / "beside.png").write_bytes(picture(9))
    images = [
        {"bytes": picture(1), "path": "1.png"},
        {"bytes": picture(2, "JPEG"), "path": None},
        {"bytes": None, "path": "beside.png"},  # from the folder of the file
        {"bytes": None, "path": "nowhere.png"},
        {"bytes": None, "path": None},
        None,
    ]
    rows = [{"image": image, "text": ["one", "two"], "label": i} for i, image in enumerate(images)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    found = read_all(tmp_path)  # the folder
    items = [each for each in found if isinstance(each, Item)]
    assert [(item.image, item.extension, item.texts) for item in items] == [
        (picture(1), "png", ("one", "two")),
        (picture(2, "JPEG"), "jpg", ("one", "two")),
        (picture(9), "png", ("one", "two")),
    ]
    assert [item.fields for item in items] == [
        {"image": "1.png", "label": 0},
        {"label": 1},
        {"image": "beside.png", "label": 2},
    ]
    assert said(found) == [
        (f"{row:09d}", kind, "missing image file" if kind == "image" and row == 3 else "no image")
        for row in (3, 4, 5)
        for kind in ("image", "text", "text")
    ]


def test_the_keys_can_be_set_and_two_that_could_be_meant_are_refused(tmp_path):
    rows = [{"photo": picture(1), "thumbnail": picture(2), "title": "a", "description": "b"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "0.parquet")
    with pytest.raises(DataError, match="'title' and 'description' could be the column 'caption': set caption_key"):
        read_all(tmp_path / "0.parquet")
    (item,) = read_all(tmp_path / "0.parquet", image_key="thumbnail", caption_key="title")
    assert (item.image, item.texts) == (picture(2), ("a",))
    assert item.fields == {"photo": f"{len(picture(1))} bytes", "description": "b"}
    (item,) = read_all(tmp_path / "0.parquet", caption_key="description")
    assert item.image == picture(1)


def test_binary_columns_of_any_kind_and_values_that_are_no_json(tmp_path):
    data = picture(1)
    table = pa.table(
        {
            "image": pa.array([data, data], pa.large_binary()).dictionary_encode(),
            "caption": ["a", "b"],
            "hash": pa.array([b"1234", b"5678"], pa.binary(4)),
            "score": [float("nan"), 1.5],
            "when": pa.array([0, 2**62], pa.timestamp("us")),  # the second is no date of Python
        }
    )
    pq.write_table(table, tmp_path / "0.parquet")
    found = read_all(tmp_path / "0.parquet")
    assert found[0].fields == {"hash": "4 bytes", "score": None, "when": "1970-01-01 00:00:00"}
    assert said(found) == [("000000001", "image", "unreadable text")]


def test_images_over_the_limit_and_garbage_are_refused(tmp_path):
    rows = [{"image": picture(1) + bytes(2000), "caption": "a"}, {"image": b"no image", "caption": "b"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "0.parquet")
    found = read_all(tmp_path / "0.parquet", max_image_bytes=1000)
    assert said(found) == [
        ("000000000", "image", "oversized image"),
        ("000000000", "text", "no image"),
        ("000000001", "image", "undecodable image"),
        ("000000001", "text", "no image"),
    ]


def test_memory_does_not_grow_with_the_number_of_row_groups(tmp_path):
    image = picture() + bytes(20_000)

    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.parquet"
        pq.write_table(pa.table({"image": [image] * rows, "caption": ["a"] * rows}), path, row_group_size=50)
        chosen = InputOptions(str(path))
        pool = pa.proxy_memory_pool(pa.default_memory_pool())
        before = pa.default_memory_pool()
        pa.set_memory_pool(pool)
        tracemalloc.start()
        try:
            shards = find_inputs(chosen)
            assert sum(isinstance(each, Item) for shard in shards for each in read_shard(shard, chosen)) == rows
            return tracemalloc.get_traced_memory()[1] + pool.max_memory()
        finally:
            tracemalloc.stop()
            pa.set_memory_pool(before)

    assert peak(1000) < 1.5 * peak(100)
