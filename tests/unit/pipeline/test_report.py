"""The table of a pipeline: which scores stand where, over seeds too, and what is drawn of it."""

from __future__ import annotations

import pytest
from PIL import Image

from vlkit.pipeline.report import Table, draw_table, table_problems
from vlkit.pipeline.schema import TableEntry

DONE = {
    "seed_0/a": {"metrics": {"test/r": 0.2, "test/c": 20000.0}},
    "seed_1/a": {"metrics": {"test/r": 0.4, "test/c": 30000.0}},
    "seed_0/b": {"metrics": {"test/r": 0.5}},
    "seed_1/b": {"metrics": {"test/r": None}},
    "web": {"metrics": {"samples": 7}},
}
ENTRIES = [
    TableEntry("first", values=["a/test/r", "a/test/c"]),
    TableEntry("second", values=["b/test/r", None]),
    TableEntry("data", values=["web/samples", "a/test/x"]),
]
TABLE = Table(ENTRIES, ["R", "C"], [0, 1])


def test_scores_of_seeds_become_mean_and_deviation(caplog):
    rows = TABLE.rows(DONE)
    first = rows[0]["cells"]
    assert first[0]["score"] == pytest.approx(0.3)
    assert first[0]["deviation"] == pytest.approx(0.02**0.5)  # n - 1
    assert first[0]["seeds"] == {"0": 0.2, "1": 0.4}
    assert rows[1]["cells"][0] == {"value": "b/test/r", "score": 0.5, "deviation": None, "seeds": {"0": 0.5, "1": None}}
    assert rows[1]["cells"][1] == {"value": None, "score": None}
    assert rows[2]["cells"][0] == {"value": "web/samples", "score": 7}  # run once for all seeds
    assert "'a/test/x'" in caplog.text


def test_the_grid_says_it_in_words():
    rows = TABLE.rows(DONE)
    assert TABLE.grid("t", rows) == [
        ["t", "R", "C"],
        ["first", "0.3000 ± 0.1414", "25000 ± 7071.0678"],
        ["second", "0.5000", "-"],
        ["data", "7", "-"],
    ]
    assert TABLE.seeds_grid("t", rows) == [
        ["t", "R, seed 0", "R, seed 1", "C, seed 0", "C, seed 1"],
        ["first", "0.2000", "0.4000", "20000", "30000"],
        ["second", "0.5000", "-", "-", "-"],
        ["data", "-", "-", "-", "-"],
    ]


def test_without_seeds_and_columns():
    done = {"a": {"metrics": {"test/r": 0.25}}, "b": {"metrics": {}}}
    table = Table([TableEntry("x", "a/test/r")], [], [])
    rows = table.rows(done)
    assert table.grid("t", rows) == [["t", "score"], ["x", "0.2500"]]
    assert table.seeds_grid("t", rows) == []
    every = Table([], [], [])
    assert every.rows(done) == [{"name": "a/test/r", "cells": [{"value": "a/test/r", "score": 0.25}]}]


def test_one_column_with_seeds_names_the_seeds_alone():
    table = Table([TableEntry("x", "a/test/r")], [], [0, 1])
    assert table.seeds_grid("t", table.rows(DONE)) == [["t", "seed 0", "seed 1"], ["x", "0.2000", "0.4000"]]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (TableEntry("x", values=["a/tset/r", None]), ["'a/tset/r'", "Did you mean 'a/test'"]),
        (TableEntry("x", values=["c/test/r", None]), ["'c/test/r'", "known: a/test, web/<score>"]),
        (TableEntry("x", values=["web", None]), ["'web'"]),
        (TableEntry("x", values=["a/test/r"]), ["1 given", "2 columns"]),
        (TableEntry("x", "a/test/r"), ["1 given", "2 columns"]),
        (TableEntry("x", values=["web/anything", None]), []),
    ],
)
def test_wrong_cells_are_reported(entry, says):
    problems = table_problems(Table([entry], ["R", "C"], []), ["a", "web"], {"a": ["test"], "web": None}, str)
    assert len(problems) == bool(says)
    assert all(part in problems[0] for part in says)


def test_the_plot_has_a_panel_for_each_column_and_a_line_for_each_row(tmp_path):
    sizes = {}
    for name, table, done in (("two", TABLE, DONE), ("one", Table([TableEntry("x", "a/test/r")], [], [0, 1]), DONE)):
        path = tmp_path / f"{name}.png"
        draw_table(table.rows(done), table.columns or [""], name, path)
        sizes[name] = Image.open(path).size
    assert sizes["two"][0] > 1.5 * sizes["one"][0]
    assert sizes["two"][1] > sizes["one"][1]
