"""A pipeline with all kinds of stages: shards, models, CapFilt, the output filtered again, its report, a student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.assets.run_files import GENERATION, SIZES, fails, snapshot, write
from vlkit.cli import main

OUT = Path("output/data")
RUN = {"duration": "2 steps", "batch_size": 4, "device": "cpu", "sample_images": 0, "log_every": 10}
MODEL = {"type": "tiny", "embed_dim": 8, **SIZES}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(stage: str, model: dict[str, Any], task: dict[str, Any], **data: Any) -> dict[str, Any]:
    config = {"model": model, "datasets": {"train": [data]}, "task": task, "optim": {"lr": 1e-3}, "run": dict(RUN)}
    return {"name": stage, "command": "train", "config": config}


def pipeline() -> dict[str, Any]:
    web = {"name": "shapes", "split": "train", "size": 12, "captions": "web"}
    pretraining = {"name": "blip_pretrain", "queue_size": 16, **MODEL}
    caption = {key: value for key, value in MODEL.items() if key != "embed_dim"}
    capfilt = {
        "model": {
            "name": "blip_capfilt",
            "captioner": {"name": "blip_caption", **caption, "weights": "${stages.captioner}"},
            "filter": {"name": "blip_image_text_matching", **MODEL, "weights": "${stages.teacher}"},
        },
        "task": {"name": "capfilt", "generation": {**GENERATION, "sample": True}, "decision": {"threshold": 0.0}},
        "input": {"path": "${stages.web}"},
        "run": {"batch_size": 5, "device": "cpu"},
    }
    captioner = train("captioner", {"name": "blip_caption", **caption}, {"name": "captioning"}, name="shapes", size=8)
    captioner["config"]["run"]["init_from"] = "${stages.teacher}"
    return {
        "stages": [
            {"name": "web", "command": "shards", "config": {"dataset": web, "samples_per_shard": 5}},
            train("teacher", pretraining, {"name": "pretrain"}, name="web_shards", path="${stages.web}"),
            captioner,
            {"name": "capfilt", "command": "capfilt", "config": capfilt},
            {
                "name": "cut",
                "command": "refilter",
                "config": {"source": "${stages.capfilt}", "decision": {"texts": "web", "threshold": None}},
            },
            {"name": "report", "command": "report", "config": {"source": "${stages.capfilt}", "examples": 2}},
            train("student", pretraining, {"name": "pretrain"}, name="web_shards", path="${stages.cut}/kept"),
        ],
        "table": [
            {"name": "texts right, before", "value": "report/purity_before"},
            {"name": "kept", "value": "capfilt/images_kept"},
            {"name": "kept of the web's", "value": "cut/web_kept"},
        ],
    }


def record(stage: str) -> dict[str, Any]:
    return json.loads((OUT / stage / "stage.json").read_text())


def test_data_go_from_stage_to_stage(folder, capsys):
    file = write(folder / "data.yaml", pipeline())
    assert main(["run", file]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert record("web")["metrics"] == {"shards": 3, "samples": 12, "left_out": 0}
    capfilt, cut, report = (record(name) for name in ("capfilt", "cut", "report"))
    assert capfilt["metrics"]["images"] == 12
    assert capfilt["metrics"]["images_kept"] == capfilt["metrics"]["synthetic_kept"] == 1  # everything reaches 0
    assert capfilt["metrics"]["synthetic_texts"] == 12
    assert list(cut["inputs"]) == ["capfilt"]
    assert cut["metrics"]["web_kept"] == 1
    assert cut["metrics"]["synthetic_kept"] == 0
    kept = [json.loads(line) for line in _members(OUT / "cut/kept")]
    assert all(text["source"] == "web" for each in kept for text in each["texts"] if text["kept"])
    assert report["picture"] == str(OUT / "report/report.png")
    assert Path(report["picture"]).exists()
    rows = {row["name"]: row["score"] for row in json.loads((OUT / "results.json").read_text())["table"]}
    assert rows["texts right, before"] == report["metrics"]["purity_before"]
    assert rows["kept"] == 1
    assert 0 < rows["texts right, before"] < 1
    assert set(record("student")["inputs"]) == {"weights", "cut"}

    before = snapshot(OUT)
    assert main(["run", file]) == 0
    assert capsys.readouterr().out.count("finished, skipped") == 7
    assert snapshot(OUT) == before
    assert main(["run", file, "capfilt.run.decode_threads=3", "cut.workers=2"]) == 0  # nothing depends on these
    assert "capfilt: " in fails(capsys, "run", file, "capfilt.task.decision.threshold=0.1")

    (OUT / "cut/done/00000.json").write_text("{}")
    message = fails(capsys, "run", file)
    assert "stage student: what it uses has changed since it was run: cut" in message
    assert main(["run", file, "--from", "cut"]) == 0
    printed = capsys.readouterr().out
    assert "report: finished, skipped" in printed  # it does not use what is redone
    assert "student: started" in printed


def _members(folder: Path) -> list[bytes]:
    import tarfile

    found = []
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            found += [tar.extractfile(name).read() for name in tar.getnames() if name.endswith(".json")]
    return found


def test_check_looks_for_nothing_that_is_to_come(folder, capsys):
    before = snapshot(folder)
    assert main(["check", write(folder / "data.yaml", pipeline())]) == 0
    printed = capsys.readouterr().out
    assert printed.count("nothing wrong was found") == 7
    assert "datasets.train.0 is still to be made by an earlier stage" in printed
    assert set(snapshot(folder)) - set(before) == {"data.yaml"}


def change(path: str, value: Any) -> Any:
    def changed(data: dict[str, Any]) -> None:
        node: Any = data["stages"]
        *keys, last = path.split("/")
        for key in keys:
            node = node[int(key) if key.isdigit() else key]
        node[last] = value

    return changed


WRONG = {
    "weights": (change("3/config/model/captioner/weights", "nowhere.pth"), ("stage capfilt", "nowhere.pth")),
    "input": (change("3/config/input/path", "nowhere/*.tar"), ("stage capfilt", "nowhere")),
    "source of a cut": (change("4/config/source", "nowhere"), ("stage cut", "nowhere")),
    "source of a report": (change("5/config/source", "nowhere"), ("stage report", "nowhere")),
    "decision": (change("4/config/decision", {"treshold": 1}), ("stage cut", "decision.treshold", "'threshold'")),
    "key of a report": (change("5/config/exampels", 3), ("stage report", "'exampels'", "'examples'")),
    "dataset of shards": (change("0/config/dataset/nosie", 3), ("stage web", "nosie", "'noise'")),
    "data of the student": (change("6/config/datasets/train/0/path", "nowhere"), ("stage student", "nowhere")),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_any_kind_is_reported_before_the_first_stage(name, folder, capsys):
    spoil, says = WRONG[name]
    data = pipeline()
    spoil(data)
    file = write(folder / "data.yaml", data)
    for command in ("run", "check"):
        before = snapshot(folder)
        message = fails(capsys, command, file)
        assert all(part in message for part in says), message
        assert snapshot(folder) == before
