"""Captions of samples of shards: from text files and JSON, by any key, in any encoding that says what it is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.assets.tars import picture
from tests.unit.datasets.test_shard_files_names import opened
from vlkit.errors import BadSample, ConfigError, DataError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("blank", [b"", b" \n", b"\xef\xbb\xbf\r\n"])
def test_a_blank_text_leaves_the_caption_to_the_json(tmp_path, blank):
    members = [("a.jpg", picture()), ("a.txt", blank), ("a.json", b'{"caption": "of json"}')]
    found = opened(tmp_path / "0.tar", members, split="train")
    assert found[0]["text_input"] == "of json"
    assert found.problems() == []


@pytest.mark.parametrize("key", ["caption", "captions", "texts", "TEXT", "sentences"])
def test_all_captions_of_a_list_are_used(tmp_path, key):
    members = [("a.jpg", picture()), ("a.json", json.dumps({key: ["one", "two", " ", "one"], "url": "u"}).encode())]
    assert opened(tmp_path / "0.tar", members)[0]["references"] == ["one", "two"]
    train = opened(tmp_path / "0.tar", split="train")
    assert {train.sample(0, np.random.default_rng(i))["text_input"] for i in range(20)} == {"one", "two"}
    both = opened(tmp_path / "1.tar", [*members, ("a.txt", b"zero")])
    assert both[0]["references"] == ["zero", "one", "two"]


def test_the_key_of_the_caption_can_be_set_and_a_wrong_one_is_an_error(tmp_path):
    fields = {"caption": "short", "long_caption": "a long one"}
    members = [("a.jpg", picture()), ("a.txt", b"short"), ("a.json", json.dumps(fields).encode())]
    assert opened(tmp_path / "0.tar", members, caption_key="long_caption")[0]["references"] == ["a long one"]
    with pytest.raises(DataError, match=r"caption_key is 'long_captoin'.*Did you mean 'long_caption'"):
        opened(tmp_path / "0.tar", caption_key="long_captoin")
    with pytest.raises(DataError, match="no sample has a JSON"):
        opened(tmp_path / "1.tar", members[:2], caption_key="caption")
    with pytest.raises(ConfigError, match="caption_key: '' given"):
        opened(tmp_path / "0.tar", caption_key="", limit=1)
    with pytest.raises(DataError, match=r"'text' and 'title' could be the column 'caption': set caption_key"):
        opened(tmp_path / "2.tar", [members[0], ("a.json", b'{"text": "a", "title": "b"}')])


def test_a_text_file_is_enough_whatever_the_json_holds(tmp_path):
    for i, data in enumerate([b'{"text": "a", "title": "b"}', b"[" * 9, b'{"caption": 5}', b'{"score": NaN}', b"5"]):
        found = opened(tmp_path / f"{i}.tar", [("a.jpg", picture()), ("a.txt", b"own"), ("a.json", data)])
        assert (found[0]["references"], found.problems()) == (["own"], [])


@pytest.mark.parametrize("given", [5, {"x": 1}, ["a", 5], True])
def test_a_caption_that_is_no_text_is_named(tmp_path, given):
    members = [("a.jpg", picture()), ("a.json", json.dumps({"TEXT": given}).encode())]
    found = opened(tmp_path / "0.tar", members)
    assert "'TEXT' is" in found.problems()[0]
    with pytest.raises(BadSample, match=r"in its JSON, neither a text nor a list of texts"):
        found[0]


def test_texts_in_other_encodings_are_read_by_their_mark(tmp_path):
    members = [("a.jpg", picture()), ("a.txt", "café".encode("utf-16")), ("b.jpg", picture())]
    found = opened(tmp_path / "0.tar", [*members, ("b.json", '{"caption": "café"}'.encode("utf-16"))])
    assert [sample["references"] for sample in found] == [["café"], ["café"]]


def test_texts_of_no_use_are_named_by_check_and_bad_samples_when_read(tmp_path):
    members = [("a.jpg", picture()), ("a.json", b'{"url": "u", "alt_txt": "x"}'), ("b.jpg", picture()),
               ("b.txt", b"caf\xe9"), ("c.jpg", picture()), ("c.json", b"[" * 100_000), ("d.jpg", picture()),
               ("d.txt", b"fine")]  # fmt: skip
    found = opened(tmp_path / "0.tar", members, split="train")
    said = found.problems()[0]
    assert "3 of 4 samples have texts of no use (0.tar:a, 0.tar:b, 0.tar:c)" in said
    assert "only 'url', 'alt_txt'" in said
    for index, reason in enumerate(["its JSON has no caption", "not UTF-8", "its JSON cannot be read"]):
        with pytest.raises(BadSample, match=reason):
            found[index]


@pytest.mark.parametrize("data", ['{"caption": "caf\xe9"}'.encode("latin-1"), b"\x1f\x8bgzip", b"\x89PNG"])
def test_a_json_that_is_no_text_spoils_its_sample_alone(tmp_path, data):
    members = [("a.jpg", picture()), ("a.json", data), ("b.jpg", picture()), ("b.json", b'{"caption": "good"}')]
    found = opened(tmp_path / "0.tar", members, split="train")
    with pytest.raises(BadSample, match=r"0\.tar:a: its JSON cannot be read"):
        found[0]
    assert found[1]["text_input"] == "good"
    assert "0.tar:a" in found.problems()[0]


def test_two_names_for_the_caption_far_behind_the_first_samples_spoil_their_sample_alone(tmp_path):
    members = []
    for i in range(30):
        fields = {"text": "a", "title": "b"} if i == 17 else {"text": "a"}
        members += [(f"{i:02d}.jpg", picture()), (f"{i:02d}.json", json.dumps(fields).encode())]
    found = opened(tmp_path / "0.tar", members, split="train")
    assert found[16]["text_input"] == "a"
    with pytest.raises(BadSample, match="'text' and 'title' could be the column 'caption'"):
        found[17]
    assert "0.tar:17" in found.problems()[0]
