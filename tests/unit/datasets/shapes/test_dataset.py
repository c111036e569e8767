from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from vlkit.datasets.base import collate
from vlkit.datasets.shapes.captions import KINDS
from vlkit.datasets.shapes.checker import check
from vlkit.datasets.shapes.dataset import Shapes
from vlkit.datasets.shapes.scene import render
from vlkit.errors import DataError
from vlkit.registry import DATASETS


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_it_is_registered():
    assert DATASETS.get("shapes") is Shapes


def test_a_training_sample_has_a_scaled_image_and_a_true_caption():
    data = Shapes(size=10)
    sample = data.sample(3, rng())
    assert len(data) == 10
    assert sample["image"].shape == (3, 48, 48)
    assert sample["image"].dtype == torch.float32
    expected = torch.from_numpy(render(data.scene(3)).transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)
    assert torch.equal(sample["image"], expected)
    assert -1 <= float(sample["image"].min()) < float(sample["image"].max()) <= 1
    assert check(sample["text_input"], sample["scene"]).strict
    assert sample["kind"] == "clean"
    assert "references" not in sample
    assert json.loads(json.dumps(sample["scene"])) == data.scene(3).to_dict()


def test_training_captions_vary_with_the_generator_and_images_do_not():
    data = Shapes(size=5)
    samples = [data.sample(2, rng(seed)) for seed in range(20)]
    assert len({s["text_input"] for s in samples}) > 5
    assert all(torch.equal(s["image"], samples[0]["image"]) for s in samples)
    assert data.sample(2, rng(7))["text_input"] == samples[7]["text_input"]


def test_evaluation_samples_do_not_depend_on_the_generator():
    data = Shapes("val", size=20)
    for index in range(20):
        one, two = (data.sample(index, rng(seed)) for seed in (0, 1))
        assert one["text_input"] == two["text_input"] == one["references"][0]
        assert one["references"] == two["references"]
        assert len(set(one["references"])) == 5
        assert all(check(text, one["scene"]).strict for text in one["references"])
        assert one["negatives"] == two["negatives"]
        assert "swapped" in one["negatives"]
        for negative in one["negatives"].values():
            assert not check(negative, one["scene"]).strict


def test_web_texts_belong_to_their_image():
    data = Shapes(captions="web", noise=0.6, size=600)
    samples = [data.sample(index, rng(index)) for index in range(600)]
    kinds = Counter(s["kind"] for s in samples)
    assert set(kinds) == set(KINDS)
    assert kinds["clean"] / 600 == pytest.approx(0.4, abs=0.06)
    assert all(check(s["text_input"], s["scene"]).strict == (s["kind"] == "clean") for s in samples)
    again = [data.sample(index, rng(99))["text_input"] for index in range(50)]
    assert again == [s["text_input"] for s in samples[:50]]


def test_web_evaluation_keeps_true_references():
    sample = Shapes("val", captions="web", noise=1.0, size=3).sample(1, rng())
    assert sample["kind"] != "clean"
    assert check(sample["references"][0], sample["scene"]).strict


def test_streams_of_splits_and_seeds_are_disjoint():
    sets = [Shapes(split, seed=seed, size=300) for split in ("train", "val", "test") for seed in (0, 1)]
    scenes = [{data.scene(index) for index in range(300)} for data in sets]
    for a, b in itertools.combinations(scenes, 2):
        assert not a & b
    ids = [{data.sample(index, rng())["sample_id"] for index in range(3)} for data in sets]
    assert len(set().union(*ids)) == 18


def test_unique_captions_describe_one_sample_of_the_set():
    data = Shapes("test", size=500, unique=True)
    samples = [data.sample(index, rng()) for index in range(500)]
    owners = Counter(text for s in samples for text in set(s["references"]))
    assert max(owners.values()) == 1
    assert len({data.scene(index).signature for index in range(500)}) == 500
    plain = Shapes("test", size=500)
    texts = [plain.sample(index, rng())["text_input"] for index in range(500)]
    assert len(set(texts)) < 500  # else the option would do nothing
    assert [data.scene(i) for i in range(5)] == [Shapes("test", size=5, unique=True).scene(i) for i in range(5)]


def test_the_set_is_the_same_at_another_image_size():
    small, large = Shapes("val", size=3), Shapes("val", size=3, image_size=64)
    for index in range(3):
        one, two = small.sample(index, rng()), large.sample(index, rng())
        assert two["image"].shape == (3, 64, 64)
        assert one["scene"] == two["scene"]
        assert one["text_input"] == two["text_input"]


def test_processors_get_pixels_with_the_generator_and_texts():
    seen = []

    def image_processor(pixels, generator):
        seen.append((pixels.dtype, pixels.shape, generator))
        return torch.full((3, 8, 8), generator.random())

    data = Shapes("val", size=2, image_processor=image_processor, text_processor=str.upper)
    generator = rng(5)
    sample = data.sample(0, generator)
    assert seen == [(np.dtype(np.uint8), (48, 48, 3), generator)]
    assert float(sample["image"][0, 0, 0]) == pytest.approx(rng(5).random())
    assert sample["text_input"] == sample["references"][0].upper()
    assert sample["negatives"]["swapped"].isupper()


def test_samples_collate_and_the_set_pickles():
    data = Shapes("val", size=4, unique=True)
    copy = pickle.loads(pickle.dumps(data))
    batch = collate([copy[index] for index in range(4)])
    assert batch["image"].shape == (4, 3, 48, 48)
    assert batch["text_input"] == [data[index]["text_input"] for index in range(4)]
    assert all({"swapped"} <= set(n) <= {"swapped", "exchanged", "reversed"} for n in batch["negatives"])


def test_the_fingerprint_changes_with_every_argument():
    base = {"split": "val", "size": 10}
    changes = [{}, {"split": "test"}, {"size": 11}, {"seed": 1}, {"image_size": 64}, {"captions": "web"},
               {"noise": 0.1}, {"unique": True}, {"references": 2}]  # fmt: skip
    prints = [Shapes(**{**base, **change}).fingerprint() for change in changes]
    assert len(set(prints)) == len(changes)
    used = Shapes(**base)
    used.sample(0, rng())
    assert used.fingerprint() == prints[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "tset"}, "Did you mean 'test'"),
        ({"captions": "cleen"}, "Did you mean 'clean'"),
        ({"noise": 1.5}, "from 0 to 1"),
        ({"size": 0}, "at least 1"),
        ({"size": 2.5}, "whole number"),
        ({"seed": -1}, "from 0 to"),
        ({"image_size": 8}, "at least 16"),
        ({"references": 0}, "at least 1"),
        ({"unique": True}, "unique=True"),
        ({"split": "val", "unique": True, "captions": "web"}, "captions='web'"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(DataError, match=words):
        Shapes(**arguments)


def test_more_unique_scenes_than_exist_are_refused(monkeypatch):
    monkeypatch.setattr("vlkit.datasets.shapes.scene.COLORS", ("red",))
    monkeypatch.setattr("vlkit.datasets.shapes.scene._COUNT_SHARES", (1.1, 1.1))
    with pytest.raises(DataError, match="only 12 of size=40"):
        Shapes("val", size=40, unique=True).scene(0)


def test_importing_the_datasets_does_not_load_torch():
    code = "import sys, vlkit.datasets.shapes.heads; print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"
