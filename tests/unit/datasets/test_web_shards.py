"""The dataset web_shards: samples are those of the webdataset package, at any place and in any order."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.assets.tars import write_tar
from vlkit.datasets.loading import BAD, TrainLoader
from vlkit.datasets.mixture import Mixture
from vlkit.datasets.tar_index import index_of, scan
from vlkit.datasets.web_shards import WebShards, find_shards
from vlkit.errors import BadSample, ConfigError, DataError
from vlkit.processors.open_image import open_image


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encoded(shade: int, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (shade, 90, 200)).save(file, format)
    return file.getvalue()


def shade(data: bytes, rng) -> np.ndarray:
    """An image processor: the red of the first pixel."""
    return np.array([open_image(data).getpixel((0, 0))[0]])


def shard(path: Path, samples: list[dict]) -> Path:
    """As img2dataset writes it, by the webdataset package."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def plain_tar(path: Path, members: list[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> Path:
    return write_tar(path, members, format)


def captioned(first: int, count: int) -> list[dict]:
    return [
        {"__key__": f"{i:09d}", "png": encoded(i), "txt": f"text {i}", "json": {"caption": "of json", "url": "u"}}
        for i in range(first, first + count)
    ]


def test_samples_are_those_of_webdataset(tmp_path):
    files = [shard(tmp_path / f"0000{i}.tar", captioned(10 * i, 3 + i)) for i in range(3)]
    found = WebShards(str(tmp_path / "{00000..00002}.tar"), image_processor=shade, text_processor=str.upper)
    assert len(found) == 3 + 4 + 5
    urls = [str(file) for file in files]
    expected = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    for sample, theirs in zip(found, expected, strict=True):
        assert sample["text_input"] == theirs["txt"].decode().upper()
        assert sample["image"] == shade(theirs["png"], None)
        assert sample["sample_id"] == f"{Path(theirs['__url__']).name}:{theirs['__key__']}"
        assert sample["image_id"] == f"{theirs['__url__']}:{theirs['__key__']}"
    assert found[7]["text_input"] == "TEXT 20"  # the first of the third shard, read without the others


@settings(deadline=None, max_examples=25)
@given(
    names=st.lists(
        st.text(st.characters(exclude_characters="/.\0", codec="utf-8"), min_size=1), min_size=1, unique=True
    ),
    texts=st.lists(st.text(st.characters(codec="utf-8")), min_size=5, max_size=5),
    folder=st.text("ab", max_size=160),
    format=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_any_key_and_text_survive_in_any_tar_format(names, texts, folder, format):
    keys = [f"{folder}/{name}" if folder else name for name in names]
    if format == tarfile.USTAR_FORMAT:
        keys = [key for key in keys if len(key.encode()) < 90]
    members = [
        (f"{key}.{kind}", data)
        for i, key in enumerate(keys)
        for kind, data in (("jpg", encoded(i % 256)), ("txt", texts[i % 5].encode()))
    ]
    with tempfile.TemporaryDirectory() as place:
        file = plain_tar(Path(place, "a.tar"), members, format)
        index = scan(file)
        assert index.problems == []
        data = file.read_bytes()
        for row, (name, image), (_, text) in zip(index.rows, members[::2], members[1::2], strict=True):
            assert data[row["image"] :][: row["image_size"]] == image, name
            assert data[row["text"] :][: row["text_size"]] == text
        starts = [0, *index.ends]
        found = [index.keys[a:b].tobytes().decode() for a, b in zip(starts, index.ends)]
        assert found == keys


def test_the_index_is_read_once_and_again_when_the_shard_changes(tmp_path, cache, monkeypatch):
    file = shard(tmp_path / "0.tar", captioned(0, 3))
    first = index_of(file)
    assert len(list((cache / "tar_index").glob("*.npz"))) == 1
    monkeypatch.setattr("vlkit.datasets.tar_index.scan", lambda *shard: pytest.fail("scanned again"))
    again = index_of(file)
    assert (first.rows == again.rows).all()
    assert (first.keys == again.keys).all()
    monkeypatch.undo()
    monkeypatch.setenv("VLKIT_CACHE", str(cache))
    shard(file, captioned(0, 5))
    os.utime(file, ns=(1, 1))
    assert len(index_of(file).rows) == 5
    for damaged in (cache / "tar_index").glob("*.npz"):
        damaged.write_bytes(b"PK\x03\x04 no archive")
    assert len(index_of(file).rows) == 5


def test_a_cache_that_cannot_be_written_is_fine(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "file"))
    assert len(WebShards(str(shard(tmp_path / "0.tar", captioned(0, 2))), image_processor=shade)) == 2


@pytest.mark.parametrize("cut", [1, 700, 4000])
def test_what_is_before_the_cut_is_read(tmp_path, cut):
    whole = shard(tmp_path / "0.tar", captioned(0, 4)).read_bytes().rstrip(b"\0")
    (tmp_path / "0.tar").write_bytes(whole[: len(whole) - cut])
    found = WebShards(str(tmp_path / "0.tar"), image_processor=shade)
    assert 1 <= len(found) <= 4
    assert [int(sample["image"][0]) for sample in found] == list(range(len(found)))
    assert "cannot be read on" in found.problems()[0]
    assert "0.tar" in found.problems()[0]


def test_a_damaged_header_ends_the_shard(tmp_path):
    data = bytearray(
        plain_tar(tmp_path / "0.tar", [("a.png", encoded(1)), ("a.txt", b"a"), ("b.png", encoded(2))]).read_bytes()
    )
    data[4 * 512 + 3] ^= 0x55
    (tmp_path / "0.tar").write_bytes(data)
    found = WebShards(str(tmp_path / "0.tar"), image_processor=shade)
    assert len(found) == 1
    assert "a header is damaged" in found.problems()[0]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damage_anywhere_ends_in_fewer_samples_or_an_error(data):
    """Bytes that are exchanged, lost or added: no other error, no endless loop, nothing outside of the file."""
    format = data.draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    members = [(f"{'k' * 120}{i}.{kind}", b"x" * 700) for i in range(3) for kind in ("png", "txt")]
    if format == tarfile.USTAR_FORMAT:
        members = [(name[100:], content) for name, content in members]
    with tempfile.TemporaryDirectory() as folder:
        file = plain_tar(Path(folder, "a.tar"), members, format)
        content = bytearray(file.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(content) - 1))
            content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        file.write_bytes(content)
        try:
            rows = scan(file).rows
        except DataError:
            return
        assert len(rows) <= 3
        assert all(row["image"] >= 0 and row["image"] + row["image_size"] <= len(content) for row in rows)


def test_names_are_keys_and_never_paths(tmp_path):
    outside = tmp_path / "outside.png"
    members = [
        ("../outside.png", encoded(7)),
        ("../outside.txt", b"up"),
        ("/etc/x.png", encoded(8)),
        ("/etc/x.txt", b"root"),
    ]
    found = WebShards(str(plain_tar(tmp_path / "0.tar", members)), image_processor=shade)
    assert [(sample["text_input"], int(sample["image"][0])) for sample in found] == [("up", 7), ("root", 8)]
    assert not outside.exists()


def test_repeated_keys_texts_without_images_and_images_without_texts(tmp_path):
    members = [
        ("a.png", encoded(1)),
        ("a.txt", b"first"),
        ("a.png", encoded(2)),
        ("b.txt", b"alone"),
        ("c.png", encoded(3)),
    ]
    found = WebShards(str(plain_tar(tmp_path / "0.tar", members)), image_processor=shade)
    assert len(found) == 2
    assert (found[0]["text_input"], found[0]["image"]) == ("first", 1)
    with pytest.raises(BadSample, match=r"0\.tar:c: it has no caption"):
        found[1]
    said = " ".join(found.problems())
    assert "1 members repeat an earlier one and are left out (a.png)" in said
    assert "1 samples have no image (b)" in said
    assert "1 of the 2 samples checked have no caption (0.tar:c)" in said


def test_captions_in_json(tmp_path):
    texts = [json.dumps({"caption": c}).encode() for c in ("one", ["two", " ", "three"], None)] + [b"{", b"[1]"]
    members = [
        (f"{i}.{kind}", data) for i, text in enumerate(texts) for kind, data in (("jpg", encoded(i)), ("json", text))
    ]
    file = str(plain_tar(tmp_path / "0.tar", members))
    val = WebShards(file, split="val", image_processor=shade)
    assert [val[i]["references"] for i in (0, 1, 2, 4)] == [["one"], ["two", "three"], [], []]
    assert [val[i]["text_input"] for i in (0, 1, 2)] == ["one", "two", ""]
    with pytest.raises(BadSample, match=r"0\.tar:3: its JSON cannot be read"):
        val[3]
    train = WebShards(file, image_processor=shade)
    drawn = {train.sample(1, np.random.default_rng(i))["text_input"] for i in range(20)}
    assert drawn == {"two", "three"}


def test_a_bad_image_is_named_by_shard_and_key(tmp_path):
    found = WebShards(
        str(plain_tar(tmp_path / "0.tar", [("a.jpg", b"no image"), ("a.txt", b"a")])), image_processor=shade
    )
    with pytest.raises(BadSample) as error:
        found[0]
    assert error.value.source == "0.tar:a"


def test_order_is_the_mixtures_in_any_number_of_workers_and_can_be_resumed(tmp_path):
    for i in range(2):
        shard(tmp_path / f"{i}.tar", captioned(10 * i, 4))

    def batches(workers, skip):
        mixture = Mixture([WebShards(str(tmp_path), image_processor=shade)], seed=3)
        loader = TrainLoader(mixture, 2, num_workers=workers)
        found = [loader.next_step()[0] for _ in range(6)]
        loader.close()
        return [(batch["sample_id"], batch["text_input"], batch[BAD]) for batch in found][skip:]

    assert batches(2, 0) == batches(0, 0)
    assert len({name for names, _, _ in batches(0, 0)[:4] for name in names}) == 8


def test_memory_is_flat_arrays(tmp_path):
    """What a worker process gets grows by some bytes a sample, not by Python objects."""
    sizes = []
    for count in (50, 250):
        file = shard(tmp_path / f"{count}.tar", captioned(0, count))
        sizes.append(len(pickle.dumps(WebShards(str(file), image_processor=shade))))
    assert (sizes[1] - sizes[0]) / 200 < 60


def test_processes_share_the_reading_of_headers(tmp_path, monkeypatch):
    files = [str(shard(tmp_path / f"{i}.tar", captioned(i, 1))) for i in range(4)]
    order = []

    def noted(file, *key):
        order.append(file.name)
        return scan(file, *key)

    monkeypatch.setattr("vlkit.datasets.web_shards.index_of", noted)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    found = WebShards(files, image_processor=shade)
    assert order == ["2.tar", "3.tar", "0.tar", "1.tar"]
    assert [sample["sample_id"] for sample in found] == [f"{i}.tar:{i:09d}" for i in range(4)]


def test_what_is_wrong_with_paths_and_arguments(tmp_path):
    with pytest.raises(DataError, match=r"holds no \*\.tar file"):
        find_shards([str(tmp_path)])
    with pytest.raises(DataError, match=r"do not exist: .*0\.tar, .*1\.tar, .*2\.tar and 2 more"):
        find_shards([str(tmp_path / "{0..4}.tar")])
    file = str(shard(tmp_path / "0.tar", captioned(0, 1)))
    with pytest.raises(DataError, match="names a shard twice"):
        find_shards([file, str(tmp_path)])
    (tmp_path / "1.tar").write_bytes(b"no tar" * 500)
    with pytest.raises(DataError, match=r"1\.tar: not a tar file"):
        WebShards(str(tmp_path / "1.tar"), image_processor=shade)
    with pytest.raises(DataError, match="no sample has an image"):
        WebShards(str(plain_tar(tmp_path / "2.tar", [("a.txt", b"a")])), image_processor=shade)
    with pytest.raises(ConfigError) as error:
        WebShards(file, split="trian", limit=0)
    assert len(error.value.problems) == 3


def test_the_fingerprint_tells_other_data(tmp_path):
    first = WebShards(str(shard(tmp_path / "0.tar", captioned(0, 3))), image_processor=shade)
    same = WebShards(str(shard(tmp_path / "x" / "0.tar", captioned(0, 3))), image_processor=shade)
    other = WebShards(str(shard(tmp_path / "y" / "0.tar", captioned(1, 3))), image_processor=shade)
    assert first.fingerprint() == same.fingerprint() != other.fingerprint()
