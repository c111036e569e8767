"""Writes a miniature of every dataset of the paper into a data folder: files as they are published, rows as they are
published, about scenes of the toy dataset and pictures of scikit-image."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from PIL import Image

from tests.assets.visdial_files import visdial_files
from vlkit.config.cards import dataset_splits
from vlkit.datasets.shapes.captions import paraphrases
from vlkit.datasets.shapes.dataset import Shapes
from vlkit.datasets.shapes.heads import ShapesNLVR
from vlkit.datasets.shapes.questions import ANSWERS, questions
from vlkit.datasets.shapes.scene import Scene, render

ROWS = 10
SIZE = 48
DOMAINS = ("in-domain", "near-domain", "out-domain")


class Pictures:
    """Scenes one after the other, none of them twice."""

    def __init__(self) -> None:
        self.world, self.next = Shapes(size=10_000, seed=77), 0

    def save(self, path: Path) -> Scene:
        """Render the next scene to ``path``."""
        scene = self.world.scene(self.next)
        self.next += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render(scene, SIZE)).save(path)
        return scene

    def named(self, root: Path, pattern: str, count: int = ROWS) -> Iterator[tuple[str, int, Scene]]:
        """Name, number and scene of ``count`` new pictures under ``root``."""
        for _ in range(count):
            number = self.next
            name = pattern.format(number)
            yield name, number, self.save(root / name)


def captions(scene: Scene, count: int) -> list[str]:
    """Texts that are true of ``scene``."""
    return paraphrases(scene, np.random.default_rng(3), count)


def saved(path: Path, data: Any) -> None:
    """A JSON file, or one of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(map(json.dumps, data)) if path.suffix == ".jsonl" else json.dumps(data)
    path.write_text(lines, encoding="utf-8")


def write_miniatures(data: Path) -> None:
    """Everything that the dataset cards name, in the data folder ``data``."""
    pictures = Pictures()
    _coco(data / "coco", pictures)
    _karpathy(data / "flickr30k", "{}.json", pictures, "flickr30k-images/{}.jpg", "flickr30k_{}")
    _nocaps(data / "nocaps", pictures)
    _vqa(data / "coco", data / "vg", pictures)
    _pretraining(data, pictures)
    _nlvr(data / "nlvr")
    _visdial(data)
    _videos(data)


def _coco(folder: Path, pictures: Pictures) -> None:
    from skimage import data as skimage_data

    _karpathy(folder, "coco_karpathy_{}.json", pictures, "SPLIT/COCO_SPLIT_{:012d}.jpg", "coco_{}")
    for name in ("coffee", "chelsea"):  # photographs of other proportions, among the scenes
        rows = json.loads((folder / "annotations/coco_karpathy_test.json").read_text())
        place = folder / "images" / rows[len(name) % 5]["image"]
        Image.fromarray(getattr(skimage_data, name)()).resize((120, 80)).save(place)


def _karpathy(folder: Path, file: str, pictures: Pictures, pattern: str, identity: str) -> None:
    """Training rows of one caption each, evaluation rows of five."""
    for split in ("train", "val", "test"):
        rows: list[dict[str, Any]] = []
        names = pattern.replace("SPLIT", "train2014" if split == "train" else "val2014")
        for name, number, scene in pictures.named(folder / "images", names):
            if split == "train":
                image_id = identity.format(number)
                rows += [{"caption": text, "image": name, "image_id": image_id} for text in captions(scene, 2)]
            else:
                rows.append({"image": name, "caption": captions(scene, 5)})
        saved(folder / "annotations" / file.format(split), rows)


def _nocaps(folder: Path, pictures: Pictures) -> None:
    for split in ("val", "test"):
        found = list(pictures.named(folder / "images", split + "/{:016x}.jpg"))
        rows = [{"image": name, "img_id": place} for place, (name, _, _) in enumerate(found)]
        saved(folder / "annotations" / f"nocaps_{split}.json", rows)
        if split == "val":
            images, annotations = [], []
            for place, (name, _, scene) in enumerate(found):
                file_name = name.partition("/")[2]
                images.append({"id": place, "file_name": file_name, "domain": DOMAINS[place % 3], "width": SIZE})
                texts = captions(scene, 10)
                annotations += [
                    {"image_id": place, "id": len(annotations) + i, "caption": t} for i, t in enumerate(texts)
                ]
            owners = {"licenses": [], "info": {}, "images": images, "annotations": annotations}
            saved(folder / "annotations/nocaps_val_4500_captions.json", owners)


def _vqa(coco: Path, vg: Path, pictures: Pictures) -> None:
    rng = np.random.default_rng(5)
    folder = coco / "annotations"
    for file, image_split in (("train", "train2014"), ("val", "val2014"), ("test", "test2015")):
        rows, official, people = [], [], []
        for name, number, scene in pictures.named(coco / "images", image_split + f"/COCO_{image_split}_{{:012d}}.jpg"):
            asked = questions(scene, rng, 1)[0]
            answers = [asked.answer] * 7 + ["yes", "no", "yes"]
            row = {"question_id": 1000 + number, "question": asked.question, "image": name, "dataset": "vqa"}
            rows.append(row if file == "test" else {**row, "answer": answers})
            official.append({"image_id": number, "question": asked.question, "question_id": 1000 + number})
            given = [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(answers, 1)]
            people.append({"question_id": 1000 + number, "image_id": number, "answer_type": "other", "answers": given})
        saved(folder / f"vqa_{file}.json", rows)
        if file == "val":
            about = {"data_type": "mscoco", "data_subtype": "val2014"}
            saved(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {**about, "questions": official})
            saved(folder / "v2_mscoco_val2014_annotations.json", {**about, "annotations": people})
    saved(folder / "answer_list.json", list(ANSWERS))
    rows = []
    for name, _, scene in pictures.named(vg / "images", "image/{}.jpg"):
        asked = questions(scene, rng, 1)[0]
        rows.append({"image": name, "question": asked.question, "answer": asked.answer, "dataset": "vg"})
    saved(vg / "annotations/vg_qa.json", rows)


def _pretraining(data: Path, pictures: Pictures) -> None:
    lists = (
        ("vg", "vg_caption.json", "image/{}.jpg"),
        ("sbu_captions", "sbu.json", "{}.jpg"),
        ("conceptual_caption", "cc3m.json", "3m/{}.jpg"),
        ("conceptual_caption", "cc12m.json", "12m/{}.jpg"),
    )
    for folder, file, pattern in lists:
        found = pictures.named(data / folder / "images", pattern)
        rows = [{"image": name, "caption": captions(scene, 1)[0]} for name, _, scene in found]
        saved(data / folder / "annotations" / file, rows)
    for split in dataset_splits("bootstrapped"):
        for number in range(2):
            file = data / "bootstrapped" / split / f"{number:05d}.tar"
            file.parent.mkdir(parents=True, exist_ok=True)
            with webdataset.TarWriter(str(file)) as writer:
                for _ in range(ROWS // 2):
                    writer.write(_shard_sample(pictures))


def _shard_sample(pictures: Pictures) -> dict[str, Any]:
    """What img2dataset writes of one image."""
    number, encoded = pictures.next, io.BytesIO()
    scene = pictures.world.scene(number)
    pictures.next += 1
    Image.fromarray(render(scene, SIZE)).save(encoded, "JPEG")
    text = captions(scene, 1)[0]
    facts = {"caption": text, "url": f"https://example.org/{number}.jpg", "key": f"{number:09d}", "status": "success"}
    return {"__key__": f"{number:09d}", "jpg": encoded.getvalue(), "txt": text, "json": facts}


def _nlvr(folder: Path) -> None:
    for split, file in (("train", "train"), ("val", "dev"), ("test", "test")):
        world, rows = ShapesNLVR(split, ROWS), []
        for index in range(ROWS):
            made = world.statement(index)
            names = [f"{file}/{file}-{index}-0-img{side}.png" for side in range(2)]
            for name, scene in zip(names, (made.left, made.right)):
                (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(render(scene, SIZE)).save(folder / "images" / name)
            rows.append({"images": names, "sentence": made.sentence, "label": str(bool(made.label))})
        saved(folder / "annotations" / f"{file}.json", rows)


def _visdial(data: Path) -> None:
    for split in ("train", "val", "test"):
        root = data / ("coco" if split == "train" else "visdial") / "images"
        files = visdial_files(root, split, ROWS)
        for file in (files.path, files.dense_path):
            place = data / "visdial/annotations" / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file, place)


def _videos(data: Path) -> None:
    from tests.unit.processors.clips import write_clip

    names = {"msrvtt": [f"video{7020 + i}" for i in range(ROWS)], "msvd": [f"clip_{i}_0_10" for i in range(ROWS)]}
    for folder, clips in names.items():
        (data / folder / "videos").mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(clips):
            write_clip(data / folder / "videos" / f"{name}.mp4", frames=5 + number % 3)
        for split in ("train", "val", "test"):
            rows = [
                {"question_id": i, "question": f"what is {name}?", "answer": ANSWERS[i % 5], "video": f"{name}.mp4"}
                for i, name in enumerate(clips)
            ]
            saved(data / folder / "annotations" / f"qa_{split}.json", rows)
        labels = {answer: i for i, answer in enumerate(ANSWERS)}
        saved(data / folder / "annotations/qa_ans2label.json", labels)
    for split in ("train", "val", "test"):
        rows = [{"video": f"{name}.mp4", "caption": f"a dot goes {i} times"} for i, name in enumerate(names["msrvtt"])]
        saved(data / "msrvtt/annotations" / f"retrieval_{split}.json", rows)
    lines = [{"clip_name": row["video"].removesuffix(".mp4"), "caption": row["caption"]} for row in rows]
    saved(data / "msrvtt/annotations/msrvtt_test.jsonl", lines)
