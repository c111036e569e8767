"""The benchmarks run, compare outputs and write what they measured; no time is asserted."""

import json

import pytest
import torch

from vlkit.bench.compare import compare
from vlkit.bench.rerank import _close as close_scores
from vlkit.bench.vqa import _close as close_answers
from vlkit.cli import main
from vlkit.models.blip.vqa import Answers

ROWS = {"caption": 1, "retrieval": 2, "vqa": 2, "video": 2}


@pytest.mark.parametrize("work", ROWS)
def test_beside_transformers(tmp_path, capsys, work):
    file = tmp_path / "rows.json"
    arguments = ["bench", work, "--size", "tiny", "--batch", "2", "--dtype", "fp32", "--repeat", "1"]
    assert main([*arguments, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())
    assert len(rows) == ROWS[work]
    for row in rows:
        assert set(row) == {"work", "dtype", "ours_s", "peer", "peer_s", "ratio", "outputs_equal"}
        assert row["outputs_equal"] is True
        assert row["ours_s"] > 0
        assert row["peer"].startswith("transformers ")
    assert capsys.readouterr().out.count("| equal |") == len(rows)


def test_outputs_that_differ_are_told():
    row = compare("work", "fp32", "peer", lambda: 1, lambda: 2, lambda a, b: a == b, repeat=1)
    assert row.outputs_equal is False


def test_scores_are_compared_by_their_spread():
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert close_scores(scores, scores + 0.01, tolerance=0.01)
    assert not close_scores(scores, scores + 0.02, tolerance=0.01)
    assert not close_scores(scores, scores.flip(0), tolerance=0.01)


def test_answers_are_compared_by_candidates_and_losses():
    ours = Answers([["a", "b", "c", "d"]], [[-1.0, -2.0, -3.0, -4.0]])
    assert close_answers(ours, Answers([["b", "a", "c", "d"]], [[-2.0, -1.0, -3.0, -4.0]]), (0.01, 0.0))
    assert not close_answers(ours, Answers([["a", "b", "c", "d"]], [[-2.0, -1.0, -3.0, -4.0]]), (0.01, 0.0))
    one_other = Answers([["a", "b", "c", "e"]], [[-1.0, -2.0, -3.0, -4.0]])
    assert not close_answers(ours, one_other, (0.01, 0.0))
    assert close_answers(ours, one_other, (0.01, 0.25))
