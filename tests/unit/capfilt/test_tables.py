"""The table of a shard: what comes back, and that equal tables are equal files."""

from __future__ import annotations

import io

from vlkit.capfilt.tables import COLUMNS, read_table, rounded, write_table


def rows() -> dict[str, list]:
    values = {
        "key": ["a", "a"],
        "index": [0, 0],
        "source": ["web", "synthetic"],
        "number": [0, 0],
        "text": ["ein Löwe", ""],
        "itm": [rounded(0.7), 0.1234567],
        "itc": [0.3, None],
        "log_prob": [None, -12.5],
        "kept": [True, False],
        "image": ["00ff", "00ff"],
    }
    assert list(values) == list(COLUMNS)
    return values


def test_scores_come_back_as_they_were_compared():
    file = io.BytesIO()
    write_table(file, rows())
    found = read_table(file)
    assert found == rows() | {"itm": [0.7, 0.123457]}
    assert found["itm"][0] >= 0.7  # float32 alone is below


def test_equal_rows_give_equal_bytes():
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
        write_table(file, rows())
    assert files[0].getvalue() == files[1].getvalue()


def test_an_empty_table_has_its_columns():
    file = io.BytesIO()
    write_table(file, {name: [] for name in COLUMNS})
    assert read_table(file) == {name: [] for name in COLUMNS}
