"""RandAugment of the original: every operation, its arguments by level, and seeded runs."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.parity.golden import Case
from vlkit.processors.randaugment import RandomAugment, arguments, auto_contrast, operate


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("randaugment")


class Fixed:
    """A generator that draws one number for ever."""

    def __init__(self, value: float):
        self.value = value

    def random(self) -> float:
        return self.value


def as_lists(value):
    return [as_lists(v) for v in value] if isinstance(value, (tuple, list)) else value


def test_operations_equal_the_original(case):
    image = case.arrays["image"]
    before = image.copy()
    for i, (name, args) in enumerate(case.info["ops"]):
        got = operate(name, image, *args, original=True)
        np.testing.assert_array_equal(got, case.arrays[f"op_{i:02d}"], err_msg=f"{name} {args}")
    np.testing.assert_array_equal(image, before, err_msg="an operation changed its input")


def test_operations_on_low_contrast_equal_the_original(case):
    names = [key.removeprefix("low_") for key in case.arrays if key.startswith("low_")]
    assert names
    for name in names:
        got = operate(name, case.arrays["image_low_contrast"], original=True)
        np.testing.assert_array_equal(got, case.arrays[f"low_{name}"], err_msg=name)


@pytest.mark.parametrize(("stored", "image"), [("image", "image"), ("low", "image_low_contrast")])
def test_auto_contrast_is_pils_by_default(case, stored, image):
    np.testing.assert_array_equal(auto_contrast(case.arrays[image]), case.arrays[f"pil_AutoContrast_{stored}"])


def test_arguments_of_levels_equal_the_original(case):
    for name, levels in case.info["level_to_arguments"].items():
        for level, expected in levels.items():
            got = [as_lists(arguments(name, float(level), Fixed(draw))) for draw in (0.1, 0.9)]
            assert all(one in expected for one in got), (name, level, got)
            assert all(one in got for one in expected), (name, level, got)


def test_seeded_runs_equal_the_original(case):
    for run in case.info["sequences"]:
        seed = run["seed"]
        n, level = re.search(r"RandomAugment\((\d+), (\d+)", case.info["arrays"][f"random_{seed}"]["what"]).groups()
        augment = RandomAugment(int(n), int(level), case.info["augs"], original=True)
        applied = as_lists(augment.draw(np.random.RandomState(seed)))
        assert applied == run["applied"], seed
        assert {name for name, *_ in applied} <= set(run["picked"])
        got = augment(case.arrays["image"], np.random.RandomState(seed))
        np.testing.assert_array_equal(got, case.arrays[f"random_{seed}"], err_msg=f"seed {seed}")
