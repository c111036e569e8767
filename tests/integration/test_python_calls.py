"""What may be passed as pictures, in every call of every head; and that results do not depend on batches."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.integration.heads import CALLS, HEADS, assert_equal, loaded
from vlkit.errors import VlkitError
from vlkit.processors.open_image import open_image

EVERY = [(head, call) for head in HEADS for call in CALLS[head]]
BATCHED = [(head, call) for head, call in EVERY if CALLS[head][call].__code__.co_flags & 8]


def photograph(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A colorful picture that is no square."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(7):
        photograph(number).save(folder / f"{number}.png")
    return folder


def encoded(number: int) -> bytes:
    return written(number).getvalue()


def written(number: int) -> io.BytesIO:
    """As it stands after a picture has been saved to it."""
    file = io.BytesIO()
    photograph(number).save(file, "PNG")
    return file


def pixels(number: int) -> np.ndarray:
    return np.asarray(photograph(number))


def channels_first(number: int) -> torch.Tensor:
    return torch.from_numpy(pixels(number).copy()).permute(2, 0, 1)


def preprocessed(head: str, *numbers: int) -> torch.Tensor:
    _, processor = loaded(head)
    return torch.stack([processor(photograph(number)) for number in numbers])


# Each gives pictures 0 and 1.
FORMS: dict[str, Any] = {
    "PIL": lambda head, folder: [photograph(0), photograph(1)],
    "paths": lambda head, folder: [str(folder / "0.png"), folder / "1.png"],
    "bytes": lambda head, folder: (encoded(0), bytearray(encoded(1))),
    "files": lambda head, folder: [io.BytesIO(encoded(0)), memoryview(encoded(1))],
    "arrays": lambda head, folder: [pixels(0), pixels(1)],
    "array [B, H, W, 3]": lambda head, folder: np.stack([pixels(0), pixels(1)]),
    "uint8 tensors": lambda head, folder: [channels_first(0), channels_first(1)[None]],
    "uint8 tensor [B, 3, H, W]": lambda head, folder: torch.stack([channels_first(0), channels_first(1)]),
    "tensors [3, S, S]": lambda head, folder: list(preprocessed(head, 0, 1)),
    "tensor of doubles": lambda head, folder: preprocessed(head, 0, 1).double(),
    "array of paths": lambda head, folder: np.array([str(folder / "0.png"), str(folder / "1.png")]),
    "a mixture": lambda head, folder: (str(folder / "0.png"), preprocessed(head, 1)[0]),
}
SINGLE: dict[str, Any] = {
    "PIL": lambda head, folder: photograph(0),
    "path": lambda head, folder: folder / "0.png",
    "text": lambda head, folder: str(folder / "0.png"),
    "bytes": lambda head, folder: encoded(0),
    "array": lambda head, folder: pixels(0),
    "uint8 tensor": lambda head, folder: channels_first(0),
    "tensor [3, S, S]": lambda head, folder: preprocessed(head, 0)[0],
    "tensor [1, 3, S, S]": lambda head, folder: preprocessed(head, 0),
    "list of one": lambda head, folder: [photograph(0)],
    "file at its end": lambda head, folder: written(0),
}


def several(head: str, call: str, pictures: Any, count: int = 2, **options: Any) -> Any:
    return CALLS[head][call](loaded(head)[0], pictures, count, **options)


@functools.cache
def of_tensors(head: str, call: str, count: int) -> Any:
    return several(head, call, preprocessed(head, *range(count)), count)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("head", "call"), EVERY)
def test_several_pictures_in_any_form(head, call, form, folder):
    assert_equal(several(head, call, FORMS[form](head, folder)), of_tensors(head, call, 2))


@pytest.mark.parametrize("form", SINGLE)
@pytest.mark.parametrize(("head", "call"), EVERY)
def test_one_picture_in_any_form(head, call, form, folder):
    assert_equal(several(head, call, SINGLE[form](head, folder), 1), of_tensors(head, call, 1))


def rotated() -> Image.Image:
    image = photograph(2)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    return Image.open(io.BytesIO(file.getvalue()))


def deep() -> Image.Image:
    return Image.fromarray(np.arange(40 * 30, dtype=np.uint16).reshape(30, 40) * 50)


MODES = {mode: lambda mode=mode: photograph(3).convert(mode) for mode in ("L", "1", "P", "RGBA", "CMYK", "YCbCr")}
MODES |= {
    "I;16": deep,
    "EXIF": rotated,
    "gray array": lambda: pixels(3)[..., 0],
    "one pixel": lambda: pixels(3)[:1, :1],
    "array with alpha": lambda: np.asarray(photograph(3).convert("RGBA")),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("head", HEADS)
def test_pictures_of_any_mode_are_seen_upright_in_rgb(head, mode):
    _, processor = loaded(head)
    call = next(iter(CALLS[head]))
    expected = several(head, call, processor(open_image(MODES[mode]())), 1)
    assert_equal(several(head, call, MODES[mode](), 1), expected)


@pytest.mark.parametrize(("head", "call"), BATCHED)
def test_results_do_not_depend_on_batches(head, call, folder):
    paths = [str(folder / f"{number}.png") for number in range(7)]
    whole = of_tensors(head, call, 7)
    for size in (1, 3, 100):
        assert_equal(several(head, call, paths, 7, batch_size=size), whole)
    assert_equal(several(head, call, preprocessed(head, *range(7)), 7, batch_size=3), whole)


WRONG = {
    "no picture": ([], r"image\d? is empty; give at least one picture"),
    "no picture in a tensor": (torch.zeros(0, 3, 48, 48), r"is empty; give at least one picture"),
    "None": (None, r"is None; give a PIL image, a path"),
    "a number": (3, r"is 3; give a PIL image, a path"),
    "a dictionary": ({"a": 1}, r"is a dict; give a PIL image"),
    "None in a list": ([photograph(0), None], r"\[1\] is None; leave it out"),
    "channels last": (torch.zeros(1, 48, 48, 3), r"tensor \[1, 48, 48, 3\] of float32; give .* Channels come first"),
    "one channel": (torch.zeros(1, 1, 48, 48), r"tensor \[1, 1, 48, 48\] of float32; give \[3, S, S\]"),
    "one dimension": (torch.zeros(3), r"tensor \[3\] of float32; give \[3, S, S\] or \[B, 3, S, S\]"),
    "frames": (torch.zeros(1, 2, 3, 48, 48), r"Frames of videos are given as 'video'"),
    "whole numbers": (torch.zeros(1, 3, 48, 48, dtype=torch.int64), r"of int64; give floats .* or uint8"),
    "another size": (torch.zeros(1, 3, 32, 32), r"\(32, 32\) pixels .* for \(48, 48\)"),
    "different sizes": (
        [torch.zeros(3, 48, 48), torch.zeros(3, 32, 32)],
        r"different shapes: \[3, 32, 32\], \[3, 48|\(32, 32\) pix",
    ),
    "NaN": (torch.full((1, 3, 48, 48), float("nan")), r"holds NaN or infinite values"),
    "infinity": (torch.full((1, 3, 48, 48), float("inf")), r"holds NaN or infinite values"),
    "floats in an array": (np.zeros((48, 48, 3)), r"array \[48, 48, 3\] of float64; give uint8 .*torch.from_numpy"),
    "channels first in an array": (np.zeros((3, 48, 48), np.uint8), r"Channels come last"),
    "no such file": ("nowhere.png", r"\(nowhere.png\): no such file"),
    "a folder": (Path("."), r"a folder, not an image file"),
    "not an image": (b"text", r"not an image file"),
    "empty bytes": (b"", r"empty"),
    "base64": ("data:image/png;base64,iVBORw0KGgo", r"Decode it first: base64.b64decode"),
    "an address": ("https://user:secret@host/a.png?token=secret", r"allow_urls=True"),
    "a file address": ("file:///etc/passwd", r"scheme 'file'"),
    "an ftp address": ("ftp://user:secret@host/a.png", r"scheme 'ftp'"),
    "two in one": ([torch.zeros(2, 3, 48, 48)], r"each item of a list must be one picture"),
    "a list in a list": ([[photograph(0)]], r"each item of a list must be one picture"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("head", HEADS)
def test_what_is_no_picture_is_one_clear_error(head, case):
    given, message = WRONG[case]
    for call in CALLS[head]:
        if case == "frames" and call.startswith("embed_images"):
            continue  # it takes videos under the same name
        with pytest.raises(VlkitError, match=message) as error:
            several(head, call, given, 2 if case == "different sizes" else 1)
        assert "secret" not in str(error.value)
