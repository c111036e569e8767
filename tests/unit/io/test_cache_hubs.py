"""Weights that torch.hub or the Hugging Face hub have already downloaded, and what is said when nothing has them."""

from __future__ import annotations

import hashlib
import socket
import threading
import urllib.request

import pytest

from vlkit.errors import VlkitError
from vlkit.io import cache as hub_caches
from vlkit.io.cache import cache_dir, cached_path
from vlkit.io.fetch import fetch

URL = "https://weights.invalid/blip/model_base.pth"
COMMIT = "0123abc"
CONTENT = b"weights"
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Empty caches, and no connection to anywhere."""
    from huggingface_hub import constants

    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("VLKIT_OFFLINE", "1")
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture
def torch_file(tmp_path):
    file = tmp_path / "torch" / "hub" / "checkpoints" / "model_base.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    return file


@pytest.fixture
def hub_file(tmp_path):
    """As the hub's client lays it out."""
    repository = tmp_path / "hub" / "models--Salesforce--blip"
    file = repository / "snapshots" / COMMIT / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return file


def test_the_file_of_torch_hub_is_used_where_it_is(torch_file):
    assert fetch(URL) == torch_file
    assert fetch(URL, sha256=SUM) == torch_file
    assert cached_path(URL).with_name("model_base.pth.sha256").read_text() == f"{SUM}  model_base.pth\n"
    assert [file.name for file in torch_file.parent.iterdir()] == [torch_file.name]


def test_torch_hub_under_the_home_folder(torch_file, tmp_path, monkeypatch):
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch(URL) == torch_file


def test_our_own_cache_comes_first(torch_file):
    own = cached_path(URL)
    own.parent.mkdir(parents=True)
    own.write_bytes(b"ours")
    assert fetch(URL) == own


def test_a_changed_file_of_torch_hub_is_refused_and_left_alone(torch_file):
    fetch(URL)
    torch_file.write_bytes(b"changed")
    with pytest.raises(VlkitError, match=rf"{SUM} is expected \(as at its first use\).* delete .*sha256"):
        fetch(URL)
    assert torch_file.read_bytes() == b"changed"
    cached_path(URL).with_name("model_base.pth.sha256").unlink()
    assert fetch(URL) == torch_file


def test_another_file_of_that_name_is_not_used(torch_file, caplog):
    with pytest.raises(VlkitError, match="put it at"):
        fetch(URL, sha256="0" * 64)
    assert "is not used for" in caplog.text
    assert torch_file.exists()


def test_only_weights_are_looked_for_in_torch_hub(torch_file):
    torch_file.with_name("captions.json").write_bytes(b"{}")
    with pytest.raises(VlkitError, match="is not in the cache"):
        fetch("https://weights.invalid/captions.json")


def test_the_file_of_the_hub_is_used_where_it_is(hub_file):
    assert fetch("hf://Salesforce/blip") == hub_file
    assert fetch(f"hf://Salesforce/blip@{COMMIT}", sha256=SUM) == hub_file
    record = cache_dir() / "downloads/huggingface.co/Salesforce/blip" / COMMIT / "model.safetensors.sha256"
    assert record.read_text().startswith(SUM)
    hub_file.write_bytes(b"changed")
    with pytest.raises(VlkitError, match="as at its first use"):
        fetch("hf://Salesforce/blip")


def test_a_new_commit_is_another_file(hub_file):
    fetch("hf://Salesforce/blip")
    newer = hub_file.parents[1] / "4567def" / "pytorch_model.bin"
    newer.parent.mkdir()
    newer.write_bytes(b"newer")
    (hub_file.parents[2] / "refs" / "main").write_text("4567def")
    assert fetch("hf://Salesforce/blip") == newer


def test_a_copy_put_by_hand(hub_file):
    with pytest.raises(VlkitError, match=r"hf://Salesforce/other: it is in no cache.*blob/main/model") as reported:
        fetch("hf://Salesforce/other")
    place = cache_dir() / "downloads/huggingface.co/Salesforce/other/model.safetensors"
    assert str(reported.value).endswith(f"put it at {place}.")
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert fetch("hf://Salesforce/other", sha256=SUM) == place
    with pytest.raises(VlkitError, match=f"the sha256 is {SUM}, but {'0' * 64} is expected"):
        fetch("hf://Salesforce/other", sha256="0" * 64)


def test_downloads_take_the_first_file_that_the_repository_has(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    monkeypatch.delenv("VLKIT_OFFLINE")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    asked = []

    def download(repository, name, revision=None):
        asked.append((repository, name, revision))
        if name != "pytorch_model.bin" or repository != "a/b":
            raise EntryNotFoundError("404")
        (tmp_path / "c0").mkdir()
        (tmp_path / "c0" / name).write_bytes(CONTENT)
        return str(tmp_path / "c0" / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert fetch("hf://a/b@v1").read_bytes() == CONTENT
    assert asked == [("a/b", "model.safetensors", "v1"), ("a/b", "pytorch_model.bin", "v1")]
    with pytest.raises(VlkitError, match=r"has no model.safetensors and no pytorch_model.bin. To do without"):
        fetch("hf://c/d")


@pytest.mark.parametrize("failure", ["LocalEntryNotFoundError", "OSError"])
def test_no_connection(monkeypatch, failure):
    import huggingface_hub
    from huggingface_hub import errors

    def download(*_, **__):
        raise getattr(errors, failure, OSError)("no route")

    monkeypatch.delenv("VLKIT_OFFLINE")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    reason = "the hub cannot be reached" if failure.startswith("Local") else "no route"
    with pytest.raises(VlkitError, match=f"hf://a/b: {reason}. To do without: download"):
        fetch("hf://a/b")


@pytest.mark.parametrize("wrong", ["hf://blip", "hf://a/b/c", "hf://", "hf://a b/c"])
def test_names_of_repositories(wrong):
    with pytest.raises(VlkitError, match="is written hf://owner/name"):
        fetch(wrong)


def test_without_network_the_hub_is_given_up_soon(monkeypatch):
    import huggingface_hub

    ended = threading.Event()
    monkeypatch.setenv("VLKIT_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(hub_caches, "_PATIENCE", 0.01)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: ended.wait(60))
    monkeypatch.setattr(urllib.request, "getproxies", dict)

    def unknown(*_, **__):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    try:
        with pytest.raises(VlkitError, match="the hub cannot be reached"):
            fetch("hf://owner/name")
    finally:
        ended.set()
