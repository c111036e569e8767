"""Campaign: annotation files with random damage, through every reader. Each is read, or ends in one kind of error."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.assets.visdial_files import visdial_files
from vlkit.datasets.dialog_table import read_relevance
from vlkit.datasets.faults import collect_faults
from vlkit.datasets.image_text import ImageText
from vlkit.datasets.nlvr import ImagePair
from vlkit.datasets.texts import read_answer_list
from vlkit.datasets.video import VideoQuestion, VideoText
from vlkit.datasets.visdial import VisDial
from vlkit.datasets.vqa import ImageQuestion
from vlkit.errors import VlkitError
from vlkit.jobs.checks import text_problems
from vlkit.processors.text import BlipCaption

FILES = 10_000 if os.environ.get("VLKIT_CAMPAIGN") == "full" else 30
ODD: list[Any] = [
    None, True, -1, 0, 2**63, 2**31, 10**400, 1.5, "", " ", "...", "\ud800", "\0", "a" * 300, [], {}, [[]], ["a", 1],
    {"a": 1}, [None], "1", "nan", -(2**70), [2**40], "x\ty", 'q"q', "\u2028",
]  # fmt: skip
ODD_TEXTS = [
    "NaN", "Infinity", "1e999", "7" * 3000, "[" * 150 + "]" * 150, '"', "\\", "\0", "\r", "\n", "\t", ",", ";", "{",
    "]", "\udcff", "\ufeff", "-", '"\\ud83d"', "null",
]  # fmt: skip


def pixels(path: Any, rng: Any) -> torch.Tensor:
    return torch.zeros(1)


def captions() -> Any:
    return [{"image": f"{i}.jpg", "caption": f"a dog {i}", "image_id": i, "domain": "x"} for i in range(4)]


def coco() -> Any:
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(4)],
        "annotations": [{"image_id": i, "caption": f"a dog {i}", "id": i} for i in range(4)],
    }


def karpathy() -> Any:
    splits = ("train", "val", "restval", "test")
    rows = [
        {"filename": f"{i}.jpg", "split": split, "cocoid": i, "sentences": [{"raw": f"a dog {i}"}]}
        for i, split in enumerate(splits)
    ]
    return {"dataset": "coco", "images": rows}


def questions() -> Any:
    return [
        {"image": f"{i}.jpg", "video": f"{i}.mp4", "question": "what is it", "answer": ["a", "b"], "question_id": i}
        for i in range(4)
    ]


def official() -> Any:
    asked = [{"question": "what", "question_id": i, "image_id": i} for i in range(4)]
    return {"data_subtype": "val2014", "questions": asked}


def pairs() -> Any:
    return [{"images": ["a.jpg", "b.jpg"], "sentence": "left", "label": "True"} for _ in range(4)]


def videos() -> Any:
    return [{"video": f"{i}.mp4", "caption": ["a dog", "a cat"]} for i in range(4)]


def relevance() -> Any:
    return [{"image_id": i, "round_id": 1, "gt_relevance": [0.5, 1]} for i in range(4)]


def answers() -> Any:
    return ["yes", "no", "two dogs"]


def dataset(kind: Any, **more: Any) -> Callable[[Path], Any]:
    def opened(file: Path) -> None:
        split = random.choice(["train", "val"])
        found = kind(str(file), split=split, image_processor=pixels, text_processor=BlipCaption(), **more)
        found.fingerprint()
        list(found.images())
        text_problems(found)
        for index in range(min(len(found), 5)):
            try:
                json.dumps({**found[index], "image": 0, "images": 0}, ensure_ascii=False).encode()
            except VlkitError:
                continue

    return opened


READERS: dict[str, tuple[Callable[[], Any], Callable[[Path], Any]]] = {
    "captions": (captions, dataset(ImageText)),
    "coco": (coco, dataset(ImageText)),
    "karpathy": (karpathy, dataset(ImageText)),
    "questions": (questions, dataset(ImageQuestion)),
    "official": (official, dataset(ImageQuestion)),
    "pairs": (pairs, dataset(ImagePair)),
    "videos": (videos, dataset(VideoText)),
    "video questions": (questions, dataset(VideoQuestion)),
    "relevance": (relevance, read_relevance),
    "answers": (answers, read_answer_list),
}


def spots(data: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value."""
    found = []
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        found += [(data, key), *spots(value)]
    return found


def written(rows: Any, suffix: str) -> str:
    """The rows in a format."""
    if suffix == ".json" or not isinstance(rows, list):
        return json.dumps(rows)
    if suffix == ".jsonl":
        return "\n".join(map(json.dumps, rows)) + "\n"
    separator = "\t" if suffix in (".tsv", ".txt") else ","
    lines = [row.values() if isinstance(row, dict) else [row] for row in rows]
    names = rows[0].keys() if rows and isinstance(rows[0], dict) else ["image", "caption"]
    table = [names, *lines] if suffix != ".txt" else [list(line)[:2] for line in lines]
    return "\n".join(separator.join(str(field) for field in line) for line in table) + "\n"


def mutated(rows: Any, suffix: str) -> bytes:
    """A file with some damage."""
    for _ in range(random.choice([0, 1, 1, 2])):
        places = spots(rows)
        if not places:
            break
        container, key = random.choice(places)
        if isinstance(container, dict) and random.random() < 0.3:
            del container[key]
        else:
            container[key] = deepcopy(random.choice(ODD))
    text = written(rows, suffix)
    for _ in range(random.choice([0, 0, 1, 2])):
        place, length = random.randrange(len(text) + 1), random.choice([0, 0, 1, 20])
        text = text[:place] + random.choice(ODD_TEXTS) + text[place + length :]
    encoding = random.choice(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1"])
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    text = text if errors == "replace" else text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    data = bytearray(text.encode(encoding, errors))
    for _ in range(random.choice([0, 0, 0, 1, 3])):
        data[random.randrange(len(data))] = random.randrange(256)
    packed = gzip.compress(bytes(data)) if random.random() < 0.1 else bytes(data)
    return packed[: random.randrange(len(packed) + 1)] if random.random() < 0.1 else packed


@pytest.mark.campaign
@pytest.mark.parametrize("name", READERS)
def test_damaged_annotation_files(tmp_path, name):
    make, read = READERS[name]
    unnamed: list[tuple[int, str]] = []
    for seed in range(FILES):
        random.seed(f"{name} {seed}")
        suffix = random.choice([".json", ".json", ".jsonl", ".csv", ".tsv", ".txt"])
        file = tmp_path / f"rows{suffix}"
        file.write_bytes(mutated(make(), suffix))
        try:
            if random.random() < 0.5:
                with collect_faults():
                    read(file)
            else:
                read(file)
        except VlkitError as error:
            unnamed += [] if file.name in str(error) else [(seed, str(error))]
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r} of {file.read_bytes()[:2000]!r}") from error
    assert unnamed == []


@pytest.mark.campaign
def test_damaged_dialogs(tmp_path):
    files = visdial_files(tmp_path, count=3, rounds=2, candidates=4)
    whole = json.loads(files.path.read_text())
    read = dataset(VisDial, image_root=str(tmp_path))
    for seed in range(FILES):
        random.seed(f"dialogs {seed}")
        files.path.write_bytes(mutated(json.loads(json.dumps(whole)), ".json"))
        try:
            with collect_faults():
                read(files.path)
        except VlkitError:
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
