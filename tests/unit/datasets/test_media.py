"""Images are decoded beforehand: a few by default, all on request, of every kind of dataset."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.assets.visdial_files import visdial_files
from vlkit.datasets.base import VLDataset
from vlkit.datasets.image_text import ImageText
from vlkit.datasets.media import Media, check_media
from vlkit.datasets.nlvr import ImagePair
from vlkit.datasets.shapes.dataset import Shapes
from vlkit.datasets.shard_writer import add_member
from vlkit.datasets.video import VideoQuestion, VideoText
from vlkit.datasets.visdial import VisDial
from vlkit.datasets.vqa import ImageQuestion
from vlkit.datasets.web_shards import WebShards
from vlkit.errors import BadSample
from vlkit.processors.image import BlipImageEval

COUNT, BROKEN = 40, 1  # an image that is not among 16 evenly spread ones
PROCESSOR = BlipImageEval(8, max_pixels=1000)


def names(folder: Path, count: int = COUNT) -> list[str]:
    """Images, one of them no image and another one too large for the processor."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (40, 40) if i == BROKEN + 2 else (4, 4), (i, 0, 0)).save(folder / f"{i:02d}.png")
    (folder / f"{BROKEN:02d}.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return [f"{i:02d}.png" for i in range(count)]


def rows(folder: Path, entries: list[dict]) -> str:
    (folder / "rows.json").write_text(json.dumps(entries))
    return str(folder / "rows.json")


def image_text(folder: Path, split: str) -> VLDataset:
    entries = [{"image": name, "caption": ["a", "b"]} for name in names(folder)]
    return ImageText(rows(folder, entries), split=split, image_processor=PROCESSOR)


def image_question(folder: Path, split: str) -> VLDataset:
    entries = [{"image": name, "question": "q?", "answer": "a"} for name in names(folder) for _ in range(2)]
    return ImageQuestion(rows(folder, entries), split=split, image_processor=PROCESSOR)


def image_pair(folder: Path, split: str) -> VLDataset:
    found = names(folder)
    entries = [{"images": [found[i - 1], found[i]], "sentence": "s", "label": i % 2 == 0} for i in range(1, len(found))]
    return ImagePair(rows(folder, entries), split=split, image_processor=PROCESSOR)


def visdial(folder: Path, split: str) -> VLDataset:
    files = visdial_files(folder, split, count=COUNT, rounds=2)
    data = VisDial(str(files.path), split=split, image_root=str(files.image_root), image_processor=PROCESSOR)
    for i, name in enumerate(names(folder / "pictures")):
        shutil.copy(folder / "pictures" / name, data.image_path(i))
    return data


def web_shards(folder: Path, split: str) -> VLDataset:
    with tarfile.open(folder / "0.tar", "w") as tar:
        for name in names(folder / "pictures"):
            add_member(tar, name, (folder / "pictures" / name).read_bytes())
            add_member(tar, name.replace("png", "txt"), b"text")
    return WebShards(str(folder / "0.tar"), split=split, image_processor=PROCESSOR)


def hf_dataset(folder: Path, split: str) -> VLDataset:
    datasets = pytest.importorskip("datasets")
    from vlkit.datasets.hf import HuggingFaceDataset

    files = [str(folder / "pictures" / name) for name in names(folder / "pictures")]
    table = datasets.Dataset.from_dict({"image": files, "caption": ["text"] * COUNT})
    table.cast_column("image", datasets.Image(decode=False)).save_to_disk(str(folder / "saved"))
    return HuggingFaceDataset(str(folder / "saved"), split=split, image_processor=PROCESSOR)


KINDS = [image_text, image_question, image_pair, visdial, web_shards, hf_dataset]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_or_all_images_are_decoded(kind, split, tmp_path):
    (tmp_path / "data").mkdir()
    data = kind(tmp_path / "data", split)
    few = data.check_media()
    assert (few.summary(), few.problems) == ("decoded 16 of 40 images", [])
    assert data.problems() == []
    every = data.check_media(every=True)
    assert every.summary() == "decoded 40 of 40 images"
    assert data.check_media() is every
    broken, large = every.problems
    assert "cannot be used: cannot be decoded: a PNG file whose header is damaged or truncated" in broken
    assert "cannot be used: 40x40 pixels, more than the 1000 allowed" in large
    assert broken.endswith("Replace it or delete its rows.")
    assert data.problems() == [broken, large]


@pytest.mark.parametrize("folder_of_images", [True, False])
def test_videos_are_decoded(folder_of_images, tmp_path):
    for name in ("a", "b", "c", "d", "e", "f"):
        if folder_of_images or name == "b":
            names(tmp_path / name, 9)
            if name != "b":
                Image.new("RGB", (4, 4)).save(tmp_path / name / "01.png")
        else:
            from tests.unit.processors.clips import write_clip

            pytest.importorskip("av")
            write_clip(tmp_path / f"{name}.mp4", 9)
    found = [{"video": name, "caption": "c"} for name in "abcdefaa"]
    data = VideoText(rows(tmp_path, found), frames=9, image_processor=BlipImageEval(8))
    assert data.check_media().summary() == "decoded 4 of 6 videos"
    every = data.check_media(every=True)
    assert every.summary() == "decoded 6 of 6 videos"
    assert [text.split(" cannot")[0] for text in every.problems] == [f"the video {tmp_path}/b/01.png"]
    asked = [{"video": name, "question": "q", "answer": "a"} for name in "abc"]
    data = VideoQuestion(rows(tmp_path, asked), split="val", frames=1, image_processor=BlipImageEval(8))
    assert data.check_media(every=True).summary() == "decoded 3 of 3 videos"


def test_limit_and_missing_files_count_right(tmp_path):
    found = [*names(tmp_path), "gone.png"]
    file = rows(tmp_path, [{"image": name, "caption": "c"} for name in found])
    data = ImageText(file, image_processor=PROCESSOR)
    assert data.check_media(every=True).summary() == "decoded 40 of 41 images"
    assert data.problems()[0].split(":")[0] == "1 of the 41 image files checked do not exist"
    data = ImageText(file, image_processor=PROCESSOR, limit=1)
    assert data.check_media(every=True).summary() == "decoded 1 of 1 image"


def test_generated_data_and_plugins_have_none(tmp_path):
    class Plugin(VLDataset):
        def __len__(self) -> int:
            return 3

        def sample(self, index: int, rng: np.random.Generator) -> dict:
            return {}

    for data in (Shapes(size=3), Plugin()):
        assert data.check_media(every=True) is None
        assert data.media_problems() == []


def test_many_images_are_decoded_by_threads_in_order():
    def decode(index: int) -> bool:
        if index % 100 == 0:
            raise BadSample(str(index), "bad")
        return index % 7 > 0

    found = check_media(Media("image", 1000, decode), every=True)
    assert found.decoded == 1000 - len([i for i in range(1000) if i % 7 == 0 and i % 100])
    assert [text.split()[2] for text in found.problems] == [str(i) for i in range(0, 1000, 100)]


def test_an_error_that_is_no_bad_sample_ends_the_check():
    def decode(index: int) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        check_media(Media("image", 1000, decode), every=True)
