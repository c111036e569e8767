"""The exceptions and the suggestions in their messages."""

from __future__ import annotations

import pickle

import pytest

from vlkit import errors
from vlkit.errors import BadSample, ConfigError, MissingDependency, VlkitError, closest, did_you_mean


def test_config_error_keeps_its_problems_apart():
    error = ConfigError(["a: wrong", "b: missing"])
    assert error.problems == ["a: wrong", "b: missing"]
    assert str(error) == "a: wrong\nb: missing"
    assert ConfigError("one").problems == ["one"]


def test_a_config_error_prints_the_first_problems_and_counts_the_others():
    error = ConfigError([f"problem {number}" for number in range(24_000)])
    assert str(error).endswith("problem 99\n... and 23,900 more problems.")
    assert len(error.problems) == 24_000
    error.add("What to do.")
    assert str(error).endswith("more problems.\nWhat to do.")


def test_bad_sample_crosses_process_borders():
    error = pickle.loads(pickle.dumps(BadSample("a.jpg", "truncated")))
    assert (error.source, error.reason, str(error)) == ("a.jpg", "truncated", "a.jpg: truncated")


def test_missing_dependency_names_the_extra_also_across_process_borders():
    error = MissingDependency("av", "reading videos", "video")
    assert "pip install 'vlkit[video]'" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("name", ["ConfigError", "RegistryError", "DataError", "BadSample", "CheckpointError"])
def test_every_error_is_a_vlkit_error(name):
    assert issubclass(getattr(errors, name), VlkitError)


def test_closest_names_come_best_first():
    assert closest("blip_captoin", ["blip_vqa", "blip_caption", "vit"])[0] == "blip_caption"
    assert closest("xyz", ["blip_vqa"]) == []
    assert len(closest("aaa", ["aaab", "aaac", "aaad", "aaae"], count=2)) == 2


def test_did_you_mean_is_a_sentence_or_nothing():
    assert did_you_mean("lrr", ["lr"]) == " Did you mean 'lr'?"
    assert did_you_mean("aaa", ["aaab", "aaac"]) in (
        " Did you mean 'aaab' or 'aaac'?",
        " Did you mean 'aaac' or 'aaab'?",
    )
    assert did_you_mean("xyz", ["lr"]) == ""
    assert did_you_mean("1", [1, 2]) == " Did you mean '1'?"  # type: ignore[list-item]


def test_a_name_that_is_known_is_not_suggested():
    assert did_you_mean("train", ["train", "trains"]) == ""
    assert "'train'" in did_you_mean("trian", ["train"])
    assert did_you_mean("x" * 1_000_000, ["train"]) == ""
