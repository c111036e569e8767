"""Tars from anywhere: every image and every text comes to an end, and each bad one is named."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import webdataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.assets.tars import block, header, picture, write_tar
from vlkit.capfilt import input_tar as tar_reading
from vlkit.capfilt import inputs as fetching
from vlkit.capfilt.input_shards import read_shard
from vlkit.capfilt.inputs import REASONS, InputOptions, InputShard, Item, Refused
from vlkit.datasets.web_shards import WebShards

PNG = picture(7)


def read(path: Path | str, **options) -> list[Item | Refused]:
    return list(read_shard(InputShard("s", "tar", str(path)), InputOptions(str(path), **options)))


def reported(found: list[Item | Refused]) -> list[tuple[str, str, str]]:
    return [(each.key, each.kind, each.reason) for each in found if isinstance(each, Refused)]


def items(found: list[Item | Refused]) -> list[Item]:
    return [each for each in found if isinstance(each, Item)]


def contents(tmp_path, members, **options) -> list[Item | Refused]:
    return read(write_tar(tmp_path / "0.tar", members), **options)


def test_what_img2dataset_writes(tmp_path):
    fields = {"caption": "of json", "url": "u", "key": "000000000", "width": 4, "exif": None}
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:
        for i in range(3):
            key = f"{i:09d}"
            writer.write(
                {"__key__": key, "jpg": picture(i, "JPEG"), "json": {**fields, "key": key}, "txt": f"text {i}"}
            )
    found = read(tmp_path / "0.tar")
    assert [(each.key, each.extension, each.texts) for each in found] == [
        (f"{i:09d}", "jpg", (f"text {i}",)) for i in range(3)
    ]
    assert found[1].image == picture(1, "JPEG")
    assert found[1].fields == {"url": "u", "key": "000000001", "width": 4, "exif": None}


@pytest.mark.parametrize(
    ("option", "files", "texts"),
    [
        ("txt", {"txt": b" a \n", "json": b'{"caption": "b"}'}, ("a",)),
        ("json", {"txt": b"a", "json": b'{"caption": "b"}'}, ("b",)),
        ("json", {"txt": b"a"}, ("a",)),
        ("txt", {"json": b'{"caption": "b"}'}, ("b",)),
        ("txt", {"txt": b"", "json": b'{"caption": "b"}'}, ("b",)),
        ("json", {"txt": b"a", "json": b'{"url": "u"}'}, ("a",)),
        ("txt", {"txt": b"a", "json": b'{"caption": ["b", "a"]}'}, ("a", "b")),
        ("json", {"txt": b"a", "json": b'{"captions": ["b", "c"]}'}, ("b", "c", "a")),
        ("txt", {"json": b'{"title": "b", "url": "u"}'}, ("b",)),
        ("txt", {"json": b'{"caption": ["a", "a"]}'}, ("a", "a")),
        ("txt", {"json": b'{"caption": ["", " ", "b", "c"]}'}, ("b", "c")),
        ("txt", {"json": '\ufeff{"caption": "ü"}'.encode()}, ("ü",)),
        ("txt", {"txt": "\ufeffü".encode()}, ("ü",)),
        ("txt", {"json": b'{"caption": "x\\ud83d"}'}, ("x?",)),
    ],
)
def test_where_the_texts_are_from(tmp_path, option, files, texts):
    found = contents(tmp_path, [("a.png", PNG), *((f"a.{kind}", data) for kind, data in files.items())], text=option)
    assert items(found)[0].texts == texts


@pytest.mark.parametrize(
    ("files", "reason", "detail"),
    [
        ({}, "no text", "neither"),
        ({"txt": b" \n\t"}, "no text", "empty"),
        ({"txt": b"", "json": b'{"caption": ""}'}, "no text", "empty"),
        ({"json": b"{}"}, "no text", "no key 'caption'"),
        ({"json": b'{"caption": null}'}, "no text", "None"),
        ({"json": b'{"caption": 5}'}, "no text", "5 (int)"),
        ({"json": b'{"caption": []}'}, "no text", "[] (list)"),
        ({"json": b'{"title": "a", "text": "b"}'}, "no text", "set caption_key to one of them"),
        ({"json": b'{"caption": "a", "similarity": NaN}'}, "unreadable text", "NaN"),
        ({"txt": b"caf\xe9"}, "unreadable text", "byte 0xe9"),
        ({"json": b'{"caption": "caf\xe9"}'}, "unreadable text", "not UTF-8"),
        ({"json": b'{"caption": "a"'}, "unreadable text", "not valid JSON"),
        ({"json": b'["a"]'}, "unreadable text", "list"),
        ({"json": b'{"a":' * 300 + b"1" + b"}" * 300}, "unreadable text", "levels"),
        ({"json": b'{"a": ' + b"9" * 5000 + b"}"}, "unreadable text", "digits"),
        ({"txt": b"t" * 2000}, "oversized text", "2000 bytes, 1000 allowed"),
        ({"json": b'{"caption": "' + b"t" * 2000 + b'"}'}, "oversized text", "1000 allowed"),
    ],
)
def test_an_image_stays_when_its_text_is_bad(tmp_path, files, reason, detail):
    members = [("a.png", PNG), *((f"a.{kind}", data) for kind, data in files.items()), ("b.png", PNG), ("b.txt", b"t")]
    limit = 1000 if reason == "oversized text" else 10_000
    refused, item, other = contents(tmp_path, members, max_text_bytes=limit)
    assert (refused.key, refused.kind, refused.reason) == ("a", "text", reason)
    assert detail in refused.detail
    assert (item.key, item.image, item.texts) == ("a", PNG, ())
    assert other.texts == ("t",)


def test_fields_that_cannot_be_read_leave_the_text(tmp_path):
    members = [("a.png", PNG), ("a.json", b"{"), ("a.txt", b"t"), ("b.png", PNG), ("b.json", b'{"k":"' + b"x" * 900)]
    found = contents(tmp_path, [*members, ("b.txt", b"u")], max_text_bytes=500)
    assert reported(found) == [("a", "fields", "unreadable text"), ("b", "fields", "oversized text")]
    assert [(item.texts, item.fields) for item in items(found)] == [(("t",), {}), (("u",), {})]


def test_deep_brackets_inside_of_texts_are_no_levels(tmp_path):
    (item,) = contents(tmp_path, [("a.png", PNG), ("a.json", json.dumps({"caption": '"\\[' * 500}).encode())])
    assert item.texts == ('"\\[' * 500,)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd.png", "absolute"),
        ("../../up.png", "leads out"),
        ("a/../../up.png", "leads out"),
        ("..\\up.png", "leads out"),
        ("C:\\up.png", "absolute"),
        ("line\nbreak.png", "control"),
        ("bell\x07.png", "control"),
        ("\u2028.png", "control"),
        (f"{'n' * 250}.png", "longer"),
    ],
)
def test_unsafe_names_are_refused_with_their_text(tmp_path, name, reason):
    members = [("good.png", PNG), ("good.txt", b"t"), (name, PNG), (f"{name[:-4]}.txt", b"bad")]
    found = contents(tmp_path, members)
    assert [item.key for item in items(found)] == ["good"]
    refused = [each for each in found if isinstance(each, Refused)]
    assert [(each.kind, each.reason) for each in refused] == [("image", "unsafe name"), ("text", "unsafe name")]
    assert all(reason in each.detail and each.key.isprintable() and len(each.key) < 200 for each in refused)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar"]


def test_bytes_that_are_not_utf8_are_written_as_escapes(tmp_path):
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    found = contents(tmp_path, [(f"{name}.png", PNG), (f"{name}.txt", b"t"), ("ü/日本.png", PNG), ("ü/日本.txt", b"u")])
    assert [(item.key, item.texts) for item in items(found)] == [("caf%E9", ("t",)), ("ü/日本", ("u",))]
    assert reported(found) == []


def test_a_name_that_looks_like_an_escaped_unsafe_one_is_another_sample(tmp_path):
    found = contents(tmp_path, [("a\n.png", PNG), ("a%0A.png", PNG), ("a%0A.txt", b"t")])
    assert reported(found) == [("a%0A", "image", "unsafe name")]
    assert [(item.key, item.texts) for item in items(found)] == [("a%0A", ("t",))]


def test_images_that_cannot_be_used(tmp_path):
    members = [("e.png", b""), ("e.txt", b"t"), ("o.png", PNG + bytes(900)), ("g.gif", PNG), ("g.txt", b"t")]
    found = contents(tmp_path, [*members, ("t.txt", b"t"), ("ok.PNG", PNG), ("ok.txt", b"t")], max_image_bytes=900)
    assert reported(found) == [
        ("e", "image", "empty image"),
        ("e", "text", "no image"),
        ("o", "image", "oversized image"),
        ("g", "image", "undecodable image"),
        ("g", "text", "no image"),
        ("t", "text", "no image"),
    ]
    assert [(item.key, item.extension) for item in items(found)] == [("ok", "png")]


def test_the_first_of_equal_keys_stays(tmp_path):
    members = [("a.png", PNG), ("a.txt", b"first"), ("a.jpg", picture(9)), ("a.txt", b"second"), ("a.png", PNG)]
    found = contents(tmp_path, [*members, ("b.png", PNG), ("b.txt", b"t")])
    assert reported(found) == [("a", kind, "duplicate key") for kind in ("image", "text", "image")]
    assert [(item.key, item.texts, item.image == PNG) for item in items(found)] == [
        ("a", ("first",), True),
        ("b", ("t",), True),
    ]


def test_links_give_nothing(tmp_path):
    content = (
        header("l.png", 0, tarfile.SYMTYPE) + header("d", 0, tarfile.DIRTYPE) + header("a.png", len(PNG)) + block(PNG)
    )
    (tmp_path / "0.tar").write_bytes(content + bytes(1024))
    found = read(tmp_path / "0.tar")
    assert reported(found)[0] == ("l", "image", "unsafe name")
    assert [item.key for item in items(found)] == ["a"]


def test_keys_may_have_dots(tmp_path):
    """Two samples, of which webdataset would make one."""
    found = contents(tmp_path, [("a.1.png", PNG), ("a.1.txt", b"t"), ("a.2.png", picture(2)), ("a.2.txt", b"u")])
    assert [(item.key, item.texts) for item in found] == [("a.1", ("t",)), ("a.2", ("u",))]


def test_other_files_are_counted_by_their_suffix(tmp_path):
    others = [("README", b""), ("a.cls", b"1"), ("b/", b""), ("b.cls", b"2"), ("._a.png", b"of macOS"), ("a.jfif", PNG)]
    sample = [("s.png", PNG), ("s.txt", b"t"), ("s.mask.png", PNG)]
    found = contents(tmp_path, [*others, *sample])
    assert [item.key for item in items(found)] == ["s"]
    assert [(each.reason, each.detail, each.count) for each in found if isinstance(each, Refused)] == [
        ("unread member", ".cls (a.cls, b.cls)", 2),
        ("unread member", ".jfif (a.jfif)", 1),
        ("unread member", ".mask.png (s.mask)", 1),
        ("unread member", "without a suffix (README)", 1),
    ]


@pytest.mark.parametrize("cut", [200, 1500, 3000])
def test_what_is_before_the_damage_is_kept(tmp_path, cut):
    members = [(f"{i}.{kind}", data) for i in range(4) for kind, data in (("png", PNG), ("txt", f"t{i}".encode()))]
    whole = write_tar(tmp_path / "0.tar", members).read_bytes().rstrip(b"\0")
    (tmp_path / "0.tar").write_bytes(whole[: len(whole) - cut])
    found = read(tmp_path / "0.tar")
    kept = items(found)
    assert 1 <= len(kept) <= 4
    assert [item.key for item in kept] == ["0", "1", "2", "3"][: len(kept)]
    assert [(each.key, each.reason) for each in found if isinstance(each, Refused) and each.kind == "shard"] == [
        ("s", "truncated shard")
    ]
    assert found[-1].detail


def test_a_claim_of_ten_gigabytes_ends_the_shard(tmp_path):
    good = header("a.png", len(PNG)) + block(PNG) + header("a.txt", 1) + block(b"t")
    (tmp_path / "0.tar").write_bytes(good + header("b.png", 10**10) + block(PNG) + bytes(1024))
    found = read(tmp_path / "0.tar")
    assert [item.key for item in items(found)] == ["a"]
    assert reported(found) == [("s", "shard", "truncated shard")]


def test_members_of_a_sparse_giant_are_not_read(tmp_path):
    """The claim is true here: the file has these 3 GB, and none of them is read."""
    size = 3_000_000_000
    with open(tmp_path / "0.tar", "wb") as file:
        file.write(header("b.png", size))
        file.seek(512 + -(-size // 512) * 512)
        file.write(header("b.json", size))
        file.seek(size + 512, os.SEEK_CUR)
        file.seek(-(file.tell() % 512) % 512, os.SEEK_CUR)
        file.write(header("a.png", len(PNG)) + block(PNG) + bytes(1024))
    found = read(tmp_path / "0.tar")
    assert reported(found)[:2] == [("b", "image", "oversized image"), ("b", "text", "no image")]


def test_a_shard_of_too_many_members_ends_early(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_reading, "MOST_MEMBERS", 4)
    found = contents(tmp_path, [(f"{i}.{kind}", PNG) for i in range(9) for kind in ("png", "txt")])
    assert [item.key for item in items(found)] == ["0", "1"]
    assert (found[-1].reason, found[-1].detail) == ("truncated shard", "more than 4 members")


@pytest.mark.parametrize("content", [b"", b"no tar" * 500, bytes(2 << 20), tarfile.BLOCKSIZE * b"x"])
def test_no_tar(tmp_path, content):
    (tmp_path / "0.tar").write_bytes(content)
    assert reported(read(tmp_path / "0.tar")) == [("s", "shard", "unreadable shard")]


def test_shards_that_are_gone_or_folders(tmp_path):
    (tmp_path / "d.tar").mkdir()
    (gone,) = read(tmp_path / "gone.tar")
    (folder,) = read(tmp_path / "d.tar")
    assert (gone.reason, gone.detail) == ("unreadable shard", "No such file or directory")
    assert (folder.reason, folder.detail) == ("unreadable shard", "Is a directory")


def test_a_disk_that_fails_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE", 0.0)
    path = write_tar(tmp_path / "0.tar", [("a.png", PNG), ("a.txt", b"t"), ("b.png", PNG), ("b.txt", b"u")])
    failing = iter([True, True, False])
    real = open

    def flaky(file, *args, **kwargs):
        if str(file) == str(path) and next(failing, False):
            raise OSError(5, "Input/output error")
        return real(file, *args, **kwargs)

    monkeypatch.setattr("builtins.open", flaky)
    assert [item.key for item in items(read(path))] == ["a", "b"]
    failing = iter([True] * 9)
    assert read(path) == [Refused("s", "shard", "unreadable shard", "Input/output error")]


NAMES = ["a", "b", "c", "../x", "d/e", "/z", "f.g"]
SUFFIXES = ["png", "JPG", "txt", "json", "gif", "cls"]
DATA = [b"", PNG, b"text", b"\xff\xfe", b'{"caption": "c"}', b'{"caption": ["", "d"]}', b"{", b"x" * 400]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(SUFFIXES), st.sampled_from(DATA)), max_size=16))
def test_every_image_and_every_text_comes_to_an_end(members):
    """Counts add up whatever the mixture: one result for each image member; one for the text of each sample, and one
    for each further member of a kind."""
    first: dict[tuple[str, str], bytes] = {}
    for name, suffix, data in members:
        first.setdefault((name, suffix), data)
    two = DATA[5]  # a list of two captions, of which one is empty
    blank = (b"", b"\xff\xfe")  # next to these the JSON's texts count; the second is a byte order mark alone
    # A list next to a text: both count, which has tests of its own.
    assume(not any(first.get((name, "json")) == two and first.get((name, "txt"), b"") not in blank for name in NAMES))
    with tempfile.TemporaryDirectory() as folder:
        path = write_tar(Path(folder, "0.tar"), [(f"{name}.{suffix}", data) for name, suffix, data in members])
        found = read(path, max_image_bytes=300, max_text_bytes=300)
    images = [name for name, suffix, _ in members if suffix in ("png", "JPG", "gif")]
    texts = [(name, suffix) for name, suffix, _ in members if suffix in ("txt", "json")]
    kept = items(found)
    count = Counter(each.kind for each in found if isinstance(each, Refused))
    assert len(kept) + count["image"] == len(images)
    assert len({item.key for item in kept}) == len(kept)
    assert all(each.reason in REASONS for each in found if isinstance(each, Refused))
    with_text = {name for name, _ in texts}
    further = sum(number - 1 for number in Counter(texts).values())
    duplicates_beside = sum(
        Counter(texts)[name, "json"] - 1 for name in with_text if {(name, "json"), (name, "txt")} <= set(texts)
    )
    silent = len({item.key for item in kept} - with_text)  # their missing text is reported, too
    lists = sum(first.get((item.key, "txt"), b"") in blank and first.get((item.key, "json")) == two for item in kept)
    assert (
        sum(len(item.texts) for item in kept) + count["text"]
        == len(with_text) + further - duplicates_beside + silent + lists
    )


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_whatever_happens_to_the_bytes_nothing_is_raised(data):
    format = data.draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    long = "k" * (0 if format == tarfile.USTAR_FORMAT else 110)
    with tempfile.TemporaryDirectory() as folder:
        members = [
            (f"{long}{i}.{kind}", content)
            for i in range(3)
            for kind, content in (("png", PNG), ("json", b'{"caption": "a", "n": [1, 2]}'), ("txt", b"text"))
        ]
        path = write_tar(Path(folder, "0.tar"), members, format)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 5))):
            place = data.draw(st.integers(0, 9000))
            content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        path.write_bytes(content[: data.draw(st.none() | st.integers(0, len(content)))])
        found = read(path)
        assert found == read(path)
    assert len(items(found)) <= 3
    assert all(each.reason in REASONS for each in found if isinstance(each, Refused))
    json.dumps([vars(each) for each in found], default=str).encode()


def test_output_of_a_reader_goes_back_in_through_web_shards(tmp_path, monkeypatch):
    """Keys and suffixes of what is read are such that ``web_shards`` finds the samples again."""
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "cache"))
    names = ["d/e", "caf\udce9", "x y", "ünï", "..a", "-", "a%", "n" * 235]
    found = items(contents(tmp_path, [(f"{name}.png", PNG) for name in names]))
    assert len(found) == len(names)
    again = [
        member for item in found for member in ((f"{item.key}.{item.extension}", item.image), (f"{item.key}.txt", b"t"))
    ]
    back = WebShards(str(write_tar(tmp_path / "1.tar", again)), image_processor=lambda data, rng: data)
    assert [back.place(i)[1] for i in range(len(back))] == [item.key for item in found]


def far(url: str, path: Path) -> str:
    import fsspec

    with fsspec.open(url, "wb") as file:
        file.write(path.read_bytes())
    return url


def test_shards_of_elsewhere_are_copied_and_removed(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "0.tar", [("a.png", PNG), ("a.txt", b"t")])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    url = far("memory://capfilt_sources/0.tar", path)
    reading = read_shard(InputShard("s", "tar", url), InputOptions(url))
    assert next(reading).key == "a"
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    assert list(reading) == []
    assert list((tmp_path / "temporary").iterdir()) == []
    assert read("memory://capfilt_sources/none.tar") == [Refused("s", "shard", "unreadable shard", "FileNotFoundError")]


def test_a_connection_that_breaks_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE", 0.0)
    data = write_tar(tmp_path / "0.tar", [("a.png", PNG), ("a.txt", b"t")]).read_bytes()
    answers = iter([ConnectionError("no"), TimeoutError("slow"), io.BytesIO(data)])

    class Store:
        def open(self, name):
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

    monkeypatch.setattr(fetching, "store_of", lambda url: Store())
    assert [item.key for item in read("s3://bucket/0.tar")] == ["a"]
    answers = iter([RuntimeError("id 4711")] * 3)
    assert read("s3://bucket/0.tar") == [Refused("s", "shard", "unreadable shard", "RuntimeError")]
