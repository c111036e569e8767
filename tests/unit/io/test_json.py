"""JSON of other people: read equal, or one kind of error that says what and where."""

from __future__ import annotations

import contextlib
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.errors import DataError
from vlkit.io.json import BadRow, JsonError, parse_json, parse_rows
from vlkit.io.json_faults import DEEPEST, LONGEST
from vlkit.io.text import TextError

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
DEEP = "[" * 5000 + "]" * 5000
LONG = "7" * 5000


@settings(max_examples=60)
@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_what_json_writes_is_read_equal(value, ascii, indent):
    text = json.dumps(value, allow_nan=False, ensure_ascii=ascii, indent=indent)
    assert parse_json(text, "x") == parse_rows(text, "x") == json.loads(text)
    if text.isascii():
        assert parse_json(text.encode("utf-16"), "x") == value


@settings(max_examples=200)
@given(st.binary() | st.text(alphabet='[]{}",:\\0123456789eE+-.NaInfity \n\0').map(str.encode))
def test_any_bytes_are_read_or_raise_one_kind_of_error(data):
    said = []
    for parse in (parse_json, parse_rows):
        try:
            parse(data, "file.json")
        except DataError as error:
            said.append(str(error))
    assert all(text.startswith("file.json: ") for text in said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "it holds NaN, which JSON does not have (line 1, column 7)"),
        ('["NaN",\n -Infinity]', "-Infinity, which JSON does not have (line 2, column 2)"),
        ("[1, 2e999]", "2e999, which is too large for a float (line 1, column 5)"),
        ("[" + "1" * 400 + ".5]", "too large for a float (line 1, column 2)"),
        (f'{{"a": "x\\"y",\n"b": -{LONG}}}', "an integer of 5000 digits (-7777"),
        ("[" + "1" * (LONGEST + 1) + "]", f"an integer of {LONGEST + 1} digits"),
        (DEEP, f"nested deeper than {DEEPEST} levels (line 1, column {DEEPEST + 1})"),
        ('{"a":' * 101 + "1" + "}" * 101, f"nested deeper than {DEEPEST} levels"),
        ("[" * 200_000, f"nested deeper than {DEEPEST} levels"),
        ('{"a": 1,\n}', "not valid JSON at line 2, column 1"),
        ('{"a": "b', "not valid JSON at line 1, column 7"),
        ('[{"a": 1}', "ends too early"),
        ("", "it is empty"),
        ("<!DOCTYPE html><p>[1]</p>", "web page"),
        ('{"a": "\0"}', "a NUL byte"),
        (b"\0" * 100, "a NUL byte"),
        (b'{"a": "caf\xe9"}', "line 1 is not UTF-8 (byte 0xe9). It may be Latin-1"),
        ('{"a": "b"}'.encode("utf-16-le"), "not valid JSON"),
        ('{"a": "é€"}'.encode("utf-16-be"), "UTF-16 without a byte order mark"),
        (b"\xff\xfe[\x00\x00\xd8]\x00", "byte order mark says UTF-16-LE"),
        (b"PK\x03\x04....", "zip archive"),
        (b"\x1f\x8b\x08\x00", "gzip data"),
        (b"PAR1xxx", "Parquet"),
    ],
)
def test_what_is_wrong_is_named(text, said):
    with pytest.raises(DataError) as raised:
        parse_json(text, "rows.json")
    assert str(raised.value).startswith("rows.json: ")
    assert said in str(raised.value)
    with contextlib.suppress(DataError):
        assert any(isinstance(row, BadRow) for row in parse_rows(text, "rows.json"))


@pytest.mark.parametrize(
    "data",
    [b"\xef\xbb\xbf[1]", "\ufeff[1]", "[1]".encode("utf-16"), "[1]".encode("utf-32"), b"\xfe\xff\x00[\x001\x00]"],
)
def test_byte_order_marks_are_obeyed(data):
    assert parse_json(data, "x") == [1]


def test_what_looks_bad_in_a_string_is_none_of_it():
    value = {"a": "NaN", "b": "1e999", "c": "[" * 500, "d": '\\"[' * 300, "e": "7" * 5000, "f": "\\"}
    assert parse_json(json.dumps(value), "x") == value
    assert parse_rows(json.dumps([value] * 3), "x") == [value] * 3


def test_the_deepest_that_is_read():
    text = "[" * DEEPEST + "]" * DEEPEST
    assert parse_json(text, "x") == json.loads(text)
    assert parse_json("-" + "1" * LONGEST, "x") == -int("1" * LONGEST)


@pytest.mark.parametrize("bad", ["NaN", "1e999", LONG, DEEP, '{"a":' * 200 + "0" + "}" * 200, '{"b": [1, {"c": NaN}]}'])
def test_a_bad_row_leaves_the_others(bad):
    rows = parse_rows(f'[{{"a": 1}}, {{"a": {bad}}}, {{"a": 3}}]', "x")
    assert rows[0] == {"a": 1}
    assert rows[2] == {"a": 3}
    assert isinstance(rows[1], BadRow)
    assert rows[1].reason.startswith("it ")
    found = parse_rows(f'{{"info": {{}}, "images": [1, [{bad}]], "data": {{"dialogs": [{bad}, 2]}}}}', "x")
    assert found["images"][0] == 1
    assert isinstance(found["images"][1], BadRow)
    assert isinstance(found["data"]["dialogs"][0], BadRow)
    assert found["data"]["dialogs"][1] == 2


def test_a_bad_number_outside_of_rows_is_an_error():
    with pytest.raises(JsonError, match="x: 'version': it holds NaN"):
        parse_rows('{"version": NaN, "rows": []}', "x")


def test_where_the_rest_is_unreadable_the_row_is_named():
    with pytest.raises(JsonError, match="row 3 is not valid JSON at line 3"):
        parse_rows('[{"a": 1},\n{"a": NaN},\n{"a": oops},\n{"a": 4}]', "x")
    with pytest.raises(JsonError, match=r"row 2: it is nested deeper than 100 levels"):
        parse_rows('[{"a": 1}, ' + "[" * 5000, "x")
    with pytest.raises(JsonError, match=r"row 2 is not valid JSON at line 1, column 12"):
        parse_rows('[{"a": 1}, oops]', "x")


def test_a_hook_is_called():
    assert parse_json('[{"a": 1}]', "x", object_hook=len) == [1]
    seen = []
    rows = parse_rows('[{"a": 1}, {"b": NaN}, {"c": 3}]', "x", object_hook=lambda row: seen.append(row) or row)
    assert [list(row) for row in seen] == [["a"], ["b"], ["c"]]  # each once, though a row is bad
    assert [isinstance(row, BadRow) for row in rows] == [False, True, False]


def test_more_after_a_value_is_distinguished():
    with pytest.raises(JsonError) as raised:
        parse_json('{"a": 1}\n{"a": 2}', "x")
    assert raised.value.more


def test_errors_cross_process_borders():
    error = pickle.loads(pickle.dumps(JsonError("a", "b.")))
    assert (type(error), error.source, str(error)) == (JsonError, "a", "a: b.")
    assert isinstance(error, TextError)
