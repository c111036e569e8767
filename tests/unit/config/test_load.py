"""Loading of YAML: bases, overrides, interpolation, and where each key was written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.config.load import load_config, to_yaml
from vlkit.config.overrides import parse_override
from vlkit.config.yamlfile import dump_yaml, parse_yaml
from vlkit.errors import ConfigError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def problem(name: str = "run.yaml", overrides: list[str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(name, overrides or [])
    return str(caught.value)


def test_scalars_are_what_people_mean(folder):
    write("run.yaml", "a: 1e-4\nb: 2.0e-3\nc: [yes, no, true]\nd: 017\ne: 12:30\nf: 0x10\ng: ~\nh: -3\n1: .5\n")
    data = load_config("run.yaml").data
    assert data == {
        "a": 1e-4,
        "b": 2e-3,
        "c": ["yes", "no", True],
        "d": "017",
        "e": "12:30",
        "f": 16,
        "g": None,
        "h": -3,
        "1": 0.5,
    }
    assert isinstance(data["a"], float)


def test_empty_file_is_an_empty_mapping(folder):
    write("run.yaml", "# nothing\n")
    assert load_config("run.yaml").data == {}


def test_extends_merges_mappings_and_replaces_lists(folder):
    write("bases/low.yaml", "optim: {lr: 1, eps: 2}\nlist: [1, 2]\nkeep: 1\n")
    write("bases/mid.yaml", "extends: low.yaml\noptim: {lr: 3}\n")
    write("bases/other.yaml", "optim: {eps: 5}\n")
    write("run.yaml", "extends: [bases/mid.yaml, bases/other.yaml]\nlist: [9]\noptim: {wd: 7}\n")
    data = load_config("run.yaml").data
    assert data == {"optim": {"lr": 3, "eps": 5, "wd": 7}, "list": [9], "keep": 1}


def test_one_base_may_be_reached_twice(folder):
    write("base.yaml", "a: 1\n")
    write("left.yaml", "extends: base.yaml\n")
    write("right.yaml", "extends: base.yaml\nb: 2\n")
    write("run.yaml", "extends: [left.yaml, right.yaml]\n")
    assert load_config("run.yaml").data == {"a": 1, "b": 2}


def test_origins_name_file_and_line(folder):
    write("base.yaml", "optim:\n  lr: 1\n  eps: 2\n")
    write("run.yaml", "extends: base.yaml\nsets:\n  - {name: x}\noptim:\n  eps: 3\n")
    config = load_config("run.yaml", ["optim.wd=4"])
    assert config.origin("optim.lr") == "base.yaml: optim.lr (line 2)"
    assert config.origin("optim.eps") == "run.yaml: optim.eps (line 5)"
    assert config.origin("sets.0.name") == "run.yaml: sets.0.name (line 3)"
    assert config.origin("optim.wd") == "command line: optim.wd"
    assert config.origin("optim.missing") == "run.yaml: optim.missing (line 4)"
    assert config.origin("nowhere") == "run.yaml: nowhere"
    assert config.source("optim.lr") == Path("base.yaml")
    assert config.source("optim.wd") is None


def test_circle_names_its_chain(folder):
    write("a.yaml", "extends: b.yaml\n")
    write("b.yaml", "extends: a.yaml\n")
    assert "a.yaml -> b.yaml -> a.yaml" in problem("a.yaml")


def test_missing_files_name_the_closest(folder):
    write("_base.yaml", "")
    write("run.yaml", "extends: _bose.yaml\n")
    assert problem("rum.yaml").startswith("rum.yaml: does not exist. Did you mean 'run.yaml'")
    message = problem()
    assert "run.yaml extends it" in message
    assert "'_base.yaml'" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "run.yaml:3:1: the key 'a' stands here and in line 1"),
        ("a:\n\tb: 1\n", "run.yaml:2:1: not valid YAML"),
        ("a: [1, 2\nb: 3\n", "run.yaml:2:"),
        ("a: 1\n---\nb: 2\n", "run.yaml:2:1"),
        ("- 1\n", "run.yaml: holds a list; a mapping"),
        ("a: !!python/object:os.system x\n", "run.yaml:1:4"),
        ("a: &x [*x]\n", "an anchor contains itself"),
        ("? [1]\n: 2\n", "a key must be plain text"),
        ("a: \x07\n", "run.yaml: not valid YAML"),
        ("extends: {a: 1}\n", "extends (line 1): a path or a list of paths"),
    ],
)
def test_bad_files_are_named_with_line(folder, text, expected):
    write("run.yaml", text)
    assert expected in problem()


def test_tab_is_called_a_tab(folder):
    write("run.yaml", "a:\n\tb: 1\n")
    assert "Indent with spaces, not tabs." in problem()


def test_merge_keys_work(folder):
    write("run.yaml", "x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\n")
    assert load_config("run.yaml").data["y"] == {"a": 1, "b": 3}


def test_interpolation_is_resolved(folder):
    write("run.yaml", "a: {b: 3}\nc: ${a.b}\nd: out/${c}\ne: ${a}\n")
    assert load_config("run.yaml", ["a.b=4"]).data == {"a": {"b": 4}, "c": 4, "d": "out/4", "e": {"b": 4}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim: {lr: 1}\nx:\n  - ${optim.lrr}\n", "run.yaml: x.0 (line 3): Interpolation key 'optim.lrr' not found"),
        ("x: ???\n", "run.yaml: x (line 1): '???' stands for a value that must be given"),
        ("x: ${y\n", "run.yaml"),
    ],
)
def test_interpolation_that_fails_names_the_key(folder, text, expected):
    write("run.yaml", text)
    assert expected in problem()


def test_missing_interpolation_key_gets_a_suggestion(folder):
    write("run.yaml", "optim: {lr: 1}\nx: ${optim.lrr}\n")
    assert "Did you mean 'optim.lr'" in problem()


def test_overrides_reach_keys_and_list_entries(folder):
    write("run.yaml", "optim: {lr: 1}\ndatasets: {train: [{size: 1}, {size: 2}]}\nn: null\n")
    overrides = ["optim.lr=1e-4", "datasets.train.1.size=100", "n.new=[a, 2]", "optim={eps: 3}", "x.y=null"]
    assert load_config("run.yaml", overrides).data == {
        "optim": {"lr": 1e-4, "eps": 3},
        "datasets": {"train": [{"size": 1}, {"size": 100}]},
        "n": {"new": ["a", 2]},
        "x": {"y": None},
    }


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lr", "there is no '='"),
        ("=3", "the key is empty"),
        ("optim..lr=3", "empty part"),
        ("+optim.lr=3", "a '+' is not needed, new keys may be given: optim.lr=3"),
        ("optim.lr=", "there is no value"),
        ("optim.lr=[1", "not valid YAML"),
        ("sets.2.name=x", "sets is a list with the entries 0 to 1, not '2'"),
        ("sets.-1.name=x", "not '-1'"),
        ("sets.first=x", "not 'first'"),
        ("none.0=x", "none is an empty list"),
        ("optim.lr.deep=x", "optim.lr is 1, which has no keys"),
    ],
)
def test_malformed_overrides_say_how_to_fix_them(folder, override, expected):
    write("run.yaml", "optim: {lr: 1}\nsets: [{name: a}, {name: b}]\nnone: []\n")
    message = problem(overrides=[override])
    assert message.startswith(f"command line: override {override!r}: ")
    assert expected in message


def test_all_malformed_overrides_are_reported_together(folder):
    write("run.yaml", "a: 1\n")
    assert len(problem(overrides=["b", "=1", "a.b=2", "c=3"]).splitlines()) == 3


KEYS = st.text("abcdefgh_", min_size=1, max_size=6)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=12)
    | st.sampled_from(["1e-4", "true", "yes", "017", "12:30", "2024-01-01", "~", "", " a ", "- x", "a: b", "#"])
)
TREES = st.recursive(SCALARS, lambda t: st.lists(t, max_size=3) | st.dictionaries(KEYS, t, max_size=3), max_leaves=8)


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_dumped_data_are_read_back(data):
    def plain(node):
        if isinstance(node.value, dict):
            return {key: plain(child) for key, child in node.value.items()}
        return [plain(child) for child in node.value] if isinstance(node.value, list) else node.value

    back = plain(parse_yaml(dump_yaml(data), "text"))
    assert back == data
    assert repr(back) == repr(data)  # 1 is not 1.0, and the order of keys is kept


@settings(deadline=None, max_examples=100)
@given(st.lists(KEYS, min_size=1, max_size=4), SCALARS)
def test_any_path_and_value_can_be_written_as_an_override(keys, value):
    text = dump_yaml([value])[2:].removesuffix("\n")
    found, node = parse_override(f"{'.'.join(keys)}={text}")
    assert found == keys
    assert node.value == value
    assert type(node.value) is type(value)


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=20))
def test_override_parsing_never_crashes(text):
    try:
        keys = parse_override(text)[0]
    except ConfigError:
        keys = ["refused"]
    assert keys
    assert all(keys)


def test_to_yaml_is_deterministic_and_complete(folder):
    write("base.yaml", "b: {x: 1e-5}\n")
    write("run.yaml", "extends: base.yaml\nc: ${b.x}\na: '1e-4'\n")
    text = to_yaml(load_config("run.yaml"))
    write("again.yaml", text)
    again = load_config("again.yaml")
    assert again.data == {"b": {"x": 1e-5}, "c": 1e-5, "a": "1e-4"}
    assert to_yaml(again) == text
