"""Rows of annotation files that cannot be used: named all at once, or left out and entered in the ledger."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.assets.run_files import SIZES, caption_run, fails, write
from vlkit.cli import main

DEEP, LONG = "[" * 300 + "]" * 300, "7" * 5000
BAD = {  # rows of image captions, and what is said of them
    "NaN": ('{"image": "images/000001.png", "caption": "x", "score": NaN}', "it holds NaN"),
    "deep": (f'{{"image": "images/000001.png", "caption": {DEEP}}}', "nested deeper than 100 levels"),
    "long": (f'{{"image": "images/000001.png", "caption": "x", "image_id": {LONG}}}', "an integer of 5000 digits"),
    "infinite": ('{"image": "images/000001.png", "caption": "x", "score": 1e999}', "too large for a float"),
    "type": ('{"image": "images/000001.png", "caption": 7}', "'caption' is 7 (int)"),
    "keys": ('{"image": "images/000001.png"}', "no key 'caption'"),
    "null": ('{"image": "images/000001.png", "caption": null}', "it has no caption"),
    "list": ('["images/000001.png", "x"]', "not a mapping"),
    "negative": ('{"image": "images/000001.png", "caption": "x", "image_id": -1}', "'image_id' is -1"),
    "float": ('{"image": "images/000001.png", "caption": "x", "image_id": 1.5}', "'image_id' is 1.5"),
    "int64": (f'{{"image": "images/000001.png", "caption": "x", "image_id": {2**63}}}', f"'image_id' is {2**63}"),
    "bool": ('{"image": "images/000001.png", "caption": "x", "image_id": true}', "'image_id' is True"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_with_bad_ones() -> list[str]:
    good = [f'{{"image": "images/{i:06}.png", "caption": "a red circle {i}"}}' for i in range(1, 7)]
    return [good[0], *(row for row, _ in BAD.values()), *good[1:]]


def run_of(folder: Path, name: str, content: bytes, **run: Any) -> str:
    settings = caption_run(folder, **{"duration": "1 epochs", "sample_images": 0, **run})
    (folder / "data" / name).write_bytes(content)
    settings["datasets"]["train"][0]["path"] = f"data/{name}"
    return write(folder / "run.yaml", settings)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl.gz"])
def test_the_other_rows_train_and_the_ledger_has_file_and_row(folder, capsys, name):
    lines = rows_with_bad_ones()
    content = (f"[{','.join(lines)}]" if name == "rows.json" else "\n".join(lines)).encode()
    run = run_of(folder, name, gzip.compress(content) if name.endswith(".gz") else content)
    for command in ("check", "train"):
        message = fails(capsys, command, run)
        for number, (_, said) in enumerate(BAD.values(), 2):
            assert f"data/{name}:{number}: " in message
            assert said in message
        assert "run.bad_samples=skip" in message
    assert main(["train", run, "run.bad_samples=skip"]) == 0
    ledger = [json.loads(line) for line in (folder / "out/ledger.jsonl").read_text().splitlines()]
    assert [Path(line["source"]).name for line in ledger] == [f"{name}:{i}" for i in range(2, 2 + len(BAD))]
    assert [line for line, (_, said) in zip(ledger, BAD.values(), strict=True) if said not in line["reason"]] == []
    assert json.loads((folder / "out/result.json").read_text())["bad_samples"] == len(BAD)
    assert "datasets.train.0" in capsys.readouterr().out


def test_rows_of_an_evaluation_set_are_left_out_and_counted(folder, capsys):
    settings = caption_run(folder, bad_samples="skip", sample_images=0)
    (folder / "data/val.json").write_text(f"[{','.join(rows_with_bad_ones())}]")
    settings["datasets"]["eval"]["val"]["path"] = "data/val.json"
    run = write(folder / "run.yaml", settings)
    assert main(["train", run]) == 0
    assert main(["evaluate", run]) == 0
    bad = json.loads((folder / "out/evaluation.json").read_text())["bad_samples"]
    without_captions = 2  # which are right in an evaluation set
    assert len(bad) == len(BAD) - without_captions


def test_a_file_of_bad_rows_alone_says_so(folder, capsys):
    run = run_of(folder, "rows.json", b'[{"image": 3}, 4]', bad_samples="skip")
    message = fails(capsys, "train", run)
    assert "data/rows.json:1: no key 'caption'" in message
    assert "data/rows.json:2: 4 (int) is not a mapping" in message


@pytest.mark.parametrize("ids", [["a", 7, 2**63 - 1], [0, None, "\udc80"]])
def test_image_ids_that_check_accepts_train(folder, ids):
    settings = caption_run(folder, duration="2 steps", sample_images=0)
    rows = [{"image": f"images/{i:06}.png", "caption": "a red circle", "image_id": ids[i % 3]} for i in range(1, 4)]
    (folder / "data/rows.json").write_text(json.dumps(rows))
    for dataset in (settings["datasets"]["train"][0], settings["datasets"]["eval"]["val"]):
        dataset["path"] = "data/rows.json"
    run = write(folder / "caption.yaml", settings | {"run": settings["run"] | {"output_dir": "caption"}})
    assert main(["check", run]) == main(["train", run]) == 0
    settings["model"] = {"name": "blip_retrieval", "type": "tiny", "queue_size": 16, "embed_dim": 8, **SIZES}
    settings["task"] = {"name": "retrieval", "rerank_top_k": 2}
    run = write(folder / "retrieval.yaml", settings)
    assert main(["check", run]) == main(["train", run]) == 0


def test_a_tokenizer_that_does_not_fit_is_a_warning(folder, capsys):
    settings = caption_run(folder, duration="2 steps", sample_images=0)
    rows = [{"image": f"images/{i:06}.png", "caption": "two boys hold umbrellas"} for i in range(1, 4)]
    (folder / "data/rows.json").write_text(json.dumps(rows))
    settings["datasets"]["train"][0]["path"] = "data/rows.json"
    run = write(folder / "run.yaml", settings)
    for command in ("check", "train"):
        capsys.readouterr()
        assert main([command, run]) == 0
        printed = "".join(capsys.readouterr())
        assert "the tokenizer 'shapes' does not fit: 75% of the tokens of 3 texts are [UNK]" in printed
        assert "Set model.tokenizer: bert-base-uncased" in printed
        assert printed.count("does not fit") == 1


def test_captions_that_the_processor_empties_are_named_and_not_trained_on(folder, capsys):
    rows = [{"image": "images/000001.png", "caption": text} for text in ("...", "a red circle", "(**)", "a circle")]
    run = run_of(folder, "rows.json", json.dumps(rows).encode())
    message = fails(capsys, "check", run)
    assert "2 of 4 texts checked are empty after text_processor (rows.json:1, rows.json:3)" in message
    assert main(["train", run, "run.bad_samples=skip"]) == 0
    ledger = [json.loads(line) for line in (folder / "out/ledger.jsonl").read_text().splitlines()]
    assert sorted(line["source"] for line in ledger) == ["rows.json:1", "rows.json:3"]


def test_shards_are_written_of_the_other_rows(folder, capsys):
    caption_run(folder)
    (folder / "data/rows.json").write_text(f"[{','.join(rows_with_bad_ones())}]")
    job = {"dataset": {"name": "image_text", "path": "data/rows.json"}, "output_dir": "shards"}
    assert main(["shards", write(folder / "shards.yaml", job)]) == 0
    printed = capsys.readouterr().out
    assert f"6 samples in 1 shards in shards, {len(BAD)} samples left out" in printed
    assert "left out: data/rows.json:2: it holds NaN" in printed
