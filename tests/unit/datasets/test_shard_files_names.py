"""What tars of other programs hold: nothing of it vanishes, and what is not read is named."""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assets.tars import block, header, picture, write_tar
from vlkit.datasets.shard_files import is_further_image, split_name
from vlkit.datasets.tar_index import entries, scan
from vlkit.datasets.web_shards import WebShards, find_shards
from vlkit.errors import DataError
from vlkit.processors.open_image import open_image

END = bytes(1024)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "cache"))


def red(data: bytes, rng) -> np.ndarray:
    """An image processor: the red of the first pixel."""
    return np.array([open_image(data).getpixel((0, 0))[0]])


def opened(path: Path, members=(), split: str = "val", **kwargs) -> WebShards:
    if members:
        write_tar(path, members)
    return WebShards(str(path), split=split, image_processor=red, **kwargs)


def ids(found: WebShards) -> list[str]:
    return [found.place(i)[1] for i in range(len(found))]


@pytest.mark.parametrize(
    ("name", "key", "suffix", "kind"),
    [
        ("a.jpg", "a", "jpg", "image"),
        ("x/a.b.JPEG", "x/a.b", "jpeg", "image"),
        ("x.y/a.txt", "x.y/a", "txt", "txt"),
        ("./a.jpg", "a", "jpg", "image"),
        ("./x//y/./a.jpg", "x/y/a", "jpg", "image"),
        ("/x/a.jpg", "/x/a", "jpg", "image"),
        ("../a.jpg", "../a", "jpg", "image"),
        ("a.tar.gz", "a.tar", "gz", ""),
        ("README", "README", "", ""),
        (".jpg", "", "jpg", "image"),
        ("x/.jpg", "x/", "jpg", "image"),
        ("a.GIF", "a", "gif", "other image"),
        ("a.", "a", "", ""),
    ],
)
def test_a_name_is_split_at_the_last_dot(name, key, suffix, kind):
    assert split_name(name) == (key, suffix, kind)


def test_folders_and_what_macos_adds_are_no_members():
    assert [split_name(name) for name in ("x/", "./", "._a.jpg", "x/._a.jpg", "__MACOSX/a.jpg")] == [None] * 5


def test_with_an_image_key_other_images_are_no_part_of_a_sample():
    assert split_name("a.b.seg.PNG", "seg.png") == ("a.b", "png", "image")
    assert split_name("a.jpg", "png") == ("a", "jpg", "")
    assert split_name("a.gif", "png").kind == ""


def test_one_more_image_of_a_sample_is_known_by_the_text_that_it_lacks():
    samples = {"a": {"image", "txt"}, "a.seg": {"image"}, "a.b": {"image", "json"}, "c": {"image"}, "c.d": {"image"}}
    whole = {key: dict.fromkeys(kinds) for key, kinds in samples.items()}
    assert [key for key in whole if is_further_image(key, whole)] == ["a.seg"]


def test_keys_with_dots_are_samples_of_their_own(tmp_path):
    members = [(f"{key}.{end}", data) for i, key in enumerate(["a.b", "a.c", "x.y/1.5.2"]) for end, data in
               (("jpg", picture(40 * i, "PNG")), ("txt", key.encode()))]  # fmt: skip
    found = opened(tmp_path / "0.tar", members)
    assert ids(found) == ["a.b", "a.c", "x.y/1.5.2"]
    assert [sample["references"] for sample in found] == [["a.b"], ["a.c"], ["x.y/1.5.2"]]
    assert [int(sample["image"][0]) for sample in found] == [0, 40, 80]
    assert found.problems() == []


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text("ab./", min_size=1, max_size=6), min_size=1, max_size=6, unique=True))
def test_no_image_vanishes_whatever_members_are_called(stems):
    """Each is a sample, or counted as left out, as one more image, or is what a tar does not keep as a file."""
    names = [f"{stem}.png" for stem in stems]
    members = [(name, b"x") for name in names if split_name(name) is not None]
    with tempfile.TemporaryDirectory() as folder:
        index = scan(write_tar(Path(folder, "0.tar"), members))
    left_out = sum(int(problem.split()[0]) for problem in index.problems if problem[0].isdigit())
    assert len(index.rows) + left_out + sum(index.unread.values()) == len(members)


def test_upper_case_suffixes_and_prefixes_of_paths(tmp_path):
    members = [("./000.JPG", picture(5, "JPEG")), ("000.txt", b"a"), ("./x/1.JPEG", picture(9)), ("x/1.TXT", b"b")]
    found = opened(tmp_path / "0.TAR", members)
    assert [(sample["sample_id"], sample["text_input"]) for sample in found] == [("0.TAR:000", "a"), ("0.TAR:x/1", "b")]
    assert find_shards([str(tmp_path)]) == [tmp_path / "0.TAR"]


def test_the_suffix_of_the_images_can_be_set(tmp_path):
    members = [("a.jpg", picture(10)), ("a.png", picture(20)), ("a.seg.png", picture(30)), ("a.txt", b"a")]
    found = opened(tmp_path / "0.tar", members)
    assert len(found) == 1
    assert "1 members repeat an earlier one and are left out (a.png)" in found.problems()[0]
    assert int(opened(tmp_path / "0.tar", image_key="png")[0]["image"][0]) == 20
    assert int(opened(tmp_path / "0.tar", image_key="seg.png")[0]["image"][0]) == 30


def test_images_that_are_not_read_are_named(tmp_path, caplog):
    members = [("a.jpg", picture()), ("a.txt", b"a"), ("b.gif", b"GIF89a"), (".jpg", picture()), ("a.npy", b"n")]
    with caplog.at_level(logging.WARNING):
        found = opened(tmp_path / "0.tar", members)
    said = " ".join(found.problems())
    assert "1 images of a kind that is not read are left out: jpg, jpeg, png, webp are read (b.gif)" in said
    assert "1 members have no key before their suffix and are left out (.jpg)" in said
    assert "members that are not read: .npy (1)" in caplog.text
    with pytest.raises(DataError, match=r"no sample has an image\. .*1\.tar: 1 images of a kind that is not read"):
        opened(tmp_path / "1.tar", [("b.gif", b"GIF89a")])
    with pytest.raises(DataError, match=r"Its members are \.mp4 \(1\)"):
        opened(tmp_path / "2.tar", [("b.mp4", b"v")])


def test_links_and_sparse_files_are_named_and_hide_nothing_behind_them(tmp_path):
    sparse = bytearray(header("s.jpg", 512, tarfile.GNUTYPE_SPARSE))
    sparse[482:483] = b"\1"  # a block with more holes follows
    sparse[148:156] = b" " * 8
    sparse[148:156] = b"%06o\0 " % sum(sparse)
    more = bytearray(512)
    content = (
        header("l.jpg", 0, tarfile.LNKTYPE)
        + bytes(sparse) + bytes(more) + block(b"d" * 512)
        + header("GNUSparseFile.1/p.jpg", 3, pax={"GNU.sparse.major": "1", "GNU.sparse.name": "p.jpg"}) + block(b"abc")
        + header("a.jpg", 3) + block(b"abc") + END
    )  # fmt: skip
    (tmp_path / "0.tar").write_bytes(content)
    index = scan(tmp_path / "0.tar")
    assert len(index.rows) == 1
    said = " ".join(index.problems)
    assert "1 members are links, not files, and are left out (l.jpg)" in said
    assert "2 members are sparse files and are left out: pack without --sparse (s.jpg, p.jpg)" in said


def test_a_real_sparse_tar_keeps_its_other_members(tmp_path):
    with open(tmp_path / "hole.jpg", "wb") as file:
        for i in range(30):
            file.seek(1 << 20, io.SEEK_CUR)
            file.write(b"x" * 512 + bytes([i]))
    (tmp_path / "a.jpg").write_bytes(picture())
    for format in ("gnu", "pax"):
        subprocess.run(
            ["tar", "-cSf", f"{format}.tar", f"--format={format}", "hole.jpg", "a.jpg"], cwd=tmp_path, check=True
        )
        assert [name for name, *_ in entries(tmp_path / f"{format}.tar")] == ["hole.jpg", "a.jpg"]
        index = scan(tmp_path / f"{format}.tar")
        assert len(index.rows) == 1
        assert "(hole.jpg)" in index.problems[0]


@pytest.mark.parametrize(
    ("name", "pack", "program"),
    [
        ("0.tar.gz", gzip.compress, "gzip -dc 0.tar.gz > 0.tar"),
        ("0.TGZ", gzip.compress, "gzip -dc 0.TGZ > 0.tar"),
        ("0.tar", gzip.compress, "gzip -dc 0.tar > 0-plain.tar"),
        ("0.tar.bz2", bz2.compress, "bzip2 -dc"),
        ("0.tar.xz", lzma.compress, "xz -dc"),
        ("0.tar.zst", lambda data: b"\x28\xb5\x2f\xfd" + data, "zstd -dc 0.tar.zst > 0.tar"),
    ],
)
def test_compressed_tars_are_named_as_what_they_are(tmp_path, name, pack, program):
    plain = write_tar(tmp_path / "plain", [("a.jpg", picture())]).read_bytes()
    (tmp_path / name).write_bytes(pack(plain))
    for path in (tmp_path / name, tmp_path):  # in a folder it does not vanish either
        with pytest.raises(DataError, match="it is compressed with") as error:
            WebShards(str(path), image_processor=red)
        assert program in str(error.value)
    if name == "0.tar.gz":
        write_tar(tmp_path / "0.tar", [("a.jpg", picture())])
        assert find_shards([str(tmp_path)]) == [tmp_path / "0.tar"]  # what lies next to it unpacked


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04" + bytes(600), "a ZIP archive"),
        (b"PAR1" + bytes(600), "hf_dataset"),
        (b"\n<!DOCTYPE html><html>", "an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"no tar" * 500, "a header is damaged"),
    ],
)
def test_what_is_no_tar_is_named(tmp_path, data, said):
    (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(DataError, match=r"0\.tar: not a tar file") as error:
        WebShards(str(tmp_path), image_processor=red)
    assert said in str(error.value)


def test_an_empty_tar_among_others_is_named(tmp_path):
    write_tar(tmp_path / "0.tar", [("a.jpg", picture()), ("a.txt", b"a")])
    write_tar(tmp_path / "1.tar", [])
    found = WebShards(str(tmp_path), image_processor=red)
    assert len(found) == 1
    assert found.problems() == [f"{tmp_path / '1.tar'}: it is a tar without members."]


def test_one_key_in_two_shards_gives_two_samples_also_where_shards_have_one_name(tmp_path):
    for folder in ("x", "y"):
        write_tar(tmp_path / folder / "0.tar", [("a.jpg", picture()), ("a.txt", b"a")])
    found = WebShards([str(tmp_path / "x"), str(tmp_path / "y")], image_processor=red)
    assert len({sample["sample_id"] for sample in found}) == len({sample["image_id"] for sample in found}) == 2


def test_keys_that_are_not_utf8_stay_apart(tmp_path):
    write_tar(tmp_path / "0.tar", [("\udce8.jpg", picture()), ("\udce9.jpg", picture())], tarfile.GNU_FORMAT)
    assert ids(opened(tmp_path / "0.tar")) == ["%E8", "%E9"]


def test_a_folder_whose_shards_are_one_below_names_them(tmp_path):
    write_tar(tmp_path / "kept" / "0.tar", [("a.jpg", picture())])
    with pytest.raises(DataError, match=r"set 'path' to .*kept"):
        find_shards([str(tmp_path)])
