"""The dataset image_text: samples, memory, and what it says about wrong data."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.assets.make_data import coco_file
from vlkit.config.build import build, check
from vlkit.datasets.image_text import ImageText
from vlkit.datasets.loading import EvalLoader, TrainLoader
from vlkit.datasets.mixture import Mixture
from vlkit.datasets.shapes.dataset import Shapes
from vlkit.datasets.shapes.scene import render
from vlkit.errors import BadSample, ConfigError, DataError
from vlkit.processors.open_image import open_image
from vlkit.registry import DATASETS


def pixels(path, rng):
    """An image processor: uint8 [H, W, 3]."""
    return np.array(open_image(path))


def path_only(path, rng):
    return path


def rows_file(folder: Path, rows, name: str = "captions.json") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(rows))
    return str(folder / name)


def picture(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (9, 90, 200)).save(folder / name)


def dataset(path, **kwargs) -> ImageText:
    return ImageText(path, **{"image_processor": path_only, **kwargs})


def test_training_gives_pairs_and_evaluation_images(tmp_path):
    file = coco_file(tmp_path, count=3, seed=5, captions=4)
    scenes = [render(Shapes(size=3, seed=5).scene(i)) for i in range(3)]
    train = ImageText(str(file), image_processor=pixels, text_processor=str.upper)
    texts = [(sample["image_id"], sample["text_input"]) for sample in train]
    assert len(train) == 12
    assert [image_id for image_id, _ in texts] == [1] * 4 + [2] * 4 + [3] * 4
    assert train[5]["sample_id"] == "captions.json:2.2"
    assert "references" not in train[5]
    np.testing.assert_array_equal(train[5]["image"], scenes[1])

    val = ImageText(str(file), split="val", image_processor=pixels, text_processor=str.upper)
    assert len(val) == 3
    for i, sample in enumerate(val):
        np.testing.assert_array_equal(sample["image"], scenes[i])
        assert [text.upper() for text in sample["references"]] == [text for which, text in texts if which == i + 1]
        assert sample["text_input"] == sample["references"][0].upper()
        assert (sample["image_id"], sample["sample_id"]) == (i + 1, f"captions.json:{i + 1}")
    assert train.problems() == val.problems() == []


def test_rows_of_one_image_are_joined_for_evaluation(tmp_path):
    rows = [{"image": name, "caption": text} for name, text in [("a", "1"), ("b", "2"), ("a", "3"), ("a", " ")]]
    val = dataset(rows_file(tmp_path, [*rows, {"image": "c"}]), split="test")
    assert [sample["references"] for sample in val] == [["1", "3"], ["2"], []]
    assert [sample["text_input"] for sample in val] == ["1", "2", ""]
    assert [sample["image_id"] for sample in val] == ["a", "b", "c"]
    assert [sample["sample_id"] for sample in val] == ["captions.json:1", "captions.json:2", "captions.json:5"]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.text(max_size=6).filter(str.strip),
            st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9), max_size=4),
            st.none() | st.integers(0, 2**63 - 1) | st.text(min_size=1, max_size=4),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_round_trip(rows):
    as_given = [{"image": image, "caption": captions, "image_id": image_id} for image, captions, image_id in rows]
    with tempfile.TemporaryDirectory() as folder:
        file = rows_file(Path(folder), as_given)
        val = pickle.loads(pickle.dumps(dataset(file, split="val", image_root=folder)))
        expected: dict[str, list[str]] = {}
        for image, captions, _ in rows:
            expected.setdefault(image, []).extend(captions)
        assert [val.image_path(i) for i in range(len(val))] == [os.path.join(folder, name) for name in expected]
        assert [val.table.captions_of(i) for i in range(len(val))] == list(expected.values())
        firsts = {image: (image if image_id is None else image_id) for image, _, image_id in reversed(rows)}
        assert [sample["image_id"] for sample in val] == [firsts[image] for image in expected]
        pairs = [(image, caption) for image, captions, _ in rows for caption in captions]
        if not pairs:
            return
        train = dataset(file)
        assert [train.table.captions[i] for i in range(len(train))] == [caption for _, caption in pairs]
        assert [train.table.images[int(i)] for i in train.table.image_of] == [image for image, _ in pairs]
        good = [train[i]["sample_id"] for i, (_, caption) in enumerate(pairs) if caption.strip()]
        assert len(set(good)) == len(good)


def test_several_files_share_a_root_or_bring_their_own(tmp_path):
    first = rows_file(tmp_path / "a", [{"image": "1.png", "caption": "x"}])
    second = rows_file(tmp_path / "b" / "c", [{"image": "1.png", "caption": "y"}])
    own = dataset([first, second])
    assert [sample["image"] for sample in own] == [str(tmp_path / "a/1.png"), str(tmp_path / "b/c/1.png")]
    assert [sample["image_id"] for sample in own] == ["a/1.png", "b/c/1.png"]
    assert len({sample["sample_id"] for sample in own}) == 2
    shared = dataset([first, second], image_root=str(tmp_path), split="val")
    assert [sample["image"] for sample in shared] == [str(tmp_path / "1.png")]
    assert shared[0]["references"] == ["x", "y"]


def test_limit_and_fingerprint(tmp_path):
    file = coco_file(tmp_path, count=3, captions=2)
    prints = {dataset(str(file), **more).fingerprint() for more in ({}, {"limit": 5}, {"split": "val"})}
    assert len(prints) == 3
    assert [len(dataset(str(file), limit=limit)) for limit in (1, 5, 99)] == [1, 5, 6]
    again = dataset(str(coco_file(tmp_path / "copy", count=3, captions=2)))
    assert again.fingerprint() in prints
    assert dataset(str(coco_file(tmp_path / "copy", count=3, captions=2, seed=1))).fingerprint() not in prints


def test_the_generator_and_bad_images_pass_through(tmp_path):
    file = rows_file(tmp_path, [{"image": "none.png", "caption": "x"}, {"image": "b", "caption": ""}])
    assert dataset(file, image_processor=lambda path, rng: rng).sample(0, "generator")["image"] == "generator"
    with pytest.raises(BadSample, match=r"none.png: no such file"):
        dataset(file, image_processor=pixels)[0]
    with pytest.raises(BadSample, match=r"captions.json:2: the caption is empty"):
        dataset(file)[1]


def test_workers_read_what_one_process_reads(tmp_path):
    val = ImageText(str(coco_file(tmp_path, count=7)), split="val", image_processor=pixels)
    (tmp_path / "images/000003.png").write_bytes(b"broken")
    alone, shared = EvalLoader(val, 2), EvalLoader(val, 2, num_workers=2)
    for one, two in zip(list(alone), list(shared), strict=True):
        assert one.keys() == two.keys()
        assert one["references"] == two["references"]
        assert one["image"].equal(two["image"])
    assert alone.bad == shared.bad == [(str(tmp_path / "images/000003.png"), alone.bad[0][1])]
    train = TrainLoader(Mixture([ImageText(str(tmp_path), image_processor=pixels)]), 4)
    batch = train.next_step()[0]
    assert batch["image"].shape == (4, 48, 48, 3)
    assert len(set(batch["sample_id"])) == 4


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"image_processor": None}, "image_processor: none is set"),
        ({"split": "tran"}, "split: 'tran' given, train, val, test allowed. Did you mean 'train'"),
        ({"format": "jason"}, "format: 'jason' given, auto, json"),
        ({"limit": 0}, "limit: 0 given"),
        ({"path": []}, "path: [] given"),
        ({"path": ["a.json", "a.json"]}, "one annotation file or several different ones"),
    ],
)
def test_a_wrong_argument_is_explained(tmp_path, arguments, part):
    file = rows_file(tmp_path, [{"image": "a", "caption": "b"}])
    with pytest.raises(ConfigError) as raised:
        ImageText(**{"path": file, "image_processor": path_only, **arguments})
    assert part in str(raised.value)


def test_all_wrong_arguments_are_reported_at_once(tmp_path):
    with pytest.raises(ConfigError) as raised:
        ImageText([], split="x", format="y", limit=-1)
    assert len(raised.value.problems) == 5


def test_a_config_builds_it(tmp_path):
    mapping = {"name": "image_text", "path": str(coco_file(tmp_path, count=2)), "split": "val"}
    assert check(DATASETS, mapping, provided=["image_processor"]) == []
    assert len(build(DATASETS, mapping, image_processor=path_only)) == 2
    assert "Did you mean 'val'?" in check(DATASETS, {**mapping, "split": "vall"})[0]


def test_nothing_to_train_on_and_no_such_root(tmp_path):
    file = rows_file(tmp_path / "data", [{"image": "a", "caption": []}, {"image": "b", "caption": None}])
    with pytest.raises(DataError, match=r"captions.json: no image has a caption to train on.*split: val"):
        dataset(file)
    assert len(dataset(file, split="val")) == 2
    with pytest.raises(DataError, match=r"image_root: .*/dta is not a folder.*Did you mean 'data'"):
        dataset(file, image_root=str(tmp_path / "dta"))


def test_missing_images_are_counted_and_the_closest_is_named(tmp_path):
    for name in ("one.png", "sub/two.png"):
        picture(tmp_path, name)
    names = ["one.png", "sub/tvo.png", "x.png", "y.png", "z.png"]
    found = dataset(rows_file(tmp_path, [{"image": name, "caption": "c"} for name in names])).problems()
    assert len(found) == 1
    assert found[0].startswith("4 of the 5 image files checked do not exist: ")
    assert f"{tmp_path}/sub/tvo.png, {tmp_path}/x.png, {tmp_path}/y.png, ..." in found[0]
    assert f"The folder {tmp_path}/sub holds no 'tvo.png'. Did you mean 'two.png'?" in found[0]
    assert f"image_root, which is {tmp_path}:" in found[0]
    wrong_folder = dataset(rows_file(tmp_path, [{"image": "sbu/two.png", "caption": "c"}])).problems()
    assert f"The folder {tmp_path} holds no 'sbu'. Did you mean 'sub'?" in wrong_folder[0]


def test_corrupt_images_are_named(tmp_path):
    for n in range(40):
        picture(tmp_path, f"{n}.png")
    for n in (0, 20):
        (tmp_path / f"{n}.png").write_bytes(b"no picture")
    rows = [{"image": f"{n}.png", "caption": "c"} for n in range(40)]
    found = dataset(rows_file(tmp_path, rows), split="val").problems()
    assert [text.partition(":")[0] for text in found] == [
        f"the image {tmp_path / name} cannot be used" for name in ("0.png", "20.png")
    ]


def test_problems_look_at_no_more_rows_than_they_may(tmp_path):
    rows = [{"image": f"{n}.png", "caption": "c"} for n in range(100)]
    assert dataset(rows_file(tmp_path, rows)).problems(limit=10)[0].startswith("10 of the 10 image files")


def test_captions_and_ids_that_harm_are_reported(tmp_path):
    for name in "abc":
        picture(tmp_path, f"{name}.png")
    rows = [
        {"image": "a.png", "caption": ["x", " "], "image_id": 1},
        {"image": "b.png", "caption": None, "image_id": 2},
        {"image": "c.png", "caption": "x", "image_id": 1},
        {"image": "a.png", "caption": "x", "image_id": 3},
        {"image": "c.png", "caption": "x"},
    ]
    file = rows_file(tmp_path, rows)
    without, empty, ids = dataset(file).problems()
    assert without == "1 image (captions.json:2) without a caption, so not trained on."
    assert empty == "1 sample (captions.json:1.2) with an empty caption. Fill it or delete it."
    assert ids.startswith(
        "2 image ids do not tell images apart (1 is the id of a.png and of c.png; a.png has the ids 1 and 3): "
    )
    assert dataset(file, split="val").problems()[0].startswith("1 sample (captions.json:1) with an empty caption")


def test_repeated_rows_do_no_harm(tmp_path):
    picture(tmp_path, "a.png")
    rows = [{"image": "a.png", "caption": "x", "image_id": 1}] * 3
    assert dataset(rows_file(tmp_path, rows)).problems() == []


def test_domains_and_image_files_are_reported(tmp_path):
    rows = [
        {"image": "COCO_val2014_000000000042.jpg", "caption": ["a cat"], "domain": "in-domain"},
        {"image": "COCO_val2014_000000000007.jpg", "caption": ["a dog"], "domain": "out-domain"},
        {"image": "COCO_val2014_000000000001.jpg", "caption": ["a cow"]},
    ]
    found = dataset(rows_file(tmp_path, rows), split="val", image_ids="coco")
    assert [(sample["image_id"], sample.get("domain")) for sample in found] == [
        (42, "in-domain"),
        (7, "out-domain"),
        (1, None),
    ]
    assert list(found.images()) == [
        (number, str(tmp_path / row["image"])) for number, row in zip((42, 7, 1), rows, strict=True)
    ]
    with pytest.raises(ConfigError, match=r"image_ids: 'cocoa' given, rows, coco allowed\. Did you mean 'coco'\?"):
        dataset(rows_file(tmp_path, rows), image_ids="cocoa")
