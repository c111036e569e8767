"""Text files as people have them: read, or named as what they are."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import random
import tarfile
import zipfile

import pytest

from vlkit.errors import DataError
from vlkit.io import text
from vlkit.io.text import encoding_fault, open_text, plain_suffix, read_bytes, start_of

TEXT = "ein Käse\r\nzwei\u2028drei\x85 vier\rfünf\n"
LINES = ["ein Käse\n", "zwei\u2028drei\x85 vier\n", "fünf\n"]


def saved(folder, data: bytes):
    (folder / "file").write_bytes(data)
    return folder / "file"


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.json"))
    return stream.getvalue()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_lines_are_those_of_all_systems_and_no_others(tmp_path, encoding, packed):
    data = TEXT.encode(encoding)
    file = saved(tmp_path, gzip.compress(data) if packed else data)
    with open_text(file) as stream:
        assert list(stream) == LINES
    assert start_of(file) == TEXT
    assert read_bytes(file) == data


def test_gzip_data_in_several_parts_are_read(tmp_path):
    file = saved(tmp_path, gzip.compress(b"one\n") + gzip.compress(b"two\n"))
    with open_text(file) as stream:
        assert list(stream) == ["one\n", "two\n"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (zipped(), "a zip archive (an Excel file .xlsx is one, too)"),
        (gzip.compress(zipped()), "a zip archive"),
        (gzip.compress(tarred()), "a tar archive"),
        (bz2.compress(b"[]"), "bzip2 data"),
        (lzma.compress(b"[]"), "xz data"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "zstandard data"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "Excel's .xls"),
        (b"PAR1....", "a Parquet file"),
        (b"\n <!DOCTYPE html>\n<html>", "a web page"),
        ("<html>404</html>".encode("utf-16"), "a web page"),
        ("[1, 2]".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (b"\0" * 50, "NUL bytes"),
        (b"\xff\xfea\0b", "byte order mark says UTF-16-LE"),
        (gzip.compress(b"0123456789" * 99)[:-12], "its gzip data are cut off or damaged"),
        (gzip.compress(b"abc")[:8] + b"\xff\xff\xff\xff", "its gzip data are cut off or damaged"),
        (gzip.compress(b"abc") + b"rest", "its gzip data are cut off or damaged"),
        (gzip.compress(b"abc")[:-8] + b"\0\0\0\0\x03\0\0\0", "its gzip data are cut off or damaged"),
    ],
    ids=itertools.count(),  # gzip and zip write the time into their headers, and ids must be equal in all workers
)
def test_what_is_no_text_is_named(tmp_path, data, said):
    file = saved(tmp_path, data)
    with pytest.raises(DataError) as raised, open_text(file) as stream:
        stream.read()
    assert str(file) in str(raised.value)
    assert said in str(raised.value)


def test_gzip_data_that_hold_far_too_much_are_refused(tmp_path, monkeypatch):
    file = saved(tmp_path, gzip.compress(b"a" * 4_000_000))
    assert len(read_bytes(file)) == 4_000_000
    monkeypatch.setattr(text, "_LARGE", 1_000_000)
    for read in (read_bytes, lambda file: start_of(file) and list(lines_of(file))):
        with pytest.raises(DataError, match="more than 200 times their size"):
            read(file)
    varied = saved(tmp_path, gzip.compress(random.Random(0).randbytes(3_000_000).hex().encode()))
    assert len(read_bytes(varied)) == 6_000_000  # a usual ratio


def lines_of(file):
    with open_text(file) as stream:
        yield from stream


def test_what_cannot_be_opened_is_named(tmp_path):
    for path, said in [(tmp_path / "none", "No such file"), (tmp_path, "Is a directory")]:
        with pytest.raises(DataError, match=f"{path}: cannot be read .{said}"):
            read_bytes(path)


def test_bytes_of_another_encoding_are_explained_line_by_line(tmp_path):
    file = saved(tmp_path, "caf\u00e9\n".encode("latin-1") + "ok é\n".encode() + b"\xff\x00\x01\n")
    with open_text(file) as stream:
        faults = [encoding_fault(line) for line in stream]
    assert "byte 0xe9). It may be Latin-1, in which it reads 'café'. Save" in faults[0]
    assert faults[1] == ""
    assert "byte 0xff)" in faults[2]


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.JSON", ".json"), ("a.json.gz", ".json"), ("a.tsv.GZ", ".tsv"), ("a.gz", ""), ("a", "")]
)
def test_the_suffix_under_gz_tells_the_format(tmp_path, name, suffix):
    assert plain_suffix(tmp_path / name) == suffix
