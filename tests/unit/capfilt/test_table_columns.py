"""Fields of the input in the table: names that are taken, and types that change."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.capfilt.outputs import Text, png
from vlkit.capfilt.decision import Decision
from vlkit.capfilt.inputs import Item
from vlkit.capfilt.shard_output import ShardOutput
from vlkit.capfilt.storage import Storage
from vlkit.capfilt.tables import COLUMNS, MORE, MOST_FIELDS, FieldColumns, free_name, read_table, write_table


def columns_of(*images: dict[str, Any]) -> dict[str, tuple[str, list[Any]]]:
    """The columns of images with one text each."""
    found = FieldColumns(COLUMNS)
    for fields in images:
        found.add(fields, 1)
    return found.columns()


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        (["http://a", None], "string", ["http://a", None]),
        ([640, None, 480], "int64", [640, None, 480]),
        ([1, 2.5], "float64", [1.0, 2.5]),
        ([True, False], "bool_", [True, False]),
        ([None], "string", [None]),
        (["a", 1], "string", ['"a"', "1"]),
        ([True, 1], "string", ["true", "1"]),
        ([2**70], "string", [str(2**70)]),
        ([2**60 + 1, 0.5], "string", [str(2**60 + 1), "0.5"]),
        ([{"a": [1]}, None], "string", ['{"a": [1]}', None]),
        (["half \ud83d"], "string", ["half ?"]),
    ],
)
def test_values_keep_their_type_where_they_share_one_and_are_json_elsewhere(values, kind, stored):
    assert columns_of(*({"f": value} for value in values)) == {"f": (kind, stored)}


def test_names_that_are_taken_get_a_prefix_and_different_ones_stay_different():
    fields = dict.fromkeys(["url", "key", "input_key", "text", "text.a", "image", "", MORE, "a.b"], "x")
    assert list(columns_of(fields)) == [
        *("url", "input_key", "input_input_key", "input_text", "input_text.a", "input_image", "input_"),
        *("input_more_fields", "a.b"),
    ]
    assert free_name("caption", ("caption",)) == "input_caption"


def test_rows_of_an_image_share_its_fields_and_images_without_texts_have_none():
    found = FieldColumns(COLUMNS)
    found.add({"url": "a"}, 2)
    found.add({"url": "b", "only": 1}, 0)
    found.add({"n": 3}, 1)
    assert found.columns() == {"url": ("string", ["a", "a", None]), "n": ("int64", [None, None, 3])}


def test_fields_beyond_the_most_share_a_column():
    fields = {f"f{number}": number for number in range(MOST_FIELDS + 2)}
    found = columns_of(fields, {"f0": 7})
    assert len(found) == MOST_FIELDS + 1
    assert found[MORE] == ("string", [json.dumps({"f256": 256, "f257": 257}), None])


def test_the_table_and_the_json_of_an_image_have_the_fields(tmp_path):
    place = Storage(tmp_path)
    output = ShardOutput("s", place, Decision())
    fields = {"url": "http://a", "key": "7", "caption": "theirs", "texts": [1], "similarity": float("nan"), "width": 4}
    output.add(Item("a", png(), "png", ("x",), fields), [Text("x", "web", 0.9)])
    output.finish(1, 1)
    (row,) = pq.read_table(tmp_path / "tables/s.parquet").to_pylist()
    assert (row["key"], row["url"], row["input_key"], row["width"]) == ("a", "http://a", "7", 4)
    assert (row["input_caption"], row["input_texts"], row["similarity"]) == ("theirs", "[1]", None)
    assert b"NaN" not in (tmp_path / "kept/s.tar").read_bytes()
    assert read_table(tmp_path / "tables/s.parquet")["text"] == ["x"]
    place.close()


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_no_numbers_are_null_everywhere_and_keep_nothing(tmp_path, score):
    place = Storage(tmp_path)
    output = ShardOutput("s", place, Decision(threshold=None))
    output.add(Item("a", png(), "png", ("x",)), [Text("x", "web", score, score, score)])
    assert output.finish(1, 1).kept == 0
    (row,) = pq.read_table(tmp_path / "tables/s.parquet").to_pylist()
    assert (row["itm"], row["itc"], row["log_prob"], row["kept"]) == (None, None, None, False)
    content = (tmp_path / "dropped/s.tar").read_bytes()
    assert b'"itm": null, "itc": null, "log_prob": null' in content
    place.close()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.dictionaries(st.text(st.characters(), max_size=3) | st.sampled_from(list(COLUMNS)), VALUES), max_size=5)
)
def test_whatever_the_input_holds_is_a_table(images):
    found = columns_of(*images)
    file = io.BytesIO()
    own = {name: [None] * len(images) for name in COLUMNS}
    write_table(file, own, found)
    table = pq.read_table(file)
    assert table.column_names == [*COLUMNS, *found]
    assert table.num_rows == len(images)
