from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.processors.pictures import encoded, noise, scene
from vlkit.errors import BadSample, ConfigError
from vlkit.processors.image import MEAN, STD, Normalize
from vlkit.registry import PROCESSORS

SCENE = scene(60, 80)


def eval_processor(**arguments):
    return PROCESSORS.get("blip_image_eval")(**arguments)


def train_processor(**arguments):
    return PROCESSORS.get("blip_image_train")(**arguments)


def test_evaluation_resizes_and_normalizes():
    tensor = eval_processor(image_size=32)(SCENE, np.random.default_rng(0))
    resized = np.asarray(Image.fromarray(SCENE).resize((32, 32), Image.Resampling.BICUBIC))
    expected = (resized / 255 - MEAN) / STD
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    np.testing.assert_allclose(tensor.numpy(), expected.transpose(2, 0, 1), atol=1e-6)


@pytest.mark.parametrize("resize", ["pil", "fast"])
def test_one_number_holds_for_all_channels(resize):
    pixels = noise(16, 16)
    pixels.flags.writeable = False
    tensor = eval_processor(image_size=16, mean=0.5, std=0.5, resize=resize)(pixels)
    np.testing.assert_allclose(tensor.numpy(), (pixels / 127.5 - 1).transpose(2, 0, 1), atol=1e-6)


def test_training_without_randomness_is_evaluation():
    same = {"image_size": 48, "mean": [0.1, 0.2, 0.3], "std": 2}
    train = train_processor(min_scale=1, ratio=(4 / 3, 4 / 3), flip=0, randaugment=False, **same)
    torch.testing.assert_close(train(SCENE), eval_processor(**same)(SCENE), rtol=0, atol=0)


@pytest.mark.parametrize("resize", ["pil", "fast"])
def test_flip_mirrors_left_and_right(resize):
    fixed = {"image_size": 40, "randaugment": False, "resize": resize}
    file = encoded(SCENE, "PNG")
    plain = train_processor(flip=0, **fixed)(file, np.random.default_rng(3))
    mirrored = train_processor(flip=1, **fixed)(file, np.random.default_rng(3))
    assert torch.equal(mirrored, plain.flip(-1))
    assert not torch.equal(mirrored, plain)


@pytest.mark.parametrize("resize", ["pil", "fast"])
def test_the_seed_alone_decides(resize):
    train = train_processor(image_size=24, resize=resize)
    state = np.random.get_state()[1].copy()
    torch_state = torch.get_rng_state()
    first, again, other = (train(SCENE, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    copy = pickle.loads(pickle.dumps(train))
    assert torch.equal(copy(SCENE, np.random.default_rng(5)), first)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_without_a_generator_every_call_differs():
    train = train_processor(image_size=24)
    assert len({train(SCENE).numpy().tobytes() for _ in range(6)}) > 1


def test_the_source_is_not_changed():
    pixels = noise(24, 24)
    before = pixels.copy()
    train, evaluation = train_processor(image_size=24, flip=1), eval_processor(image_size=24)
    for seed in range(10):
        train(pixels, np.random.default_rng(seed))
        evaluation(pixels)
    np.testing.assert_array_equal(pixels, before)


def test_randaugment_can_be_the_originals():
    dim = (SCENE // 3 + 40).astype(np.uint8)
    whole = {"image_size": 24, "min_scale": 1, "ratio": (4 / 3, 4 / 3), "flip": 0, "mean": 0, "std": 1}

    def blotted_out(original: bool) -> int:
        """How many of 60 images AutoContrast blots out."""
        train = train_processor(randaugment_original=original, **whole)
        return sum(bool((train(dim, np.random.default_rng(s)) == 1).all()) for s in range(60))

    assert blotted_out(original=False) == 0
    assert blotted_out(original=True) > 0


def test_bad_pictures_are_bad_samples(tmp_path):
    for resize in ("pil", "fast"):
        for processor in (eval_processor(resize=resize), train_processor(resize=resize)):
            with pytest.raises(BadSample, match="no such file"):
                processor(tmp_path / "nothing.jpg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"resize": "fats"},
            r"'fats' is not a way to resize; give 'pil' \(exact\) or 'fast'.*Did you mean 'fast'",
        ),
        ({"image_size": 0}, "image_size: 0 pixels"),
        ({"mean": [1, 2]}, "mean: .* one number, or three"),
        ({"std": 0}, "std: 0; every number must be above 0"),
        ({"min_scale": 0}, "min_scale, max_scale: from 0 to 1.0"),
        ({"max_scale": 1.5}, "not above 1"),
        ({"ratio": (2, 1)}, "ratio: from 2 to 1"),
        ({"ratio": (1,)}, "ratio: .* the smallest and the largest"),
        ({"flip": 2}, "flip: 2; a probability"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        train_processor(**arguments)
    if set(arguments) & {"resize", "image_size", "mean", "std"}:
        with pytest.raises(ConfigError, match=message):
            eval_processor(**arguments)


def test_a_processor_is_made_with_values_wherever_a_model_is_built():
    with torch.device("meta"):
        processor = Normalize(0.5, [0.5, 0.25, 0.5])
    assert processor.mean.flatten().tolist() == [0.5]
    assert processor.std.flatten().tolist() == [0.5, 0.25, 0.5]
