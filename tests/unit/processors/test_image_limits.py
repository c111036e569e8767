"""Files that are refused before they are decoded, and what is not refused."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.processors.bombs import (
    exif_bomb,
    gif_with_comment,
    photograph_of,
    png_with,
    run_length_bmp,
    scan_bomb,
    tiff,
    webp_canvas,
)
from tests.unit.processors.pictures import encoded, png, scene
from vlkit.errors import BadSample, ConfigError
from vlkit.processors.encoded import MAX_PIXELS, TooLarge
from vlkit.processors.image import BlipImageEval, BlipImageTrain
from vlkit.processors.image_headers import webp_size
from vlkit.processors.open_image import open_image
from vlkit.processors.resize import open_tensor
from vlkit.processors.video import BlipVideoEval

SCENE = scene()
DAMAGED = Path(__file__).parents[2] / "assets" / "damaged_idat.png"
READERS = pytest.mark.parametrize("reader", [open_image, open_tensor])


def test_a_damaged_png_does_not_kill_the_process():
    """torchvision's decode_png ends in a segmentation fault after some of these."""
    code = f"""
from vlkit.errors import BadSample
from vlkit.processors.resize import open_tensor
data = open({str(DAMAGED)!r}, "rb").read()
for _ in range(600):
    try:
        open_tensor(data)
    except BadSample:
        pass
print("alive")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "alive\n"), ended.stderr[-500:]


@READERS
@pytest.mark.parametrize("progressive", [True, False])
def test_scan_bombs_are_refused(reader, progressive):
    with pytest.raises(TooLarge, match="a JPEG of more than 100 scans"):
        reader(scan_bomb(64, 64, 101, progressive))
    assert reader(scan_bomb(64, 64, 100)) is not None


@READERS
def test_pixels_times_scans_are_limited(reader):
    bomb = scan_bomb(300, 300, 100)
    with pytest.raises(TooLarge, match="100 scans that pass 9000000 pixels, more than the 6000000 allowed"):
        reader(bomb, max_pixels=1_000_000)
    assert reader(bomb, max_pixels=1_500_000) is not None
    assert reader(encoded(scene(300, 300), "JPEG", progressive=True), max_pixels=150_000) is not None


def test_sigterm_ends_a_process_that_meets_scan_bombs():
    """Handled as a run does: the signal is noted, and obeyed after the sample."""
    code = """
import sys
from tests.unit.processors.bombs import scan_bomb
from vlkit.errors import BadSample
from vlkit.processors.open_image import open_image
from vlkit.runner.signals import StopRequest
bomb = scan_bomb(2000, 2000, 20_000)
with StopRequest() as stop:
    print("ready", flush=True)
    while stop.received is None:
        try:
            open_image(bomb)
        except BadSample as error:
            assert "scans" in error.reason
sys.exit(7)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 7  # decoding these scans would take a minute
    process.stdout.close()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_large_photograph_is_opened_without_a_warning(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = open_image(photograph_of(180, kind))  # above Pillow's own limit
    assert image.size == (20_000, 9_000)


def test_the_limit_is_a_key_of_the_processors():
    file = encoded(SCENE, "PNG")
    for kind in (BlipImageEval, BlipImageTrain):
        for resize in ("pil", "fast"):
            assert kind(32, resize=resize, max_pixels=1320)(file).shape == (3, 32, 32)
            with pytest.raises(BadSample, match=r"44x30 pixels, more than the 1319 allowed.*max_pixels of the image"):
                kind(32, resize=resize, max_pixels=1319)(file)
        for wrong in (0, -1, 1.5, True, "many"):
            with pytest.raises(ConfigError, match="max_pixels"):
                kind(32, max_pixels=wrong)
    with pytest.raises(BadSample, match="more than the 1319 allowed"):
        BlipVideoEval(1, 32, max_pixels=1319)([file])


def test_what_is_decoded_already_is_never_refused():
    for source in (SCENE, torch.from_numpy(SCENE).movedim(-1, 0), Image.fromarray(SCENE)):
        for resize in ("pil", "fast"):
            assert BlipImageTrain(32, resize=resize, max_pixels=1)(source).shape == (3, 32, 32)


def test_a_decoded_picture_above_pillows_limit_is_cropped_without_a_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in (SCENE, Image.fromarray(SCENE), encoded(SCENE, "PNG"), encoded(SCENE, "WEBP")):
            assert BlipImageTrain(32, min_scale=0.9)(source).shape == (3, 32, 32)
    assert Image.MAX_IMAGE_PIXELS == 300


def test_threads_leave_pillow_and_the_warnings_as_they_were():
    before, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    file = encoded(scene(200, 200), "PNG")
    threads = [threading.Thread(target=lambda: [open_image(file) for _ in range(40)]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (Image.MAX_IMAGE_PIXELS, warnings.filters) == (before, filters)


def test_slow_formats_may_have_fewer_pixels():
    for kind, share in (("WEBP", 2), ("AVIF", 4), ("JPEG2000", 8)):
        try:
            file = encoded(SCENE, kind)
        except (KeyError, OSError):  # this Pillow was built without it
            continue
        assert open_image(file, 1320 * share).size == (44, 30)
        with pytest.raises(TooLarge, match=f"in {kind}, which takes {share} times as long as a JPEG"):
            open_image(file, 1320 * share - share)
    assert open_image(encoded(Image.fromarray(SCENE).convert("CMYK"), "JPEG"), 1760).size == (44, 30)
    assert open_image(run_length_bmp(400), MAX_PIXELS).size == (400, 400)
    with pytest.raises(TooLarge, match="400x400 pixels, more than the 150000 allowed in this kind of BMP"):
        open_image(run_length_bmp(400), 30_000_000)
    deep = png(44, 30, 16, 2, b"\0" * (30 * (44 * 6 + 1)))
    assert open_image(deep, 1320 * 2).size == (44, 30)
    with pytest.raises(TooLarge, match="in PNG, which takes 2 times"):
        open_image(deep, 1320 * 2 - 2)
    with pytest.raises(TooLarge, match="this kind of PPM"):
        open_image(b"P3 44 30 255\n" + b"1 2 3 " * 1320, 100_000)


@READERS
def test_metadata_that_overlap_are_not_followed(reader):
    bomb = exif_bomb(5000, 60_000)
    files = [
        encoded(SCENE, "JPEG", exif=b"Exif\0\0" + exif_bomb(2500, 30_000)),
        png_with((b"eXIf", bomb)),
        encoded(SCENE, "WEBP", exif=bomb),
    ]
    for file in files:
        assert reader(file) is not None
    with pytest.raises(BadSample, match=r"more blocks or metadata|cannot be decoded: a TIFF file"):
        reader(exif_bomb(20_000, 60_000))  # a TIFF of nothing but tags


@READERS
def test_chains_of_blocks_end(reader):
    assert reader(png_with(*[(b"tEXt", b"key\0value")] * 1000)) is not None
    for file in (
        png_with(*[(b"aaAa", b"")] * 120_000),
        png_with(*[(b"IDAT", b"")] * 120_000),
        gif_with_comment(20_000),
    ):
        with pytest.raises(BadSample, match=r"more blocks or metadata|cannot be decoded"):
            reader(file)
    jpeg = encoded(SCENE, "JPEG")
    with pytest.raises(TooLarge, match="more than 10,000 marker segments"):
        reader(jpeg[:2] + b"\xff\xfe\x00\x02" * 20_000 + jpeg[2:])
    with pytest.raises(BadSample):
        reader(b"P6 #" + b"#" * 3_000_000)


@READERS
def test_compressed_texts_and_profiles_do_not_fill_the_memory(reader):
    zeros = zlib.compress(b"\0" * 50_000_000, 9)
    for chunk in ((b"zTXt", b"key\0\0" + zeros), (b"iCCP", b"name\0\0" + zeros), (b"iTXt", b"k\0\1\0\0\0" + zeros)):
        with contextlib.suppress(BadSample):
            reader(png_with(*[chunk] * 20))


@READERS
def test_wrong_tiles_of_tiff_are_refused(reader):
    size = {256: (4, [64]), 257: (4, [64]), 258: (3, [8]), 262: (3, [1]), 277: (3, [1])}
    huge = {**size, 259: (3, [8]), 322: (4, [60_000]), 323: (4, [60_000]), 324: (4, [8]), 325: (4, [10])}
    with pytest.raises(TooLarge, match="60000x60000 pixels"):
        reader(tiff(huge, zlib.compress(b"\0" * 100)))
    many = {**size, 259: (3, [5]), 278: (4, [1]), 273: (4, [8] * 150_000), 279: (4, [10] * 150_000)}
    with pytest.raises(TooLarge, match="150,000 tiles"):
        reader(tiff(many, b"\0" * 10))
    scans = scan_bomb(64, 64, 60)
    jpeg = {**size, 259: (3, [7]), 278: (4, [1]), 273: (4, [8] * 64), 279: (4, [len(scans)] * 64)}
    with pytest.raises(BadSample, match="overlap"):
        reader(tiff(jpeg, scans))
    one = {**size, 259: (3, [7]), 278: (4, [64]), 273: (4, [8]), 279: (4, [len(scans)])}
    with pytest.raises(TooLarge, match="60 scans in TIFF tiles"):
        reader(tiff(one, scans), max_pixels=30_000)


@READERS
def test_a_webp_canvas_counts(reader):
    with pytest.raises(TooLarge, match="16000000x200 pixels, more than the 125000000 allowed in WEBP"):
        reader(webp_canvas(16_000_000, 200))  # Pillow would fill 25 GB
    with pytest.raises(TooLarge, match="15000x15000 pixels, more than the 125000000 allowed in WEBP"):
        reader(webp_canvas(15_000, 15_000))


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}, {"save_all": True}])
def test_the_size_of_a_webp_file_is_read_from_its_header(options):
    frames = [Image.new("RGB", (301, 77), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", append_images=frames[1:], **options)
    assert webp_size(file.getvalue()) == (301, 77)
    assert webp_size(encoded(SCENE, "PNG")) is None


@READERS
@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "an EPS image.*JPEG, PNG.*Convert it"),
        (b"8BPS\0\1" + b"\0" * 40, "a PSD image"),
        (b"SIMPLE  =                    T" + b" " * 50, "a FITS image"),
        (b"qoif" + b"\0" * 20, "a QOI image"),
        (b"\0\0\1\0\1\0\x10\x10" + b"\0" * 40, "an ICO image"),
        (struct.pack(">I", 24) + b"ftypheic" + b"\0" * 20, "a HEIC image"),
        (struct.pack(">I", 24) + b"ftypisom" + b"\0" * 20, "an MP4 or QuickTime video"),
        (b"\xef\xbb\xbf  <!DOCTYPE HTML><html>", "an HTML page"),
        (b'<?xml version="1.0"?><svg>', "an XML document"),
        (b"<svg xmlns='x'>", "an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"%PDF-1.4\n", "a PDF document"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\0" * 5000, "a file of zeros"),
        (b"a,b\n1,2\n", r"it starts with b'a,b\\n1,2\\n'"),
    ],
)
def test_other_files_are_named_as_what_they_are(reader, start, reason):
    with pytest.raises(BadSample, match=reason) as caught:
        reader(start)
    assert "not an image file" in caught.value.reason


def test_the_extension_names_what_the_content_does_not(tmp_path):
    (tmp_path / "a.tga").write_bytes(b"\0\0\2" + b"\0" * 9 + b"\1\0\1\0\x18\0" + b"abc")
    with pytest.raises(BadSample, match="a TGA image"):
        open_image(tmp_path / "a.tga")


@READERS
def test_odd_files_are_named_and_none_hangs(reader, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    for name, start in (("zeros.jpg", b""), ("huge.png", encoded(SCENE, "PNG"))):
        with open(tmp_path / name, "wb") as file:
            file.write(start)
            file.truncate(5_000_000_000)  # takes no space
    for name, reason in [
        ("pipe.jpg", "a named pipe, not an image file"),
        ("empty.jpg", r"empty \(0 bytes\)"),
        ("gone.jpg", "a link to nowhere.jpg, which does not exist"),
        ("zeros.jpg", "a file of zeros, not an image file"),
        ("huge.png", "5,000,000,000 bytes, more than 2,064,000,000, the most"),
        (".", "a folder"),
        ("x" * 300 + ".jpg", "cannot be read: File name too long"),
        ("/dev/zero", "a device, not an image file"),
        ("/proc/self/maps", "empty"),
    ]:
        with pytest.raises(BadSample, match=reason):
            reader(tmp_path / name)


def test_only_the_first_frame_is_decoded():
    frames = [Image.new("P", (64, 64), i % 200) for i in range(3000)]
    file = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for reader in (open_image, open_tensor):
        assert reader(file) is not None


def test_conversions_by_strips_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (50, 40, 4), dtype=np.uint8)
    sources = [Image.fromarray(rgba), Image.fromarray(rgba).convert("LA"), Image.fromarray(rgba[..., 0])]
    sources[2].info["transparency"] = 7
    sources += [Image.fromarray(rng.integers(0, 65536, (50, 40), dtype=np.uint16))]
    sources += [Image.fromarray(rng.normal(0, 300, (50, 40)).astype(np.float32))]
    sources += [Image.fromarray(rng.integers(-9, 99_999, (50, 40), dtype=np.int32))]
    whole = [np.asarray(open_image(source)) for source in sources]
    monkeypatch.setattr("vlkit.processors.open_image._STRIP", 100)
    for source, expected in zip(sources, whole):
        np.testing.assert_array_equal(np.asarray(open_image(source)), expected)


def test_the_default_admits_the_largest_cameras():
    assert MAX_PIXELS >= 19_008 * 12_672  # a camera's four shots in one
    assert MAX_PIXELS >= 16_320 * 12_240  # a telephone's
