"""docs/training.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import vlkit
from vlkit.config.durations import Cadence
from vlkit.config.schema import RunOptions
from vlkit.runner.config_changes import NEUTRAL

PAGE = (Path(vlkit.__file__).parent.parent / "docs/training.md").read_text()


def test_the_defaults_are_those_of_the_page():
    rows = re.findall(r"^\| `run\.(\w+)` \| `(.*?)` \|", PAGE, re.MULTILINE)
    assert {name for name, _ in rows} == {"checkpoint_every", "eval_every", "keep_checkpoints"}
    for name, text in rows:
        default = getattr(RunOptions(), name)
        if isinstance(default, Cadence):
            assert Cadence.parse(text.strip("[]").split(", ")) == default
        else:
            assert text == str(default)


def test_the_keys_that_may_differ_are_those_of_the_page():
    listed = PAGE.partition("of `run`, ")[2].partition("Everything else")[0]
    assert {*re.findall(r"`(\w+)`", listed), "change_optimizer"} == set(NEUTRAL)


def test_the_attribute_of_the_page_exists():
    from vlkit.tasks.base import Task

    assert "evaluation_keys" in PAGE
    assert Task.evaluation_keys == ()
