"""The dataset visdial: samples, files, and what it says about wrong data."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.assets.visdial_files import visdial_files
from vlkit.datasets.dialog_table import DialogTable
from vlkit.datasets.faults import collect_faults
from vlkit.datasets.visdial import VisDial
from vlkit.errors import ConfigError, DataError


def path_only(path, rng):
    return path


def dataset(files, split: str = "val", dense: bool = False, **kwargs) -> VisDial:
    given = {"image_processor": path_only, "image_root": str(files.image_root), **kwargs}
    return VisDial(str(files.path), split=split, dense_path=str(files.dense_path) if dense else None, **given)


@pytest.mark.parametrize("split", ["train", "val"])
def test_samples_are_the_dialogs_that_were_written(split, tmp_path):
    files = visdial_files(tmp_path, split, count=5, rounds=3)
    data = dataset(files, split, dense=True)
    assert len(data) == 5
    for index in range(5):
        sample, dialog = data[index], files.world.dialog(index)
        assert sample["text_input"] == dialog.caption
        assert sample["image_id"] == files.image_ids[index]
        assert sample["sample_id"] == f"visdial_1.0_{split}.json:{index + 1}"
        assert f"{files.image_ids[index]:012d}.jpg" in sample["image"]
        assert os.path.isfile(sample["image"])
        for number, (turn, made) in enumerate(zip(sample["dialog"], dialog.rounds)):
            assert turn["question"] == made.question.rstrip("?")
            assert turn["answer"] == made.answer == turn["answer_options"][turn["gt_index"]]
            assert turn["answer_options"] == list(made.candidates)
            expected = list(made.relevance) if number == index % 3 else None
            assert turn["gt_relevance"] == expected
    assert data.problems() == []
    assert [image for image, _ in data.images()] == files.image_ids


def test_training_images_are_found_in_both_folders_of_coco_or_in_none(tmp_path):
    files = visdial_files(tmp_path, "train", count=4)
    data = dataset(files, "train")
    assert [data.image_path(i).split("/")[-2] for i in range(4)] == ["train2014", "val2014"] * 2
    flat = tmp_path / "flat"
    flat.mkdir()
    for i in range(4):
        os.rename(data.image_path(i), flat / os.path.basename(data.image_path(i)))
    moved = dataset(files, "train", image_root=str(flat))
    assert moved.problems() == []
    assert os.path.basename(moved.image_path(1)).startswith("COCO_val2014_000000100007")
    [problem] = data.problems()
    assert "4 of the 4 image files checked do not exist" in problem


def test_a_test_set_tells_candidates_of_the_last_round_alone(tmp_path):
    data = dataset(
        visdial_files(tmp_path, "test", count=2, rounds=3), "test", image_root=str(tmp_path / "VisualDialog_test2018")
    )
    for dialog in (data[0]["dialog"], data[1]["dialog"]):
        assert [turn["answer_options"] is not None for turn in dialog] == [False, False, True]
        assert [turn["answer"] is not None for turn in dialog] == [True, True, False]
        assert [turn["gt_index"] for turn in dialog] == [None] * 3
    assert data.problems() == []


def test_texts_are_processed_and_limit_cuts(tmp_path):
    files = visdial_files(tmp_path, count=3, rounds=2)
    data = dataset(files, text_processor=str.upper, limit=2)
    assert len(data) == 2
    turn = data[1]["dialog"][1]
    assert data[1]["text_input"].isupper()
    assert turn["question"].isupper()
    assert turn["answer"] == turn["answer_options"][turn["gt_index"]]
    assert turn["answer"] in [text.upper() for text in files.world.dialog(1).rounds[1].candidates]
    with pytest.raises(IndexError):
        data[2]


def test_dialogs_are_a_few_arrays(tmp_path):
    small, large = (DialogTable(visdial_files(tmp_path / str(n), count=n).path) for n in (2, 40))
    assert large.options.dtype == np.int32
    # Beyond the different texts, a round costs its candidates and a few numbers.
    grown = len(pickle.dumps(large)) - len(pickle.dumps(small))
    assert grown < 38 * 4 * (20 * 4 + 40) + 8000
    assert large.candidates(3) == small.candidates(3)


def test_the_fingerprint_follows_the_files(tmp_path):
    files = visdial_files(tmp_path, count=2)
    plain, dense = dataset(files).fingerprint(), dataset(files, dense=True).fingerprint()
    assert len({plain, dense, dataset(files, limit=1).fingerprint()}) == 3
    files.dense_path.write_text(files.dense_path.read_text() + " ")
    assert dataset(files, dense=True).fingerprint() != dense
    assert dataset(files).fingerprint() == plain


def test_problems(tmp_path):
    files = visdial_files(tmp_path, count=3, rounds=2)
    content = json.loads(files.path.read_text())
    dialogs = content["data"]["dialogs"]
    dialogs[1]["image_id"] = dialogs[0]["image_id"]
    del dialogs[2]["dialog"][0]["gt_index"]
    files.path.write_text(json.dumps(content))
    found = " ".join(dataset(files, dense=True).problems())
    assert "1 image ids have several dialogs (100000)" in found
    assert "1 of 6 rounds have no 'gt_index'" in found
    assert "is about 1 images without a dialog" in found


def damaged(files, change):
    content = json.loads(files.path.read_text())
    change(content["data"])
    files.path.write_text(json.dumps(content))
    return files


def test_dialogs_with_faults_are_left_out_where_faults_are_collected(tmp_path):
    files = visdial_files(tmp_path, count=6, rounds=3)
    whole = dataset(files)
    content = json.loads(files.path.read_text())
    dialogs = content["data"]["dialogs"]
    dialogs[0]["dialog"][2]["answer_options"][5] = 999
    dialogs[2].pop("caption")
    dialogs[4]["image_id"] = "NUMBER"
    text = json.dumps(content).replace('"NUMBER"', "7" * 3000)
    files.path.write_text(text)
    with collect_faults() as bad:
        left = dataset(files)
    assert [source.rpartition(":")[2] for source, _ in bad] == ["dialog 1", "dialog 3", "dialog 5"]
    assert [reason.partition(" ")[0] for _, reason in bad] == ["'answer_options'", "no", "it"]
    for index, kept in enumerate((1, 3, 5)):
        assert left[index] == whole[kept] == {**left[index], "sample_id": f"{files.path.name}:{kept + 1}"}
    assert len(left) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["dialogs"][1].pop("caption"), "dialog 2: no key 'caption'"),
        (lambda d: d["dialogs"][1].pop("dialog"), "dialog 2: no key 'dialog'"),
        (lambda d: d["dialogs"].insert(0, 3), r"dialog 1: 3 \(int\) is not a mapping"),
        (lambda d: d["dialogs"][0].update(image_id="a"), "dialog 1: image_id 'a'"),
        (lambda d: d["dialogs"][0].update(image_id=-3), "dialog 1: 'image_id' is -3"),
        (lambda d: d["dialogs"][0].update(image_id=2**63), "dialog 1: 'image_id' is 9223372036854775808"),
        (lambda d: d["dialogs"][0]["dialog"][0].update(question=2**40), "'question' of round 1 is 1099511627776"),
        (lambda d: d["dialogs"].insert(1, None), r"dialog 2: None \(NoneType\) is not a mapping"),
        (lambda d: d["dialogs"][0].update(dialog=[]), r"dialog 1: 'dialog' is \[\]"),
        (lambda d: d["dialogs"][0]["dialog"][1].update(question="what"), "'question' of round 2 is 'what'"),
        (lambda d: d["dialogs"][0]["dialog"][1].update(question=999), "dialog 1: 'question' of round 2 is 999"),
        (lambda d: d["dialogs"][1]["dialog"][0].update(answer=-2), "dialog 2: 'answer' of round 1 is -2"),
        (lambda d: d["dialogs"][1]["dialog"][1].update(gt_index=20), "dialog 2: 'gt_index' of round 2 is 20; 0 to 19"),
        (lambda d: d["dialogs"][1]["dialog"][1].update(answer_options=["a"]), "'answer_options' of round 2 is"),
        (
            lambda d: d["dialogs"][1]["dialog"][1]["answer_options"].__setitem__(3, 999),
            "dialog 2: 'answer_options' of round 2 is 999",
        ),
        (lambda d: d.pop("questions"), "'questions' under 'data' is None"),
        (lambda d: d.pop("dialogs"), "'dialogs' under 'data' is None"),
        (lambda d: d["dialogs"].clear(), "holds no dialogs"),
    ],
)
def test_wrong_annotations_are_reported_with_their_place(change, message, tmp_path):
    files = damaged(visdial_files(tmp_path, count=2, rounds=2), change)
    with pytest.raises(DataError, match=message) as caught:
        dataset(files)
    assert str(files.path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON at line 1"),
        ("[]", "the top level is"),
        ('{"dat": 1}', "no key 'data'.*not a file of VisDial"),
    ],
)
def test_what_is_no_file_of_visdial(text, message, tmp_path):
    files = visdial_files(tmp_path, count=1)
    files.path.write_text(text)
    with pytest.raises(DataError, match=message):
        dataset(files)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"image_id": 100000, "round_id": 1, "gt_relevance": [1.0]}], "image 100000: round 1 has 1 values"),
        ([{"image_id": 1, "round_id": "1", "gt_relevance": [1.0]}], "row 1: 'round_id' is '1'"),
        ([{"image_id": 1, "round_id": 1}], "row 1: 'gt_relevance' is None"),
        ([{"image_id": 1, "round_id": 1, "relevance": [2.0]}], "not a list of numbers from 0 to 1"),
        ({}, "a list of rows is needed"),
    ],
)
def test_wrong_dense_annotations(rows, message, tmp_path):
    files = visdial_files(tmp_path, count=1)
    files.dense_path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=message):
        dataset(files, dense=True)


def test_wrong_arguments_are_reported_together(tmp_path):
    with pytest.raises(ConfigError) as caught:
        VisDial("nowhere.json", split="vall", limit=0)
    assert len(caught.value.problems) == 3
    assert "Did you mean 'val'" in str(caught.value)
    files = visdial_files(tmp_path, count=1)
    with pytest.raises(DataError, match="is not a folder"):
        dataset(files, image_root=str(tmp_path / "none"))
    with pytest.raises(DataError, match="Set 'path' to an annotation file"):
        VisDial(str(tmp_path / "none.json"), image_processor=path_only)


def own_dialogs(folder, dialogs) -> str:
    """A file of dialogs of one round with these fields."""
    turn = {"question": 0, "answer": 0, "answer_options": [0, 1], "gt_index": 0}
    data = {"questions": ["q"], "answers": ["a", "b"], "dialogs": [{**each, "dialog": [turn]} for each in dialogs]}
    path = folder / "own.json"
    path.write_text(json.dumps({"data": data}))
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"q"', "NaN", "'question' of round 1 is 0; that entry of 'questions' is no text: it holds NaN"),
        ('"b"', "5", r"'answer_options' of round 1 is 1; that entry of 'answers' is no text: it is 5 \(int\)"),
        ('"image_id": 7', '"image_id": NaN', "it holds NaN, which JSON does not have"),
        ('"gt_index": 0', f'"gt_index": {"7" * 5000}', "it holds an integer of 5000 digits"),
        ("[0, 1]", "[0, Infinity]", "it holds Infinity"),
    ],
)
def test_numbers_that_json_lacks_spoil_the_dialogs_that_hold_or_use_them(tmp_path, old, new, said):
    path = own_dialogs(tmp_path, [{"image_id": 7, "caption": "one"}, {"image_id": 8, "caption": "two"}])
    text = Path(path).read_text()
    Path(path).write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=f"dialog 1: {said}"):
        VisDial(path, split="val", image_processor=path_only)
    with collect_faults() as bad, contextlib.suppress(DataError):
        VisDial(path, split="val", image_processor=path_only)
    assert "_Mark" not in str(bad)
    assert bad[0][0] == f"{path}:dialog 1"
    assert len(bad) == 2 if old in ('"q"', '"b"') else 1


def test_own_dialogs_name_their_images(tmp_path):
    dialogs = [{"image": "x/a.jpg", "caption": "one"}, {"file_name": "b.jpg", "title": "two", "image_id": 7}]
    data = VisDial(own_dialogs(tmp_path, dialogs), split="val", image_processor=path_only)
    assert [sample["image"] for sample in data] == [str(tmp_path / "x/a.jpg"), str(tmp_path / "b.jpg")]
    assert [(sample["text_input"], sample["image_id"]) for sample in data] == [("one", 1), ("two", 7)]
    assert [image for image, _ in data.images()] == ["x/a.jpg", "b.jpg"]
    assert "2 of the 2 image files" in data.problems()[0]


@pytest.mark.parametrize("settings", [{}, {"image_id_key": "number", "image_key": "number"}])
def test_a_pattern_makes_the_names_of_own_dialogs(tmp_path, settings):
    key = settings.get("image_key", "image_id")
    path = own_dialogs(tmp_path, [{key: 5, "caption": "one"}])
    data = VisDial(path, split="train", image_processor=path_only, image_pattern="pictures/{:03d}.png", **settings)
    assert (data[0]["image"], data[0]["image_id"]) == (str(tmp_path / "pictures/005.png"), 5)


@pytest.mark.parametrize(
    ("dialog", "settings", "said"),
    [
        ({"caption": "x"}, {}, "dialog 1: no key 'image_id', only 'caption', 'dialog'"),
        ({"image": 5, "caption": "x"}, {}, r"dialog 1: 'image' is 5 \(int\), not a file name"),
        ({"img": "a", "caption": "x"}, {"image_key": "imgs"}, r"image_key is 'imgs', and .* Did you mean 'img'"),
        ({"image_id": 1, "text": "x", "title": "y"}, {}, r"'text' and 'title' could be the column 'caption'"),
        ({"image_id": "x", "caption": "x"}, {"image_pattern": "{:d}.png"}, "not the whole number"),
    ],
)
def test_wrong_names_of_own_dialogs_are_explained(tmp_path, dialog, settings, said):
    with pytest.raises(DataError, match=said):
        VisDial(own_dialogs(tmp_path, [dialog]), split="val", image_processor=path_only, **settings)
