"""The data folder: names become paths, missing files are downloaded or asked for."""

from __future__ import annotations

import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from vlkit.errors import DataError
from vlkit.io.data_dir import DataFile, data_dir, localize

CONTENT = b'[{"image": "a.jpg", "caption": "a cat"}]'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VLKIT_DATA", str(tmp_path / "data"))
    for name in ("VLKIT_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "data"


@pytest.fixture
def server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_):
            pass

    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_address[1]}"
    found.shutdown()
    found.server_close()


def test_where_it_is(folder, monkeypatch, tmp_path):
    assert data_dir() == folder
    monkeypatch.delenv("VLKIT_DATA")
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "cache"))
    assert data_dir() == tmp_path / "cache" / "data"


def test_names_become_paths_at_any_depth_and_nothing_else_changes(folder):
    given = {"path": ["data://a/b.json", "c.json"], "limit": 3, "deep": {"root": "data://a/.//images/"}}
    assert localize(given, {}) == {
        "path": [str(folder / "a" / "b.json"), "c.json"],
        "limit": 3,
        "deep": {"root": str(folder / "a" / "images")},
    }


def test_a_missing_file_is_downloaded_once_and_checked(folder, server):
    known = {"coco/a.json": DataFile(url=f"{server}/a.json", md5=hashlib.md5(CONTENT).hexdigest())}
    path = Path(localize("data://coco/a.json", known))
    assert path == folder / "coco" / "a.json"
    assert path.read_bytes() == CONTENT
    before = path.stat().st_mtime_ns
    assert localize("data://coco/a.json", known) == str(path)
    assert path.stat().st_mtime_ns == before


def test_another_file_than_the_card_means_is_refused_and_kept(folder, server):
    (folder / "coco").mkdir(parents=True)
    (folder / "coco" / "a.json").write_text("mine")
    known = {"coco/a.json": DataFile(url=f"{server}/a.json", md5="0" * 32)}
    with pytest.raises(DataError, match=r"a\.json: the md5 is .* is expected.*set 'path'"):
        localize("data://coco/a.json", known)
    assert (folder / "coco" / "a.json").read_text() == "mine"


def test_offline_the_message_says_which_file_to_put_where(folder, monkeypatch):
    monkeypatch.setenv("VLKIT_OFFLINE", "1")
    known = {"coco/a.json": DataFile(url="https://example.org/a.json")}
    with pytest.raises(DataError) as error:
        localize(["data://coco/a.json"], known)
    assert "https://example.org/a.json" in str(error.value)
    assert f"put it at {folder / 'coco' / 'a.json'}" in str(error.value)
    assert "VLKIT_DATA" in str(error.value)


def test_what_has_no_url_is_asked_for(folder):
    known = {"coco/images": DataFile(how="Unpack train2014 into it.")}
    with pytest.raises(DataError, match=r"coco/images does not exist\. Unpack train2014 into it\. .*VLKIT_DATA"):
        localize({"image_root": "data://coco/images"}, known)
    (folder / "coco" / "images").mkdir(parents=True)
    assert localize("data://coco/images", known) == str(folder / "coco" / "images")
