"""Errors of files name the file, wherever they are raised."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import stat
from pathlib import Path

import pytest
import torch

from vlkit.errors import VlkitError
from vlkit.io.disk_errors import FileError, describe, named, number_of
from vlkit.io.files import atomic_dir, atomic_write
from vlkit.io.tensor_files import save_tensors


@pytest.fixture
def small_files():
    """No file may be larger than 1,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def by_python(file: Path) -> None:
    file.write_bytes(b"0" * 5000)


def by_torch(file: Path) -> None:
    torch.save({"a": torch.zeros(5000)}, file)


def by_torch_stream(file: Path) -> None:
    with open(file, "wb") as stream:
        torch.save({"a": torch.zeros(5000)}, stream)


def by_safetensors(file: Path) -> None:
    save_tensors(file, {"a": torch.zeros(5000)})


@pytest.mark.parametrize("write", [by_python, by_torch, by_torch_stream, by_safetensors])
@pytest.mark.usefixtures("small_files")
def test_a_limit_of_the_system_is_named_whatever_writes(tmp_path, write):
    with pytest.raises(FileError) as caught, atomic_dir(tmp_path / "new") as folder:
        write(folder / "file")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'new'}: cannot be written there (")
    if write is not by_torch:  # which says only that it failed
        assert "File too large" in message
        assert "ulimit -f" in message
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("small_files")
def test_a_file_that_is_too_large_leaves_the_old_one(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    message = r"file: cannot be written there \(File too large\)"
    with pytest.raises(FileError, match=message), atomic_write(tmp_path / "file") as file:
        file.write(b"0" * 5000)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_errors_of_other_files_and_of_the_network_pass(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "file"):
        (tmp_path / "other" / "data").read_bytes()
    with pytest.raises(ConnectionResetError), named(tmp_path):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_a_real_full_device(tmp_path):
    (tmp_path / "link").symlink_to("/dev/full")
    message = r"link: cannot be written there \(No space left on device\)"
    with pytest.raises(FileError, match=message) as caught, named(tmp_path / "link"):
        (tmp_path / "link").write_text("x")
    assert caught.value.errno == errno.ENOSPC
    assert isinstance(caught.value, VlkitError)


def test_an_error_crosses_process_borders():
    error = pickle.loads(pickle.dumps(FileError("a: full", errno.ENOSPC, "a")))
    assert (str(error), error.errno, error.filename) == ("a: full", errno.ENOSPC, "a")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file", "a/b"), "a/b: No such file. Was it removed meanwhile?"),
        (OSError(errno.EXDEV, "Cross-device link", "a", None, "b"), "a -> b: Cross-device link."),
        (OSError(errno.EIO, "Input/output error"), "a file or stream: Input/output error. Check the disk."),
        (PermissionError(errno.EACCES, "denied", b"x"), "x: denied. Change its permissions, or give another path."),
        (OSError("odd"), "a file or stream: odd."),
        (TimeoutError(), "a file or stream: TimeoutError."),
    ],
)
def test_messages(error, message):
    assert describe(error) == message


def test_numbers_in_texts():
    assert number_of(RuntimeError("IoError(Os { code: 28, kind: StorageFull, })")) == errno.ENOSPC
    assert number_of(RuntimeError("code: 28 is the answer")) is None
    assert number_of(ConnectionError(errno.EPIPE, "x")) is None


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_and_folders_obey_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "a" / "text", "w") as file:
            file.write("x")
        with atomic_write(tmp_path / "a" / "tensors") as stream:
            save_tensors(Path(stream.name), {"a": torch.ones(1)})
        with atomic_dir(tmp_path / "b" / "c") as folder:
            (folder / "d").mkdir()
            save_tensors(folder / "d" / "e", {"a": torch.ones(1)})
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path
