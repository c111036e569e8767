from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.processors.clips import level, number, write_clip
from vlkit.errors import BadSample, ConfigError
from vlkit.processors.image import BlipImageEval, BlipImageTrain
from vlkit.processors.video import BlipVideoEval, frame_files, sample_frames, stack_frames


def gray(index: int, size: int = 16) -> np.ndarray:
    return np.full((size, size, 3), level(index), np.uint8)


def shown(video: torch.Tensor) -> list[int]:
    """Which frames a processor of mean 0 and deviation 1 has stacked."""
    return [number(frame.numpy() * 255) for frame in video]


@pytest.fixture
def folder(tmp_path):
    for i in range(12):
        Image.fromarray(gray(i)).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    return tmp_path


def test_a_folder_is_read_in_the_order_of_its_numbers(folder):
    assert [path.rpartition("frame")[2] for path in frame_files(folder)] == [f"{i}.png" for i in range(12)]
    processor = BlipVideoEval(frames=4, image_size=8, mean=0, std=1)
    assert shown(processor(folder)) == [1, 4, 7, 10]


def test_every_kind_of_video_gives_the_same(folder):
    processor = BlipVideoEval(frames=3, image_size=8, sampling="original")
    array = np.stack([gray(i) for i in range(12)])
    expected = processor(array)
    assert expected.shape == (3, 3, 8, 8)
    for source in (folder, str(folder), frame_files(folder), list(array), [Image.fromarray(each) for each in array]):
        torch.testing.assert_close(processor(source), expected)


@pytest.mark.parametrize("resize", ["pil", "fast", "decoder"])
def test_a_file(tmp_path, resize):
    pytest.importorskip("av")
    path = write_clip(tmp_path / "a.mp4", 9)
    video = BlipVideoEval(frames=3, image_size=32, mean=0, std=1, resize=resize)(path)
    assert video.shape == (3, 3, 32, 32)
    assert video.dtype == torch.float32
    assert shown(video) == [1, 4, 7]


def test_frames_are_made_as_images_are():
    frames = [np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8) for i in range(2)]
    image = BlipImageEval(image_size=16)
    expected = torch.stack([image(each) for each in frames])
    torch.testing.assert_close(BlipVideoEval(frames=2, image_size=16)(frames), expected, rtol=0, atol=0)


def test_dark_clips_as_the_original_has_them():
    dark = np.zeros((2, 4, 4, 3), np.uint8)
    dark[1, 0, 0] = 1
    right = BlipVideoEval(frames=2, image_size=4, mean=0, std=1)(dark)
    original = BlipVideoEval(frames=2, image_size=4, mean=0, std=1, norm_original=True)
    torch.testing.assert_close(original(dark), right * 255)
    bright = dark + 9
    torch.testing.assert_close(original(bright), torch.from_numpy(bright / 255).float().permute(0, 3, 1, 2))


def test_all_frames_are_augmented_alike():
    picture = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    processor = BlipImageTrain(image_size=16)
    rng = np.random.default_rng(1)
    first, second = stack_frames([picture] * 4, processor, rng), stack_frames([picture] * 4, processor, rng)
    assert all(torch.equal(frame, first[0]) for frame in first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "it has no frames"),
        (np.zeros((0, 4, 4, 3), np.uint8), "it has no frames"),
        (np.zeros((4, 4, 3), np.uint8), r"ndarray \(4, 4, 3\) uint8: not a video: give a path, a list"),
        (7, "not a video"),
        (["none.png"], "none.png: no such file"),
    ],
)
def test_unusable_videos(source, message):
    with pytest.raises(BadSample, match=message):
        BlipVideoEval(frames=2, image_size=8)(source)


def test_an_empty_folder(tmp_path):
    with pytest.raises(BadSample, match="it has no frames"):
        sample_frames(tmp_path, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 0}, "frames: 0 given"),
        ({"image_size": 0}, "image_size: 0 pixels"),
        ({"resize": "pill"}, "pil, fast, decoder allowed. Did you mean 'pil'"),
        ({"sampling": "first"}, "'even' or 'original' allowed"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        BlipVideoEval(**arguments)
