"""The task retrieval in two processes: trains on mixed datasets and ranks as one process does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.assets.make_data import coco_file
from tests.assets.run_files import SIZES, write
from tests.assets.two_ranks import in_two_ranks
from tests.integration.test_two_processes import child
from vlkit.cli import main


def retrieval_run(folder: Any) -> dict[str, Any]:
    coco_file(folder / "data", 9, captions=3)
    images = {"name": "image_text", "path": str(folder / "data" / "captions.json")}
    return {
        "model": {"name": "blip_retrieval", "type": "tiny", "queue_size": 16, "embed_dim": 8, **SIZES},
        "datasets": {
            "train": [{**images, "split": "train"}, {"name": "shapes", "split": "train", "size": 40}],
            "eval": {"val": {**images, "split": "val"}},
        },
        "task": {"name": "retrieval", "rerank_top_k": 4, "image_tokens_gib": 0},
        "optim": {"lr": 1e-3},
        "run": {
            "duration": "3 steps",
            "batch_size": 8,
            "eval_batch_size": 2,
            "device": "cpu",
            "sample_images": 0,
            "log_every": 1,
            "monitor": "val/recall_mean",
            "output_dir": "out",
        },
    }


def test_training_and_evaluation(tmp_path):
    """Matching draws its negatives within a process, so only contrast and scores of the same weights are compared."""
    run = retrieval_run(tmp_path)
    write(tmp_path / "run.yaml", run)
    assert main(["train", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "one")]) == 0
    in_two_ranks(child, tmp_path, "run")
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert two[0]["losses"]["loss_itc"] == pytest.approx(one[0]["losses"]["loss_itc"], rel=1e-4)
    last = [line["eval"] for line in two if "eval" in line][-1]
    write(tmp_path / "run.yaml", {**run, "task": {**run["task"], "image_tokens_gib": 4}})
    arguments = ["evaluate", str(tmp_path / "run.yaml"), "--checkpoint", str(tmp_path / "two")]
    assert main([*arguments, "--output", str(tmp_path / "again")]) == 0
    alone = json.loads((tmp_path / "again" / "evaluation.json").read_text())["metrics"]
    assert alone == pytest.approx(last)
    results = [json.loads((tmp_path / name / "retrieval_val.json").read_text()) for name in ("two", "again")]
    assert results[0]["texts"] == results[1]["texts"]
    assert len(results[0]["images"]) == 9
