"""CSV as RFC 4180 has it, TAB-separated text as it is defined: every record is a row or a fault."""

from __future__ import annotations

import csv
import io
import logging
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.datasets.annotation_files import entries
from vlkit.datasets.columns import Column, ColumnKeys
from vlkit.datasets.faults import Faults, collect_faults
from vlkit.errors import DataError


def read(folder: Path, content: str | bytes, name: str = "a.csv", column: str = "image"):
    """Rows as lists of fields with their line, and (line, fault)."""
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    columns = ColumnKeys([Column(column), Column("caption")], [column]).of(file)
    with collect_faults() as bad:
        rows = [(number, list(row.values())) for number, row in entries(file, "auto", Faults(file), columns)]
    return rows, [(int(source.rpartition(":")[2]), reason) for source, reason in bad]


def test_five_rows_with_a_stray_quote_are_four_rows_and_a_fault(tmp_path):
    text = 'image,caption\na.jpg,a dog\nb.jpg,"5 inch screen\nc.jpg,a cat\nd.jpg,a screen of 7"\ne.jpg,a cow\n'
    rows, bad = read(tmp_path, text)
    assert [(number, row[0]) for number, row in rows] == [(2, "a.jpg"), (4, "c.jpg"), (5, "d.jpg"), (6, "e.jpg")]
    assert rows[2][1] == ["d.jpg", 'a screen of 7"']
    assert [number for number, _ in bad] == [3]
    assert "a quote left open" in bad[0][1]


def test_a_text_that_is_too_long_is_named_as_that(tmp_path):
    rows, bad = read(tmp_path, f"image,caption\na.jpg,{'x' * 200_000}\nb.jpg,y\n")
    assert ([number for number, _ in rows], [number for number, _ in bad]) == ([3], [2])
    assert "a text of more than 131,072 characters" in bad[0][1]


@pytest.mark.parametrize(
    ("text", "good", "faults"),
    [
        ('image,caption\na.jpg,"5 inch\nb.jpg,x\nc.jpg,y\n', [3, 4], [2]),  # open until the end of the file
        ('image,caption\na.jpg,"5 inch\nb.jpg,x\nc.jpg,"7 inch\nd.jpg,y\n', [3, 5], [2, 4]),
        ('image,caption\na.jpg,"5 inch" screen\nb.jpg,x\n', [3], [2]),
        ('caption,image\n"5 inch,a.jpg\nbig 7",b.jpg\nx,c.jpg\n', [3, 4], [2]),
        ('id,image,caption\n1,a.jpg,"5 inch\n2,b.jpg,7"\n', [3], [2]),
        ('image,caption\n17,"5 inch\n18,7"\n', [3], [2]),
        ('image,caption\na.jpg,"x\n', [], [2]),
        ("image,caption\na.jpg,x,y\nb.jpg\nc.jpg,z\n", [4], [2, 3]),
        ("image,caption\n,\n\nc.jpg,z\n", [2, 4], []),
    ],
)
def test_rows_and_faults_are_all_records(tmp_path, text, good, faults):
    rows, bad = read(tmp_path, text)
    assert [number for number, _ in rows] == good
    assert [number for number, _ in bad] == faults


def test_quotes_as_rfc_4180_has_them(tmp_path, caplog):
    text = 'image,caption\r\na.jpg,"x, ""y""\r\nz"\r\nb.jpg,a 5" screen\r\nc.jpg,""\r\n"d.jpg","say ""hi"""\r\n'
    with caplog.at_level(logging.WARNING):
        rows, bad = read(tmp_path, text)
    assert [row for _, row in rows] == [
        ["a.jpg", 'x, "y"\r\nz'],
        ["b.jpg", 'a 5" screen'],
        ["c.jpg", ""],
        ["d.jpg", 'say "hi"'],
    ]
    assert bad == []
    assert "1 texts span several lines and hold the separator (from line 2 on)" in caplog.text


def test_quotes_between_tabs_are_characters(tmp_path):
    text = 'image\tcaption\na.jpg\t"5 inch screen\nb.jpg\t"a"" b"\nc.jpg\tx\ty\n'
    for name in ("a.tsv", "a.csv", "a.txt"):
        rows, bad = read(tmp_path, text, name)
        assert [row for _, row in rows] == [["a.jpg", '"5 inch screen'], ["b.jpg", '"a"" b"']]
        assert [number for number, _ in bad] == [4]
        assert "a text holds a TAB" in bad[0][1]
    rows, bad = read(tmp_path, 'a.jpg\t"5 inch\nb.jpg\tx\n', "b.txt")
    assert ([row for _, row in rows], bad) == ([["a.jpg", '"5 inch'], ["b.jpg", "x"]], [])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_encodings_and_line_ends_of_all_systems(tmp_path, separator, encoding, end):
    lines = [["image", "caption"], ["a.jpg", "ä\u2028b\x85c"], ["b.jpg", "€, or not" if separator == ";" else "€"]]
    text = end.join(separator.join(line) for line in lines)
    for last in ("", end):
        rows, bad = read(tmp_path, (text + last).encode(encoding))
        assert (rows, bad) == ([(2, lines[1]), (3, lines[2])], [])


def test_a_semicolon_in_the_header_does_not_decide_alone(tmp_path):
    assert read(tmp_path, "image,a;b;c\nx.jpg,y\n")[0] == [(2, ["x.jpg", "y"])]
    assert read(tmp_path, "sep=;\nimage;caption\nx.jpg;y\n")[0] == [(3, ["x.jpg", "y"])]


def test_a_line_in_another_encoding_is_a_fault_of_its_own(tmp_path):
    rows, bad = read(tmp_path, "image,caption\na.jpg,café\n".encode("latin-1") + "b.jpg,café\n".encode())
    assert [row for _, row in rows] == [["b.jpg", "café"]]
    assert bad[0][0] == 2
    assert "not UTF-8 (byte 0xe9). It may be Latin-1, in which it reads 'café'" in bad[0][1]


def test_a_column_named_twice_is_an_error(tmp_path):
    with pytest.raises(DataError, match="line 1, names the column 'caption' twice"):
        read(tmp_path, "image,caption,caption\na,b,c\n")


PIECES = st.lists(
    st.sampled_from(['"', ",", "\n", "\r", "\r\n", "a.jpg", "x", " ", "é", "\t", ";", "\0"]), max_size=30
).filter(lambda pieces: pieces.count("\0") < 4)  # a file with many is no text


@settings(deadline=None, max_examples=200)
@given(PIECES)
def test_no_line_is_lost(pieces):
    body = "".join(pieces)
    with tempfile.TemporaryDirectory() as folder:
        rows, bad = read(Path(folder), f"image,caption\n{body}")
    covered = {number for number, _ in bad}
    for number, row in rows:
        covered |= set(range(number, number + len(io.StringIO("".join(row), newline=None).read().split("\n"))))
    lines = io.StringIO(body, newline=None).read().split("\n")
    missed = [number for number, line in enumerate(lines, 2) if line.strip(' "\0\t') and number not in covered]
    assert missed == []


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.from_regex(r"[a-z]{1,5}\.jpg", fullmatch=True), st.text('x" ,\n\r;é\t')), min_size=1))
def test_what_csv_writers_write_is_read(pairs):
    stream = io.StringIO()
    csv.writer(stream).writerows([("image", "caption"), *pairs])
    with tempfile.TemporaryDirectory() as folder:
        rows, bad = read(Path(folder), stream.getvalue())
    assert ([tuple(row) for _, row in rows], bad) == (pairs, [])
