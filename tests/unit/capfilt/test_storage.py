"""Output places: the same verbs on a folder, an fsspec file system and an iopath handler."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations
from hypothesis import given, settings
from hypothesis import strategies as st
from iopath.common.file_io import NativePathHandler, PathHandler

from tests.assets.waiting import wait_until
from vlkit.capfilt import backends as stores
from vlkit.capfilt.storage import UNFINISHED, Storage
from vlkit.errors import VlkitError
from vlkit.io import fetch as io

KINDS = ("folder", "file", "memory", "renaming", "elsewhere")


class Renaming(MemoryFileSystem):
    """A storage whose uploads are seen while they go on; it renames, but not onto what is there (as HDFS)."""

    protocol = "renaming"
    store: dict = {}

    def put_file(self, lpath, rpath, **options):
        assert rpath.endswith(".tmp"), "it would be seen half"
        super().put_file(lpath, rpath, **options)

    def mv(self, path1, path2, **options):
        if self.exists(path2):
            raise FileExistsError(path2)
        super().mv(path1, path2, **options)


class Elsewhere(PathHandler):
    """Keeps ``elsewhere://`` in a folder."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder, self.native = str(folder), NativePathHandler()

    def _get_supported_prefixes(self):
        return ["elsewhere://"]

    def __getattribute__(self, name):
        if name in ("_open", "_exists", "_isfile", "_isdir", "_ls", "_mkdirs", "_rm"):
            act = getattr(self.native, name)
            return lambda path, *rest, **options: act(path.replace("elsewhere:/", self.folder), *rest, **options)
        return super().__getattribute__(name)


@pytest.fixture(params=KINDS)
def place(request, tmp_path, monkeypatch):
    fsspec.register_implementation("renaming", Renaming, clobber=True)
    monkeypatch.setattr(io, "_manager", None)
    io.path_manager().register_handler(Elsewhere(tmp_path))
    url = {"folder": str(tmp_path / "out"), "file": (tmp_path / "out").as_uri()}
    with Storage(url.get(request.param, f"{request.param}://{tmp_path.name}/out")) as place:
        yield place


def test_what_is_written_is_there(place):
    assert place.list("kept") == []
    assert not place.exists("kept/b.tar")
    place.write_bytes("kept/b.tar", b"old")
    place.write_bytes("kept/b.tar", b"b")
    place.write_bytes("kept/a.tar", b"")
    place.write_bytes("kept/deeper/c.tar", b"c")
    assert place.list("kept") == ["a.tar", "b.tar"]
    assert place.exists("kept/b.tar")
    assert (place.read_bytes("kept/a.tar"), place.read_bytes("kept/b.tar")) == (b"", b"b")
    with place.open("kept/deeper/c.tar") as file:
        assert file.read() == b"c"


def test_a_finished_file_is_moved_in(place):
    local = place.scratch / "part"
    local.write_bytes(b"finished")
    place.put("done/x.json", local)
    assert place.read_bytes("done/x.json") == b"finished"
    assert not local.exists()


def test_only_the_first_creates(place):
    assert place.create("claims/1", b"first")
    assert not place.create("claims/1", b"second")
    assert place.read_bytes("claims/1") == b"first"


def test_removed_twice(place):
    place.write_bytes("claims/1", b"")
    place.remove("claims/1")
    place.remove("claims/1")
    assert not place.exists("claims/1")
    assert place.age("claims/1") is None


def test_age_counts_from_the_last_writing(place):
    assert place.age("claims/1") is None
    place.write_bytes("claims/1", b"1")
    first, start = place.age("claims/1"), time.monotonic()
    wait_until(lambda: place.age("claims/1") > first + 0.5)
    assert time.monotonic() - start > 0.4
    start = time.monotonic()
    place.write_bytes("claims/1", b"2")
    assert place.age("claims/1") < time.monotonic() - start + 0.1


def test_nothing_unfinished_stays(place):
    place.write_bytes("kept/a.tar", b"a")
    place.age("kept/a.tar")
    scratch = place.scratch
    (scratch / "half").write_bytes(b"half a tar")
    place.close()
    assert not scratch.exists()
    assert place.list(UNFINISHED) == []
    assert place.local is None or sorted(os.listdir(place.local)) == ["kept"]


def test_a_missing_file_is_named(place):
    with pytest.raises(VlkitError, match=r"out/done/x\.json: there is no such file"):
        place.read_bytes("done/x.json")
    with pytest.raises(VlkitError, match=r"out/done/x\.json: there is no such file"):
        place.open("done/x.json")


def test_only_folders_of_this_machine_are_local(tmp_path):
    assert Storage(tmp_path / "a b").local == tmp_path / "a b"
    assert Storage((tmp_path / "a b").as_uri()).local == tmp_path / "a b"
    assert Storage("memory://bucket/out").local is None


@given(st.text(alphabet="./\\ab\n\0é", max_size=8))
@settings(deadline=None)
def test_no_name_leads_out(name):
    inside = Path("/out")
    if not name or inside not in Path(os.path.normpath(inside / name)).parents:
        with pytest.raises(VlkitError, match="stay inside the output folder"):
            Storage(inside).exists(name)
    elif name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(name.split("/")):
        assert not Storage(inside).exists(name)


@pytest.mark.parametrize("name", ["", ".", "..", "/etc/passwd", "kept/../../x", "kept//x", "..\\x", "a\nb"])
def test_names_that_are_refused(tmp_path, name):
    place = Storage(tmp_path)
    for act in (place.open, place.read_bytes, place.exists, place.list, place.remove, place.age):
        with pytest.raises(VlkitError, match="cannot be the name of an output file"):
            act(name)
    with pytest.raises(VlkitError, match="cannot be the name of an output file"):
        place.write_bytes(name, b"")
    with pytest.raises(VlkitError, match="cannot be the name of an output file"):
        place.create(name, b"")


@pytest.mark.parametrize(
    ("url", "reported"),
    [
        ("s3x://bucket/out", "nothing here can read or write s3x://.* Did you mean 's3"),
        ("broken://bucket/out", r"broken:// needs a package that is not installed: pip install no_such_package"),
    ],
)
def test_a_url_that_cannot_be_used_is_explained(url, reported):
    known_implementations["broken"] = {"class": "no_such_package.FileSystem", "err": "no"}
    try:
        with pytest.raises(VlkitError, match=reported):
            Storage(url)
    finally:
        del known_implementations["broken"]


def test_a_failing_storage_is_explained(tmp_path, monkeypatch):
    place = Storage("memory://failing/out")

    def fail(*arguments, **options):
        raise RuntimeError("503 slow down")

    monkeypatch.setattr(MemoryFileSystem, "put_file", fail)
    with pytest.raises(VlkitError, match=r"failing/out/kept/a: cannot be written \(RuntimeError: 503 slow down\)"):
        place.write_bytes("kept/a", b"")


def test_a_full_disk_is_explained_and_the_old_file_stays(tmp_path, monkeypatch):
    place = Storage(tmp_path)
    place.write_bytes("kept/a", b"old")

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stores, "sync", fail)
    with pytest.raises(VlkitError, match="no space left on the disk"):
        place.write_bytes("kept/a", b"new")
    assert place.read_bytes("kept/a") == b"old"


def test_a_file_in_the_way_of_the_folder_is_explained(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(VlkitError, match=r"out/\.unfinished: cannot be written \(Not a directory\)"):
        Storage(tmp_path / "out").write_bytes("kept/a", b"")


def test_a_file_of_another_disk_is_copied(tmp_path, monkeypatch):
    replace = os.replace

    def other_disk(source, target):
        if Path(source).name == "part":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", other_disk)
    (tmp_path / "part").write_bytes(b"content")
    Storage(tmp_path / "out").put("kept/a", tmp_path / "part")
    assert (tmp_path / "out/kept/a").read_bytes() == b"content"
    assert os.listdir(tmp_path / "out/kept") == ["a"]
    assert not (tmp_path / "part").exists()


def test_without_hard_links_still_only_the_first_creates(tmp_path, monkeypatch):
    def no_links(*arguments):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    place = Storage(tmp_path)
    assert place.create("claims/1", b"first")
    assert not place.create("claims/1", b"second")
    assert place.read_bytes("claims/1") == b"first"


def test_threads_create_once(tmp_path):
    place, names = Storage(tmp_path), [f"claims/{number}" for number in range(20)]

    def created(content):
        return [(name, content) for name in names if place.create(name, content)]

    with ThreadPoolExecutor(8) as pool:
        won = [pair for pairs in pool.map(created, [bytes([number]) for number in range(8)]) for pair in pairs]
    assert sorted(won) == [(name, place.read_bytes(name)) for name in sorted(names)]


def test_what_dead_processes_left_is_swept(tmp_path):
    code = f"from vlkit.capfilt.storage import Storage; print(Storage({str(tmp_path)!r}).scratch)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    dead = Path(printed.stdout.strip())
    (dead / "half.tar").write_bytes(b"half")
    elsewhere = tmp_path / UNFINISHED / "another_host-00000000-1-1-00000000"
    forgotten = tmp_path / UNFINISHED / "another_host-00000000-2-2-00000000"
    for folder, age in ((elsewhere, 3600), (forgotten, 3 * 86400)):
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    with Storage(tmp_path) as place:
        scratch = place.scratch
        assert sorted((tmp_path / UNFINISHED).iterdir()) == sorted([elsewhere, scratch])
    assert list((tmp_path / UNFINISHED).iterdir()) == [elsewhere]
