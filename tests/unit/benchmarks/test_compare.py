import json
from dataclasses import replace

import pytest
import torch

from benchmarks import memory
from benchmarks.compare import Row, compare, table, write_json
from benchmarks.limits import headline, with_share
from benchmarks.memory import measure_peak

ROW = Row("work", "fp32", 1.0, "peer", 2.0, 2.0, True)
MACHINE = {
    "device": "a CPU",
    "threads": 2,
    "torch": "2",
    "matrix_gflops": {"fp32": 200.0, "bf16": 400.0},
    "memory_gb_s": 30.0,
}


def test_runs_once_to_compare_and_then_in_turn():
    calls = []
    row = compare(
        "work", "fp32", "peer", lambda: calls.append("a"), lambda: calls.append("b"), lambda a, b: True, 2, wanted=1.5
    )
    assert calls == ["a", "b"] * 3
    assert row.ratio > 0
    assert (row.wanted, row.gflops, row.note) == (1.5, None, "")


def test_operations_give_a_rate():
    row = compare("work", "fp32", "peer", lambda: torch.ones(2**20).sum(), lambda: 1, lambda a, b: True, 1, flop=2e9)
    assert row.gflops > 0


def test_outputs_that_differ_are_reported():
    row = compare("work", "fp32", "peer", lambda: 1, lambda: 2, lambda a, b: a == b, repeat=1)
    assert row.outputs_equal is False
    assert "| DIFFER |" in table([row])


def test_a_ratio_below_what_is_wanted_says_so():
    assert "| 2.00 | 2.00 |" in table([replace(ROW, wanted=2.0)])
    assert "| 2.00 (< 2.50) | 2.50 |" in table([replace(ROW, wanted=2.5)])


def test_empty_columns_are_left_out():
    head = table([ROW]).splitlines()[0]
    assert head == "| work | dtype | vlkit (s) | peer | peer (s) | ratio | outputs |"
    some = table([ROW, replace(ROW, gflops=12.4, ours_mib=3.2)])
    assert "| GFLOP/s | vlkit (MiB) | outputs |" in some
    assert "|  |  | equal |" in some
    assert "| 12 | 3 | equal |" in some


def test_rows_are_a_json_list_and_say_where_they_were_measured(tmp_path):
    write_json([ROW], str(tmp_path / "rows.json"), MACHINE)
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["machine"] == MACHINE
    assert (row["work"], row["ratio"]) == ("work", 2.0)


def test_share_of_the_matrix_limit():
    assert with_share(replace(ROW, gflops=50.0), MACHINE).note == "25% of the matrix limit"
    assert with_share(replace(ROW, gflops=50.0, dtype="bf16", note="n"), MACHINE).note == "n; 12% of the matrix limit"
    assert with_share(ROW, MACHINE) == ROW
    assert "200 GFLOP/s fp32, 400 GFLOP/s bf16" in headline(MACHINE)


def test_peak_memory_sees_what_is_freed_again():
    size = 2**26
    output, peak = measure_peak(lambda: torch.ones(size // 4).sum().item())
    assert output == size // 4
    assert peak is None or peak == pytest.approx(size / memory.MIB, abs=16)


def test_peak_memory_is_not_reported_where_it_cannot_be_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "none")
    assert measure_peak(lambda: 3) == (3, None)
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "forbidden")
    (tmp_path / "forbidden").mkdir()
    assert measure_peak(lambda: 3) == (3, None)
