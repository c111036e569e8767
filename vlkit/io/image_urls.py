"""Pictures at HTTP addresses, within limits of time and size."""

from __future__ import annotations

import http.client
import queue
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from typing import Any
from urllib.parse import unquote, urlsplit

from vlkit.errors import VlkitError, redacted
from vlkit.io.cache import offline

MAX_BYTES = 64 * 2**20
SECONDS = 10.0
_BLOCK = 1 << 16
_SCHEMES = ("http", "https")


class _Refused(Exception):
    """Why an address gives no picture."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https alone."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme.lower() not in _SCHEMES:
            raise _Refused(f"the server redirects to {redacted(newurl)}; only http and https are followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_image(url: str, max_bytes: int = MAX_BYTES, seconds: float = SECONDS) -> bytes:
    """Return the file behind ``url``; nothing is written to a cache.

    Args:
        url: http or https.
        max_bytes: largest file.
        seconds: for everything: looking up the host, connecting, redirects and the transfer.

    Raises:
        VlkitError: offline, another scheme, the server refuses, the file is too large or too slow. The message names
            the address without its credentials.
    """
    name = redacted(url)
    if offline():
        raise VlkitError(f"{name}: not fetched, since VLKIT_OFFLINE or HF_HUB_OFFLINE is set. Give a local file.")
    if url.partition(":")[0].lower() not in _SCHEMES:
        raise VlkitError(f"{name}: only http and https addresses are fetched. Give the path of a local file.")
    deadline = time.monotonic() + seconds
    replies: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

    def transfer() -> None:
        try:
            replies.put(_read(url, max_bytes, seconds, deadline))
        except Exception as error:
            replies.put(error)

    # A thread, since name look-up and slow headers obey no time limit.
    threading.Thread(target=transfer, name="vlkit-image-url", daemon=True).start()
    try:
        reply = replies.get(timeout=seconds)
    except queue.Empty:
        reply = TimeoutError()
    if isinstance(reply, bytes):
        return reply
    # Without a cause: its text may hold the whole address.
    raise VlkitError(f"{name}: cannot be fetched: {_reason(reply, seconds)}.") from None


def _request(url: str) -> urllib.request.Request:
    """Return a request whose user and password travel in a header, to the first host alone."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(
        parts._replace(netloc=host, fragment="").geturl(),
        headers={"User-Agent": "vlkit", "Accept-Encoding": "identity"},
    )
    if user:
        request.add_unredirected_header("Authorization", f"Basic {b64encode(unquote(user).encode()).decode()}")
    return request


def _read(url: str, max_bytes: int, seconds: float, deadline: float) -> bytes:
    opener = urllib.request.build_opener(_Redirects())
    request = _request(url)
    too_large = _Refused(f"the file has more than {max_bytes:,} bytes")
    with opener.open(request, timeout=seconds) as response:
        if int(response.headers.get("Content-Length") or 0) > max_bytes:
            raise too_large
        blocks, size = [], 0
        while block := response.read1(_BLOCK):
            size += len(block)
            blocks.append(block)
            if size > max_bytes:
                raise too_large
            if time.monotonic() > deadline:
                raise TimeoutError
        if response.length:  # bytes that are missing
            raise _Refused(f"the connection ended {response.length:,} bytes before the end of the file")
    return b"".join(blocks)


def _reason(error: Exception, seconds: float) -> str:
    """Describe what went wrong, without the address."""
    cause = getattr(error, "reason", None)
    if isinstance(error, urllib.error.HTTPError):
        what = ", a redirect that is not followed" if 300 <= error.code < 400 else ""
        return f"the server answers {error.code}{what}"
    if isinstance(error, TimeoutError) or isinstance(cause, TimeoutError):
        return f"it takes longer than {seconds:g} s"
    if isinstance(error, (_Refused, OSError)):
        return str(cause or error) or type(error).__name__
    if isinstance(error, (http.client.HTTPException, ValueError)):  # their texts may quote the address
        return f"the address or the answer cannot be read ({type(error).__name__})"
    return type(error).__name__
