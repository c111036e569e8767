"""A job of which nothing comes stops with the reasons, and continues once the cause is gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.capfilt.small import annotator, picture, result, worker, write_tar
from vlkit.capfilt.accounting import Counts
from vlkit.capfilt.decision import Decision
from vlkit.capfilt.record import nothing_came
from vlkit.capfilt.refusals import LEAST_ROWS, refused_share
from vlkit.capfilt.storage import Storage
from vlkit.errors import VlkitError

HALF = LEAST_ROWS // 2


@pytest.fixture(scope="module")
def annotate():
    return annotator()


def bad(folder: Path, sizes: tuple[int, ...], good: int = 0, first: int = 0) -> Path:
    """Shards of images that cannot be decoded; ``good`` ones at the end of each."""
    for shard, size in enumerate(sizes, first):
        files = {f"{shard}-{number:04d}.png": b"<html>" for number in range(size)}
        files |= {f"{shard}-good{number}.png": picture(number) for number in range(good)}
        write_tar(folder / f"{shard:05d}.tar", files)
    return folder


def done(output: Path) -> set[str]:
    return {file.stem for file in (output / "done").glob("*")}


def test_a_job_of_which_nothing_comes_stops_with_reasons_and_examples(annotate, tmp_path):
    bad(tmp_path / "in", (HALF, HALF, 1, 1))
    with pytest.raises(VlkitError) as stopped:
        worker(tmp_path / "in", tmp_path / "out", annotate).run()
    message = str(stopped.value)
    assert message.startswith("nothing came of the first 2 shards: 1,000 images read, 1,000 refused")
    assert "(1,000 undecodable image)" in message
    assert "00000: '0-0000': undecodable image (" in message
    assert "max_refused is 0.9999: set it to 1" in message
    assert not (tmp_path / "out/summary.json").exists()
    assert not list((tmp_path / "out/claims").glob("*"))
    lines = (tmp_path / "out/ledger/00000.jsonl").read_text().splitlines()
    assert len([line for line in lines if json.loads(line)["kind"] == "image"]) == HALF


def test_the_same_command_continues_after_the_cause_is_gone(annotate, tmp_path):
    bad(tmp_path / "in", (HALF, HALF))
    for _ in range(2):  # as long as it is there, the job stops
        with pytest.raises(VlkitError, match="nothing came"):
            worker(tmp_path / "in", tmp_path / "out", annotate).run()
        assert done(tmp_path / "out") == {"00000", "00001"}
    for shard in range(2):
        write_tar(tmp_path / f"in/{shard:05d}.tar", {"a.png": picture(shard), "a.txt": b"a red circle"})
    summary = worker(tmp_path / "in", tmp_path / "out", annotate).run()
    assert summary["images"]["read"] == 2
    assert summary["images"]["refused"] == {}
    worker(tmp_path / "in", tmp_path / "other", annotate).run()
    assert result(tmp_path / "out") == result(tmp_path / "other")


@pytest.mark.parametrize(
    ("sizes", "good", "limit"),
    [
        ((HALF, HALF - 1), 0, 0.9999),  # too few rows
        ((HALF, HALF), 1, 0.9999),  # something came
        ((HALF, HALF), 0, 1),
        ((HALF, HALF), 0, None),
        ((0, 0, 3), 0, 0.0),
    ],
)
def test_other_jobs_are_done_to_their_end(annotate, tmp_path, sizes, good, limit):
    bad(tmp_path / "in", sizes, good)
    summary = worker(tmp_path / "in", tmp_path / "out", annotate, max_refused=limit).run()
    assert summary["images"]["refused"] == {"undecodable image": sum(sizes)}
    assert summary["images"]["read"] == sum(sizes) + good * len(sizes)


def test_a_smaller_share_can_be_set(annotate, tmp_path):
    bad(tmp_path / "in", (HALF, HALF), good=2)
    with pytest.raises(VlkitError, match=r"99\.60% of the images were refused in the first 2 shards"):
        worker(tmp_path / "in", tmp_path / "out", annotate, max_refused=0.5).run()
    assert worker(tmp_path / "in", tmp_path / "out", annotate, max_refused=0.999).run()


def test_one_shard_is_enough_where_there_is_one(annotate, tmp_path):
    bad(tmp_path / "in", (LEAST_ROWS,))
    with pytest.raises(VlkitError, match="nothing came of the first shard: 1,000 images"):
        worker(tmp_path / "in", tmp_path / "out", annotate).run()


def test_the_records_of_all_workers_count(annotate, tmp_path):
    """Another worker, which knows no limit, has done the first shard."""
    bad(tmp_path / "in", (HALF,))
    worker(tmp_path / "in", tmp_path / "out", annotate, max_refused=None).run()
    (tmp_path / "out/summary.json").unlink()
    bad(tmp_path / "in", (HALF,), first=1)
    late = worker(tmp_path / "in", tmp_path / "out", annotate)
    late._limit.redo = lambda: None  # the other one is still at work
    with pytest.raises(VlkitError, match="first 2 shards: 1,000 images"):
        late.run()


def without_captions(folder: Path, sizes: tuple[int, ...]) -> Path:
    """Shards of images whose JSON has its text under another key than ``caption``."""
    for shard, size in enumerate(sizes):
        names = [f"{shard}-{number:04d}" for number in range(size)]
        files = {f"{name}.png": picture(number) for number, name in enumerate(names)}
        files |= {f"{name}.json": b'{"words": "a red circle"}' for name in names}
        write_tar(folder / f"{shard:05d}.tar", dict(sorted(files.items())))
    return folder


@pytest.fixture(scope="module")
def captionless(tmp_path_factory):
    return without_captions(tmp_path_factory.mktemp("captionless"), (HALF, HALF))


def test_rows_without_the_caption_key_count_where_only_captions_are_kept(captionless, tmp_path):
    web_only = annotator(decision=Decision("web", 0.0))
    with pytest.raises(VlkitError) as stopped:
        worker(captionless, tmp_path, web_only, caption_key="wrong").run()
    message = str(stopped.value)
    assert message.startswith(
        "nothing came of the first 2 shards: 1,000 images read, 1,000 refused (1,000 no key 'wrong')"
    )
    assert "00000: '0-0000': no text (no key 'wrong')" in message
    with Storage(tmp_path) as place:
        job = {"task": {"name": "capfilt", "decision": {"texts": "web"}}}
        assert nothing_came(place, job)  # the job with the right key replaces it
        assert not nothing_came(place, {"task": {"name": "capfilt"}})
    with pytest.raises(VlkitError, match="nothing came"):
        worker(captionless, tmp_path, web_only, caption_key="wrong").run()
    assert worker(captionless, tmp_path / "all", web_only, caption_key="wrong", max_refused=1).run()


def test_captions_of_the_captioner_are_of_use_without_those_of_the_web(annotate, tmp_path):
    folder = without_captions(tmp_path / "in", (LEAST_ROWS,))
    summary = worker(folder, tmp_path / "out", annotate, caption_key="wrong").run()
    assert summary["texts"]["web"]["refused"] == {"no text": LEAST_ROWS}
    assert summary["texts"]["synthetic"]["scored"] == LEAST_ROWS


def test_shares():
    assert refused_share(Counts()) == 0
    assert refused_share(Counts(kept=1, dropped=2, refused=Counts().refused + type(Counts().refused)(a=1))) == 0.25
    texts = Counts()
    texts.web_refused["no image"] = 3
    assert refused_share(texts) == 1
