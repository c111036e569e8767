from __future__ import annotations

import numpy as np
import pytest
import torch

from vlkit.datasets.base import collate
from vlkit.datasets.shapes.heads import ShapesDialog, ShapesNLVR, ShapesVideo, ShapesVideoVQA, ShapesVQA
from vlkit.errors import DataError
from vlkit.registry import DATASETS

NAMES = {
    "shapes_vqa": ShapesVQA,
    "shapes_nlvr": ShapesNLVR,
    "shapes_dialog": ShapesDialog,
    "shapes_video": ShapesVideo,
    "shapes_video_vqa": ShapesVideoVQA,
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["train", "val"])
def test_samples_are_complete_deterministic_and_collate(name, split):
    data = DATASETS.get(name)(split=split, size=6)
    assert type(data) is NAMES[name]
    one, two = data.sample(2, rng(1)), data.sample(2, rng(1))
    texts = {key: value for key, value in one.items() if not torch.is_tensor(value)}
    assert texts == {key: two[key] for key in texts}
    batch = collate([data[index] for index in range(6)])
    assert len(set(batch["sample_id"])) == 6
    assert {"text_input", "image_id"} <= set(batch)
    assert sum(torch.is_tensor(value) and value.dtype == torch.float32 for value in batch.values()) == 1


def test_questions_vary_in_training_only():
    train, val = ShapesVQA("train", size=3), ShapesVQA("val", size=3)
    assert len({train.sample(0, rng(seed))["text_input"] for seed in range(20)}) > 3
    assert len({val.sample(0, rng(seed))["text_input"] for seed in range(20)}) == 1
    sample = val.sample(1, rng())
    assert sample["answers"] == [val.question(1).answer]
    assert sample["answers"][0] in ShapesVQA.answer_list
    assert sample["weights"] == [1.0]


def test_pairs_hold_both_images_and_a_label():
    data = ShapesNLVR("val", size=40)
    sample = data.sample(0, rng())
    assert sample["images"].shape == (2, 3, 48, 48)
    assert not torch.equal(sample["images"][0], sample["images"][1])
    assert sample["scenes"] == [data.scene(0).to_dict(), data.statement(0).right.to_dict()]
    assert {data.sample(index, rng())["label"] for index in range(40)} == {0, 1}


def test_dialogs_have_the_rounds_and_candidates_asked_for():
    data = ShapesDialog("val", size=30, rounds=4, candidates=10, text_processor=str.upper)
    for index in range(30):
        sample = data.sample(index, rng())
        assert len(data.scene(index).objects) >= 2
        assert len(sample["dialog"]) == 4
        for row in sample["dialog"]:
            assert row["answer_options"][row["gt_index"]] == row["answer"]
            assert len(row["answer_options"]) == len(row["gt_relevance"]) == 10
            assert row["question"].isupper()


def test_videos_have_frames_and_captions():
    data = ShapesVideo(size=3, length=5, frames=2, references=4)
    sample = data.sample(0, rng())
    assert sample["video"].shape == (2, 3, 48, 48)
    assert sample["text_input"] == sample["references"][0]
    assert len(set(sample["references"])) == 4
    assert len(data.video(0).frames) == 5
    # The middles of the two halves.
    whole = ShapesVideo(size=3, length=5, frames=5).sample(0, rng())["video"]
    assert (sample["video"] == whole[[1, 3]]).all()


def test_four_frames_show_every_object_and_one_does_not():
    data = ShapesVideo(size=40)
    for index in range(40):
        video = data.video(index)
        looks = {(o.color, o.shape) for o in video.objects}
        seen = {(o.color, o.shape) for i in (1, 3, 5, 7) for o in video.frames[i].objects}
        assert seen == looks
        assert len(video.frames[4].objects) < 3


def test_questions_about_videos_have_listed_answers():
    data = ShapesVideoVQA(size=60, frames=2)
    samples = [data.sample(i, rng()) for i in range(60)]
    assert all(sample["answers"][0] in data.answer_list for sample in samples)
    assert all(sample["text_input"].endswith("?") for sample in samples)
    assert {sample["kind"] for sample in samples} >= {"exist", "color", "shape"}
    assert samples[0]["video"].shape == (2, 3, 48, 48)


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (ShapesVQA, {"split": "vall"}, "Did you mean 'val'"),
        (ShapesDialog, {"rounds": 0}, "at least 1"),
        (ShapesDialog, {"candidates": 45}, "from 2 to 44"),
        (ShapesVideo, {"length": 2}, "at least 3"),
        (ShapesVideo, {"frames": 0}, "at least 1"),
        (ShapesVideo, {"references": 9}, "from 1 to 8"),
    ],
)
def test_wrong_arguments_are_named(kind, arguments, words):
    with pytest.raises(DataError, match=words):
        kind(**arguments)


def test_fingerprints_tell_the_sets_apart():
    assert len({kind(split="val", size=5).fingerprint() for kind in NAMES.values()}) == len(NAMES)
