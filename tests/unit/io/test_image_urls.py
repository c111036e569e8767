"""Pictures at addresses, served by a server in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.parity.golden import ASSETS
from vlkit.errors import VlkitError
from vlkit.io.image_urls import fetch_image

PICTURE = (ASSETS / "open" / "image_1_chelsea.png").read_bytes()


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        answer = getattr(self, "answer_" + self.path.strip("/").partition("?")[0].partition("/")[0])
        answer()

    def _head(self, code: int, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def answer_picture(self) -> None:
        self._head(200, Content_Length=str(len(PICTURE)))
        self.wfile.write(PICTURE)

    def answer_redirect(self) -> None:
        self._head(302, Location="/picture")

    def answer_elsewhere(self) -> None:
        port = self.server.server_address[1]
        self._head(302, Location=f"http://localhost:{port}/picture")

    def answer_file(self) -> None:
        self._head(302, Location="file:///etc/passwd")

    def answer_ftp(self) -> None:
        self._head(302, Location="ftp://user:secret@localhost/a.png?key=secret")

    def answer_loop(self) -> None:
        self._head(302, Location="/loop")

    def answer_missing(self) -> None:
        self._head(404)

    def answer_announced(self) -> None:
        self._head(200, Content_Length="70000000")

    def answer_endless(self) -> None:
        self._head(200)
        for _ in range(100):
            self.wfile.write(b"0" * 1000)

    def answer_cut(self) -> None:
        self._head(200, Content_Length=str(len(PICTURE)))
        self.wfile.write(PICTURE[:100])

    def answer_slow(self) -> None:
        self._head(200, Content_Length="1000")
        while not self.server.stopped.wait(0.05):  # type: ignore[attr-defined]
            try:
                self.wfile.write(b"0")
            except OSError:
                return

    def answer_silent(self) -> None:
        self.server.stopped.wait(20)  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[ThreadingHTTPServer]:
    for name in ("VLKIT_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    server.seen, server.stopped = [], threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.stopped.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def url(server: ThreadingHTTPServer, path: str, login: str = "") -> str:
    return f"http://{login}127.0.0.1:{server.server_address[1]}/{path}"


@pytest.mark.parametrize("path", ["picture", "redirect", "picture?size=1#here"])
def test_a_picture_is_fetched(server, path):
    assert fetch_image(url(server, path)) == PICTURE
    assert fetch_image(url(server, path).replace("http://", "HTTP://")) == PICTURE


def test_credentials_reach_the_first_host_alone(server):
    assert fetch_image(url(server, "elsewhere", "user:se%2Fcret@")) == PICTURE
    assert server.seen == [("/elsewhere", "Basic dXNlcjpzZS9jcmV0"), ("/picture", None)]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("file", "the server answers 302, a redirect that is not followed"),
        ("ftp", "redirects to ftp:"),
        ("loop", "the server answers 302"),
        ("missing", "the server answers 404"),
        ("announced", "more than 67,108,864 bytes"),
        ("cut", "bytes before the end of the file"),
    ],
)
def test_what_is_refused(server, path, message):
    with pytest.raises(VlkitError, match=message) as error:
        fetch_image(url(server, f"{path}?key=secret", "user:secret@"))
    assert "127.0.0.1" in str(error.value)
    shown = "".join(map(str, (error.value, error.value.__cause__, error.value.__suppress_context__)))
    assert "secret" not in shown


def test_files_without_a_length_are_limited(server):
    assert len(fetch_image(url(server, "endless"), max_bytes=100_000)) == 100_000
    with pytest.raises(VlkitError, match="more than 99,999 bytes"):
        fetch_image(url(server, "endless"), max_bytes=99_999)


@pytest.mark.parametrize("path", ["slow", "silent"])
def test_slow_servers_end_in_time(server, path):
    start = time.monotonic()
    with pytest.raises(VlkitError, match=r"takes longer than 0\.3 s"):
        fetch_image(url(server, path), seconds=0.3)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://localhost/a.png", "data:image/png;base64,AA"])
def test_other_schemes_are_refused(server, address):
    with pytest.raises(VlkitError, match="only http and https"):
        fetch_image(address)


@pytest.mark.parametrize(
    "address", ["http://", "http://user:secret@[bad", "http://127.0.0.1:x/", "http://127.0.0.1:1/a"]
)
def test_addresses_that_lead_nowhere(server, address):
    with pytest.raises(VlkitError, match="cannot be fetched") as error:
        fetch_image(address)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("name", ["VLKIT_OFFLINE", "HF_HUB_OFFLINE"])
def test_nothing_is_fetched_offline(server, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with pytest.raises(VlkitError, match="VLKIT_OFFLINE or HF_HUB_OFFLINE is set"):
        fetch_image(url(server, "picture"))
    assert server.seen == []
