"""Columns by position: rows that are lists, and tables without a header."""

from __future__ import annotations

import pytest

from tests.unit.datasets.test_columns import captions, name_of, saved
from vlkit.datasets.image_text import ImageText
from vlkit.errors import DataError


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "txt"])
def test_positions_name_columns_of_tables_without_a_header(tmp_path, suffix):
    rows = [["1", "a cat", "a.jpg"], ["2", "two dogs", "b.jpg"]]
    if suffix == "txt":
        (tmp_path / "a.txt").write_text("".join("\t".join(row) + "\n" for row in rows))
    path = str(tmp_path / "a.txt") if suffix == "txt" else saved(tmp_path / f"a.{suffix}", rows)
    assert captions(path, image_key=2, caption_key=1) == [("a.jpg", "a cat"), ("b.jpg", "two dogs")]
    with pytest.raises(DataError, match=r"it has 3 values, and caption_key is 3, counted from 0"):
        captions(path, image_key=2, caption_key=3)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_of_a_table_without_a_header_is_that_of_all_its_lines(tmp_path, separator):
    others = [each for each in ",;\t|" if each != separator]
    rows = [["a.jpg", f"x{others[0]} y"], ["b.jpg", "z"], ["c.jpg", f"x{others[1]} y{others[2]}z"], ["d.jpg", "w"]]
    (tmp_path / "a.csv").write_text("\n".join(separator.join(row) for row in rows))
    assert captions(str(tmp_path / "a.csv"), image_key=0, caption_key=1) == [tuple(row) for row in rows]


def test_a_text_with_an_unquoted_separator_is_a_fault_and_not_cut(tmp_path):
    (tmp_path / "a.csv").write_text("a.jpg,x\nb.jpg,y, z\n")
    with pytest.raises(DataError, match=r"line 2: 3 fields where the first row has 2: put quotes"):
        captions(str(tmp_path / "a.csv"), image_key=0, caption_key=1)


def test_vertical_bars_as_in_the_captions_of_flickr30k(tmp_path):
    (tmp_path / "results.csv").write_text("image_name| comment_number| comment\na.jpg| 0| A dog, running .\n")
    assert captions(str(tmp_path / "results.csv")) == [("a.jpg", " A dog, running .")]


def test_addresses_of_images_are_named_as_such(tmp_path):
    with pytest.raises(DataError, match=r"row 1: 'image' is an address: download the images first"):
        captions(saved(tmp_path / "a.json", [{"image": "https://example.invalid/a.jpg", "caption": "x"}]))


def test_numbers_of_lines_without_a_header(tmp_path):
    (tmp_path / "a.csv").write_text('a.jpg,"two\nlines"\n\nb.jpg,x\n')
    data = ImageText(str(tmp_path / "a.csv"), image_processor=name_of, image_key=0, caption_key=1)
    assert [data.table.caption_place(i) for i in range(2)] == ["a.csv:1", "a.csv:4"]
