from __future__ import annotations

import json
import math

import pytest

from vlkit.runner.log import Ledger, MetricsFile, json_line


def test_what_json_cannot_say_becomes_null():
    assert json_line({"a": math.nan, "b": [math.inf, 1.5], "c": {"d": -math.inf}}) == (
        '{"a": null, "b": [null, 1.5], "c": {"d": null}}'
    )


def test_cut_back_forgets_later_and_half_written_lines(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3, 4):
        file.append({"step": step, "loss": 0.1 * step})
    with file.path.open("a") as raw:
        raw.write('{"step": 2, "lo')
    file.cut_back(3, evaluated=False)
    file.append({"step": 4, "loss": 9.0})
    assert [json.loads(line) for line in file.path.read_text().splitlines()] == [
        {"step": 1, "loss": 0.1},
        {"step": 2, "loss": 0.2},
        {"step": 3, "loss": 0.1 * 3},
        {"step": 4, "loss": 9.0},
    ]


@pytest.mark.parametrize("evaluated", [True, False])
def test_scores_of_the_last_step_stay_if_they_are_known(tmp_path, evaluated):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    content = [{"step": 2, "eval": {}}, {"step": 3, "loss": 1.0}, {"step": 3, "eval": {}}]
    for line in content:
        file.append(line)
    file.cut_back(3, evaluated)
    found = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert found == (content if evaluated else content[:2])


def test_cut_back_of_nothing_makes_nothing(tmp_path):
    MetricsFile(tmp_path / "metrics.jsonl").cut_back(0, evaluated=False)
    assert list(tmp_path.iterdir()) == []


def test_the_ledger_names_each_source_once_also_after_a_restart(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).add([("a.jpg", "empty", "step 1"), ("a.jpg", "empty", "step 9"), ("b.jpg", "text", "step 2")])
    again = Ledger(path)
    again.add([("a.jpg", "empty", "step 11"), ("c.jpg", "cut", "step 12")])
    assert again.count == 3
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["source"] for line in found] == ["a.jpg", "b.jpg", "c.jpg"]
    assert found[0] == {"source": "a.jpg", "reason": "empty", "where": "step 1"}
