"""Downloads over HTTP: resumed where they stopped, checked, and done by one process for all."""

from __future__ import annotations

import base64
import contextlib
import errno
import http.client
import logging
import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from vlkit.errors import VlkitError, redacted
from vlkit.io.cache import check_first_use, in_torch_hub, mismatch, offline, record_first_use
from vlkit.io.disk_errors import cannot, full_disk, is_full_disk, named

logger = logging.getLogger(__name__)
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 4
PAUSE = 1.0  # seconds before the second attempt, doubled before each later one
_BLOCK = 1 << 20


class _Interrupted(Exception):
    """The connection ended early; what arrived is kept."""


_BROKEN = (_Interrupted, urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


def fetch_http(url: str, target: Path, expected: dict[str, str]) -> Path:
    """Return the file of ``url``: at ``target``, or in the cache of torch.hub, else downloaded to ``target``; checked.

    Args:
        url: http or https.
        target: its place in the cache.
        expected: algorithm to checksum; may be empty.

    Raises:
        VlkitError: offline, the server refuses, the transfer ends early again and again, or a wrong checksum.
    """
    if target.is_file():
        return _checked(url, target, expected)
    elsewhere = in_torch_hub(url, expected, target.with_name(target.name + ".sha256"))
    if elsewhere is not None:
        return elsewhere
    if offline():
        raise VlkitError(_by_hand(url, target, "is not in the cache, and VLKIT_OFFLINE or HF_HUB_OFFLINE is set"))
    with _locked(target):
        if not target.is_file():  # another process may have been faster
            part = _download(url, target, trusted=bool(expected))
            os.replace(part, target)
            _validator_file(target).unlink(missing_ok=True)
        return _checked(url, target, expected)


def _checked(url: str, target: Path, expected: dict[str, str]) -> Path:
    """Return ``target``, if it is what is expected and what it was at its first use."""
    record = target.with_name(target.name + ".sha256")
    problem = mismatch(target, expected) or check_first_use(target, record)
    if problem:
        corrupt = target.with_name(target.name + ".corrupt")
        os.replace(target, corrupt)
        record.unlink(missing_ok=True)
        raise VlkitError(f"{url}: {problem}. The file is kept as {corrupt}; run again to download it once more.")
    record_first_use(target, record)
    return target


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    from filelock import FileLock

    lock = FileLock(f"{target}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise VlkitError(
            f"{target.parent}: the cache cannot be written ({error.strerror}). Set VLKIT_CACHE to another."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _download(url: str, target: Path, trusted: bool) -> Path:
    """Return the complete ``.part`` file of ``target``."""
    part = target.with_name(target.name + ".part")
    for attempt in range(ATTEMPTS):
        try:
            _transfer(url, part, target, trusted)
            return part
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                refusal = f"the server answers {error.code} {error.reason}"
                raise VlkitError(_by_hand(url, target, refusal)) from error
            problem: Exception = error
        except _BROKEN as error:
            problem = error
        if isinstance(getattr(problem, "reason", None), (socket.gaierror, ConnectionRefusedError)):
            break  # no network: waiting does not help
        if attempt + 1 < ATTEMPTS:
            logger.warning("%s: %s; trying again", redacted(url), redacted(_reason(problem), url))
            time.sleep(PAUSE * 2**attempt)
    message = _by_hand(url, target, f"the download fails ({redacted(_reason(problem), url)})")
    if part.is_file():
        message += f" The {part.stat().st_size:,} bytes that arrived are kept: run again to continue."
    raise VlkitError(message) from problem


def _transfer(url: str, part: Path, target: Path, trusted: bool) -> None:
    """Transfer over one connection, continuing after what ``part`` holds if the server still has the same file."""
    have = _resumable(part, target, trusted)
    request = _request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
        validator = _read(_validator_file(target))
        if validator:
            request.add_header("If-Range", validator)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range", "") == f"bytes */{have}":
            return  # everything had arrived before
        if error.code == 416:
            part.unlink(missing_ok=True)
            raise _Interrupted("what had arrived does not fit the file any more") from error
        raise
    with response:
        if response.status != 206:
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            raise _Interrupted("the server sent another part of the file than was asked for")
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        _check_disk(part, total, have)
        with named(_validator_file(target)):
            _validator_file(target).write_text(_validator(response))
        _copy(response, part, have, total)


def _request(url: str) -> urllib.request.Request:
    """Return a request for ``url``; a login in it becomes a header, which is not sent to where the server redirects."""
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    headers = {"User-Agent": "vlkit", "Accept-Encoding": "identity"}
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)), headers=headers)
    if login:
        encoded = base64.b64encode(unquote(login).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {encoded}")
    return request


def _copy(response: Any, part: Path, have: int, total: int | None) -> None:
    """Append the response to the first ``have`` bytes of ``part``."""
    from tqdm import tqdm

    bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=None)
    try:
        with bar, open(part, "ab" if have else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    except OSError as error:
        if is_full_disk(error):
            raise full_disk(part, part.stat().st_size, total) from error
        if error.filename is not None or error.errno in (errno.EFBIG, errno.EIO, errno.EROFS):
            raise cannot(part, error) from error
        raise _Interrupted(_reason(error)) from error
    size = part.stat().st_size
    if total is not None and size < total:
        raise _Interrupted(f"the connection ended after {size:,} of {total:,} bytes")


def _resumable(part: Path, target: Path, trusted: bool) -> int:
    """Return the bytes of ``part`` that can be kept: none when neither the server nor a checksum would tell that the
    file changed in between."""
    if not part.is_file() or not (trusted or _read(_validator_file(target))):
        return 0
    return part.stat().st_size


def _validator(response: Any) -> str:
    """Return the name of this version of the file for ``If-Range``; weak ETags may not be used there."""
    etag = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _validator_file(target: Path) -> Path:
    return target.with_name(target.name + ".part.version")


def _read(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


def _check_disk(part: Path, total: int | None, have: int) -> None:
    if total is not None and shutil.disk_usage(part.parent).free < total - have:
        raise full_disk(part, have, total)


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(reason).__name__


def _by_hand(url: str, target: Path, problem: str) -> str:
    return f"{url}: {problem}. To do without: download it elsewhere and put it at {target}."
