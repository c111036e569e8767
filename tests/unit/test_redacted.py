"""Credentials in addresses never reach a message, a file name or a record."""

from __future__ import annotations

import http.server
import json
import logging
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.assets.run_files import pretrain_run, write
from vlkit.cli import main
from vlkit.cli.terminal import log_lines, say
from vlkit.config.signature import short
from vlkit.errors import BadSample, ConfigError, DataError, VlkitError, redacted, redacted_data, secrets_of, shortened
from vlkit.io import download
from vlkit.io.cache import cached_path, fetch_hub
from vlkit.io.data_dir import localize
from vlkit.io.fetch import fetch
from vlkit.runner.output import OutputFolder, environment

SECRETS = ("us3r", "t0ken", "s1gnature", "k3y")
SIGNED = "https://us3r:t0ken@host.example:8443/a/b.pth?X-Amz-Signature=s1gnature&versionId=7&token=k3y#t0ken"


def shows_nothing(text: str) -> bool:
    return not any(secret in text for secret in SECRETS)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (SIGNED, "https://***@host.example:8443/a/b.pth?X-Amz-Signature=***&versionId=7&token=***#***"),
        ("https://host/a.pth", "https://host/a.pth"),
        ("https://t0ken@host/a.pth", "https://***@host/a.pth"),
        ("https://us3r:t0/ken@host/a", "https://***@host/a"),
        ("https://us3r:t0@ken@host/a", "https://***@host/a"),
        ("https://host:8080/a@b", "https://host:8080/a@b"),
        ("http://[::1]:80/x@y", "http://[::1]:80/x@y"),
        ("hf://owner/name@revision", "hf://owner/name@revision"),
        ("s3://k3y:s1gnature@bucket/x", "s3://***@bucket/x"),
        ("https://host/a?t0ken", "https://host/a?***"),
        ("https://host/a?revision=main;sig=s1gnature", "https://host/a?revision=main&sig=***"),
        ("https://host/a?revision=" + "k3y" * 20, "https://host/a?revision=***"),
        ("see https://host/a?token=k3y. Then go.", "see https://host/a?token=***. Then go."),
        ("run.init_from=https://us3r:t0ken@host/a", "run.init_from=https://***@host/a"),
        ("'https://us3r@host/a': no", "'https://***@host/a': no"),
        ("two https://us3r@a/b and https://t0ken@c/d", "two https://***@a/b and https://***@c/d"),
        ("https://host/a?", "https://host/a?"),
        ("http:/us3r:t0ken@host/a.yaml: does not exist", "http:/***@host/a.yaml: does not exist"),
        ("s3:/k3y:s1gnature@b/x?token=k3y", "s3:/***@b/x?token=***"),
        ("/data/a:/x@y", "/data/a:/x@y"),
        ("no address: a@b?c=d#e", "no address: a@b?c=d#e"),
        ("C:\\x, /etc/x@y?z", "C:\\x, /etc/x@y?z"),
    ],
)
def test_what_is_shown_of_an_address(text, shown):
    assert redacted(text) == shown
    assert redacted(shown) == shown


@given(
    st.text("abcXYZ0189.-_~%!$*+,", min_size=5, max_size=20), st.sampled_from(["token", "sig", "q", "X-Goog-Signature"])
)
def test_no_secret_is_left(secret, name):
    secret = f"s{secret}s"
    for address in (f"https://{secret}@host/x", f"https://u:{secret}@host/x", f"https://host/x?{name}={secret}&a=1"):
        assert secret not in redacted(address)
        assert secret not in redacted(f"error at {address}: failed")
        assert secret in " ".join(secrets_of(address))
        assert secret not in str(cached_path(address))


def test_secrets_of_an_address_are_removed_where_they_stand_alone():
    address = SIGNED.replace("k3y", "k3yk3y")
    text = "nonnumeric port: 't0ken@host', /a/b.pth?X-Amz-Signature=s1gnature&token=k3yk3y"
    assert shows_nothing(redacted(text, address))


@pytest.mark.parametrize("kind", [VlkitError, ConfigError, DataError])
def test_every_error_hides_them(kind):
    error = kind(f"{SIGNED}: cannot be read.")
    error.add(f"Look at {SIGNED}.")
    assert shows_nothing(str(error))
    assert shows_nothing(str(ConfigError([SIGNED, SIGNED]).problems))
    sample = BadSample(SIGNED, f"HTTP error of {SIGNED}")
    assert shows_nothing(f"{sample} {sample.source} {sample.reason}")


def test_a_value_is_redacted_before_it_is_cut():
    long = "https://us3r:" + "t0ken" * 30 + "@host/x"
    assert shows_nothing(shortened(long))
    assert shows_nothing(short(long))


def test_data_are_redacted_at_any_depth():
    data = {"a": [SIGNED, {"b": SIGNED}], "c": (1, SIGNED), "n": 1.5, "none": None}
    assert shows_nothing(json.dumps(redacted_data(data)))
    assert redacted_data(data)["n"] == 1.5


# File names


@pytest.mark.parametrize(
    "address",
    [
        SIGNED,
        "https://us3r:t0/ken@host/a",
        "http://../../x",
        "http://host/../../../etc/passwd",
        "http://a\\..\\b/x",
        "http:///x",
        "http://host/%2e%2e/%2e%2e/x",
        "http://..:80/x",
        "http://host/" + "x" * 1000,
        "http://" + "h" * 1000 + "/x?" + "q" * 1000,
    ],
)
def test_names_in_the_cache(address, tmp_path, monkeypatch):
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path))
    path = cached_path(address)
    assert shows_nothing(str(path))
    inside = path.relative_to(tmp_path / "downloads")
    assert len(inside.parts) >= 2
    assert all(part not in ("", ".", "..") and len(part) < 200 for part in inside.parts)


def test_a_new_signature_is_the_same_file_and_another_query_another_one():
    base = "https://host/a.pth"
    assert cached_path(f"{base}?X-Amz-Signature=1&X-Amz-Date=2") == cached_path(
        f"{base}?X-Amz-Signature=3&X-Amz-Date=4"
    )
    assert cached_path(f"{base}?id=1") != cached_path(f"{base}?id=2")
    assert cached_path(f"{base}?id=1&token=a") == cached_path(f"{base}?id=1&token=b")


@pytest.mark.parametrize("address", ["http://[", "https://[::1/x"])
def test_what_is_no_address(address):
    with pytest.raises(VlkitError, match="this is no address"):
        fetch(address)


# Addresses that leave their folder


@pytest.mark.parametrize(
    "address",
    [
        "package://vlkit/../../../etc/passwd",
        "package://vlkit/configs/../../x",
        "package://vlkit/..",
        "package://../etc/passwd",
        "package:///etc/passwd",
        "package://vlkit/%2e%2e/%2e%2e/etc/passwd",
        "package://vlkit//etc/passwd",
        "package://__main__/x",
        "hf://a/b@/etc",
        "hf://a/b@../x",
        "hf://a/b@x/../y",
        "hf://../..",
        "hf://owner/..",
        "hf://./x",
        "hf://owner/name/../..",
        "hf://owner",
        "hf:///etc/passwd",
        "hf://owner/name@",
        "hf://owner/" + "n" * 1000,
    ],
)
def test_addresses_that_leave_their_folder(address, monkeypatch):
    monkeypatch.setenv("VLKIT_OFFLINE", "1")
    with pytest.raises(VlkitError) as caught:
        fetch(address)
    assert "root:" not in str(caught.value)
    assert str(caught.value).startswith(address) or "does not exist" in str(caught.value)


@pytest.mark.parametrize("path", ["../../etc/passwd", "coco/../../x", "..", "a\\..\\b"])
def test_paths_that_leave_the_data_folder(path):
    with pytest.raises(DataError, match=r"leads out of the data folder"):
        localize({"path": f"data://{path}"}, {})


def test_a_revision_with_slashes_is_fine(tmp_path, monkeypatch):
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path))
    file = tmp_path / "downloads/huggingface.co/owner/name/refs/pr/1/model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    assert fetch_hub("hf://owner/name@refs/pr/1", {}) == file


# Downloads


class Handler(http.server.BaseHTTPRequestHandler):
    seen: list[str] = []

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization", ""))
        right = self.path.startswith("/right")
        self.send_response(200 if right else 403)
        self.send_header("Content-Length", "2" if right else "0")
        self.end_headers()
        self.wfile.write(b"ok" if right else b"")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "cache"))
    for name in ("VLKIT_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    Handler.seen = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"us3r:t0ken@127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_login_is_sent_and_appears_nowhere(server, tmp_path):
    path = fetch(f"http://{server}/right/x.bin?token=k3y")
    assert path.read_bytes() == b"ok"
    assert Handler.seen == ["Basic dXMzcjp0MGtlbg=="]
    assert all(shows_nothing(str(each)) for each in (tmp_path / "cache").rglob("*"))
    texts = [each.read_text() for each in (tmp_path / "cache").rglob("*") if each.is_file()]
    assert all(map(shows_nothing, texts))


def test_a_refusal_hides_them(server):
    with pytest.raises(VlkitError, match="403") as caught:
        fetch(f"http://{server}/wrong/x.bin?token=k3y")
    assert shows_nothing(str(caught.value))


def test_a_failure_of_the_client_hides_them(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(download, "PAUSE", 0)
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path))
    for name in ("VLKIT_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for address in ("http://127.0.0.1:t0ken/x?token=k3yk3y", "http://us3r:t0ken@127.0.0.1:1/a b?token=k3yk3y"):
        with caplog.at_level(logging.WARNING), pytest.raises(VlkitError) as caught:
            fetch(address)
        assert "k3yk3y" not in f"{caught.value}{caplog.text}"


# Records


def test_the_record_of_a_run_hides_them(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vlkit", "train", f"run.init_from={SIGNED}"])
    folder = OutputFolder(tmp_path / "out", {"run": {"init_from": SIGNED}})
    folder.claim()
    folder.write_json("environment.json", environment(torch.device("cpu"), 1, {"weights": {"source": SIGNED}}))
    for file in (tmp_path / "out").iterdir():
        assert shows_nothing(file.read_text())
    OutputFolder(tmp_path / "out", {"run": {"init_from": SIGNED}}).check()  # and it is the same run


def test_the_command_line_hides_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLKIT_OFFLINE", "1")
    run = write(Path("run.yaml"), pretrain_run(init_from=SIGNED))
    for command in (["check", run], ["check", run, f"run.init_form={SIGNED}"], ["check", "--x", SIGNED], [SIGNED]):
        assert main(command) == 2
        assert shows_nothing(capsys.readouterr().err)
    with log_lines():
        logging.getLogger("vlkit.test").warning("reading %s", SIGNED)
        say(f"written: {SIGNED}")
    assert shows_nothing(capsys.readouterr().out)
