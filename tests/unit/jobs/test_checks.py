"""What is found before the first step."""

from __future__ import annotations

import logging
import shutil
from collections import namedtuple

import pytest
import torch
from torch import nn

from tests.assets.toy import ToyDataset
from vlkit.errors import DataError
from vlkit.jobs.checks import (
    checkpoint_bytes,
    data_problems,
    disk_problems,
    encoder_size,
    first_sample,
    human,
    image_size_problems,
)


class Reporting(ToyDataset):
    """A dataset with this to say about itself."""

    def __init__(self, size: int, *found: str):
        super().__init__(size)
        self.found = list(found)

    def problems(self, limit: int = 20_000) -> list[str]:
        return self.found


class Encoder(nn.Module):
    """Something with an image encoder for ``size`` pixels."""

    def __init__(self, size: int | None):
        super().__init__()
        self.visual_encoder = nn.Module()
        self.visual_encoder.patch_embed = nn.Module()
        self.visual_encoder.patch_embed.img_size = None if size is None else (size, size)


def test_problems_of_all_datasets_with_their_place_and_advice():
    datasets = {"datasets.train.0": Reporting(3, "a is torn"), "datasets.eval.val": Reporting(3, "b is lost")}
    found = data_problems(datasets, lambda key: f"run.yaml: {key}")
    assert found[:2] == ["run.yaml: datasets.train.0: a is torn", "run.yaml: datasets.eval.val: b is lost"]
    assert "run.bad_samples=skip" in found[2]
    assert data_problems({"x": Reporting(3)}, str) == []


def test_skipped_problems_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        assert data_problems({"x": Reporting(3, "a is torn")}, str, raise_bad=False) == []
    assert "x: a is torn" in caplog.text


def test_an_empty_dataset_is_a_problem_in_any_case():
    assert data_problems({"x": Reporting(0)}, str, raise_bad=False) == ["x: the dataset is empty."]


def test_of_many_problems_the_first_are_shown():
    found = data_problems({"x": Reporting(3, *(f"number {i} is torn" for i in range(30)))}, str)
    assert "and 10 more problems" in found[-2]
    assert len(found) == 22


@pytest.mark.parametrize(("size", "count"), [(4, 0), (None, 0), (5, 1)])
def test_image_sizes(size, count):
    found = image_size_problems(Encoder(size), {"x": ToyDataset(2)}, str)
    assert len(found) == count
    assert all("4x4 pixels" in problem and "5x5" in problem for problem in found)


def test_models_without_an_image_encoder_take_anything():
    assert encoder_size(nn.Linear(2, 2)) is None
    assert image_size_problems(nn.Linear(2, 2), {"x": ToyDataset(2)}, str) == []


def test_the_first_sample_that_can_be_used():
    assert first_sample(ToyDataset(9, bad=[0, 1]))["sample_id"] == "toy-2"
    assert first_sample(ToyDataset(90, bad=range(60)))["sample_id"] > "toy-59"
    with pytest.raises(DataError, match="none of its 40 samples that were tried can be used"):
        first_sample(ToyDataset(40, bad=range(40)))
    with pytest.raises(DataError, match=r"none of its first 3 samples can be used: toy/2.jpg: cannot be decoded"):
        first_sample(ToyDataset(3, bad=range(3)))
    with pytest.raises(DataError, match="fails at index 0: OSError"):
        first_sample(ToyDataset(3, broken=[0]))


def test_the_size_of_a_checkpoint_counts_shared_tensors_once_and_the_moments_of_what_is_trained():
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False), nn.Linear(10, 5, bias=False))
    model[1].weight = model[0].weight
    model[2].requires_grad_(False)
    model.register_buffer("queue", torch.zeros(7))
    assert checkpoint_bytes(model) == 4 * (100 + 50 + 7) + 2 * 4 * 100


def test_disk_space_counts_checkpoints_that_are_there(tmp_path, monkeypatch):
    model = nn.Linear(10, 10, bias=False)  # 1200 bytes a checkpoint
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 2400))
    out = tmp_path / "new" / "run"
    assert disk_problems(model, out, keep=1) == []
    (problem,) = disk_problems(model, out, keep=2)
    assert "2.4 kB are free, 3.6 kB are needed (1.2 kB each)" in problem
    (out / "checkpoints/step_00000001").mkdir(parents=True)
    assert disk_problems(model, out, keep=2) == []


def test_bytes_for_people():
    assert [human(count) for count in (5, 1500, 2.5e6, 3e9, 4e12)] == ["5 B", "1.5 kB", "2.5 MB", "3.0 GB", "4.0 TB"]
