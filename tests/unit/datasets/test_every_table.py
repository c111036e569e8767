"""Keys of columns hold for every dataset that reads a table, and for the JSON of shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.assets.tars import picture, write_tar
from vlkit.datasets.base import VLDataset
from vlkit.errors import DataError
from vlkit.registry import DATASETS

ROUND = [{"question": 0, "answer": 0, "answer_options": [0], "gt_index": 0}]
ROWS = {
    "image_text": {"bild": "a.jpg", "satz": "x", "nummer": 5},
    "image_question": {"bild": "a.jpg", "frage": "x", "antwort": "y", "nummer": 5},
    "image_pair": {"bilder": ["a.jpg", "b.jpg"], "satz": "x", "urteil": "True"},
    "visdial": {"bild": "a.jpg", "satz": "x", "nummer": 5, "dialog": ROUND},
    "video_text": {"film": "a.mp4", "satz": "x"},
    "video_question": {"film": "a.mp4", "frage": "x", "antwort": "y", "nummer": 5},
    "hf_dataset": {"bild": "a.jpg", "satz": "x", "nummer": 5},
    "web_shards": {"satz": "x"},
}
NAMES = {
    "image_key": "bild",
    "caption_key": "satz",
    "question_key": "frage",
    "answer_key": "antwort",
    "sentence_key": "satz",
    "label_key": "urteil",
    "video_key": "film",
    "image_id_key": "nummer",
    "question_id_key": "nummer",
}
KEYS = {
    "image_text": ["image_key", "caption_key", "image_id_key"],
    "image_question": ["image_key", "question_key", "answer_key", "question_id_key"],
    "image_pair": ["image_key", "sentence_key", "label_key"],
    "visdial": ["image_key", "caption_key", "image_id_key"],
    "video_text": ["video_key", "caption_key"],
    "video_question": ["video_key", "question_key", "answer_key", "question_id_key"],
    "hf_dataset": ["image_key", "caption_key", "image_id_key"],
    "web_shards": ["caption_key"],
}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "cache"))


def given(kind: str) -> dict[str, str]:
    """The keys of the columns in ``ROWS``."""
    return {key: "bilder" if (kind, key) == ("image_pair", "image_key") else NAMES[key] for key in KEYS[kind]}


def opened(kind: str, folder: Path, row: dict, **settings) -> VLDataset:
    """The dataset over a table of this row."""
    if kind == "web_shards":
        path = write_tar(folder / "0.tar", [("a.jpg", picture()), ("a.json", json.dumps(row).encode())])
    elif kind == "hf_dataset":
        path = folder / "a.parquet"
        pytest.importorskip("datasets").Dataset.from_dict({k: [v] for k, v in row.items()}).to_parquet(str(path))
    else:
        path = folder / "rows.json"
        dialogs = {"data": {"questions": ["q"], "answers": ["a"], "dialogs": [row]}}
        path.write_text(json.dumps(dialogs if kind == "visdial" else [row]))
    processor = {"video_processor" if kind.startswith("video") else "image_processor": lambda source, rng: source}
    return DATASETS.get(kind)(path=str(path), **processor, **settings)


def test_every_kind_but_the_toy_data_is_here():
    own = {name for name in DATASETS.names() if DATASETS.get(name).__module__.startswith("vlkit.datasets.")}
    assert {name for name in own if not name.startswith("shapes")} == set(ROWS)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_keys_name_the_columns(kind, split, tmp_path):
    assert len(opened(kind, tmp_path, ROWS[kind], split=split, **given(kind))) == 1


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind in KEYS for key in KEYS[kind]])
def test_a_wrong_key_is_an_error_that_names_the_closest(kind, key, split, tmp_path):
    right = given(kind)
    with pytest.raises(DataError) as error:
        opened(kind, tmp_path, ROWS[kind], split=split, **{**right, key: right[key] + "s"})
    message = str(error.value)
    assert f"{key} is '{right[key]}s', and there is no key '{right[key]}s'" in message
    assert "Did you mean" in message
    assert f"'{right[key]}'" in message.partition("Did you mean")[2]


@pytest.mark.parametrize("kind", [kind for kind in ROWS if "caption_key" in KEYS[kind]])
def test_two_possible_captions_are_an_error_in_every_split(kind, tmp_path):
    rest = {key: value for key, value in given(kind).items() if key != "caption_key"}
    row = {**ROWS[kind], "text": "a", "title": "b"}
    for split in ("train", "val"):
        with pytest.raises(
            DataError, match=r"'text' and 'title' could be the column 'caption': set caption_key to one"
        ):
            opened(kind, tmp_path, row, split=split, **rest)


@pytest.mark.parametrize(
    ("kind", "column"), [("video_text", "video"), ("video_question", "video"), ("image_pair", "sentence")]
)
def test_a_coco_file_for_another_kind_of_sample_names_the_missing_column(kind, column, tmp_path):
    images, captions = [{"id": 1, "file_name": "a.jpg"}], [{"image_id": 1, "caption": "x"}]
    file = tmp_path / "coco.json"
    file.write_text(json.dumps({"images": images, "annotations": captions}))
    with pytest.raises(DataError, match=f"images entry 1: no key '{column}'|row 1: no key '{column}'"):
        DATASETS.get(kind)(str(file), image_processor=lambda image, rng: image)
