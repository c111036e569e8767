"""Writes the files of VisDial v1.0 about scenes of the toy dataset."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vlkit.datasets.shapes.heads import ShapesDialog
from vlkit.datasets.shapes.scene import render

_NAMES = {
    "train": ("train2014/COCO_train2014_{:012d}.jpg", "val2014/COCO_val2014_{:012d}.jpg"),
    "val": ("VisualDialog_val2018/VisualDialog_val2018_{:012d}.jpg",),
    "test": ("VisualDialog_test2018/VisualDialog_test2018_{:012d}.jpg",),
}


@dataclass
class VisDialFiles:
    """What was written: the dialogs, the dense annotations, where images start from, and where the texts come from."""

    path: Path
    dense_path: Path
    image_root: Path
    world: ShapesDialog
    image_ids: list[int]


def visdial_files(
    folder: str | Path, split: str = "val", count: int = 6, rounds: int = 4, candidates: int = 20
) -> VisDialFiles:
    """Dialogs in the published format, with images under the published names.

    The training images lie in two folders by turns. Of the test set only the last round has candidates, without the
    answer. Dense annotations are of one round of each dialog.
    """
    folder = Path(folder)
    world = ShapesDialog(split, count, rounds=rounds, candidates=candidates)
    questions, answers = {}, {}

    def place(texts: dict[str, int], text: str) -> int:
        return texts.setdefault(text, len(texts))

    dialogs, dense, image_ids = [], [], [100_000 + 7 * index for index in range(count)]
    for index, image_id in enumerate(image_ids):
        names = _NAMES[split]
        file = folder / names[index % len(names)].format(image_id)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render(world.scene(index), 48)).save(file, quality=95)
        dialog, turns = world.dialog(index), []
        for number, turn in enumerate(dialog.rounds):
            row = {"question": place(questions, turn.question.rstrip("?"))}
            last = number == len(dialog.rounds) - 1
            if split != "test" or not last:
                row["answer"] = place(answers, turn.answer)
            if split != "test" or last:
                row["answer_options"] = [place(answers, text) for text in turn.candidates]
            if split != "test":
                row["gt_index"] = turn.gt_index
            turns.append(row)
        dialogs.append({"image_id": image_id, "caption": dialog.caption, "dialog": turns})
        chosen = index % rounds
        key = "relevance" if split == "train" else "gt_relevance"
        dense.append({"image_id": image_id, "round_id": chosen + 1, key: list(dialog.rounds[chosen].relevance)})
    path, dense_path = folder / f"visdial_1.0_{split}.json", folder / f"visdial_1.0_{split}_dense_annotations.json"
    data = {"questions": list(questions), "answers": list(answers), "dialogs": dialogs}
    path.write_text(json.dumps({"version": "1.0", "split": split, "data": data}), encoding="utf-8")
    dense_path.write_text(json.dumps(dense), encoding="utf-8")
    return VisDialFiles(path, dense_path, folder, world, image_ids)
