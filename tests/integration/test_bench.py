"""The benchmark runs, compares outputs and writes what it measured; no time is asserted."""

import json

from vlkit.bench.compare import compare
from vlkit.cli import main


def test_captioning_beside_transformers(tmp_path, capsys):
    file = tmp_path / "rows.json"
    arguments = ["bench", "caption", "--size", "tiny", "--batch", "2", "--dtype", "fp32", "--repeat", "1"]
    assert main([*arguments, "--json", str(file)]) == 0
    (row,) = json.loads(file.read_text())
    assert set(row) == {"work", "dtype", "ours_s", "peer", "peer_s", "ratio", "outputs_equal"}
    assert row["outputs_equal"] is True
    assert row["ours_s"] > 0
    assert "| equal |" in capsys.readouterr().out


def test_outputs_that_differ_are_told():
    row = compare("work", "fp32", "peer", lambda: 1, lambda: 2, lambda a, b: a == b, repeat=1)
    assert row.outputs_equal is False
