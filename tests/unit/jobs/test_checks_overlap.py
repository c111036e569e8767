"""Images of evaluation sets that are trained on."""

from __future__ import annotations

import json

from tests.assets.make_data import coco_file
from tests.assets.run_files import caption_run, write
from vlkit.cli import main
from vlkit.datasets.base import VLDataset
from vlkit.datasets.shapes.dataset import Shapes
from vlkit.jobs.checks import overlap_notes


class Listed(VLDataset):
    def __init__(self, *found):
        self.found = found

    def images(self):
        return iter(self.found)


def test_files_and_ids_that_occur_in_both():
    train = {"train.0": Listed((1, "a/1.jpg"), (2, "a/2.jpg")), "train.1": Listed(("x", "b/./3.jpg"), (9, "b/9.jpg"))}
    evals = {
        "eval.val": Listed((7, "b/3.jpg"), (8, "b/8.jpg"), (1, "a/1.jpg")),
        "eval.test": Listed((9, "c/9.jpg"), (2, "c/2.jpg")),
        "eval.clean": Listed(("1", "d/1.jpg")),
    }
    notes = overlap_notes(train, evals)
    assert len(notes) == 2
    assert notes[0].startswith("eval.val: 2 images are in the training data too (")
    assert "a/1.jpg" in notes[0]
    assert "b/3.jpg" in notes[0]
    assert notes[1].startswith("eval.test: 2 image ids occur in the training data too, for other files (2, 9)")


def test_nothing_to_say():
    assert overlap_notes({"train.0": Shapes(size=3)}, {"eval.val": Shapes(size=3, split="val")}) == []
    assert overlap_notes({}, {"eval.val": Listed((1, "a.jpg"))}) == []


def test_many_are_counted_and_few_shown():
    both = Listed(*((i, f"{i}.jpg") for i in range(1500)))
    (note,) = overlap_notes({"train.0": both}, {"eval.val": both})
    assert note.startswith("eval.val: 1,500 images are in")
    assert note.count(".jpg") == 3


def test_check_warns(tmp_path, monkeypatch, capsys):
    """The run evaluates on the file that it trains on; then on one of other images."""
    monkeypatch.chdir(tmp_path)
    run = caption_run(tmp_path)
    write(tmp_path / "run.yaml", run)
    assert main(["check", "run.yaml"]) == 0
    said = capsys.readouterr().out
    assert "eval.val: 6 images are in the training data too" in said
    coco_file(tmp_path / "other", 6, seed=1)
    rows = json.loads((tmp_path / "other" / "captions.json").read_text())
    for image in rows["images"]:
        image["id"] += 100
    for annotation in rows["annotations"]:
        annotation["image_id"] += 100
    (tmp_path / "other" / "captions.json").write_text(json.dumps(rows))
    run["datasets"]["eval"]["val"]["path"] = "other/captions.json"
    write(tmp_path / "run.yaml", run)
    assert main(["check", "run.yaml"]) == 0
    assert "training data too" not in capsys.readouterr().out
