"""Durations: what can be written, and how many steps it is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.config.durations import TIMES, UNITS, Cadence, Count, Duration
from vlkit.errors import ConfigError


@pytest.mark.parametrize(
    ("given_", "amount", "unit"),
    [
        ("3000 steps", 3000, "steps"),
        ("1 step", 1, "steps"),
        ("2 epochs", 2, "epochs"),
        ("0.5 Epochs", 0.5, "epochs"),
        ("80k samples", 80_000, "samples"),
        ("1.5M samples", 1_500_000, "samples"),
        ("1.1k steps", 1100, "steps"),
        ("20_000", 20_000, "steps"),
        ("5k", 5000, "steps"),
        ("1e3 steps", 1000, "steps"),
        (3000, 3000, "steps"),
        (3e3, 3000, "steps"),
        (0, 0, "steps"),
        ({"steps": 3000}, 3000, "steps"),
        ({"epochs": 0.5}, 0.5, "epochs"),
        ({"samples": "80k"}, 80_000, "samples"),
        (Duration(2, "epochs"), 2, "epochs"),
        ("15 minutes", 15, "minutes"),
        ("5 s", 5, "seconds"),
        ("0.5 hours", 0.5, "hours"),
        ("1 hour", 1, "hours"),
        ("1.5h", 1.5, "hours"),
        ("20 min", 20, "minutes"),
        ("20 mins", 20, "minutes"),
        ("90 sec", 90, "seconds"),
        ({"minutes": 15}, 15, "minutes"),
    ],
)
def test_forms(given_, amount, unit):
    assert Duration.parse(given_) == Duration(amount, unit)


@pytest.mark.parametrize(
    ("given_", "reason"),
    [
        ("3 epoch s", "cannot be read"),
        ("3ksteps", "is no unit"),
        ("3 epocs", "Did you mean 'epochs'"),
        ("3 minuts", "Did you mean 'minutes'"),
        ("3 m", "'m' is no unit"),
        ("-3 minutes", "at least 0"),
        ("-3 steps", "at least 0"),
        ("0.5 steps", "only epochs can be fractions"),
        (0.5, "has no unit"),
        (float("nan"), "has no unit"),
        (True, "is no duration"),
        (None, "is no duration"),
        ([3], "is no duration"),
        ({"steps": 3, "epochs": 2}, "is no duration"),
        ({"steps": True}, "is no duration"),
        ({"step s": 3}, "cannot be read"),
        ("", "cannot be read"),
        ("steps", "cannot be read"),
    ],
)
def test_bad_forms_list_the_allowed_ones(given_, reason):
    with pytest.raises(ConfigError) as caught:
        Duration.parse(given_)
    assert reason in str(caught.value)


def test_steps_are_rounded_to_the_nearest():
    assert Duration.parse("7 steps").resolve(100, 32) == 7
    assert Duration.parse("2 epochs").resolve(100, 32) == 6  # 6.25
    assert Duration.parse("1 epoch").resolve(112, 32) == 4  # 3.5: halves go up
    assert Duration.parse("80k samples").resolve(1, 64) == 1250
    assert Duration.parse("0.1 epochs").resolve(1000, 10) == 10  # not 11, as floats would have it
    assert Duration.parse("1 sample").resolve(1000, 64) == 1
    assert Duration.parse("0 epochs").resolve(1000, 64) == 0


def test_resolving_needs_sizes():
    with pytest.raises(ConfigError, match="at least 1"):
        Duration(1, "epochs").resolve(0, 32)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10**9), st.sampled_from(UNITS))
def test_text_of_a_duration_parses_to_itself(amount, unit):
    assert Duration.parse(str(Duration(amount, unit))) == Duration(amount, unit)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10**6), st.sampled_from(UNITS), st.integers(1, 10**6), st.integers(1, 4096))
def test_resolve_is_within_half_a_step_and_monotonic(amount, unit, samples, batch):
    duration = Duration(amount, unit)
    exact = {"steps": amount, "epochs": amount * samples / batch, "samples": amount / batch}[unit]
    steps = duration.resolve(samples, batch)
    assert steps == 1 if 0 < exact < 0.5 else abs(steps - exact) <= 0.5 + 1e-6
    assert Duration(amount + 1, unit).resolve(samples, batch) >= steps
    assert (steps == 0) == (amount == 0)


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=15))
def test_parsing_text_never_crashes(text):
    try:
        unit = Duration.parse(text).unit
    except ConfigError:
        unit = "steps"
    assert unit in UNITS


def test_counts():
    assert [Count.parse(value) for value in (3, "3", "80k", "1.5M")] == [3, 3, 80_000, 1_500_000]
    for bad in ("80k samples", -1, 1.5, True, "x", None):
        with pytest.raises(ConfigError, match="whole number"):
            Count.parse(bad)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90 s", 90), ("15 minutes", 900), ("0.5 hours", 1800), ("3 steps", None)]
)
def test_times_in_seconds(text, seconds):
    assert Duration.parse(text).seconds == seconds


@pytest.mark.parametrize("unit", TIMES)
def test_a_time_is_no_number_of_steps(unit):
    with pytest.raises(ConfigError, match="is a time, which is no fixed number of steps"):
        Duration(3, unit).resolve(100, 10)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("5 s", (Duration(5, "seconds"),)),
        (["1 epochs", "15 minutes"], (Duration(1, "epochs"), Duration(15, "minutes"))),
        (Duration(2, "steps"), (Duration(2, "steps"),)),
        (Cadence((Duration(2, "steps"),)), (Duration(2, "steps"),)),
        ([3], (Duration(3, "steps"),)),
    ],
)
def test_cadences(given_, expected):
    assert Cadence.parse(given_).durations == expected


@pytest.mark.parametrize("given_", [[], ["2 stepps"], [None], [[3]], True])
def test_what_is_no_cadence(given_):
    with pytest.raises(ConfigError, match=r"Write .*or a list such as|Write 3000"):
        Cadence.parse(given_)
