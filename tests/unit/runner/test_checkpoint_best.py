from __future__ import annotations

import math

import pytest

from vlkit.errors import ConfigError
from vlkit.runner.checkpoint import Best


@pytest.mark.parametrize(
    ("mode", "scores", "wins"),
    [
        ("max", [-3.0, -5.0, -1.0, -1.0], [True, False, True, False]),
        ("min", [2.0, 0.0, -4.0, -3.0], [True, True, True, False]),
        ("max", [math.nan, -7.0, math.nan, -6.0], [False, True, False, True]),
        ("min", [math.nan, 0.0], [False, True]),
    ],
)
def test_which_values_win(mode, scores, wins):
    best = Best("val/x", mode)
    assert [best.update(step, {"val/x": score}) for step, score in enumerate(scores)] == wins
    assert best.step == max(step for step, win in enumerate(wins) if win)


def test_an_unknown_score_lists_what_there_is():
    with pytest.raises(ConfigError, match=r"Did you mean 'val/cider' or 'val/bleu'\? Available: val/bleu, val/cider"):
        Best("val/cidre").update(1, {"val/cider": 1.0, "val/bleu": 2.0})


def test_without_a_monitor_nothing_is_best():
    assert not Best(None).update(1, {"val/x": 1.0})


def test_state_survives_unless_another_score_is_monitored():
    best = Best("val/x", "min")
    best.update(4, {"val/x": -0.5})
    same, other = Best("val/x", "min"), Best("val/x", "max")
    same.load_state_dict(best.state_dict())
    other.load_state_dict(best.state_dict())
    assert (same.step, same.value) == (4, -0.5)
    assert other.value is None
