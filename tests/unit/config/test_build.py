"""Mapping to object: what annotations allow, and that every mistake is reported at once."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.config.build import accepts, build, check, describe
from vlkit.config.convert import convert
from vlkit.config.durations import Duration
from vlkit.config.signature import type_name
from vlkit.errors import ConfigError, RegistryError
from vlkit.registry import Registry
from vlkit.registry.bounds import Range

if TYPE_CHECKING:
    from nowhere import Nothing


class Color(enum.Enum):
    RED = "red"
    BLUE = 2


@dataclass
class Inner:
    width: int
    act: Literal["gelu", "relu"] = "gelu"
    sizes: list[int] = field(default_factory=lambda: [1, 2])

    def __post_init__(self):
        if self.width % 2:
            raise ConfigError(f"width {self.width} is odd.")


THINGS = Registry("thing", "tests.unit.config")


@THINGS.register("thing")
class Thing:
    """A thing with arguments.

    More about it.
    """

    def __init__(self, inner: Inner, rate: float = 0.1, tags: Sequence[str] = (), clock: Callable | None = None):
        self.inner, self.rate, self.tags, self.clock = inner, rate, tags, clock


@THINGS.register("open_thing")
class OpenThing:
    def __init__(self, width: int, **rest: Any):
        self.width, self.rest = width, rest


@THINGS.register("odd_thing")
class OddThing:
    def __init__(self, unknown: Nothing, bare, path: Path = Path("x"), *args: int):
        self.unknown, self.bare, self.path = unknown, bare, path


def converted(value: Any, hint: Any) -> Any:
    problems: list[tuple[str, str]] = []
    result = convert(value, hint, "key", problems)
    if problems:
        raise ConfigError([f"{path}: {text}" for path, text in problems])
    return result


@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (True, bool, True),
        ("x", str, "x"),
        (None, None, None),
        (None, Optional[int], None),  # noqa: UP045
        (3, Union[int, str], 3),  # noqa: UP007
        (3, float | int, 3),
        ("x", Path | str, "x"),
        ("x", Path | None, Path("x")),
        ("a", Literal["a", 1], "a"),
        (1, Literal["a", 1], 1),
        ([1, 2], list[int], [1, 2]),
        ([1, 2], list[float], [1.0, 2.0]),
        ([1], Sequence[int], [1]),
        ([1, 2], tuple[int, ...], (1, 2)),
        ([1, "x"], tuple[int, str], (1, "x")),
        ([1, "x"], tuple, (1, "x")),
        ([1, None], list, [1, None]),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ({"a": [1]}, Mapping[str, list[int]], {"a": [1]}),
        ({"a": 1}, dict, {"a": 1}),
        ("RED", Color, Color.RED),
        ("red", Color, Color.RED),
        (2, Color, Color.BLUE),
        ({"width": 2}, Inner, Inner(2)),
        ([{"width": 2}], list[Inner], [Inner(2)]),
        ({"width": 2}, Inner | None, Inner(2)),
        ("2 epochs", Duration, Duration(2, "epochs")),
        (5, Duration | None, Duration(5, "steps")),
        (0.5, Annotated[float, Range(0, 1)], 0.5),
        (None, Annotated[int, Range(1)] | None, None),
        (object, Any, object),
    ],
)
def test_values_that_fit(value, hint, result):
    found = converted(value, hint)
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (True, int, "key: true (bool) given, int allowed."),
        (True, float, "key: true (bool) given, float allowed."),
        (1, bool, "key: 1 (int) given, bool allowed."),
        ("true", bool, "key: 'true' (str) given, bool allowed. Write true, without quotes."),
        ("no", bool, "key: 'no' (str) given, bool allowed. Write false, without quotes."),
        ("1e-4", float, "key: '1e-4' (str) given, float allowed. Write the number without quotes."),
        (1e3, int, "key: 1000.0 (float) given, int allowed. Write 1000."),
        (1.5, int, "key: 1.5 (float) given, int allowed."),
        (3, str, "key: 3 (int) given, str allowed."),
        (None, int, "key: null given, int allowed."),
        ("x", int | None, "key: 'x' (str) given, int or null allowed."),
        (1.5, int | str, "key: 1.5 (float) given, int or str allowed."),
        ("gelo", Literal["gelu", "relu"], "key: 'gelo' (str) given, 'gelu' or 'relu' allowed. Did you mean 'gelu'"),
        (True, Literal[1], "key: true (bool) given, 1 allowed."),
        ("x", list[str], "key: 'x' (str) given, list of str allowed. Put it in brackets: [...]."),
        ([1, "x"], list[int], "key.1: 'x' (str) given, int allowed."),
        ([1, "x"], list[int] | None, "key.1: 'x' (str) given, int allowed."),
        ([1], tuple[int, int], "key: [1] (list) given, [int, int] allowed."),
        ({"a": "x"}, dict[str, int], "key.a: 'x' (str) given, int allowed."),
        ([1], dict[str, int], "key: [1] (list) given, mapping of int allowed."),
        ("REDD", Color, "key: 'REDD' (str) given, 'RED' or 'BLUE' allowed. Did you mean 'RED'?"),
        (3, Inner, "key: 3 (int) given, mapping (Inner) allowed."),
        ({"width": 3}, Inner, "key: width 3 is odd."),
        ({"widht": 2}, Inner, "key.widht: unknown key 'widht'. Did you mean 'width'? Allowed: width (int, required)"),
        ({"width": "x"}, Inner | None, "key.width: 'x' (str) given, int allowed."),
        ({}, Inner, "key: the key 'width' (int) is missing."),
        ("3 stepps", Duration | None, "key: '3 stepps': 'stepps' is no unit. Did you mean 'steps'"),
        (2.0, Annotated[float, Range(0, 1)], "key: 2.0 (float) given, float at least 0 and at most 1 allowed."),
        (0, Annotated[float, Range(0, open=True)] | None, "float above 0 or null allowed."),
        (float("nan"), Annotated[float, Range(0)], "float at least 0 allowed."),
    ],
)
def test_values_that_do_not_fit(value, hint, message):
    with pytest.raises(ConfigError) as caught:
        converted(value, hint)
    assert message in str(caught.value)


def test_build_makes_nested_objects_and_passes_on_what_is_provided():
    clock = object()
    mapping = {"name": "thing", "inner": {"width": 4, "sizes": [7]}, "tags": ["a"]}
    thing = build(THINGS, mapping, clock=clock)
    assert isinstance(thing, Thing)
    assert (thing.inner, thing.rate, thing.tags, thing.clock) == (Inner(4, sizes=[7]), 0.1, ["a"], clock)
    assert mapping["name"] == "thing"  # the mapping is not changed


def test_build_takes_a_class_or_function_too():
    assert build(Inner, {"width": 4}) == Inner(4)
    assert build(lambda name, b=2: (name, b), {"name": 1}) == (1, 2)


def test_all_problems_come_at_once_with_their_places():
    mapping = {"name": "thing", "inner": {"with": 4}, "rate": "fast", "tag": ["a"], "clock": 3}
    with pytest.raises(ConfigError) as caught:
        build(THINGS, mapping, "model", lambda path: f"run.yaml: {path}", clock=1)
    problems = caught.value.problems
    assert [problem.split(": ")[1] for problem in problems] == [
        "model.inner.with",
        "model.inner",
        "model.rate",
        "model.tag",
        "model.clock",
    ]
    assert "Did you mean 'width'" in problems[0]
    assert "rate (float, default 0.1)" in problems[3]
    assert "clock" not in problems[3]  # what is provided is not on offer
    assert "filled in by vlkit" in problems[4]
    assert check(THINGS, mapping, "model", lambda path: f"run.yaml: {path}", ["clock"]) == problems


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"name": "thng"}, "no thing is named 'thng'. Closest: thing"),
        ({"nam": "thing"}, "the key 'name' is missing: which thing? Is 'nam' meant? Known: odd_thing, open_thing"),
        ({"name": 3}, "3 given, the name of a thing is needed"),
        ("thing", "'thing' given, a mapping"),
        (None, "null given, a mapping"),
    ],
)
def test_names_are_checked(mapping, expected):
    assert expected in "\n".join(check(THINGS, mapping, "model"))


def test_checking_builds_nothing():
    built = []

    def make(width: int = 1) -> None:
        built.append(width)

    assert check(make, {"width": 3}) == []
    assert built == []


def test_open_constructors_take_any_key_but_check_their_own():
    thing = build(THINGS, {"name": "open_thing", "width": 1, "color": 2})
    assert (thing.width, thing.rest) == (1, {"color": 2})
    assert check(THINGS, {"name": "open_thing", "width": "x", "color": 2}) == ["width: 'x' (str) given, int allowed."]


def test_annotations_that_cannot_be_resolved_are_not_checked_but_the_others_are():
    assert build(THINGS, {"name": "odd_thing", "unknown": 1, "bare": "x", "path": "y"}).path == Path("y")
    problems = check(THINGS, {"name": "odd_thing", "unknown": 1, "path": 3})
    assert problems == ["path: 3 (int) given, path allowed.", "the key 'bare' (any value) is missing."]


def test_inherited_fields_are_read_where_they_were_written():
    from vlkit.config.schema import OptimConfig

    @dataclass(frozen=True)
    class More(OptimConfig):
        extra: int = 1

    assert check(More, {"lr": 0.1, "extra": "x"}) == ["extra: 'x' (str) given, int allowed."]
    assert "float above 0" in check(More, {"lr": -1})[0]


def test_accepts():
    assert accepts(Thing, "clock")
    assert not accepts(Thing, "image_processor")
    assert accepts(OpenThing, "image_processor")


def test_describe_lists_types_and_defaults():
    text = describe(THINGS, "thing").splitlines()
    assert text[0].startswith("thing thing (tests.unit.config.test_build.Thing)")
    assert text[1] == "A thing with arguments."
    assert text[2] == "  inner: mapping (Inner), required"
    assert text[3] == "  rate: float, default 0.1"
    assert "any other key" in describe(THINGS, "open_thing")
    with pytest.raises(RegistryError):
        describe(THINGS, "nothing")


SIMPLE = {int: st.integers(), float: st.floats(allow_nan=False), bool: st.booleans(), str: st.text(max_size=5)}
VALUES = st.one_of(st.none(), *SIMPLE.values())


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(list(SIMPLE)), VALUES)
def test_plain_types_accept_exactly_their_own_values(kind, value):
    fits = type(value) is kind or (kind is float and type(value) is int)
    if type(value) in (int, float) and kind in (int, float):  # what no number type of the machine holds fits nowhere
        fits = fits and math.isfinite(value) and (kind is float or abs(value) < 2**63)
    problems: list[tuple[str, str]] = []
    result = convert(value, kind, "key", problems)
    assert (not problems) == fits
    assert not fits or (result == kind(value) and type(result) is kind)  # a float holds large integers rounded


HINTS = st.recursive(
    st.sampled_from([int, float, bool, str, None, Any, Inner, Color, Duration, Path, Literal["a", 1]]),
    lambda hints: st.one_of(
        hints.map(lambda h: list[h]),
        hints.map(lambda h: tuple[h, ...]),
        hints.map(lambda h: dict[str, h]),
        hints.map(lambda h: Optional[h]),  # noqa: UP045
    ),
    max_leaves=4,
)
DATA = st.recursive(
    VALUES, lambda d: st.lists(d, max_size=3) | st.dictionaries(st.text(max_size=5), d, max_size=3), max_leaves=6
)


@settings(deadline=None, max_examples=200)
@given(DATA, HINTS)
def test_any_value_against_any_annotation_gives_a_result_or_a_sentence(value, hint):
    problems: list[tuple[str, str]] = []
    convert(value, hint, "key", problems)
    assert all(path.startswith("key") and text.strip() for path, text in problems)
    assert type_name(hint)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from([1, "x", None]), max_size=5))
def test_one_problem_for_each_wrong_entry(values):
    problems: list[tuple[str, str]] = []
    convert(values, list[int], "key", problems)
    assert [path for path, _ in problems] == [f"key.{i}" for i, value in enumerate(values) if value != 1]
