"""Ten kinds of broken input through the whole engine: each is named, and nothing else is lost."""

from __future__ import annotations

import errno
import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.assets.run_files import SIZES, snapshot, write
from tests.assets.tars import Member, block, header, picture, write_tar
from vlkit.capfilt import shard_output
from vlkit.capfilt.backends import LocalStore
from vlkit.config.parts import model_part
from vlkit.datasets.web_shards import WebShards
from vlkit.errors import DataError, VlkitError
from vlkit.jobs.capfilt import CapFiltJob
from vlkit.processors.open_image import open_image
from vlkit.runner.checkpoint import save_tensors

GOOD_SHARDS = ("00000", "00001", "00002")
Line = tuple[str, str, str, str]  # shard, key, kind and reason in the ledger


def sample(shard: str, number: int) -> list[Member]:
    """A good one."""
    key = f"{shard}{number:03d}"
    fields = {"caption": f"of json {key}", "url": f"https://a.example/{key}"}
    text, shade = f"a picture of {key}".encode(), 31 * number + int(shard)
    return [(f"{key}.png", picture(shade)), (f"{key}.json", json.dumps(fields).encode()), (f"{key}.txt", text)]


def good(shard: str) -> list[Member]:
    return [member for number in range(4) for member in sample(shard, number)]


def between(*bad: Member) -> Callable[[Path], None]:
    """Puts members into the middle of the second shard."""

    def make(folder: Path) -> None:
        members = good("00001")
        write_tar(folder / "00001.tar", [*members[:6], *bad, *members[6:]])

    return make


def pair(key: str, image: bytes | None = None, **texts: bytes) -> list[Member]:
    members = [(f"{key}.png", picture(200) if image is None else image)]
    return members + [(f"{key}.{kind}", data) for kind, data in texts.items()]


def bomb() -> bytes:
    """A PNG of a few kilobytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(1_000_000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def truncated(folder: Path) -> None:
    """A fourth shard: four good samples, then half of one."""
    whole = write_tar(folder / "00003.tar", [*good("00003"), ("half.png", bytes(5000))]).read_bytes()
    (folder / "00003.tar").write_bytes(whole[: whole.index(b"half.png") + 2000])


def unreadable(folder: Path) -> None:
    (folder / "00003.tar").write_bytes(b"<html>404 Not Found</html>" * 100)
    (folder / "00004.tar").write_bytes(b"")


def lying(folder: Path) -> None:
    """A header that claims ten gigabytes, behind four good samples."""
    whole = write_tar(folder / "00003.tar", good("00003")).read_bytes().rstrip(b"\0")
    whole += bytes(-len(whole) % 512)
    (folder / "00003.tar").write_bytes(whole + header("huge.png", 10**10) + block(picture()) + bytes(1024))


def text_lines(key: str, reason: str, *more: str) -> list[Line]:
    return [("00001", key, kind, reason) for kind in ("text", *more)]


KINDS: dict[str, tuple[Callable[[Path], None], list[Line]]] = {
    "truncated tar": (truncated, [("00003", "00003", "shard", "truncated shard")]),
    "path traversal": (
        between(*pair("../../evil", txt=b"t"), *pair("/tmp/vlkit_evil", txt=b"t"), *pair("a/../../evil", json=b"{}")),
        [
            ("00001", key, kind, "unsafe name")
            for key in ("../../evil", "/tmp/vlkit_evil", "a/../../evil")
            for kind in ("image", "text")
        ],
    ),
    "zero-byte image": (
        between(*pair("empty", b"", txt=b"t")),
        [("00001", "empty", "image", "empty image"), ("00001", "empty", "text", "no image")],
    ),
    "decompression bomb": (
        between(*pair("bomb", bomb(), txt=b"t")),
        [("00001", "bomb", "image", "oversized image"), ("00001", "bomb", "text", "no image")],
    ),
    "undecodable image": (
        between(*pair("cut", picture(1)[:40], txt=b"t"), *pair("html", b"<html>", txt=b"t")),
        [
            ("00001", key, *rest)
            for key in ("cut", "html")
            for rest in (("image", "undecodable image"), ("text", "no image"))
        ],
    ),
    "duplicate keys": (
        between(*pair("00001000", txt=b"again", json=b"{}")),
        [("00001", "00001000", kind, "duplicate key") for kind in ("image", "text", "fields")],
    ),
    "missing caption": (
        between(*pair("none"), *pair("blank", txt=b" \n"), *pair("null", json=b'{"caption": null}')),
        [line for key in ("none", "blank", "null") for line in text_lines(key, "no text")],
    ),
    "non-UTF-8": (between(*pair("latin", txt=b"caf\xe9")), text_lines("latin", "unreadable text")),
    "huge json": (
        between(*pair("huge", json=b'{"caption": "' + b"x" * 2_000_000 + b'"}'), *pair("deep", json=b"[" * 900_000)),
        [*text_lines("huge", "oversized text"), *text_lines("deep", "unreadable text")],
    ),
    "unreadable shard": (
        unreadable,
        [(name, name, "shard", "unreadable shard") for name in ("00003", "00004")],
    ),
    "a size that is a lie": (lying, [("00003", "00003", "shard", "truncated shard")]),
    "text without image": (between(("lone.txt", b"t")), [("00001", "lone", "text", "no image")]),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Any]:
    """Sections ``model`` and ``task`` with random weights."""
    folder = tmp_path_factory.mktemp("models")
    found: dict[str, Any] = {"name": "blip_capfilt"}
    for role, name in (("captioner", "blip_caption"), ("filter", "blip_image_text_matching")):
        torch.manual_seed(len(found))
        part = {"name": name, "type": "tiny", **SIZES, "vit": {**SIZES["vit"], "image_size": 16, "patch_size": 8}}
        save_tensors(folder / f"{role}.safetensors", model_part(part).build().state_dict())
        found[role] = {**part, "weights": str(folder / f"{role}.safetensors")}
    generation = {"sample": True, "top_p": 0.9, "max_length": 8, "min_length": 2}
    decision = {"texts": "both", "threshold": None}
    return {"model": found, "task": {"name": "capfilt", "generation": generation, "decision": decision}}


def annotate(models: dict[str, Any], shards: Path, out: Path) -> dict[str, Any]:
    """Run the engine in this process; the summary."""
    options = {"output_dir": str(out), "batch_size": 5, "device": "cpu", "shards_at_once": 2}
    file = write(out.parent / f"{out.name}.yaml", {**models, "input": {"path": str(shards)}, "run": options})
    return CapFiltJob.load(file).run()


def outputs(out: Path) -> dict[tuple[str, str], Any]:
    """By shard and key what became of an image: its bytes, texts and scores, rounded to what batching may change."""
    found = {}
    for file in sorted(out.glob("kept/*.tar")):
        with tarfile.open(file) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        for name, data in files.items():
            if name.endswith(".png"):
                record = json.loads(files[f"{name[:-4]}.json"])
                texts = record.pop("texts")
                scores = [(each["itm"], each["itc"], each["log_prob"]) for each in texts]
                rounded = [tuple(None if score is None else round(score, 3) for score in each) for each in scores]
                said = [(each["text"], each["source"], each["kept"]) for each in texts]
                found[file.stem, name[:-4]] = (data, record, said, rounded)
    return found


def ledger(out: Path) -> list[Line]:
    lines = []
    for file in sorted(out.glob("ledger/*.jsonl")):
        lines += [(file.stem, *json.loads(line).values()) for line in file.read_text().splitlines()]
    return [line[:4] for line in lines]


@pytest.fixture(scope="module")
def undisturbed(models, tmp_path_factory) -> dict[tuple[str, str], Any]:
    """The outputs of good samples alone; of the fourth shard too, which some kinds break at its end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for shard in (*GOOD_SHARDS, "00003"):
        write_tar(folder / f"in/{shard}.tar", good(shard))
    summary = annotate(models, folder / "in", folder / "out")
    assert summary["images"] == {"read": 16, "kept": 16, "dropped": 0, "refused": {}}
    assert ledger(folder / "out") == []
    return outputs(folder / "out")


def check(out: Path, summary: dict[str, Any], expected: list[Line], undisturbed: dict[tuple[str, str], Any]) -> None:
    """The ledger is as expected, counts add up, and good samples are those of an undisturbed run."""
    cut = {shard for shard, _, _, reason in expected if reason == "truncated shard"}
    shards = {*GOOD_SHARDS, *cut}  # all samples of a cut one are before the cut
    assert sorted(ledger(out)) == sorted(expected)
    found = outputs(out)
    for place, output in undisturbed.items():
        if place[0] in shards:
            assert found[place] == output
    images, web = summary["images"], summary["texts"]["web"]
    assert images["read"] == images["kept"] + images["dropped"] + sum(images["refused"].values())
    assert images["kept"] == len(found)
    assert sum(images["refused"].values()) == sum(kind == "image" for _, _, kind, _ in expected)
    assert web["read"] == web["scored"] + sum(web["refused"].values())
    assert sum(web["refused"].values()) == sum(kind == "text" for _, _, kind, _ in expected)
    assert summary["texts"]["synthetic"]["scored"] == images["kept"]
    assert not any(key.startswith("/") or ".." in key for _, key in found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_input_is_named_and_nothing_else_is_lost(kind, models, undisturbed, tmp_path):
    make, expected = KINDS[kind]
    for shard in GOOD_SHARDS:
        write_tar(tmp_path / f"in/{shard}.tar", good(shard))
    make(tmp_path / "in")
    before = snapshot(tmp_path)
    summary = annotate(models, tmp_path / "in", tmp_path / "out")
    check(tmp_path / "out", summary, expected, undisturbed)
    outside = {name: digest for name, digest in snapshot(tmp_path).items() if not name.startswith("out")}
    assert outside == before, "something was written outside of the output folder"
    assert not Path("/tmp/vlkit_evil.png").exists()
    if kind in ("missing caption", "non-UTF-8", "huge json"):
        captioned = outputs(tmp_path / "out")["00001", expected[0][1]]
        assert [source for _, source, _ in captioned[2]] == ["synthetic"]


def test_what_is_kept_goes_back_into_training(models, tmp_path, monkeypatch):
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "cache"))
    odd = [*pair("d/e", txt=b"in a folder"), *pair(b"caf\xe9".decode("utf-8", "surrogateescape"), txt=b"no UTF-8")]
    write_tar(tmp_path / "in/00000.tar", [*good("00000"), *odd])
    annotate(models, tmp_path / "in", tmp_path / "out")
    data = WebShards(str(tmp_path / "out/kept"), image_processor=lambda image, rng: open_image(image).size)
    assert data.problems() == []
    assert [data.place(index)[1] for index in range(len(data))][4:] == ["d/e", "caf%E9"]
    for index in range(len(data)):
        drawn = {data.sample(index, np.random.default_rng(seed))["text_input"] for seed in range(12)}
        assert len(drawn) == 2  # the web's text and a synthetic one
        assert data[index]["image"] == (4, 3)
    with pytest.raises(DataError, match="what that kept is in"):
        WebShards(str(tmp_path / "out"), image_processor=open_image)


def fill_the_disk(monkeypatch, place: Any, name: str, calls: int) -> None:
    """``place.name`` works a number of times and then finds no space."""
    real, left = getattr(place, name), iter(range(calls))

    def full(*args: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **options)

    monkeypatch.setattr(place, name, full)


@pytest.mark.parametrize(
    ("place", "name", "calls", "done"),
    [
        (shard_output.HashedFile, "write", 0, 0),
        (shard_output.HashedFile, "write", 11, 0),
        (shard_output.HashedFile, "write", 30, 2),
        (shard_output, "write_table", 1, 1),
        (LocalStore, "put", 3, 0),
        (LocalStore, "put", 7, 1),
    ],
)
def test_after_a_full_disk_the_same_call_finishes_the_job(place, name, calls, done, models, tmp_path, monkeypatch):
    for shard in GOOD_SHARDS:
        write_tar(tmp_path / f"in/{shard}.tar", [*good(shard), *pair(f"bad{shard}", b"")])
    annotate(models, tmp_path / "in", tmp_path / "whole")
    whole = snapshot(tmp_path / "whole")
    with monkeypatch.context() as patched:
        fill_the_disk(patched, place, name, calls)
        with pytest.raises(VlkitError, match="no space left"):
            annotate(models, tmp_path / "in", tmp_path / "out")
    partly = snapshot(tmp_path / "out")
    assert {name: digest for name, digest in partly.items() if whole.get(name) != digest} == {}, "half a file is left"
    assert sum(name.startswith("done/") for name in partly) == done
    annotate(models, tmp_path / "in", tmp_path / "out")
    assert snapshot(tmp_path / "out") == whole
