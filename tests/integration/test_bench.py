"""The benchmarks run, compare outputs and write what they measured; no time is asserted."""

import json

import pytest
import torch

from vlkit.bench.capfilt import _Round, _speeds, report
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


def test_capfilt_beside_its_models_and_in_two_processes(tmp_path, capsys):
    file = tmp_path / "rows.json"
    assert main(["bench", "capfilt", "--images", "40", "--repeat", "1", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())
    assert [row["wanted"] for row in rows] == [None, None, 0.8, 1.6]
    assert all(row["outputs_equal"] and row["images_per_s"] > 0 for row in rows)
    assert capsys.readouterr().out.count("| equal |") == 4


def test_capfilt_figures_are_medians_of_rounds():
    rounds = [_Round(1.0, 4.0, 5.0, 2.5), _Round(2.0, 8.0, 8.0, 8.0), _Round(1.0, 5.0, 10.0, 5.0)]
    encoder, models, engine, two = _speeds(100, rounds, texts_equal=True, files_equal=False)
    assert (encoder.images_per_s, encoder.ratio) == (100, None)
    assert (models.images_per_s, models.ratio) == (20, 0.25)
    assert (engine.images_per_s, engine.ratio, engine.outputs_equal) == (12.5, 0.8, True)
    assert (two.images_per_s, two.ratio, two.outputs_equal) == (20, 2.0, False)
    assert "| engine, two processes | 20.0 | 2.00 | one process | 1.60 | DIFFER |" in report([two])
