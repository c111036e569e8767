from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.parity.golden import ASSETS
from vlkit.errors import VlkitError
from vlkit.models.inputs import PictureReader, pictures, videos
from vlkit.processors.image import BlipImageEval


def photograph(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8))


@pytest.fixture
def reader() -> PictureReader:
    return PictureReader(BlipImageEval(8, mean=0.5, std=0.5), frames=4)


def test_preprocessed_tensors_are_not_copied(reader):
    image, video = torch.randn(2, 3, 8, 8), torch.randn(2, 4, 3, 8, 8)
    assert reader.images(image) is image
    assert reader.images(image[0]).data_ptr() == image.data_ptr()
    assert reader.videos(video) is video
    assert reader.videos(video[1]).data_ptr() == video[1].data_ptr()


def test_the_size_follows_the_model(reader):
    fitted = reader.fitted(6)
    assert fitted.images(photograph()).shape == (1, 3, 6, 6)
    assert reader.images(photograph()).shape == (1, 3, 8, 8)
    assert reader.fitted(8) is reader


def test_without_a_processor_only_tensors_are_taken():
    image = torch.zeros(1, 3, 8, 8)
    assert PictureReader().images(image) is image
    with pytest.raises(VlkitError, match=r"image\[0\] is PIL image RGB 10x12, and this model has no image processor"):
        PictureReader().images(photograph())


def test_addresses_are_opened_by_what_is_given_alone(reader):
    opened = []
    file = ASSETS / "open" / "image_1_chelsea.png"

    def open_url(address: str) -> bytes:
        opened.append(address)
        return file.read_bytes()

    with pytest.raises(VlkitError, match=r"allow_urls=True"):
        reader.images("https://host/a.png")
    reader.open_url = open_url
    assert torch.equal(reader.images(["https://host/a.png", file])[0], reader.images(file)[0])
    assert opened == ["https://host/a.png"]
    with pytest.raises(VlkitError, match="videos are read from local files alone"):
        reader.videos("https://host/a.mp4")


def test_files_of_packages(reader):
    with pytest.raises(VlkitError, match="does not exist"):
        reader.images("package://vlkit/configs/none.png")


def test_a_file_is_read_from_where_it_stands_and_left_there(tmp_path, reader):
    photograph().save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "rb") as file:
        assert torch.equal(reader.images([file, file])[1], reader.images(photograph())[0])
    with open(tmp_path / "a.png", encoding="latin-1") as file, pytest.raises(VlkitError, match="mode 'rb'"):
        reader.images(file)


CLIP = [photograph(i) for i in range(4)]
ARRAY = np.stack([np.asarray(frame) for frame in CLIP])


def forms_of_one_video(folder: Path) -> dict:
    for number, frame in enumerate(CLIP):
        frame.save(folder / f"{number}.png")
    return {
        "frames": CLIP,
        "paths of frames": [folder / f"{number}.png" for number in range(4)],
        "folder": folder,
        "path": str(folder),
        "array": ARRAY,
        "tensor": torch.from_numpy(ARRAY).permute(0, 3, 1, 2),
        "arrays of frames": tuple(ARRAY),
    }


FORMS = ("frames", "paths of frames", "folder", "path", "array", "tensor", "arrays of frames")


@pytest.mark.parametrize("form", FORMS)
def test_videos_in_any_form(reader, form, tmp_path):
    expected = reader.images(CLIP)
    given = forms_of_one_video(tmp_path)[form]
    assert torch.equal(reader.videos(given), expected[None])
    assert torch.equal(reader.videos([given, CLIP]), torch.stack([expected, expected]))


def test_batches_of_videos_and_frames_that_are_sampled(reader):
    expected = reader.images(CLIP)
    assert torch.equal(reader.videos(np.stack([ARRAY, ARRAY])), torch.stack([expected, expected]))
    assert torch.equal(reader.videos([list(expected)]), expected[None])
    assert torch.equal(reader.videos([expected, CLIP]), torch.stack([expected, expected]))
    assert torch.equal(reader.videos(CLIP * 2)[0], reader.images([(CLIP * 2)[i] for i in (1, 3, 5, 7)]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "video is empty; give at least one video"),
        ([[]], r"video\[0\] is empty"),
        (None, "video is None; give a path, a list of frames"),
        (b"RIFF", "video is encoded image of 4 bytes; give a path"),
        ([photograph(), "a.mp4"], "mixes single frames with whole videos"),
        ([torch.zeros(3, 8, 8), photograph()], "mixes preprocessed float tensors with other frames"),
        (torch.zeros(2, 0, 3, 8, 8), "it has no frames"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int32), r"tensor \[2, 3, 8, 8\] of int32; give"),
        (np.zeros((2, 8, 8, 3)), r"array \[2, 8, 8, 3\] of float64; give"),
        ([torch.zeros(4, 3, 8, 8), torch.zeros(3, 3, 8, 8)], "tensors of different shapes"),
        ("nowhere.mp4", r"video\[0\] \(nowhere.mp4\): no such file"),
    ],
)
def test_what_is_no_video(reader, given, message):
    with pytest.raises(VlkitError, match=message):
        reader.videos(given)


def test_nothing_is_opened_before_its_turn():
    assert pictures(["nowhere.png", "https://host/a.png"], "image") == ["nowhere.png", "https://host/a.png"]
    assert videos(["nowhere.mp4"], "video") == ["nowhere.mp4"]


def test_odd_pictures(reader):
    closed = io.BytesIO(b"")
    closed.close()
    cases = [
        (photograph().crop((0, 0, 0, 0)), "has no pixels"),
        (np.zeros((0, 5, 3), np.uint8), "has no pixels"),
        (closed, r"image\[0\] is a file that cannot be read: I/O operation on closed file"),
        (torch.zeros(1, 3, 8, 8, device="meta"), "give a dense tensor with values"),
        (torch.zeros(3, 8, 8).to_sparse(), "give a dense tensor with values"),
        (np.zeros((8, 8, 2), np.uint8), r"array \[8, 8, 2\] of uint8; give \[H, W, 3\]"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), r"tensor \[2, 8, 8\] of uint8; give \[3, H, W\]"),
        ((photograph() for _ in range(2)), "image is a generator; give a PIL image"),
        ("a\0b.png", "embedded null byte"),
    ]
    for odd, message in cases:
        with pytest.raises(VlkitError, match=message):
            reader.images(odd)


def test_paths_in_the_home_folder(reader, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    photograph().save(tmp_path / "a.png")
    assert torch.equal(reader.images("~/a.png"), reader.images(photograph()))


@pytest.mark.parametrize("form", ["a.png", "x" * 5000])
def test_long_texts_are_not_repeated(reader, form):
    with pytest.raises(VlkitError) as error:
        reader.images(form)
    assert len(str(error.value)) < 300


FORM = {
    "PIL": lambda n: photograph(n),
    "array": lambda n: np.asarray(photograph(n)),
    "batch of one": lambda n: np.asarray(photograph(n))[None],
    "tensor": lambda n: torch.from_numpy(np.array(photograph(n))).permute(2, 0, 1),
    "bytes": lambda n: encoded(n),
    "file": lambda n: io.BytesIO(encoded(n)),
    "preprocessed": lambda n: BlipImageEval(8, mean=0.5, std=0.5)(photograph(n)),
}


def encoded(number: int) -> bytes:
    file = io.BytesIO()
    photograph(number).save(file, "PNG")
    return file.getvalue()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(sorted(FORM)), st.integers(0, 3)), min_size=1, max_size=6), st.booleans())
def test_any_mixture_of_forms_is_the_stack_of_single_pictures(items, as_tuple):
    reader = PictureReader(BlipImageEval(8, mean=0.5, std=0.5))
    expected = torch.stack([FORM["preprocessed"](number) for _, number in items])
    pictures = [FORM[form](number) for form, number in items]
    assert torch.equal(reader.images(tuple(pictures) if as_tuple else pictures), expected)
