"""METEOR and SPICE: what is missing is named, what hangs is ended. A shell script plays Java."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vlkit.errors import DataError
from vlkit.metrics import caption
from vlkit.metrics.caption import METEOR_JAR, SPICE_JAR, SPICE_MODELS, java_caption_scores

TEXTS, REFERENCES = ["a dog.", "a cat"], [["a dog"], ["the cat", "cats"]]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for Java is a shell script")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of pycocoevalcap and the SPICE models, all empty."""
    for name in (METEOR_JAR, SPICE_JAR, *SPICE_MODELS):
        (tmp_path / "package" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "package" / name).touch()
    monkeypatch.setattr(caption, "_package", lambda: tmp_path / "package")
    return tmp_path / "package"


def _play_java(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    monkeypatch.setattr(caption.shutil, "which", lambda name: str(java))


def test_without_java(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(caption.shutil, "which", lambda name: None)
    assert java_caption_scores(TEXTS, REFERENCES) == ({}, {"meteor": "java not found", "spice": "java not found"})


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _play_java("exit 1", tmp_path, monkeypatch)
    monkeypatch.setattr(caption.importlib.util, "find_spec", lambda name: None)
    scores, skipped = java_caption_scores(TEXTS, REFERENCES, names=["meteor"])
    assert not scores
    assert skipped == {"meteor": "package not installed: pip install 'vlkit[caption-java]'"}


def test_without_the_spice_models(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _play_java("exit 1", tmp_path, monkeypatch)
    (package / SPICE_MODELS[1]).unlink()
    _, skipped = java_caption_scores(TEXTS, REFERENCES, names=["spice"])
    assert skipped["spice"].startswith(f"SPICE model missing: {Path(SPICE_MODELS[1]).name} (")
    assert "offline" in skipped["spice"]


def test_a_program_that_fails(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _play_java("exit 3", tmp_path, monkeypatch)
    scores, skipped = java_caption_scores(TEXTS, REFERENCES)
    assert not scores
    assert skipped["meteor"].startswith("METEOR failed")
    assert skipped["spice"].startswith("SPICE failed: CalledProcessError")


def test_a_program_that_hangs(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _play_java("exec sleep 1000", tmp_path, monkeypatch)
    scores, skipped = java_caption_scores(TEXTS, REFERENCES, timeout=0.3)
    assert not scores
    assert skipped == {name: f"{name.upper()} took longer than 0.3 seconds" for name in ("meteor", "spice")}


def test_what_the_programs_are_given_and_answer(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = tmp_path / "log"
    answers = 'case "$line" in SCORE*) echo 1 2;; *) echo .1; echo .3; echo .25;; esac'
    meteor = f'while read line; do echo "$line" >> {log}; {answers}; done'
    images = '[{"scores": {"All": {"f": 0.5}}}, {"scores": {"All": {"f": 0.25}}}]'
    script = f"""case "$*" in *spice*) cat "$4" >> {log}; echo '{images}' > "$6";; *) {meteor};; esac"""
    _play_java(script, tmp_path, monkeypatch)
    scores, skipped = java_caption_scores(TEXTS, REFERENCES)
    assert not skipped
    assert scores == {"meteor": 0.25, "spice": 0.375}
    lines = log.read_text().splitlines()
    assert lines[:3] == ["SCORE ||| a dog ||| a dog", "SCORE ||| the cat ||| cats ||| a cat", "EVAL ||| 1 2 ||| 1 2"]
    assert '"test": "a cat", "refs": ["the cat", "cats"]' in lines[3]


def test_unknown_name_and_bad_captions():
    assert java_caption_scores(TEXTS, REFERENCES, names=["bert"])[1] == {"bert": "no such score; known: meteor, spice"}
    with pytest.raises(DataError, match="no captions"):
        java_caption_scores([], [])
