"""Whether a folder can be written is known before anything is computed."""

import os
from pathlib import Path

from vlkit.io.files import why_unwritable


def test_folders_that_are_there_or_can_be_made(tmp_path):
    assert why_unwritable(tmp_path) is None
    assert why_unwritable(tmp_path / "a" / "b") is None
    assert why_unwritable(tmp_path / ".." / tmp_path.name / "a") is None


def test_a_file_in_the_way(tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert why_unwritable(file) == why_unwritable(file / "a" / "b") == f"{file} is a file"


def test_a_folder_without_rights(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    assert why_unwritable(tmp_path / "a") == f"{tmp_path} cannot be written"


def test_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert why_unwritable(Path("a")) is None
    assert why_unwritable(Path("file/a")) == f"{tmp_path / 'file'} is a file"
