"""Shards that are filtered again equal those that would have been written at once."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.capfilt.outputs import Text, files_of, png, shape_entries, write_output
from tests.unit.capfilt.small import annotator, members, result, worker, write_shards, write_tar
from vlkit.capfilt import refilter as module
from vlkit.capfilt.decision import Decision
from vlkit.capfilt.inputs import Item, Refused
from vlkit.capfilt.refilter import refilter
from vlkit.capfilt.storage import Storage
from vlkit.cli import main
from vlkit.datasets.web_shards import WebShards
from vlkit.errors import ConfigError, DataError

SHARDS = [shape_entries(0, 12), shape_entries(1, 5), [Refused("part-002", "shard", "unreadable shard", "?")]]
LOOSE, STRICT = Decision(threshold=0.3), Decision(threshold=0.8, itc_threshold=0.3)


def results(folder):
    """All files but the record of the job and the summary, which a test without engine does not write."""
    return {name: data for name, data in files_of(folder).items() if name not in ("capfilt.json", "summary.json")}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (LOOSE, STRICT),
        (STRICT, LOOSE),
        (LOOSE, Decision("web", None)),
        (Decision("synthetic"), Decision(threshold=None)),
    ],
)
def test_cut_shards_are_those_of_a_job_with_that_decision(first, second, tmp_path):
    source = write_output(tmp_path / "first", SHARDS, first)
    wanted = write_output(tmp_path / "wanted", SHARDS, second)
    reported = refilter(source, tmp_path / "cut", second)
    assert results(tmp_path / "cut") == results(wanted) != results(source)
    assert reported["status"] == "finished"
    summary = json.loads((tmp_path / "cut" / "summary.json").read_text())
    assert {key: reported[key] for key in summary} == summary
    assert summary["images"]["kept"] + summary["images"]["dropped"] == 17


def texts_of(source):
    return st.builds(
        Text,
        st.sampled_from(["", " ", "a", "b", 'ü "quoted"\n\ud7ff']),
        st.just(source),
        st.floats(0, 1) | st.just(float("nan")),
        st.none() | st.floats(-1, 1),
        st.none() | st.floats(-200, 0),
    )


texts = st.tuples(st.lists(texts_of("web"), max_size=1), st.lists(texts_of("synthetic"), max_size=2)).map(
    lambda both: [*both[0], *both[1]]
)
fields = st.dictionaries(
    st.sampled_from(["url", "texts", "caption2", "n", "key", "input_key", "text.a"]),
    st.none() | st.text(max_size=3) | st.floats() | st.integers() | st.booleans() | st.lists(st.integers(), max_size=2),
)
entries = st.lists(
    st.tuples(st.sampled_from([png(), b"not decoded here"]), st.sampled_from(["jpg", "png"]), fields, texts), max_size=6
)
decisions = st.builds(
    Decision, st.sampled_from(["both", "web"]), st.none() | st.floats(0, 1), st.none() | st.floats(-1, 1)
)


@settings(deadline=None, max_examples=25)
@given(entries, decisions, decisions, st.sampled_from(["all", "kept", "scores"]))
def test_whatever_is_stored_is_cut_to_the_bit(tmp_path_factory, entries, first, second, stored):
    has_itc = any(each.itc is not None for *_, texts in entries for each in texts)
    if not has_itc and second.itc_threshold is not None and any(texts for *_, texts in entries):
        return  # refused, see below
    if stored == "kept" and not second.stricter_than(first):
        return
    shard = []
    for number, (image, extension, fields, texts) in enumerate(entries):
        web = tuple(each.text for each in texts if each.source == "web") or ("unscored",) * (number % 2)
        shard.append((Item(f"sub/{number}", image, extension, web, fields), texts))
        if not web:
            shard.append(Refused(f"sub/{number}", "text", "no text"))
    folder = tmp_path_factory.mktemp("cut")
    options = {"store_dropped": stored == "all", "store_images": stored != "scores"}
    source = write_output(folder / "first", [shard], first, **options)
    wanted = write_output(folder / "wanted", [shard], second, **options)
    refilter(source, folder / "cut", second)
    assert results(folder / "cut") == results(wanted)


@pytest.mark.parametrize("store_dropped", [True, False])
def test_it_equals_what_the_engine_writes_with_that_decision(store_dropped, tmp_path):
    write_shards(tmp_path / "in", [7, 4])
    files = members(2, 6)
    files |= {"2-001.png": files["2-001.png"][:60], "2-002.txt": b"", "2-003.json": b"{"}
    files |= {"2-004.cls": b"1", "2-005.cls": b"2", "2-000.json": b'{"caption": ["one", "two", ""], "n": 1e9}'}
    write_tar(tmp_path / "in" / "00002.tar", files)
    second = Decision("both", 0.47, -0.3)
    for name, decision in (("first", Decision("both", 0.4)), ("wanted", second)):
        annotate = annotator(decision=decision)
        assert worker(tmp_path / "in", tmp_path / name, annotate, store_dropped=store_dropped).run()
        inputs = {shard: {} for shard in ("00000", "00001", "00002")}
        record = {"task": {"decision": asdict(decision)}, "inputs": inputs}
        (tmp_path / name / "capfilt.json").write_text(json.dumps(record))
    refilter(tmp_path / "first", tmp_path / "cut", second)
    wanted, cut = result(tmp_path / "wanted"), result(tmp_path / "cut")
    assert result(tmp_path / "first")["summary.json"] != cut["summary.json"]
    assert wanted.pop("capfilt.json") != cut.pop("capfilt.json")
    assert cut == wanted


def test_scores_alone_can_be_decided_again_either_way(tmp_path):
    source = write_output(tmp_path / "first", SHARDS, STRICT, store_images=False)
    found = refilter(source, tmp_path / "cut", LOOSE)
    wanted = write_output(tmp_path / "wanted", SHARDS, LOOSE, store_images=False)
    assert results(tmp_path / "cut") == results(wanted)
    assert not list((tmp_path / "cut").glob("kept"))
    full = refilter(write_output(tmp_path / "full", SHARDS, STRICT), tmp_path / "full_cut", LOOSE)
    assert found["images"] == full["images"]
    assert found["texts"] == full["texts"]
    with pytest.raises(DataError, match=r"run\.output: scores"):
        WebShards(str(tmp_path / "cut"), image_processor=lambda image, rng: image)


def test_a_cut_can_be_cut_again(tmp_path):
    source = write_output(tmp_path / "first", SHARDS, LOOSE)
    refilter(source, tmp_path / "strict", STRICT)
    refilter(tmp_path / "strict", tmp_path / "back", LOOSE)
    assert results(tmp_path / "back") == results(source)


def test_it_says_where_it_comes_from(tmp_path):
    source = write_output(tmp_path / "first", SHARDS, LOOSE)
    refilter(source, tmp_path / "cut", STRICT)
    before, after = (json.loads((tmp_path / name / "capfilt.json").read_text()) for name in ("first", "cut"))
    assert after.pop("cut_from") == {"output": str(source), "decision": before["task"]["decision"]}
    assert after["task"].pop("decision") == {"texts": "both", "threshold": 0.8, "itc_threshold": 0.3}
    del before["task"]["decision"]
    assert after == before


def test_an_interrupted_cut_resumes(tmp_path, monkeypatch):
    source = write_output(tmp_path / "first", SHARDS, LOOSE)
    whole = module.refilter_shard
    cut = []

    def once(place, output, name, decision):
        if len(cut) == 1:
            raise KeyboardInterrupt
        cut.append(name)
        whole(place, output, name, decision)

    monkeypatch.setattr(module, "refilter_shard", once)
    with pytest.raises(KeyboardInterrupt):
        refilter(source, tmp_path / "cut", STRICT)
    monkeypatch.setattr(module, "refilter_shard", lambda *args: (cut.append(args[2]), whole(*args)))
    refilter(source, tmp_path / "cut", STRICT)
    assert cut == ["part-000", "part-001", "part-002"]
    assert results(tmp_path / "cut") == results(write_output(tmp_path / "wanted", SHARDS, STRICT))


def test_several_processes_write_the_same(tmp_path):
    source = write_output(tmp_path / "first", SHARDS, LOOSE)
    refilter(source, tmp_path / "cut", STRICT, workers=2)
    assert results(tmp_path / "cut") == results(write_output(tmp_path / "wanted", SHARDS, STRICT))


def test_killed_it_leaves_no_process_and_resumes(tmp_path):
    source = write_output(tmp_path / "first", [shape_entries(n, 40) for n in range(8)], LOOSE)
    command = [sys.executable, "-m", "vlkit", "capfilt", "refilter", str(source), "--output", str(tmp_path / "cut")]
    process = subprocess.Popen([*command, "--threshold", "0.8", "--workers", "2"], stdout=subprocess.PIPE)
    assert b"shard part-000 is cut" in process.stdout.readline()
    process.kill()
    process.stdout.read()  # ends when the last process ends that could write to it
    process.wait()
    assert main([*command[3:], "--threshold", "0.8"]) == 0
    refilter(source, tmp_path / "wanted", Decision(threshold=0.8))
    assert results(tmp_path / "cut") == results(tmp_path / "wanted")


def test_outputs_may_lie_on_an_object_store(tmp_path):
    write_output("memory://refilter_test/first", SHARDS, LOOSE)
    refilter("memory://refilter_test/first", "memory://refilter_test/cut", STRICT)
    with pytest.raises(ConfigError, match="would overwrite"):
        refilter("memory://refilter_test/first", "memory://refilter_test/first/", STRICT)
    wanted = results(write_output(tmp_path, SHARDS, STRICT))
    with Storage("memory://refilter_test/cut") as place:
        assert {name: place.read_bytes(name) for name in wanted} == wanted


def test_an_unfinished_job_is_cut_as_far_as_it_is_and_later_again(tmp_path):
    source = write_output(tmp_path / "first", SHARDS[:2], LOOSE, missing=1)
    reported = refilter(source, tmp_path / "cut", STRICT)
    assert (reported["status"], reported["missing"], reported["shards"]["read"]) == ("unfinished", 1, 2)
    assert not (tmp_path / "cut" / "summary.json").exists()
    write_output(source, SHARDS, LOOSE)
    assert refilter(source, tmp_path / "cut", STRICT)["status"] == "finished"
    assert results(tmp_path / "cut") == results(write_output(tmp_path / "wanted", SHARDS, STRICT))


def test_without_dropped_images_only_stricter_decisions_can_be_made(tmp_path):
    source = write_output(tmp_path / "first", SHARDS, LOOSE, store_dropped=False)
    with pytest.raises(ConfigError, match="dropped images were not stored") as caught:
        refilter(source, tmp_path / "cut", Decision(threshold=0.2))
    assert "an ITM probability of 0.2 or more; the job kept all texts with an ITM probability of 0.3" in str(
        caught.value
    )
    assert not (tmp_path / "cut").exists() or not any((tmp_path / "cut").iterdir())
    refilter(source, tmp_path / "cut", STRICT)
    wanted = write_output(tmp_path / "wanted", SHARDS, STRICT, store_dropped=False)
    assert results(tmp_path / "cut") == results(wanted)


def test_a_threshold_on_similarities_that_nobody_computed_is_refused(tmp_path):
    shard = [(Item("a", png(), "png", ("x",)), [Text("x", "web", 0.9)])]
    source = write_output(tmp_path / "first", [shard])
    with pytest.raises(ConfigError, match="gave no ITC similarities"):
        refilter(source, tmp_path / "cut", Decision(itc_threshold=0.2))


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    source = write_output(tmp_path / "first", SHARDS, LOOSE)
    with pytest.raises(ConfigError, match="would overwrite what is read"):
        refilter(source, tmp_path / "x" / ".." / "first", STRICT)
    other = write_output(tmp_path / "other", SHARDS, STRICT)
    before = files_of(other)
    with pytest.raises(ConfigError, match="is the output of a job"):
        refilter(source, other, STRICT)
    assert files_of(other) == before
    refilter(source, tmp_path / "cut", STRICT)
    with pytest.raises(ConfigError, match=r"was cut from .*first: all texts with an ITM probability of 0\.8"):
        refilter(source, tmp_path / "cut", LOOSE)


def test_what_is_no_output_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no output folder of vlkit capfilt"):
        refilter(tmp_path / "empty", tmp_path / "cut", STRICT)
    with pytest.raises(ConfigError, match="workers: 0"):
        refilter(tmp_path / "empty", tmp_path / "cut", STRICT, workers=0)


@pytest.mark.parametrize("folder", ["kept", "dropped", "tables", "ledger", "done"])
@pytest.mark.parametrize("seed", range(6))
def test_damage_is_found_and_nothing_damaged_is_written(folder, seed, tmp_path):
    source = write_output(tmp_path / "first", [SHARDS[0]], LOOSE)
    (file,) = (source / folder).iterdir()
    data, draw = bytearray(file.read_bytes()), random.Random(seed)
    if seed % 2:
        del data[draw.randrange(len(data)) :]
    else:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)
    try:
        refilter(source, tmp_path / "cut", STRICT)
        reported = ""
    except DataError as error:
        reported = str(error)
    if reported:
        assert "part-000" in reported
        assert not list((tmp_path / "cut" / "done").glob("*"))
    else:  # a byte of the manifest that is not needed
        assert folder == "done"
        assert results(tmp_path / "cut") == results(write_output(tmp_path / "wanted", [SHARDS[0]], STRICT))


def test_the_command_changes_what_is_given_and_prints_the_counts(tmp_path, capsys):
    source = write_output(tmp_path / "first", SHARDS, Decision("synthetic", 0.4))
    assert main(["capfilt", "refilter", str(source), "--output", str(tmp_path / "cut"), "--no-threshold"]) == 0
    reported = capsys.readouterr().out
    assert "kept: synthetic texts\n" in reported
    assert "images: 19 read, 17 kept, 0 dropped, 2 refused (2 undecodable image)" in reported
    assert results(tmp_path / "cut") == results(write_output(tmp_path / "wanted", SHARDS, Decision("synthetic", None)))


def test_the_command_explains_mistakes(tmp_path, capsys):
    source = write_output(tmp_path / "first", SHARDS)
    assert main(["capfilt", "refilter", str(source), "--output", str(tmp_path / "cut"), "--threshold", "7"]) == 2
    assert "threshold is 7.0; allowed: an ITM probability from 0 to 1" in capsys.readouterr().err
