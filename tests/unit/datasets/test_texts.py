"""What text processors leave of texts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vlkit.datasets.image_text import ImageText
from vlkit.datasets.nlvr import ImagePair
from vlkit.datasets.texts import Text, draw_caption, is_emptied, process
from vlkit.datasets.vqa import ImageQuestion
from vlkit.errors import BadSample
from vlkit.jobs.checks import data_problems, text_problems
from vlkit.processors.text import BlipCaption, BlipQuestion


def path_only(path, rng):
    return np.zeros(1)


def opened(kind, folder, rows, processor, split="train"):
    (folder / "rows.json").write_text(json.dumps(rows))
    return kind(str(folder / "rows.json"), split=split, image_processor=path_only, text_processor=processor)


@pytest.mark.parametrize("prompt", ["", "a picture of "])
def test_a_caption_that_a_processor_empties_is_no_sample(tmp_path, prompt):
    rows = [{"image": "a.jpg", "caption": ["...", "a dog"]}, {"image": "b.jpg", "caption": "!! (*)"}]
    dataset = opened(ImageText, tmp_path, rows, BlipCaption(prompt))
    for index, place in ((0, "rows.json:1.1"), (2, "rows.json:2")):
        with pytest.raises(BadSample, match=f"{place}: the text processor leaves nothing of the caption"):
            dataset[index]
    assert dataset[1]["text_input"] == f"{prompt}a dog"
    said = text_problems(dataset)
    assert said[0].startswith("2 of 3 texts checked are empty after text_processor (rows.json:1.1, rows.json:2), such")
    assert any("2 of 3 texts" in problem for problem in data_problems({"datasets.train.0": dataset}, str))
    evaluated = opened(ImageText, tmp_path, rows, BlipCaption(prompt), "val")
    assert evaluated[1]["references"] == ["!! (*)"]
    assert not any("texts checked" in problem for problem in data_problems({"datasets.eval.val": evaluated}, str))


def test_questions_sentences_and_drawn_captions(tmp_path):
    questions = opened(ImageQuestion, tmp_path, [{"image": "a", "question": "***", "answer": "x"}], BlipQuestion())
    with pytest.raises(BadSample, match="nothing of the question"):
        questions[0]
    assert text_problems(questions)[0].startswith("1 of 2 texts")
    pairs = opened(ImagePair, tmp_path, [{"images": ["a", "b"], "sentence": "...", "label": True}], BlipCaption())
    with pytest.raises(BadSample, match="nothing of the sentence"):
        pairs[0]
    assert pairs.texts() == [Text("rows.json:1", "...", "")]
    with pytest.raises(BadSample, match=r"s:1: the text processor leaves nothing of the caption '\.\.\.'"):
        draw_caption(["..."], "s:1", True, BlipCaption(), np.random.default_rng(0))
    assert draw_caption(["..."], "s:1", False, BlipCaption(), np.random.default_rng(0))["text_input"] == ""


def test_what_counts_as_emptied():
    assert is_emptied(str.lower, " ")
    assert not is_emptied(None, "x")
    assert not is_emptied(lambda text: text.split()[0], "x")  # which fails on an empty text
    assert process(str.upper, "a", "p", "caption") == "A"
