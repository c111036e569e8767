"""``package://name/path`` wherever a path is read; the package is found, and never imported."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.assets.tars import picture, write_tar
from vlkit.config.load import load_config
from vlkit.config.schema import load_plugins
from vlkit.datasets.hf import HuggingFaceDataset
from vlkit.datasets.image_text import ImageText
from vlkit.datasets.texts import read_answer_list
from vlkit.datasets.video import VideoText
from vlkit.datasets.web_shards import WebShards
from vlkit.errors import ConfigError, DataError, VlkitError
from vlkit.io.fetch import fetch, local_path
from vlkit.models.weights.load import from_path
from vlkit.processors.tokenizer import build_tokenizer
from vlkit.registry import plugin_files


def name_of(path, rng) -> np.ndarray:
    """A processor that reads nothing."""
    return np.array([len(str(path))])


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "site" / "own_pictures"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "cache"))
    yield folder
    assert "own_pictures" not in sys.modules


def test_annotations_images_and_videos(package):
    (package / "a.json").write_text(json.dumps([{"image": "a.jpg", "caption": "x", "video": "v.mp4"}]))
    (package / "v.mp4").write_bytes(b"")
    found = ImageText("package://own_pictures/a.json", "package://own_pictures/", image_processor=name_of)
    assert found.image_path(0) == str(package / "a.jpg")
    videos = VideoText(
        "package://own_pictures/a.json", video_root="package://own_pictures", split="val", video_processor=name_of
    )
    assert int(videos[0]["video"][0]) == len(str(package / "v.mp4"))


def test_answer_lists_and_vocabularies(package):
    (package / "answers.txt").write_text("yes\nno\n")
    assert read_answer_list("package://own_pictures/answers.txt") == ["yes", "no"]
    (package / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\ncat\n")
    assert len(build_tokenizer("package://own_pictures/vocab.txt")) > 4
    with pytest.raises(ConfigError, match="no installed package is named 'nowhere'"):
        build_tokenizer("package://nowhere/vocab.txt")


def test_shards(package):
    for i in range(2):
        write_tar(package / "shards" / f"{i}.tar", [("a.jpg", picture()), ("a.txt", b"a")])
    for path in ("shards", "shards/*.tar", "shards/{0..1}.tar", "./shards//"):
        assert len(WebShards(f"package://own_pictures/{path}", image_processor=name_of)) == 2
    with pytest.raises(DataError, match="leads out of the package"):
        WebShards("package://own_pictures/../x.tar", image_processor=name_of)


def test_weights_in_files_and_folders(package):
    (package / "model.safetensors").write_bytes(b"x")
    for path in ("", "/model.safetensors"):
        assert from_path(f"package://own_pictures{path}").file() == package / "model.safetensors"
        assert from_path(Path(f"package://own_pictures{path}")).file() == package / "model.safetensors"
        assert from_path((package / path.lstrip("/")).as_uri()).file() == package / "model.safetensors"
    assert fetch("package://own_pictures/model.safetensors") == package / "model.safetensors"


def test_parquet(package):
    pytest.importorskip("datasets").Dataset.from_dict({"image": ["a.jpg"], "caption": ["x"]}).to_parquet(
        str(package / "a.parquet")
    )
    found = HuggingFaceDataset(
        "package://own_pictures/a.parquet", image_root="package://own_pictures", image_processor=name_of
    )
    assert int(found[0]["image"][0]) == len(str(package / "a.jpg"))


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("package://own_pictures/../../etc/passwd", "leads out of the package"),
        ("package://own_pictures/a/../b", "leads out of the package"),
        ("package://own_pictures/a\\..\\b", "leads out of the package"),
        ("package://own_pictures/a\0b", "leads out of the package"),
        ("package://own-pictures/a", "no installed package is named 'own-pictures'. Did you mean 'own_pictures'"),
        ("package://__main__/a", "no installed package"),
        ("package:///etc/passwd", "no installed package is named ''"),
        ("package://json.decoder/a", "no installed package"),
        ("package://os/a", "no installed package is named 'os'"),
    ],
)
def test_addresses_that_lead_nowhere_or_out_of_the_package(package, uri, said):
    with pytest.raises(VlkitError) as error:
        local_path(uri)
    assert said in str(error.value)


def test_parts_of_a_namespace_package_are_all_searched(tmp_path, monkeypatch):
    for part in ("one", "two"):
        (tmp_path / part / "parts_of_it").mkdir(parents=True)
        (tmp_path / part / "parts_of_it" / f"{part}.txt").write_text("x")
        monkeypatch.syspath_prepend(str(tmp_path / part))
    for part in ("one", "two"):
        assert fetch(f"package://parts_of_it/{part}.txt") == tmp_path / part / "parts_of_it" / f"{part}.txt"


@pytest.mark.parametrize("read", [fetch, local_path])
def test_file_addresses_of_another_host_are_refused(tmp_path, read):
    (tmp_path / "a.txt").write_text("x")
    for host in ("", "localhost"):
        assert Path(read(f"file://{host}{tmp_path}/a.txt")) == tmp_path / "a.txt"
    with pytest.raises(VlkitError, match="files of another host cannot be read"):
        read(f"file://server{tmp_path}/a.txt")


def test_a_pipe_is_named_as_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(VlkitError, match=r"a.json: is a pipe or a device.*write it to a file"):
        fetch(tmp_path / "a.json")


def test_a_file_its_bases_and_its_plugins(package, tmp_path):
    (package / "base.yaml").write_text("optim: {lr: 0.5}\n")
    (package / "plugin.py").write_text("LOADED = True\n")
    (package / "whole.yaml").write_text("extends: base.yaml\nrun: {seed: 3}\n")
    (tmp_path / "run.yaml").write_text(
        "extends: [package://own_pictures/base.yaml]\nplugins: [package://own_pictures/plugin.py]\n"
    )
    config = load_config(tmp_path / "run.yaml")
    assert config.data["optim"] == {"lr": 0.5}
    assert load_plugins(config) == []
    assert plugin_files.module_name((package / "plugin.py").resolve()) in sys.modules
    assert load_config("package://own_pictures/whole.yaml").data == {"optim": {"lr": 0.5}, "run": {"seed": 3}}
    (tmp_path / "run.yaml").write_text("extends: package://own_pictures/bas.yaml\n")
    with pytest.raises(ConfigError, match=r"does not exist \(.*run.yaml extends it\). Did you mean 'base.yaml'"):
        load_config(tmp_path / "run.yaml")
    for address, said in (
        ("nowhere/a.yaml", "no installed package is named 'nowhere'"),
        ("own_pictures/../a", "leads"),
    ):
        (tmp_path / "run.yaml").write_text(f"extends: package://{address}\n")
        with pytest.raises(ConfigError, match=said):
            load_config(tmp_path / "run.yaml")
