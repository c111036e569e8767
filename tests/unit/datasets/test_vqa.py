from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from vlkit.config.parts import dataset_part
from vlkit.datasets.loading import EvalLoader
from vlkit.datasets.vqa import ImageQuestion
from vlkit.errors import ConfigError, DataError

ROWS = [
    {
        "question_id": 1,
        "question": "What color?",
        "answer": ["red"] * 6 + ["blue"] * 4,
        "image": "a.png",
        "dataset": "vqa",
    },
    {"question_id": 2, "question": "Where is it?", "answer": "on the mat", "image": "b.png", "dataset": "vg"},
    {"question_id": 3, "question": "How many?", "answer": ["2"] * 10, "image": "a.png", "kind": "number"},
]


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    return tmp_path


def write(path, rows) -> str:
    text = "\n".join(json.dumps(row) for row in rows) if path.suffix == ".jsonl" else json.dumps(rows)
    path.write_text(text)
    return str(path)


def path_only(path, rng):
    return path


def opened(path, **arguments) -> ImageQuestion:
    return ImageQuestion(path, image_processor=path_only, **arguments)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_rows_of_vqa_and_visual_genome(folder, name):
    dataset = opened(write(folder / name, ROWS))
    assert len(dataset) == 3
    first, second, third = (dataset[i] for i in range(3))
    assert first["image"] == str(folder / "a.png")
    assert (first["answers"], first["weights"]) == (["red", "blue"], pytest.approx([0.6, 0.4]))
    assert (second["answers"], second["weights"]) == (["on the mat"], [0.2])
    assert (third["question_id"], third["kind"], third["sample_id"]) == (3, "number", f"{name}:3")
    assert first["image_id"] == third["image_id"] == "a.png"
    assert "references" not in first


def test_csv_and_rows_without_answers(folder):
    (folder / "rows.csv").write_text('image,question,answer\na.png,"what, exactly?",red\nb.png,where?,\n')
    dataset = opened(str(folder / "rows.csv"), split="test")
    assert [dataset[i]["references"] for i in range(2)] == [["red"], []]
    assert dataset[0]["text_input"] == "what, exactly?"
    with pytest.raises(
        DataError, match=r"line 3: it has no answer. A row needs 'image' \(a file name\), 'question' and"
    ):
        opened(str(folder / "rows.csv"))


def official(folder, subtype="val2014"):
    questions = [
        {"image_id": 42, "question": "Is it?", "question_id": 420},
        {"image_id": 7, "question": "Why?", "question_id": 70},
    ]
    annotation = {
        "question_id": 420,
        "image_id": 42,
        "answer_type": "yes/no",
        "answers": [{"answer": "yes", "answer_confidence": "maybe", "answer_id": n} for n in range(1, 11)],
    }
    write(folder / "questions.json", {"info": {}, "data_subtype": subtype, "questions": questions})
    write(folder / "annotations.json", {"info": {}, "annotations": [annotation]})
    return str(folder / "questions.json"), str(folder / "annotations.json")


def test_files_of_the_vqa_challenge(folder):
    questions, annotations = official(folder)
    dataset = opened(questions, answers=annotations, split="val")
    assert dataset[0]["image"] == str(folder / "val2014/COCO_val2014_000000000042.jpg")
    assert dataset[0]["references"] == ["yes"] * 10
    assert [dataset[i]["kind"] for i in range(2)] == ["yes/no", "other"]
    assert [dataset[i]["question_id"] for i in range(2)] == [420, 70]
    questions, _ = official(folder, "test-dev2015")
    assert opened(questions, split="test").image_path(1).endswith("test2015/COCO_test2015_000000000007.jpg")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"questions": [], "data_subtype": "val2014"}, "holds no rows"),
        (
            {"questions": [{"question": "q"}], "data_subtype": "val2014"},
            "row 1: no key 'question_id', only 'question'.*An official question file",
        ),
        ({"questions": [{"question": "q", "question_id": 1, "image_id": 2}]}, "no 'data_subtype'"),
    ],
)
def test_damaged_files_of_the_challenge(folder, data, message):
    with pytest.raises(DataError, match=message):
        opened(write(folder / "questions.json", data), split="test")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.png", "answer": "x"}, "row 1: no key 'question', only 'image', 'answer'"),
        ({"image": 3, "question": "q", "answer": "x"}, r"'image' is 3 \(int\), not a file name"),
        ({"image": "a.png", "question": None, "answer": "x"}, "'question' is None"),
        ({"image": "a.png", "question": "q", "answer": 3}, "neither a text nor a list of texts"),
        ({"image": "a.png", "question": "q", "anwser": "x"}, "no key 'answer'.*Did you mean 'anwser'"),
        ({"image": "a.png", "question": "q", "answer": "x", "question_id": 1.5}, "neither a whole number nor a text"),
        ("a.png", "is not a mapping"),
    ],
)
def test_faults_of_rows(folder, row, message):
    with pytest.raises(DataError, match=message):
        opened(write(folder / "rows.json", [row]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tran"}, "split: 'tran' given, train, val, test allowed. Did you mean 'train'"),
        ({"format": "xml"}, "format: 'xml' given"),
        ({"limit": 0}, "limit: 0"),
        ({"answers": "x.json", "format": "csv"}, "answers: is for official question files"),
    ],
)
def test_wrong_arguments(folder, arguments, message):
    with pytest.raises(ConfigError, match=f"image_question: {message}"):
        opened(write(folder / "rows.json", ROWS), **arguments)


def test_no_image_processor_and_no_root(folder):
    path = write(folder / "rows.json", ROWS)
    with pytest.raises(ConfigError, match="image_processor: none is set"):
        ImageQuestion(path)
    with pytest.raises(DataError, match=r"image_root: .*nowhere is not a folder"):
        opened(path, image_root=str(folder / "nowhere"))


def test_several_files_and_a_limit(folder):
    (folder / "more").mkdir()
    paths = [write(folder / "rows.json", ROWS), write(folder / "more/rows.json", ROWS[1:2])]
    dataset = opened(paths)
    assert [dataset[i]["image_id"] for i in range(4)] == ["a.png", "b.png", "a.png", "more/b.png"]
    assert dataset[3]["sample_id"].endswith("more/rows.json:1")
    assert len(opened(paths, limit=2)) == 2
    assert dict(dataset.images()) == {name: str(folder / name) for name in ("a.png", "b.png", "more/b.png")}


def test_problems(folder):
    rows = [*ROWS, {"question": "", "answer": "x", "image": "c.png"}]
    (folder / "list.json").write_text('["cat"]')
    found = opened(write(folder / "rows.json", rows), answer_list=str(folder / "list.json")).problems()
    assert len(found) == 3
    assert "1 of the 3 image files checked do not exist" in found[0]
    assert "image_root" in found[0]
    assert "empty" in found[1]
    assert "none of the 4 questions checked has an answer that is in answer_list" in found[2]
    (folder / "list.json").write_text('["red", "2"]')
    fine = opened(write(folder / "rows.json", ROWS), answer_list=str(folder / "list.json"))
    assert fine.problems() == []
    assert fine.answer_list == ["red", "2"]


def test_fingerprint_follows_the_files(folder):
    questions, annotations = official(folder)
    first = opened(questions, answers=annotations, split="val").fingerprint()
    (folder / "annotations.json").write_text('{"annotations": []}')
    assert opened(questions, answers=annotations, split="val").fingerprint() != first


def test_a_config_builds_it(folder):
    path = write(folder / "rows.json", ROWS)
    given = {"name": "image_question", "path": path, "image_processor": {"name": "blip_image_eval", "image_size": 16}}
    dataset = dataset_part({**given, "text_processor": {"name": "blip_question"}}, "datasets.eval.val").build()
    assert dataset[0]["image"].shape == (3, 16, 16)
    assert dataset[0]["text_input"] == "what color?"


def test_batches_and_workers(folder):
    dataset = opened(write(folder / "rows.json", ROWS), split="val")
    again = pickle.loads(pickle.dumps(dataset))
    assert [again[i] for i in range(3)] == [dataset[i] for i in range(3)]
    [batch] = EvalLoader(dataset, 3)
    assert batch["references"] == [dataset[i]["references"] for i in range(3)]
    assert batch["weights"][1] == [0.2]


def test_memory_is_flat():
    """A few flat buffers, whatever the number of rows."""
    from vlkit.datasets.question_table import QuestionRow, QuestionTable
    from vlkit.datasets.texts import Source

    def parts(count):
        rows = (QuestionRow(i, f"{i // 5}.jpg", f"what is {i}?", ["yes"] * 10, i) for i in range(count))
        table = QuestionTable([Source("f", "", rows)])
        return sum(isinstance(value, (list, dict)) and len(value) for value in vars(table).values()), table

    small, large = parts(10), parts(2000)
    assert small[0] == large[0] == 1
    assert large[1].name_of.dtype == np.int32
    assert large[1].question_id(1999) == 1999
