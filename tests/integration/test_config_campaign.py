"""``vlkit check`` on mutated files, and on odd numbers and names: one message and exit code 2, or nothing wrong.

The full size (500 files and 500 values) runs with ``VLKIT_CAMPAIGN=full``; ``VLKIT_CAMPAIGN_SEED`` draws others.
"""

from __future__ import annotations

import random
import sys

import pytest

from tests.assets.mutations import BASES, FULL, SEED, checked, mutated, odd_value
from vlkit.config.yamlfile import dump_yaml

EACH = {True: 50, False: 3}[FULL]
"""Mutated files of each of ten kinds."""
ODD = {True: 50, False: 5}[FULL]
"""Odd numbers and names in each of them."""
pytestmark = [pytest.mark.campaign, pytest.mark.timeout(7200)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLKIT_OFFLINE", "1")
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def progress(kind: str, number: int, problems: list[str]) -> None:
    if FULL and number % 10 == 0:
        print(f"{kind}: case {number}, {len(problems)} problems", file=sys.__stderr__, flush=True)


@pytest.mark.parametrize("kind", BASES)
def test_mutated_files(kind, folder):
    base, problems = BASES[kind](folder), []
    for number in range(EACH):
        text = mutated(base, random.Random(f"{SEED}-{kind}-{number}"))
        problem = checked(text)
        if problem:
            problems.append(f"--- case {number}\n{text!r}\n{problem}")
        progress(kind, number, problems)
    assert not problems, f"{len(problems)} of {EACH}:\n" + "\n".join(problems)


@pytest.mark.parametrize("kind", BASES)
def test_odd_numbers_and_names(kind, folder):
    base, problems = BASES[kind](folder), []
    for number in range(ODD):
        data, what = odd_value(base, random.Random(f"{SEED}-odd-{kind}-{number}"))
        problem = checked(dump_yaml(data))
        if problem:
            problems.append(f"--- case {number}: {what}\n{problem}")
        progress(f"odd {kind}", number, problems)
    assert not problems, f"{len(problems)} of {ODD}:\n" + "\n".join(problems)


@pytest.mark.parametrize("kind", BASES)
def test_the_files_themselves_are_right(kind, folder):
    assert checked(dump_yaml(BASES[kind](folder)), codes=(0,)) == ""
