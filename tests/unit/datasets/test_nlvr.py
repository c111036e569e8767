"""The dataset image_pair: samples, the exchange of images, and what it says about wrong data."""

from __future__ import annotations

import csv
import json
import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.unit.models import small
from tests.unit.tasks.shares import context
from vlkit.config.build import build
from vlkit.datasets.base import collate
from vlkit.datasets.loading import EvalLoader
from vlkit.datasets.nlvr import ImagePair, exchange_sides
from vlkit.errors import BadSample, ConfigError, DataError
from vlkit.models.blip.nlvr import BlipNlvr
from vlkit.registry import PROCESSORS
from vlkit.tasks.nlvr import Nlvr

ROWS = [
    {"images": ["a.png", "b.png"], "sentence": "The left image is red.", "label": "True"},
    {"images": ["b.png", "a.png"], "sentence": "Both are squares", "label": "False"},
    {"image0": "c.png", "image1": "a.png", "sentence": "one on the Right, one on the LEFT-hand side", "label": True},
]


def first_pixel(path, rng) -> torch.Tensor:
    """An image processor: [3, 1, 1], another for each file name."""
    return torch.full((3, 1, 1), float(ord(os.path.basename(path)[0])))


def rows_file(folder: Path, rows, name: str = "pairs.json") -> str:
    (folder / name).write_text(json.dumps(rows))
    return str(folder / name)


def dataset(path, **kwargs) -> ImagePair:
    return ImagePair(path, **{"image_processor": first_pixel, **kwargs})


def shown(sample) -> str:
    return "".join(chr(int(image[0, 0, 0])) for image in sample["images"])


def test_samples_of_evaluation_are_the_rows(tmp_path):
    data = dataset(rows_file(tmp_path, ROWS), split="val", text_processor=str.lower)
    samples = list(data)
    assert [shown(sample) for sample in samples] == ["ab", "ba", "ca"]
    assert [sample["label"] for sample in samples] == [1, 0, 1]
    assert [sample["text_input"] for sample in samples] == [
        "the left image is red.",
        "both are squares",
        "one on the right, one on the left-hand side",
    ]
    assert samples[1]["image_id"] == "b.png|a.png"
    assert samples[2]["sample_id"] == "pairs.json:3"
    assert samples[0]["images"].shape == (2, 3, 1, 1)
    for _ in range(10):
        assert shown(data.sample(0, np.random.default_rng())) == "ab"


def test_training_exchanges_images_and_sides_in_half_of_all_draws(tmp_path):
    data = dataset(rows_file(tmp_path, ROWS))
    drawn = [data.sample(2, np.random.default_rng(seed)) for seed in range(200)]
    found = {(shown(sample), sample["text_input"], sample["label"]) for sample in drawn}
    assert found == {
        ("ca", "one on the Right, one on the LEFT-hand side", 1),
        ("ac", "one on the Left, one on the RIGHT-hand side", 1),
    }
    assert 70 < sum(shown(sample) == "ac" for sample in drawn) < 130
    assert len({sample["image_id"] for sample in drawn}) == 1
    off = dataset(rows_file(tmp_path, ROWS), swap="off")
    assert {shown(off.sample(2, np.random.default_rng(seed))) for seed in range(20)} == {"ca"}


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_exchanging_twice_changes_nothing_but_odd_capitals(sentence):
    twice = exchange_sides(exchange_sides(sentence))
    assert twice.lower() == sentence.lower()
    assert exchange_sides(sentence + " upright, leftover, copyright lefty").endswith(
        " upright, leftover, copyright lefty"
    )


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(exclude_categories=["C"]), min_size=1).map(str.strip)] * 3, st.booleans()),
        min_size=1,
        max_size=5,
    ).filter(lambda rows: all(all(row[:3]) for row in rows))
)
def test_formats_hold_the_same(rows):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = [{"images": [a, b], "sentence": s, "label": str(y)} for a, b, s, y in rows]
        files = [rows_file(folder, pairs), str(folder / "pairs.jsonl"), str(folder / "pairs.csv")]
        Path(files[1]).write_text("\n".join(json.dumps(pair) for pair in pairs))
        with open(files[2], "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["image0", "image1", "sentence", "label"])
            writer.writerows([(a, b, s, int(y)) for a, b, s, y in rows])
        for file in files:
            data = dataset(file, split="val", image_processor=lambda path, rng: torch.zeros(1))
            assert [data[i]["text_input"] for i in range(len(data))] == [row[2] for row in rows], file
            assert [data[i]["image_id"] for i in range(len(data))] == [f"{row[0]}|{row[1]}" for row in rows]
            assert [data[i]["label"] for i in range(len(data))] == [int(row[3]) for row in rows]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"image": "a", "sentence": "s", "label": "True"}], r"row 1: no key 'images'.*Did you mean 'image'"),
        ([{"image0": "a", "sentence": "s", "label": "True"}], "no key 'image1'"),
        ([{"images": ["a", "b"], "sentense": "s", "label": "True"}], "no key 'sentence'.*Did you mean 'sentense'"),
        ([{"images": ["a"], "sentence": "s", "label": "True"}], r"'images' is \['a'\] .list., not a list of two"),
        ([{"images": ["a", " "], "sentence": "s", "label": "True"}], "an image is ' '"),
        ([{"images": ["a", "b"], "sentence": 3, "label": "True"}], r"'sentence' is 3 \(int\)"),
        ([{"images": ["a", "b"], "sentence": "s", "label": "yes"}], "'label' is 'yes'.*neither True nor False"),
        ([{"images": ["a", "b"], "sentence": "s", "label": None}], "'label' is None"),
        (["row"], "is not a mapping"),
        ([], "holds no rows. A row needs 'images'"),
    ],
)
def test_a_wrong_row_is_explained(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        dataset(rows_file(tmp_path, rows))


def test_a_csv_file_without_the_columns(tmp_path):
    (tmp_path / "pairs.csv").write_text("first,second,sentence,label\na,b,s,True\n")
    with pytest.raises(DataError, match=r"no key 'images', only 'first', 'second'.*'image0' and 'image1'"):
        dataset(str(tmp_path / "pairs.csv"))


def test_wrong_arguments_are_reported_together(tmp_path):
    file = rows_file(tmp_path, ROWS)
    with pytest.raises(ConfigError) as caught:
        ImagePair(file, split="trian", swap="side", limit=0)  # type: ignore[arg-type]
    for part in ("Did you mean 'train'", "Did you mean 'sides'", "limit: 0", "image_processor: none is set"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match=r"image_root: .* is not a folder"):
        dataset(file, image_root=str(tmp_path / "none"))


def test_problems(tmp_path):
    for name in "ab":
        Image.new("RGB", (4, 3), (9, 90, 200)).save(tmp_path / f"{name}.png")
    file = rows_file(tmp_path, [*ROWS[:2], {"images": ["a.png", "b.png"], "sentence": " ", "label": 0}])
    [empty] = dataset(file).problems()
    assert "1 empty sentences (pairs.json:3)" in empty
    with pytest.raises(BadSample, match="the sentence is empty"):
        dataset(file)[2]
    [missing] = dataset(rows_file(tmp_path, ROWS)).problems()
    assert "1 of the 3 image files" in missing
    [alike] = dataset(rows_file(tmp_path, ROWS[:1])).problems()
    assert alike.startswith("all 1 labels are True")
    assert dataset(rows_file(tmp_path, ROWS[:2])).problems() == []


def test_limit_fingerprint_images_and_pickle(tmp_path):
    file = rows_file(tmp_path, ROWS)
    data, less = dataset(file, split="val"), dataset(file, split="val", limit=2)
    assert (len(data), len(less)) == (3, 2)
    assert list(less.images()) == [(f"{name}.png", str(tmp_path / f"{name}.png")) for name in "ab"]
    prints = {data.fingerprint(), less.fingerprint(), dataset(file).fingerprint()}
    rows_file(tmp_path, ROWS[::-1])
    assert len(prints | {dataset(file, split="val").fingerprint()}) == 4
    copy = pickle.loads(pickle.dumps(data))
    assert shown(copy[2]) == "ca"


def test_from_files_to_scores(tmp_path):
    """Own images and a file of rows are all that an evaluation needs."""
    for name, color in (("a", (200, 30, 30)), ("b", (20, 200, 20)), ("c", (0, 0, 90))):
        Image.new("RGB", (20, 30), color).save(tmp_path / f"{name}.png")
    processor = build(PROCESSORS, {"name": "blip_image_eval", "image_size": 16})
    data = dataset(rows_file(tmp_path, ROWS), split="val", image_processor=processor)
    assert data.problems() == []
    torch.manual_seed(0)
    model = BlipNlvr(small.vit(), small.med(), "shapes", merge_from=1).eval()
    with torch.inference_mode():
        scores = Nlvr().evaluate(model, EvalLoader(data, 2), context(folder=tmp_path))
        logits = model.logits(collate([data[i] for i in range(3)]))
    assert scores["accuracy"] == pytest.approx(float((logits.argmax(-1) == torch.tensor([1, 0, 1])).float().mean()))
    rows = json.loads((tmp_path / "nlvr_val.json").read_text())
    assert [row["sample_id"] for row in rows] == ["pairs.json:1", "pairs.json:2", "pairs.json:3"]
