"""Hostile configuration files end in one message, quickly, and the message shows nothing of them."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import stat
import string
import threading
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.cli import main
from vlkit.config import yamlfile
from vlkit.config.load import MAX_EXTENDS, load_config
from vlkit.config.yamlfile import MAX_DEPTH, MAX_NODES, dump_yaml, parse_yaml
from vlkit.errors import ConfigError

LETTERS = string.ascii_lowercase


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(text: str | bytes, folder) -> str:
    (folder / "run.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(folder / "run.yaml")
    return str(caught.value)


def bomb(width: int, levels: int, form: str = "[{}]") -> str:
    lines = ["a: &a {k: 1}"]
    for below, name in itertools.pairwise(LETTERS[: levels + 1]):
        lines.append(f"{name}: &{name} " + form.format(",".join([f"*{below}"] * width)))
    return "\n".join(lines)


@pytest.mark.parametrize("form", ["[{}]", "{{<<: [{}]}}", "{{x: [{}]}}"], ids=["list", "merge", "mapping"])
def test_alias_bombs_are_refused_before_they_expand(folder, form):
    tracemalloc.start()
    message = refused(bomb(9, 9, form), folder)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"with its aliases written out it has more than {MAX_NODES:,} values" in message
    assert most < 20e6


def test_aliases_of_an_ordinary_file_are_fine(folder):
    assert parse_yaml(bomb(3, 5), "run.yaml").value["f"].value
    parsed = parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", "run.yaml")
    assert {key: node.value for key, node in parsed.value["b"].value.items()} == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    "text", ["a: &a [*a]", "a: &a {b: *a}", "a: &a {<<: *a}", "a: &a [{b: [*a]}]", "? &a [*a]\n: 1"]
)
def test_an_anchor_that_contains_itself(folder, text):
    assert "an anchor contains itself" in refused(text, folder)


@pytest.mark.parametrize("text", ["a: " + "[" * 50_000, "a: " + "{a: " * 5_000, "- " * 5_000, "? " * 5_000])
def test_deep_nesting(folder, text):
    assert f"nested more than {MAX_DEPTH} levels deep" in refused(text, folder)


def test_depth_through_aliases(folder):
    chain = "a: &a [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1 if i else ''}]\n" for i in range(200))
    assert f"more than {MAX_DEPTH} levels" in refused(chain, folder)


def test_large_files(folder, monkeypatch):
    monkeypatch.setattr(yamlfile, "MAX_BYTES", 1_000)
    assert "more than 1,000 bytes" in refused("# " + "x" * 2_000, folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: " + "1" * 5_000, "cannot be read as a value of type int"),
        ("a: 0x" + "F" * 10_000, "an integer of more than 256 bits"),
        ("a: !!int abc", "cannot be read as a value of type int"),
        ("a: !!bool maybe", "cannot be read as a value of type bool"),
        ("a: !!timestamp abc", "cannot be read as a value of type timestamp"),
        ("a: !!timestamp 2020-01-01", "a value of type date cannot be used here"),
        ("a: !!binary abc", "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "a tag (!) that is not known here"),
        ("a: !other [1]", "a tag (!) that is not known here"),
        ('a: "x\\0y"', "a text with a NUL character"),
        ('a: "\\ud800"', "half a surrogate pair"),
        ("[a]: 1", "a key must be plain text"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        (bytes(range(256)), "Is it a text file in UTF-8?"),
        ("[1, 2]", "holds a list; a mapping (key: value) is needed"),
        ("a:\n\tb: 1", "Indent with spaces, not tabs"),
    ],
)
def test_values_that_no_key_takes(folder, text, says):
    assert says in refused(text, folder)


def test_what_looks_like_a_number_or_a_date_is_text():
    parsed = parse_yaml("{a: 017, b: 12:30:45, c: 2020-01-01, d: 0x__, e: 0b11, 1: x, ~: y, f: no}", "run.yaml").value
    values = {key: node.value for key, node in parsed.items()}
    assert values.pop("1") == "x"
    assert values.pop("~") == "y"
    assert values == {"a": "017", "b": "12:30:45", "c": "2020-01-01", "d": "0x__", "e": "0b11", "f": "no"}


def test_an_empty_file_is_an_empty_mapping(folder):
    (folder / "run.yaml").write_text("# nothing\n")
    assert load_config("run.yaml").data == {}


# What is in a file is never shown


@pytest.mark.parametrize(
    "content", ["s3cr3t-w0rd", "s3cr3t-w0rd: *s3cr3t-w0rd", "- s3cr3t-w0rd", "!s3cr3t-w0rd x", "'s3cr3t"]
)
def test_a_base_that_is_no_mapping_is_not_shown(folder, content):
    (folder / "secret.txt").write_text(content + "\n")
    message = refused("extends: secret.txt\nrun: {seed: 1}", folder)
    assert "secret.txt" in message
    assert "s3cr3t" not in message


def test_a_file_of_another_kind_is_not_shown(folder, capsys):
    (folder / "shadow").write_text("root:$6$salt$hash:19000:0:99999:7:::\n")
    for command in ("train", "check", "evaluate"):
        assert main([command, "shadow"]) == 2
        message = capsys.readouterr().err
        assert "there is a key that is no name of a section" in message
        assert "hash" not in message


# Interpolations


def doubled(form: str) -> str:
    """40 keys, each of which names the next one twice."""
    return "".join(f"a{i}: {form.format(i + 1)}\n" for i in range(40)) + "a40: xxxx"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "".join(f'a{i}: "${{a{i + 1}}}${{a{i + 1}}}"\n' for i in range(40)) + "a40: xxxx",
            "written out it has more than",
        ),
        (
            "".join(f'a{i}: {{p: "${{a{i + 1}}}", q: "${{a{i + 1}}}"}}\n' for i in range(40)) + "a40: 1",
            "it has more than",
        ),
        ("a: ${b}\nb: ${a}", "runs in a circle"),
        ("a: ${a}", "runs in a circle"),
        ("a: {b: '${a}'}", "runs in a circle"),
        ("a: {b: '${.c}', c: '${.b}'}", "runs in a circle"),
        ("".join(f"a{i}: ${{a{i + 1}}}\n" for i in range(500)) + "a500: 1", "a chain of more than"),
        ("a: ${${b}}", "without another one inside"),
        ("a: '" + "${" * 5_000 + "'", "without another one inside"),
        ("a: '${oc.create:" + "[" * 5_000 + "}'", "nested too deep"),
    ],
)
def test_interpolations_without_end(folder, text, says):
    message = refused(text, folder)
    assert says in message
    assert message.startswith("run.yaml")


def test_interpolations_that_are_right(folder):
    (folder / "run.yaml").write_text(
        "a: {b: 1, c: '${.b}', d: '${a.b}'}\nlist: [x, '${list[0]}']\ne: {f: '${..a.b}'}\n"
    )
    data = load_config("run.yaml").data
    assert data == {"a": {"b": 1, "c": 1, "d": 1}, "list": ["x", "x"], "e": {"f": 1}}


# Files that extend one another


def test_each_file_is_read_once_however_often_it_is_extended(folder):
    for i in range(25):
        (folder / f"{i}.yaml").write_text(f"extends: [{i + 1}.yaml, {i + 1}.yaml]\nrun: {{k{i}: {i}}}\n")
    (folder / "25.yaml").write_text("run: {seed: 7}\n")
    assert load_config("0.yaml").data["run"] == {"seed": 7, **{f"k{i}": i for i in range(25)}}


def test_a_long_chain_of_files(folder):
    for i in range(MAX_EXTENDS + 2):
        (folder / f"{i}.yaml").write_text(f"extends: {i + 1}.yaml\n")
    with pytest.raises(ConfigError, match=f"more than {MAX_EXTENDS} files extend one another"):
        load_config("0.yaml")


# Paths


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("x" * 5_000 + ".yaml", "too long"),
        ("/".join(["x" * 200] * 100), "too long"),
        ("", "empty path"),
        ("run\0.yaml", "run"),
        (".", "is a folder, not a file"),
        ("/dev/null", "a device or a socket"),
        ("~nobody-of-this-name/run.yaml", "does not exist"),
        ("loop", "loop"),
    ],
)
def test_paths_that_cannot_be_read(folder, path, says):
    os.symlink("loop", folder / "loop")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_a_pipe_is_named_and_not_waited_for(folder):
    os.mkfifo(folder / "pipe")
    with pytest.raises(ConfigError, match="is a pipe, which can be read only once"):
        load_config("pipe")
    read, write = os.pipe()
    writer = threading.Thread(target=lambda: os.write(write, b"run: {}\n"))
    writer.start()
    try:
        with pytest.raises(ConfigError, match="Write the configuration to a file"):
            load_config(f"/dev/fd/{read}")  # as `vlkit train <(generate)` gives
    finally:
        writer.join()
        os.close(read)
        os.close(write)


def test_an_override_of_many_parts(folder):
    (folder / "run.yaml").write_text("run: {}\n")
    with pytest.raises(ConfigError, match=f"more than {MAX_DEPTH} parts"):
        load_config("run.yaml", [".".join("a" * 5_000) + "=1"])


def test_no_permission(folder):
    (folder / "run.yaml").write_text("run: {}\n")
    os.chmod(folder / "run.yaml", 0)
    if os.access("run.yaml", os.R_OK):  # root reads everything
        pytest.skip("this user reads every file")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config("run.yaml")
    os.chmod(folder / "run.yaml", stat.S_IRUSR)


TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | TEXTS,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inside, max_size=3),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text("abc", max_size=3), TREES, max_size=4))
def test_what_is_dumped_is_read_back(data):
    def plain(node):
        if isinstance(node.value, dict):
            return {key: plain(each) for key, each in node.value.items()}
        return [plain(each) for each in node.value] if isinstance(node.value, list) else node.value

    assert plain(parse_yaml(dump_yaml(data), "x")) == data


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text("abc:[]{}&*!<>-?,'\"\n\t #|%@`~0123", max_size=40))
def test_any_content_parses_or_ends_in_one_error(content):
    with contextlib.suppress(ConfigError):
        parse_yaml(content, "x")


def test_many_values_are_refused_while_they_are_read(folder):
    text = "a: [" + ",".join("1" for _ in range(MAX_NODES)) + "]"
    assert f"more than {MAX_NODES:,} values" in refused(text, folder)
    assert f"more than {MAX_NODES:,} values" in refused("".join(f"k{i}: {i}\n" for i in range(MAX_NODES)), folder)


def test_an_empty_key_is_no_circle(folder):
    (folder / "run.yaml").write_text("'': 1\na: ${b}\nb: {'': 2}\n")
    assert load_config(folder / "run.yaml").data == {"": 1, "a": {"": 2}, "b": {"": 2}}


@pytest.mark.parametrize("extends", ["''", "[' ']"])
def test_an_empty_path_in_extends_has_its_place(folder, extends):
    assert "extends (line 1): a path or a list of paths is needed" in refused(f"extends: {extends}\n", folder)


def test_an_address_in_extends_shows_no_credentials(folder):
    message = refused("extends: https://us3r:t0ken@host/base.yaml?sig=s1gnature\n", folder)
    assert "does not exist" in message
    assert not any(secret in message for secret in ("us3r", "t0ken", "s1gnature"))


def test_compressed_files_are_named(folder):
    assert "it is gzip data, not YAML" in refused(gzip.compress(b"a: 1\n" * 100), folder)
