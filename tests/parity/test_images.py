"""The evaluation transform and the crops of the original, on Pillow's side of the choice of resizers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.parity import golden
from tests.parity.golden import Case
from vlkit.processors.image import BlipImageEval
from vlkit.processors.resize import METHODS, square


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("images")


def files(case: Case) -> list[Path]:
    """The pictures of the case: from its own folder, else from the committed one."""
    places = [golden.GOLDEN_DIR, golden.ASSETS / "open"]
    return [next(p / name for p in places if (p / name).is_file()) for name in case.info["files"]]


def what(case: Case, key: str) -> str:
    return case.info["arrays"][key]["what"]


def step(case: Case, key: str) -> int:
    """Of an array that holds every n-th pixel, n."""
    match = re.search(r"every (\d+)\w\w pixel", what(case, key))
    return int(match[1]) if match else 1


def check_pixels(case: Case, key: str, pixels: np.ndarray, method: str) -> None:
    difference = np.abs(pixels.astype(int) - case.arrays[key].astype(int))
    assert difference.shape == case.arrays[key].shape
    assert difference.max() <= (0 if method == "pil" else 2), (key, method)
    assert difference.mean() <= (0 if method == "pil" else 1), (key, method)


def test_evaluation_transform_equals_the_original(case):
    for i, path in enumerate(files(case)):
        size = case.arrays[f"eval_{i}"].shape[-1]
        case.expect(f"eval_{i}", BlipImageEval(size)(path))


def test_gray_image_equals_the_original(case):
    gray = Image.open(files(case)[0]).convert("L")
    n = step(case, "eval_gray")
    size = int(case.arrays["eval_gray"].shape[-1] * n)
    case.expect("eval_gray", BlipImageEval(size)(gray)[:, ::n, ::n])


@pytest.mark.parametrize("method", METHODS)
def test_resized_pixels_equal_the_original(case, method):
    for i, path in enumerate(files(case)):
        for key in (f"resized_{i}", f"resized_up_{i}"):
            size = int(re.search(r"Resize\(\((\d+), \d+\)", what(case, key))[1])
            n = step(case, key)
            check_pixels(case, key, square(path, size, method)[::n, ::n], method)


@pytest.mark.parametrize("method", METHODS)
def test_crops_equal_the_original(case, method):
    for i, path in enumerate(files(case)):
        numbers = re.search(r"= \(([\d, ]+)\), size (\d+)", what(case, f"crop_{i}"))
        box = tuple(int(n) for n in numbers[1].split(","))
        pixels = square(path, int(numbers[2]), method, lambda height, width, box=box: box)
        check_pixels(case, f"crop_{i}", pixels, method)
        check_pixels(case, f"crop_flip_{i}", pixels[:, ::-1], method)


def test_processors_take_the_original_pixels_without_resizing(case):
    pixels = case.arrays["resized_0"]
    assert torch.equal(BlipImageEval(pixels.shape[0])(pixels), BlipImageEval(pixels.shape[0])(files(case)[0]))
