"""Workers: whatever stops them and however many there are, the output is the same to the byte."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.assets.waiting import LONG, wait_until
from tests.unit.capfilt.small import annotator, members, picture, result, worker, write_shards, write_tar
from vlkit.capfilt.claims import Claims
from vlkit.capfilt.decision import Decision
from vlkit.capfilt.input_reader import Ready
from vlkit.capfilt.shard_output import HashedFile
from vlkit.capfilt.storage import Storage
from vlkit.datasets.web_shards import WebShards
from vlkit.errors import VlkitError
from vlkit.models.generation import GenerationConfig

SIZES = (7, 3, 0, 9, 1, 6, 12)  # groups of three: 10, 16 and 12 images in batches of five


@pytest.fixture(scope="module")
def annotate():
    return annotator()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("in"), SIZES)


@pytest.fixture(scope="module")
def whole(shards, annotate, tmp_path_factory):
    """The result of one worker that nothing stopped."""
    output = tmp_path_factory.mktemp("out") / "whole"
    summary = worker(shards, output, annotate).run()
    assert summary["images"]["read"] == sum(SIZES)
    return result(output)


def test_every_shard_has_its_files(whole):
    names = [f"{number:05d}" for number in range(len(SIZES))]
    wanted = {"kept": "tar", "dropped": "tar", "tables": "parquet", "ledger": "jsonl", "done": "json"}
    assert set(whole) == {"summary.json", *(f"{folder}/{n}.{end}" for folder, end in wanted.items() for n in names)}


def done(output: Path) -> int:
    """Shards that are written."""
    return len(list((output / "done").glob("*")))


class InStep:
    """Models that are never far ahead of the thread that writes: before a batch they wait until all shards are written
    that end before the last image of the batch before.
    """

    def __init__(self, annotate: Any, output: Path):
        self.annotate, self.output, self.last = annotate, output, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.annotate, name)

    def __call__(self, images: Sequence[Ready]) -> list[list[Any]]:
        wait_until(lambda: done(self.output) >= self.last)
        self.last = int(images[-1].item.key.split("-")[0])  # shards before its own
        return self.annotate(images)


@pytest.mark.parametrize("stops", [(1,), (2,), (3,), (4,), (5,), (6,), (1, 2, 3, 4, 5, 6), (4, 5)])
def test_a_worker_that_is_stopped_behind_a_shard_and_resumes(shards, annotate, whole, tmp_path, stops):
    for count in stops:
        first = worker(shards, tmp_path, InStep(annotate, tmp_path), lambda count=count: done(tmp_path) >= count)
        assert first.run() is None
        assert count <= done(tmp_path) < len(SIZES)
        assert not list((tmp_path / "claims").glob("*"))
        assert not (tmp_path / "summary.json").exists()
    assert worker(shards, tmp_path, annotate).run() is not None
    assert result(tmp_path) == whole


@pytest.mark.parametrize("lost", [("00001",), ("00003", "00005"), ("00000", "00002", "00006")])
def test_shards_that_are_missing_in_the_middle_are_done_again(shards, annotate, whole, tmp_path, lost):
    worker(shards, tmp_path, annotate).run()
    for name in lost:
        for file in tmp_path.glob(f"*/{name}.*"):
            file.unlink()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "done").glob("*")}
    worker(shards, tmp_path, annotate).run()
    assert result(tmp_path) == whole
    assert all(file.stat().st_mtime_ns == written for file, written in before.items())


def test_several_workers_share_the_work(shards, annotate, whole, tmp_path):
    workers = [worker(shards, tmp_path, annotate) for _ in range(3)]
    summaries = []
    threads = [threading.Thread(target=lambda each=each: summaries.append(each.run())) for each in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert result(tmp_path) == whole
    assert summaries[0] == summaries[1] == summaries[2] is not None
    assert sum(each.progress.images for each in workers) == sum(SIZES)  # nobody did what another one had
    assert not list((tmp_path / "claims").glob("*"))


def test_a_worker_waits_for_what_others_have_and_takes_it_when_they_give_it_back(shards, annotate, whole, tmp_path):
    looks: list[None] = []
    with Claims(Storage(tmp_path), lease=600.0) as others:
        assert others.take("00000")
        late = worker(shards, tmp_path, annotate, lambda: looks.append(None))
        thread = threading.Thread(target=late.run)
        thread.start()
        wait_until(lambda: done(tmp_path) == 4, thread.is_alive)
        before = len(looks)
        wait_until(lambda: len(looks) > before + 3, thread.is_alive)  # it looks again and again
        assert not (tmp_path / "done/00000.json").exists()
        others.release("00000")
        thread.join(LONG)
    assert result(tmp_path) == whole


def test_a_worker_that_waits_can_be_stopped(shards, annotate, tmp_path):
    looks = iter(range(10))  # more than before it waits
    with Claims(Storage(tmp_path), lease=600.0) as others:
        assert all(others.take(group) for group in ("00000", "00003", "00006"))
        assert worker(shards, tmp_path, annotate, lambda: next(looks, None) is None).run() is None


def test_a_job_that_is_done_is_left_alone(shards, annotate, tmp_path):
    summary = worker(shards, tmp_path, annotate).run()
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    again = worker(shards, tmp_path, annotate)
    assert again.run() == summary
    assert again.progress.images == 0
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("writes", [0, 9, 60])
def test_a_full_disk_loses_nothing_that_was_done(shards, annotate, whole, tmp_path, monkeypatch, writes):
    real, left = HashedFile.write, [writes]

    def write(self: HashedFile, *parts: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, *parts)

    monkeypatch.setattr(HashedFile, "write", write)
    with pytest.raises(VlkitError, match="no space left on the disk"):
        worker(shards, tmp_path, annotate).run()
    done = set(result(tmp_path).items())
    assert not list(tmp_path.glob("*/.*"))
    monkeypatch.setattr(HashedFile, "write", real)
    worker(shards, tmp_path, annotate).run()
    assert result(tmp_path) == whole
    assert done <= set(whole.items())


def test_everything_that_gives_no_output_is_named_and_counted(annotate, tmp_path):
    files = members(0, 4)
    files["0-001.png"] = b"no picture"
    files["0-002.png"] = picture(0, size=150)  # more pixels than are allowed
    del files["0-003.txt"], files["0-003.json"]
    files["0-004.txt"] = b"a text without an image"
    write_tar(tmp_path / "in/00000.tar", files)
    summary = worker(tmp_path / "in", tmp_path / "out", annotate).run()
    lines = [json.loads(line) for line in (tmp_path / "out/ledger/00000.jsonl").read_text().splitlines()]
    reported = {(line["key"], line["kind"], line["reason"]) for line in lines}
    assert reported == {
        ("0-001", "image", "undecodable image"),
        ("0-001", "text", "no image"),
        ("0-002", "image", "oversized image"),
        ("0-002", "text", "no image"),
        ("0-003", "text", "no text"),
        ("0-004", "text", "no image"),
    }
    images, web = summary["images"], summary["texts"]["web"]
    assert images["refused"] == {"oversized image": 1, "undecodable image": 1}
    assert images["read"] == 4 == images["kept"] + images["dropped"] + 2
    assert web["refused"] == {"no image": 3, "no text": 1}
    assert web["scored"] == 1
    assert summary["texts"]["synthetic"]["scored"] == 2


def test_dropped_images_need_not_be_stored(shards, annotate, whole, tmp_path):
    worker(shards, tmp_path, annotate, store_dropped=False).run()
    assert not (tmp_path / "dropped").exists()
    kept = {name: sha for name, sha in whole.items() if name.startswith(("kept/", "tables/"))}
    assert kept.items() <= result(tmp_path).items()


def test_scores_that_are_no_numbers_end_the_job(shards, tmp_path):
    broken = annotator()
    broken.model.filter.itm_head.weight.data.fill_(float("nan"))
    with pytest.raises(VlkitError, match="not finite"):
        worker(shards, tmp_path, broken).run()
    assert not list(Path(tmp_path, "done").glob("*"))


@pytest.mark.parametrize(("beams", "sample"), [(1, True), (1, False), (3, False)])
def test_a_captioner_whose_probabilities_are_no_numbers_ends_the_job(shards, tmp_path, beams, sample):
    broken = annotator(GenerationConfig(max_length=9, min_length=3, num_beams=beams, sample=sample))
    broken.model.captioner.text_decoder.cls.predictions.bias.data.fill_(float("nan"))
    with pytest.raises(VlkitError, match=r"captioner's log-probabilities of '0-000' are not finite"):
        worker(shards, tmp_path, broken).run()
    assert not list(tmp_path.glob("done/*"))
    assert not list(tmp_path.glob("kept/*"))


def test_each_caption_of_a_list_has_a_score_and_a_decision_of_its_own(annotate, tmp_path):
    listed = ["a red circle", "two shapes", "", "!!!", 7, "a red circle"]
    files = {"a.png": picture(1), "a.json": json.dumps({"caption": listed, "url": "u"}).encode()}
    files |= {"b.png": picture(2), "b.txt": b"buy now", "b.json": json.dumps({"caption": ["two shapes"]}).encode()}
    files |= {"c.png": b"no picture", "c.json": json.dumps({"caption": ["x", "y"]}).encode()}
    write_tar(tmp_path / "in/00000.tar", files)
    summary = worker(tmp_path / "in", tmp_path / "out", annotator(decision=Decision(threshold=0.0))).run()
    web = summary["texts"]["web"]
    assert (web["read"], web["scored"], web["kept"]) == (10, 5, 5)
    assert web["refused"] == {"no image": 2, "no text": 3}
    table = pq.read_table(tmp_path / "out/tables/00000.parquet").to_pylist()
    rows = [(row["key"], row["number"], row["text"]) for row in table if row["source"] == "web"]
    assert rows == [
        ("a", 0, "a red circle"),
        ("a", 1, "two shapes"),
        ("a", 2, "a red circle"),
        ("b", 0, "buy now"),
        ("b", 1, "two shapes"),
    ]
    assert {row["url"] for row in table if row["key"] == "a"} == {"u"}
    scores = {row["text"]: row["itm"] for row in table if row["key"] == "a" and row["source"] == "web"}
    assert len(set(scores.values())) == 2
    alone = annotator(decision=Decision(threshold=0.0))
    write_tar(tmp_path / "one/00000.tar", {"a.png": picture(1), "a.txt": b"two shapes"})
    worker(tmp_path / "one", tmp_path / "alone", alone).run()
    (row,) = [row for row in pq.read_table(tmp_path / "alone/tables").to_pylist() if row["source"] == "web"]
    assert row["itm"] == pytest.approx(scores["two shapes"], abs=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "out/ledger/00000.jsonl").read_text().splitlines()]
    said = [line["detail"] for line in lines if line["key"] == "a"]
    assert said == [
        "'caption', text 3 of 6, is '' (str)",
        "'caption', text 5 of 6, is 7 (int)",
        "nothing is left of '!!!' (str) after the preprocessing of captions",
    ]
    dataset = WebShards(str(tmp_path / "out/kept"), split="val", image_processor=lambda image, rng: image)
    assert {"a red circle", "two shapes"} <= set(dataset[0]["references"])
    assert {"buy now", "two shapes"} <= set(dataset[1]["references"])


def test_scores_alone_copy_no_images(shards, annotate, whole, tmp_path):
    summary = worker(shards, tmp_path, annotate, store_images=False).run()
    found = result(tmp_path)
    assert {name.split("/")[0] for name in found} == {"tables", "ledger", "done", "summary.json"}
    same = {name for name in whole if name.startswith(("tables/", "ledger/", "summary.json"))}
    assert {name: found[name] for name in same} == {name: whole[name] for name in same}
    assert summary["images"]["kept"] > 0


def test_a_smaller_batch_gives_the_same_texts(shards, annotate, whole, tmp_path):
    from vlkit.capfilt.tables import read_table

    worker(shards, tmp_path / "one", annotate, batch_size=1).run()
    worker(shards, tmp_path / "five", annotate).run()
    for name in ("00000", "00006"):
        one, five = (read_table(tmp_path / each / f"tables/{name}.parquet") for each in ("one", "five"))
        assert one["text"] == five["text"]
        assert one["itm"] == pytest.approx(five["itm"], abs=1e-4)
