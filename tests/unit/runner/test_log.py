from __future__ import annotations

import json
import math
import resource

import pytest

from vlkit.io.disk_errors import FileError
from vlkit.io.json import json_text
from vlkit.runner.log import Ledger, MetricsFile, read_lines


def test_what_json_cannot_say_becomes_null():
    assert json_text({"a": math.nan, "b": [math.inf, 1.5], "c": {"d": -math.inf}}) == (
        '{"a": null, "b": [null, 1.5], "c": {"d": null}}'
    )


def test_cut_back_forgets_later_and_half_written_lines(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3, 4):
        file.append({"step": step, "loss": 0.1 * step})
    with file.path.open("a") as raw:
        raw.write('{"step": 2, "lo')
    file.cut_back(3, evaluated=False)
    file.append({"step": 4, "loss": 9.0})
    assert [json.loads(line) for line in file.path.read_text().splitlines()] == [
        {"step": 1, "loss": 0.1},
        {"step": 2, "loss": 0.2},
        {"step": 3, "loss": 0.1 * 3},
        {"step": 4, "loss": 9.0},
    ]


@pytest.mark.parametrize("evaluated", [True, False])
def test_scores_of_the_last_step_stay_if_they_are_known(tmp_path, evaluated):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    content = [{"step": 2, "eval": {}}, {"step": 3, "loss": 1.0}, {"step": 3, "eval": {}}]
    for line in content:
        file.append(line)
    file.cut_back(3, evaluated)
    found = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert found == (content if evaluated else content[:2])


def test_cut_back_of_nothing_makes_nothing(tmp_path):
    MetricsFile(tmp_path / "metrics.jsonl").cut_back(0, evaluated=False)
    assert list(tmp_path.iterdir()) == []


def test_the_ledger_names_each_source_once_also_after_a_restart(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).add([("a.jpg", "empty", "step 1"), ("a.jpg", "empty", "step 9"), ("b.jpg", "text", "step 2")])
    again = Ledger(path)
    again.add([("a.jpg", "empty", "step 11"), ("c.jpg", "cut", "step 12")])
    assert again.count == 3
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["source"] for line in found] == ["a.jpg", "b.jpg", "c.jpg"]
    assert found[0] == {"source": "a.jpg", "reason": "empty", "where": "step 1"}


def test_of_many_bad_samples_the_ledger_names_all_and_the_log_the_first(tmp_path, caplog):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.add([(f"{i}.jpg", "empty", "step 1") for i in range(60)])
    assert len((tmp_path / "ledger.jsonl").read_text().splitlines()) == ledger.count == 60
    assert len(caplog.records) == 51
    assert "all are named in" in caplog.records[-1].message


DAMAGED = [
    b'{"step": 2, "lo',
    b"[1, 2]",
    b"3",
    b"null",
    b'"text"',
    b'{"loss": 1.0}',
    b'{"step": "2"}',
    b'{"step": true}',
    b'{"step": 2.5}',
    b'{"step": NaN}',
    b"\xff\xfe\xfa",
    b"\0" * 50,
    b"[" * 100_000,
    b'{"step": ' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("damage", DAMAGED, ids=range(len(DAMAGED)))
@pytest.mark.parametrize("place", ["first", "between", "last", "unfinished"])
def test_a_damaged_line_costs_that_line_and_one_warning(tmp_path, caplog, damage, place):
    lines = [json_text({"step": step}).encode() for step in (1, 2, 3)]
    lines.insert({"first": 0, "between": 1}.get(place, 3), damage)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join(lines) + (b"" if place == "unfinished" else b"\n"))
    file = MetricsFile(path)
    if place == "unfinished":  # what is added stands on a line of its own
        file.append({"step": 4})
    assert [line["step"] for line in read_lines(path, {"step": int})] == [1, 2, 3] + [4] * (place == "unfinished")
    assert len(caplog.records) == 1
    assert "metrics.jsonl: 1 damaged or half-written line is left out" in caplog.text
    file.cut_back(2, evaluated=True)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("line", [b'{"source": ["a"]}', b'{"sour', b"7", b"{}"])
def test_a_damaged_ledger_is_read_as_far_as_possible(tmp_path, line):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"source": "a.jpg"}\n' + line)
    ledger = Ledger(path)
    ledger.add([("b.jpg", "empty", "step 1")])
    assert ledger.count == 2
    assert Ledger(path).count == 2


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/proc/self/mem")
    with pytest.raises(FileError, match=r"metrics\.jsonl: cannot be read \(Input/output error\)"):
        MetricsFile(tmp_path / "metrics.jsonl").cut_back(1, evaluated=True)


@pytest.mark.parametrize("kind", ["folder", "full", "gone"])
def test_a_file_that_cannot_be_written_is_named(tmp_path, kind):
    path = tmp_path / "out" / "metrics.jsonl"
    if kind == "folder":
        path.mkdir(parents=True)
    elif kind == "full":
        path.parent.mkdir()
        path.symlink_to("/dev/full")
    with pytest.raises(FileError, match=r"metrics\.jsonl: cannot be written there \("):
        MetricsFile(path).append({"step": 1})


def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
    try:
        with pytest.raises(FileError, match="File too large"):
            file.append({"step": 2, "text": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.path.read_text() == '{"step": 1}\n'
