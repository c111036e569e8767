"""Columns of own tables: found by common names, set by keys and positions, and never chosen silently."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlkit.datasets.columns import CAPTION, IMAGE, ColumnKeys, Fields
from vlkit.datasets.faults import lacks
from vlkit.datasets.image_text import ImageText
from vlkit.datasets.nlvr import ImagePair
from vlkit.datasets.video import VideoQuestion, VideoText
from vlkit.datasets.vqa import ImageQuestion
from vlkit.errors import ConfigError, DataError


def name_of(path, rng) -> np.ndarray:
    """An image processor that reads nothing."""
    return np.array([len(str(path))])


def saved(path: Path, rows, header=None) -> str:
    """Rows as JSON, JSON lines, CSV or TAB-separated text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with open(path, "w", newline="") as file:
            csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(
                [*([header] if header else []), *rows]
            )
    return str(path)


def captions(path, split="train", **kwargs) -> list[tuple[str, str]]:
    """Names of images and captions."""
    data = ImageText(path, split=split, image_processor=name_of, **kwargs)
    root = len(data.root) + 1
    return [(data.image_path(i)[root:], data.table.sample(i, data.training)["text_input"]) for i in range(len(data))]


NAMES = [
    ("filepath", "title"), ("file_name", "text"), ("image_path", "caption"), ("filename", "captions"), ("img", "TEXT"),
    ("Image", "Caption"), ("image", "sentence"), ("fileName", "alt-text"), ("image file", "description"),
]  # fmt: skip


@pytest.mark.parametrize(("image", "caption"), NAMES)
@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "tsv"])
def test_common_names_are_found(tmp_path, image, caption, suffix):
    if suffix in ("csv", "tsv"):
        path = saved(tmp_path / f"a.{suffix}", [["x", "a.jpg", "a cat"]], ["other", image, caption])
    else:
        path = saved(tmp_path / f"a.{suffix}", [{"other": "x", image: "a.jpg", caption: "a cat"}])
    assert captions(path) == [("a.jpg", "a cat")]


def test_a_text_file_with_a_header_of_other_names_is_a_table(tmp_path):
    (tmp_path / "a.txt").write_text("filepath\ttitle\na.jpg\ta cat\n")
    assert captions(str(tmp_path / "a.txt")) == [("a.jpg", "a cat")]


def test_the_own_name_counts_before_others(tmp_path):
    rows = [{"image": "a.jpg", "file_name": "b.jpg", "caption": "a cat", "text": "no", "title": "no"}]
    assert captions(saved(tmp_path / "a.json", rows)) == [("a.jpg", "a cat")]


def test_further_own_names_count_before_others(tmp_path):
    rows = [{"video_id": "v7", "clip_name": "a.mp4", "caption": "x"}]
    data = VideoText(saved(tmp_path / "a.json", rows), split="val", video_processor=name_of)
    assert data.names[0] == "a.mp4"
    rows = [{"image": "a", "caption": "x", "img_id": 3, "coco_id": 4}]
    data = ImageText(saved(tmp_path / "b.json", rows), split="val", image_processor=name_of)
    assert data.table.image_id(0) == 3


@pytest.mark.parametrize("suffix", ["json", "csv"])
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ("file_name", "filepath", "caption"),
            r"'file_name' and 'filepath' could be the column 'image': set image_key",
        ),
        (("image", "text", "title"), r"'text' and 'title' could be the column 'caption': set caption_key"),
        (("IMAGE", "Image", "caption"), r"'IMAGE' and 'Image' could be the column 'image'"),
    ],
)
def test_two_names_that_could_be_meant_are_an_error_in_every_split(tmp_path, suffix, names, said):
    values = ["a", "b", "c"]
    path = saved(tmp_path / f"a.{suffix}", [dict(zip(names, values))] if suffix == "json" else [values], names)
    for split in ("train", "val"):
        with pytest.raises(DataError, match=said):
            captions(path, split)
    keys = {"image_key": names[0], "caption_key": names[2]}
    assert captions(path, **keys) == [("a", "c")]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv"])
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("key", "near"), [("image_key", "pictures"), ("caption_key", "titel"), ("image_id_key", "code")]
)
def test_a_wrong_key_is_an_error_with_the_closest(tmp_path, suffix, split, key, near):
    names = ("picture", "title", "codes")
    rows = [["a.jpg", "a cat", "1"], ["b.jpg", "a dog", "2"]]
    path = saved(tmp_path / f"a.{suffix}", rows if suffix == "csv" else [dict(zip(names, row)) for row in rows], names)
    with pytest.raises(DataError, match=rf"{key} is '{near}', and there is no key '{near}', only .*Did you mean"):
        captions(path, split, **{key: near})


def test_rows_of_two_shapes_are_each_read_by_their_own_names(tmp_path):
    rows = [{"image": "a", "caption": "x"}, {"file_name": "b", "text": "y"}, {"image": "c"}]
    path = saved(tmp_path / "a.json", rows)
    assert captions(path, "val") == [("a", "x"), ("b", "y"), ("c", "")]
    with pytest.raises(DataError, match=r"row 3: no key 'caption', only 'image'\."):
        captions(path)


def test_a_key_that_some_rows_lack_is_their_fault_and_no_other_column_is_taken(tmp_path):
    rows = [{"image": "a", "text": "x", "caption": "no"}, {"image": "b", "caption": "no"}]
    path = saved(tmp_path / "a.json", rows)
    assert captions(path, "val", caption_key="text") == [("a", "x"), ("b", "")]
    with pytest.raises(DataError, match=r"row 2: no key 'text', only 'image', 'caption'"):
        captions(path, caption_key="text")


def test_messages_call_columns_as_the_file_does(tmp_path):
    with pytest.raises(DataError, match=r"row 1: 'filepath' is 5 \(int\), not a file name\. image_pattern"):
        captions(saved(tmp_path / "a.json", [{"filepath": 5, "title": "x"}]))
    with pytest.raises(DataError, match=r"row 1: 'position 1' is 7 \(int\), neither a text"):
        captions(saved(tmp_path / "b.json", [["a", 7]]), image_key=0, caption_key=1)


def test_tables_without_a_header_and_lists_say_what_to_set(tmp_path):
    with pytest.raises(
        DataError, match=r"If the file has no header, set positions, such as image_key: 0, caption_key: 1"
    ):
        captions(saved(tmp_path / "a.csv", [["a.jpg", "a cat"]]))
    with pytest.raises(DataError, match=r"If rows are lists, set the positions, from 0 on: image_key, caption_key"):
        captions(saved(tmp_path / "a.json", [["a.jpg", "a cat"]]))
    with pytest.raises(DataError, match=r"is a mapping, and image_key: 0, caption_key: 1 are positions in lists"):
        captions(saved(tmp_path / "b.json", [{"image": "a", "caption": "x"}]), image_key=0, caption_key=1)
    with pytest.raises(DataError, match="names the column 'caption' twice"):
        captions(saved(tmp_path / "b.csv", [["a", "b", "c"]], ["image", "caption", "caption"]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"image_key": -1, "caption_key": 0}, "image_key: -1 given; a name of a column, or a position from 0 on"),
        ({"image_key": ""}, "image_key: '' given"),
        ({"image_key": 0, "caption_key": "text"}, r"caption_key: 'text' and image_key: 0: where one key is a position"),
        ({"image_key": 0}, "caption_key: null and image_key: 0"),
        ({"image_pattern": "images/x.jpg"}, r"image_pattern: 'images/x.jpg' given; it needs {} once"),
        ({"image_pattern": "{}/{}.jpg"}, "it needs {} once"),
        ({"image_pattern": "{0.__class__}.jpg"}, "it needs {} once"),
        ({"image_pattern": "{image}.jpg"}, "it needs {} once"),
        ({"image_pattern": "{:>999999999}"}, "it needs {} once"),
        ({"image_pattern": "{"}, "it needs {} once"),
    ],
)
def test_wrong_keys_and_patterns_are_reported_before_anything_is_read(tmp_path, settings, said):
    with pytest.raises(ConfigError) as error:
        ImageText(saved(tmp_path / "a.json", []), image_processor=name_of, **settings)
    assert said.replace("\\", "") in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "value", "name"),
    [
        ("train/images/{}.png", 17, "train/images/17.png"),
        ("train/images/{}.png", "17", "train/images/17.png"),
        ("COCO_val2014_{:012d}.jpg", 391895, "COCO_val2014_000000391895.jpg"),
        ("COCO_val2014_{:012d}.jpg", "391895", "COCO_val2014_000000391895.jpg"),
    ],
)
def test_a_pattern_makes_file_names(tmp_path, pattern, value, name):
    path = saved(tmp_path / "a.json", [{"image": value, "caption": "x"}])
    assert captions(path, image_pattern=pattern) == [(name, "x")]


@pytest.mark.parametrize(
    ("value", "said"), [("x", "not the whole number"), (True, "neither"), (1.5, "neither"), ("", "neither")]
)
def test_a_value_that_does_not_fit_the_pattern_is_a_fault_of_its_row(tmp_path, value, said):
    path = saved(tmp_path / "a.json", [{"img": value, "caption": "x"}])
    with pytest.raises(DataError, match=f"row 1: 'img' is .*{said}"):
        captions(path, image_pattern="{:03d}.jpg")


def test_rows_of_the_package_easy_vqa(tmp_path):
    """Lists [question, answer, number of the image], pictures under train/images."""
    rows = [["what color is the shape?", "blue", 0], ["is there a circle?", "no", 1]]
    path = saved(tmp_path / "train" / "questions.json", rows)
    settings = {"question_key": 0, "answer_key": 1, "image_key": 2, "image_pattern": "train/images/{}.png"}
    data = ImageQuestion(path, str(tmp_path), image_processor=name_of, **settings)
    assert data.image_path(1) == str(tmp_path / "train/images/1.png")
    sample = data[0]
    assert (sample["text_input"], sample["answers"]) == ("what color is the shape?", ["blue"])
    with pytest.raises(DataError, match="image_key, question_key, answer_key"):
        ImageQuestion(path, image_processor=name_of)


def test_questions_of_other_names(tmp_path):
    vizwiz = {"image": "a.jpg", "question": "q", "answers": [{"answer": "x", "answer_confidence": "yes"}] * 2}
    data = ImageQuestion(saved(tmp_path / "a.json", [vizwiz]), image_processor=name_of)
    assert data[0]["answers"] == ["x"]
    rows = [["7", "a.jpg", "q?", "yes"]]
    path = saved(tmp_path / "a.csv", rows, ["qid", "file_name", "query", "truth"])
    with pytest.raises(DataError, match=r"no key 'answer', only .* Set answer_key"):
        ImageQuestion(path, image_processor=name_of)
    found = ImageQuestion(path, image_processor=name_of, answer_key="truth")[0]
    assert (found["answers"], found["question_id"]) == (["yes"], "7")
    official = {"questions": [], "data_subtype": "val2014"}
    with pytest.raises(DataError, match=r"the VQA challenge's format has its own keys\. Leave out image_key"):
        ImageQuestion(saved(tmp_path / "o.json", official), image_processor=name_of, image_key="image")


def test_pairs_of_other_names_and_places(tmp_path):
    def pair(path, **kwargs):
        data = ImagePair(path, split="val", image_processor=lambda path, rng: None, **kwargs)
        return [*(data.names[i] for i in range(2)), data.sentences[0], int(data.labels[0])]

    rows = [["a.png", "b.png", "s", "True"]]
    named = saved(tmp_path / "a.csv", rows, ["left", "right", "statement", "target"])
    assert pair(named) == ["a.png", "b.png", "s", 1]
    bare = saved(tmp_path / "b.csv", rows)
    assert pair(bare, image_key=[1, 0], sentence_key=2, label_key=3) == ["b.png", "a.png", "s", 1]
    listed = saved(tmp_path / "a.json", [{"ids": [4, 5], "caption": "s", "label": 0}])
    assert pair(listed, image_key="ids", image_pattern="{:02d}.png") == ["04.png", "05.png", "s", 0]
    with pytest.raises(DataError, match=r"image_key is 'idz', and there is no key 'idz'.*Did you mean 'ids'"):
        pair(listed, image_key="idz")
    with pytest.raises(ConfigError, match="one column, or those of the left and of the right image"):
        pair(listed, image_key=["a", "b", "c"])


def test_videos_of_other_names(tmp_path):
    (tmp_path / "video7.mp4").write_bytes(b"")
    settings = {"video_processor": name_of, "split": "val"}
    rows = [{"video_id": 7, "text": "a dog"}]
    data = VideoText(saved(tmp_path / "a.json", rows), video_pattern="video{}.mp4", **settings)
    assert (data[0]["references"], data.names[0]) == (["a dog"], "video7.mp4")
    with pytest.raises(DataError, match=r"'video_id' is 7 \(int\), not a file name\. video_pattern"):
        VideoText(saved(tmp_path / "a.json", rows), **settings)
    rows = [[7, "what?", "a dog"]]
    path = saved(tmp_path / "b.json", rows)
    keys = {"video_key": 0, "question_key": 1, "answer_key": 2, "video_pattern": "video{}.mp4"}
    assert VideoQuestion(path, **keys, **settings)[0]["references"] == [["a dog"]]
    with pytest.raises(ConfigError, match="video_pattern: 'x' given"):
        VideoQuestion(path, **{**keys, "video_pattern": "x"}, **settings)


@given(st.dictionaries(st.text(max_size=8), st.integers(), max_size=5))
def test_any_row_gives_its_values_or_a_sentence(row):
    """No name of a column makes an error of another kind, and nothing of a row is lost."""
    columns = ColumnKeys([IMAGE, CAPTION], ["image"]).of("file")
    try:
        found = columns.fields(row)
    except DataError as error:
        assert "could be the column" in str(error)  # noqa: PT017
        return
    if isinstance(found, Fields):
        assert set(row.values()) <= set(found.values())
    else:
        assert found.startswith(lacks("image", row))
