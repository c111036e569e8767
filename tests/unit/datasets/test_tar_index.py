"""Tars that lie about themselves: what is read of them, and that nothing large is made of a claim."""

from __future__ import annotations

import tarfile
import tracemalloc

import pytest

from tests.assets.tars import block, header, write_tar
from vlkit.datasets.tar_index import entries, members

GOOD = header("a.png", 3) + block(b"abc")
END = bytes(1024)


def read(path, content: bytes) -> tuple[list[str], str]:
    """Names of the members, and what was said when it could not be read on."""
    path.write_bytes(content)
    names = []
    try:
        for name, _, _ in members(path):
            names.append(name)
    except tarfile.ReadError as error:
        return names, str(error)
    return names, ""


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (header("b.png", 10**10), "ends inside of a member"),
        (header("b.png", 3, pax={"size": str(10**10)}) + block(b"abc"), "ends inside of a member"),
        (header("b.png", 3, pax={"size": "9" * 5000}) + block(b"abc"), "a header is damaged"),
        (header("b.png", 3, pax={"size": "-512"}) + block(b"abc"), "a header is damaged"),
        (header("long", 3_000_000, tarfile.GNUTYPE_LONGNAME) + block(b"n" * 3_000_000), "a header of 3000000 bytes"),
        (header("pax", 3_000_000, tarfile.XHDTYPE) + block(b"n" * 3_000_000), "a header of 3000000 bytes"),
        (END + GOOD, "after its end mark there is more"),
        (bytes(2 << 20), "a long stretch of zeros"),
        (b"", "without an end mark"),
        (GOOD[:300], "without an end mark"),
    ],
)
def test_what_is_before_a_lie_is_kept_and_no_claim_fills_the_memory(tmp_path, lie, said):
    path = tmp_path / "a.tar"
    path.write_bytes(b"")
    tracemalloc.start()
    names, found = read(path, GOOD + lie + (END if lie[-1024:] != END else b"") if lie else GOOD)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert names[0] == "a.png"
    assert "b.png" not in names
    assert said in found
    assert peak < 12_000_000  # the file itself takes 3 MB here, and is put together twice


def test_zeros_of_a_tape_record_are_no_damage(tmp_path):
    assert read(tmp_path / "a.tar", GOOD + bytes(1 << 20)) == (["a.png"], "")


def test_links_are_entries_and_no_members(tmp_path):
    content = header("l.png", 0, tarfile.SYMTYPE) + header("h.png", 0, tarfile.LNKTYPE) + GOOD + END
    assert read(tmp_path / "a.tar", content) == (["a.png"], "")
    assert [kind for *_, kind in entries(tmp_path / "a.tar")] == [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.REGTYPE]


def test_a_file_that_shrinks_meanwhile_ends_early(tmp_path):
    path = write_tar(tmp_path / "a.tar", [(f"{i}.png", bytes(20_000)) for i in range(5)])
    reading = members(path)
    assert next(reading)[0] == "0.png"
    with open(path, "r+b") as file:
        file.truncate(30_000)
    with pytest.raises(tarfile.ReadError):
        list(reading)
