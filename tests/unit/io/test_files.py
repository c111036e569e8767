"""Files that are whole or absent, and downloads against a server on this machine."""

from __future__ import annotations

import errno
import hashlib
import http.server
import os
import re
import shutil
import stat
import threading
from collections import namedtuple

import pytest

from vlkit.errors import VlkitError
from vlkit.io import download
from vlkit.io import fetch as io
from vlkit.io.cache import cache_dir, cached_path
from vlkit.io.fetch import fetch
from vlkit.io.files import atomic_dir, atomic_write, sha256

CONTENT = bytes(range(256)) * 4000  # about 1 MB
SUM = hashlib.sha256(CONTENT).hexdigest()


def test_atomic_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "deep" / "er" / "file.txt"
    for text in ("first ä", "second"):
        with atomic_write(path, "w") as file:
            file.write(text)
        assert path.read_text(encoding="utf-8") == text
    assert os.listdir(path.parent) == ["file.txt"]


def test_atomic_write_shows_nothing_before_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def write_and_fail(path, error):
    with atomic_write(path) as file:
        file.write(b"0" * 2_000_000)
        file.flush()
        raise error


def fill_and_fail(path, error):
    with atomic_dir(path) as folder:
        (folder / "a").write_text("2")
        raise error


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.EIO, "broken disk")])
def test_an_error_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_and_fail(path, error)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), RuntimeError("IoError(Os { code: 28, kind: StorageFull, })")]
)
def test_a_full_disk_is_explained(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(VlkitError) as caught:
        write_and_fail(path, error)
    message = str(caught.value)
    assert message.startswith(f"{path}: no space left on the disk: more than 2.0 MB are needed, ")
    assert "Nothing was lost" in message
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_disk_that_will_be_full_is_found_before_the_first_byte(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(100, 90, 10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    message = r"20.0 MB are needed, 10.0 MB are free"
    with pytest.raises(VlkitError, match=message), atomic_write(tmp_path / "file", need=20_000_000):
        pytest.fail("the block must not run")
    with atomic_write(tmp_path / "file", need=5) as file:
        file.write(b"12345")
    assert os.listdir(tmp_path) == ["file"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(VlkitError, match="cannot be written there"), atomic_write(tmp_path / "file" / "below"):
        pytest.fail("the block must not run")


def test_atomic_write_keeps_links_and_usual_permissions(tmp_path):
    (tmp_path / "plain").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"
    assert (tmp_path / "target").stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(ValueError, match="'wb' or 'w'"), atomic_write(tmp_path / "x", "a"):
        pass


def test_atomic_dir_appears_whole(tmp_path):
    path = tmp_path / "step-1"
    with atomic_dir(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
        assert not path.exists()
    assert (path / "sub" / "a").read_text() == "1"
    with atomic_dir(path) as folder:
        (folder / "b").write_text("2")
    assert os.listdir(path) == ["b"]
    assert os.listdir(tmp_path) == ["step-1"]


def test_atomic_dir_keeps_the_old_one_on_error(tmp_path, monkeypatch):
    path = tmp_path / "step-1"
    with atomic_dir(path) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(VlkitError, match="no space left"):
        fill_and_fail(path, OSError(errno.ENOSPC, "No space left"))
    replace, calls = os.replace, []

    def second_fails(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.EIO, "broken disk")
        replace(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(OSError, match="broken disk"), atomic_dir(path) as folder:
        (folder / "a").write_text("3")
    assert (path / "a").read_text() == "1"
    assert os.listdir(tmp_path) == ["step-1"]


def test_sha256_of_known_text(tmp_path):
    (tmp_path / "abc").write_text("abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_cache_dir_follows_the_environment(monkeypatch):
    monkeypatch.setenv("VLKIT_CACHE", "/some/where")
    assert str(cache_dir()) == "/some/where"
    monkeypatch.delenv("VLKIT_CACHE")
    assert cache_dir().parts[-2:] == (".cache", "vlkit")


def test_cached_paths_are_inside_the_cache_and_differ_by_query(monkeypatch, tmp_path):
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path))
    assert cached_path("https://a.org/x/../../y/m.pth") == tmp_path / "downloads" / "a.org" / "x" / "y" / "m.pth"
    assert cached_path("https://a.org/m?v=1") != cached_path("https://a.org/m?v=2")


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with ranges; the class attributes make it misbehave."""

    content, etag, cut, refuse, ranges = CONTENT, '"v1"', [], [], True
    requests: list[str] = []

    def do_GET(self):
        kind = type(self)
        asked = self.headers.get("Range") or ""
        kind.requests.append(asked)
        if kind.refuse:
            self.send_error(kind.refuse.pop(0))
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and kind.ranges else 0
        if self.headers.get("If-Range") not in (None, kind.etag):
            start = 0
        if start >= len(kind.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(kind.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(kind.content) - 1}/{len(kind.content)}")
        if kind.etag:
            self.send_header("ETag", kind.etag)
        self.send_header("Content-Length", str(len(kind.content) - start))
        self.end_headers()
        end = kind.cut.pop(0) if kind.cut else len(kind.content)
        self.wfile.write(kind.content[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The handler class, with ``url`` of a file on it; the cache is empty and nothing is offline."""
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "cache"))
    for name in ("VLKIT_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.001)
    handler = type("Handler", (Server,), {"requests": [], "cut": [], "refuse": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        handler.url = f"http://127.0.0.1:{listening.server_port}/models/m.pth"
        yield handler
        listening.shutdown()
        thread.join()


def names(path):
    return sorted(entry for entry in os.listdir(path.parent) if not entry.endswith(".lock"))


def test_download_once_then_cache(server):
    path = fetch(server.url, sha256=SUM.upper())
    assert path.read_bytes() == CONTENT
    assert path == cached_path(server.url)
    assert names(path) == ["m.pth", "m.pth.sha256"]
    assert fetch(server.url) == path
    assert fetch(server.url, md5=hashlib.md5(CONTENT).hexdigest()) == path
    assert server.requests == [""]


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_downloads_obey_the_umask(server, umask):
    before = os.umask(umask)
    try:
        fetch(server.url)
    finally:
        os.umask(before)
    for path in [cache_dir(), *cache_dir().rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_cut_transfer_resumes_where_it_stopped(server):
    server.cut[:] = [1000, 300_000]
    assert fetch(server.url, sha256=SUM).read_bytes() == CONTENT
    assert server.requests == ["", "bytes=1000-", "bytes=300000-"]


def test_transfer_that_is_always_cut_says_so_and_resumes_at_the_next_call(server):
    server.cut[:] = [1000] + [1001] * (download.ATTEMPTS - 1)
    with pytest.raises(VlkitError, match=r"ended after 1,00\d of 1,024,000 bytes.* arrived are kept: run again"):
        fetch(server.url)
    assert not cached_path(server.url).exists()
    server.requests.clear()
    assert fetch(server.url).read_bytes() == CONTENT
    assert server.requests[0].startswith("bytes=100")


def test_file_that_changed_in_between_starts_over(server):
    server.cut[:] = [1000] * download.ATTEMPTS
    with pytest.raises(VlkitError):
        fetch(server.url)
    server.content, server.etag = CONTENT[::-1], '"v2"'
    assert fetch(server.url).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("ranges", [True, False])
def test_server_without_validators_or_ranges(server, ranges):
    server.etag, server.ranges, server.cut[:] = "", ranges, [1000]
    assert fetch(server.url).read_bytes() == CONTENT  # no way to tell that it is the same file: from the start
    assert server.requests == ["", ""]


def test_server_that_ignores_ranges_is_read_from_the_start(server):
    server.ranges, server.cut[:] = False, [1000]
    assert fetch(server.url, sha256=SUM).read_bytes() == CONTENT


def test_part_that_is_already_complete(server):
    target = cached_path(server.url)
    target.parent.mkdir(parents=True)
    (target.parent / "m.pth.part").write_bytes(CONTENT)
    assert fetch(server.url, sha256=SUM) == target
    assert server.requests == [f"bytes={len(CONTENT)}-"]


def test_part_that_is_longer_than_the_file_starts_over(server):
    target = cached_path(server.url)
    target.parent.mkdir(parents=True)
    (target.parent / "m.pth.part").write_bytes(CONTENT + b"more")
    assert fetch(server.url, sha256=SUM).read_bytes() == CONTENT


def test_wrong_checksum_keeps_the_file_aside(server):
    with pytest.raises(VlkitError) as caught:
        fetch(server.url, sha256="0" * 64)
    target = cached_path(server.url)
    assert f"the sha256 is {SUM}, but {'0' * 64} is expected" in str(caught.value)
    assert names(target) == ["m.pth.corrupt"]
    assert (target.parent / "m.pth.corrupt").read_bytes() == CONTENT
    assert fetch(server.url, sha256=SUM) == target


def test_cached_file_that_changed_since_its_first_use(server):
    path = fetch(server.url)
    assert (path.parent / "m.pth.sha256").read_text() == f"{SUM}  m.pth\n"
    path.write_bytes(b"tampered")
    with pytest.raises(VlkitError, match=rf"but {SUM} is expected \(as at its first use\)"):
        fetch(server.url)
    assert fetch(server.url).read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["VLKIT_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_says_which_file_to_put_where(server, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with pytest.raises(VlkitError) as caught:
        fetch(server.url)
    target = cached_path(server.url)
    assert f"put it at {target}." in str(caught.value)
    assert server.requests == []
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT)
    assert fetch(server.url, sha256=SUM) == target


def test_no_connection_says_which_file_to_put_where(server):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/m.pth"
    with pytest.raises(VlkitError, match=f"the download fails .*put it at {re.escape(str(cached_path(url)))}"):
        fetch(url)


def test_refusals(server):
    server.refuse[:] = [404]
    with pytest.raises(VlkitError, match="the server answers 404"):
        fetch(server.url)
    assert len(server.requests) == 1
    server.refuse[:] = [503, 503]
    assert fetch(server.url).read_bytes() == CONTENT


def test_full_disk_keeps_what_arrived(server, monkeypatch):
    usage = namedtuple("usage", "total used free")(100, 90, 10)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(VlkitError, match=r"no space left on the disk: 1.0 MB are needed"):
            fetch(server.url)
    assert fetch(server.url).read_bytes() == CONTENT


def test_several_at_once_download_once(server):
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(server.url, sha256=SUM))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cached_path(server.url)] * 4
    assert len(server.requests) == 1


def test_local_files_are_found_and_checked(tmp_path):
    path = tmp_path / "a model.pth"
    path.write_bytes(CONTENT)
    assert fetch(path) == fetch(str(path)) == fetch(path.as_uri(), sha256=SUM) == path
    with pytest.raises(VlkitError, match="Is it the right file"):
        fetch(path, sha256="0" * 64)
    assert os.listdir(tmp_path) == ["a model.pth"]  # the user's own file is left alone
    with pytest.raises(VlkitError, match=r"does not exist. Did you mean 'a model.pth'"):
        fetch(tmp_path / "modl.pth")
    with pytest.raises(VlkitError, match="is a folder"):
        fetch(tmp_path)


def test_files_of_installed_packages(tmp_path, monkeypatch):
    (tmp_path / "brings").mkdir()
    (tmp_path / "brings" / "__init__.py").write_text("raise ImportError('it is found, not imported')")
    (tmp_path / "brings" / "m.pth").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path)
    assert fetch("package://brings/m.pth", sha256=SUM) == tmp_path / "brings" / "m.pth"
    with pytest.raises(VlkitError, match=r"Did you mean 'm.pth'"):
        fetch("package://brings/mm.pth")
    for nowhere in ("package://brings_nothing/m.pth", "package://../m.pth", "package://"):
        with pytest.raises(VlkitError, match="no installed package is named"):
            fetch(nowhere)


def test_other_schemes_go_through_iopath(tmp_path, monkeypatch):
    from iopath.common.file_io import PathHandler

    monkeypatch.setattr(io, "_manager", None)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("VLKIT_OFFLINE", raising=False)
    (tmp_path / "m.pth").write_bytes(CONTENT)
    with pytest.raises(VlkitError, match="register an iopath handler"):
        fetch("mine://m.pth")

    class Mine(PathHandler):
        def _get_supported_prefixes(self):
            return ["mine://"]

        def _get_local_path(self, path, force=False, **kwargs):
            return str(tmp_path / path.removeprefix("mine://"))

    io.path_manager().register_handler(Mine())
    assert fetch("mine://m.pth", sha256=SUM) == tmp_path / "m.pth"
    monkeypatch.setenv("VLKIT_OFFLINE", "1")
    with pytest.raises(VlkitError, match="offline"):
        fetch("mine://m.pth")
