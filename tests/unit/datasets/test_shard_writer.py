"""Datasets written as shards: what web_shards reads back, equal bytes, and going on after a stop."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from vlkit.cli import main
from vlkit.datasets.image_text import ImageText
from vlkit.datasets.shapes.dataset import Shapes
from vlkit.datasets.shapes.scene import Scene
from vlkit.datasets.shard_writer import encoded_picture, samples_in, write_shards
from vlkit.datasets.web_shards import WebShards
from vlkit.errors import BadSample, ConfigError, DataError
from vlkit.jobs.shards import ShardsJob
from vlkit.processors.open_image import open_image


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "cache"))


def pixels(data, rng):
    return np.asarray(open_image(data))


def scenes(size: int = 7, **arguments) -> Shapes:
    return Shapes("train", size, captions="web", noise=0.5, image_processor=encoded_picture, **arguments)


def test_shards_hold_what_the_dataset_gives(tmp_path):
    shards = write_shards(scenes(), tmp_path / "out", 3)
    assert [shard.name for shard in shards] == ["00000.tar", "00001.tar", "00002.tar"]
    assert [samples_in([shard]) for shard in shards] == [3, 3, 1]
    back = WebShards(str(tmp_path / "out"), image_processor=pixels)
    drawn = Shapes("train", 7, captions="web", noise=0.5, image_processor=pixels)
    for mine, theirs in zip(back, drawn, strict=True):
        assert mine["text_input"] == theirs["text_input"]
        assert (mine["image"] == theirs["image"]).all()
    with tarfile.open(shards[1]) as tar:
        assert tar.getnames()[:2] == ["000000003.png", "000000003.json"]
        fields = json.load(tar.extractfile("000000003.json"))
    assert Scene.from_dict(fields["scene"]) == drawn.scene(3)
    assert (fields["kind"], fields["image_id"]) == (drawn[3]["kind"], "train-0-3")


def test_equal_calls_give_equal_bytes_and_a_stopped_one_continues(tmp_path, monkeypatch):
    whole = write_shards(scenes(), tmp_path / "whole", 2)
    stopped = scenes()
    sample = stopped.sample
    monkeypatch.setattr(stopped, "sample", lambda i, rng: sample(i, rng) if i < 5 else (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):
        write_shards(stopped, tmp_path / "parts", 2)
    assert sorted(path.name for path in (tmp_path / "parts").glob("*")) == ["00000.tar", "00001.tar", "shards.json"]
    before = (tmp_path / "parts" / "00000.tar").stat().st_mtime_ns
    parts = write_shards(scenes(), tmp_path / "parts", 2)
    assert (tmp_path / "parts" / "00000.tar").stat().st_mtime_ns == before
    assert [shard.read_bytes() for shard in parts] == [shard.read_bytes() for shard in whole]


@pytest.mark.parametrize("other", [scenes(8), scenes(seed=1)])
def test_shards_of_other_data_are_not_mixed(tmp_path, other):
    write_shards(scenes(), tmp_path, 4)
    with pytest.raises(DataError, match="holds shards of other data: data is"):
        write_shards(other, tmp_path, 4)
    with pytest.raises(DataError, match="per_shard is 4, not 5"):
        write_shards(scenes(), tmp_path, 5)


def test_a_folder_with_anybodys_shards_is_left_alone(tmp_path):
    (tmp_path / "00000.tar").write_bytes(b"mine")
    with pytest.raises(DataError, match="not written here"):
        write_shards(scenes(), tmp_path)
    assert (tmp_path / "00000.tar").read_bytes() == b"mine"


def test_files_stay_as_they_are_and_what_is_no_image_is_left_out(tmp_path):
    for name, format in (("a.jpg", "JPEG"), ("b.webp", "WEBP"), ("c.gif", "GIF")):
        Image.new("RGB", (5, 4), (200, 10, 90)).save(tmp_path / name, format)
    (tmp_path / "d.jpg").write_bytes(b"no image")
    rows = [{"image": name, "caption": ["one", "two"]} for name in ("a.jpg", "b.webp", "c.gif", "d.jpg")]
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    data = ImageText(str(tmp_path / "captions.json"), split="val", image_processor=encoded_picture)
    (shard,) = write_shards(data, tmp_path / "out")
    with tarfile.open(shard) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    assert [name for name in files if not name.endswith("json")] == ["000000000.jpg", "000000001.webp", "000000002.png"]
    assert files["000000000.jpg"] == (tmp_path / "a.jpg").read_bytes()
    assert files["000000001.webp"] == (tmp_path / "b.webp").read_bytes()
    assert open_image(files["000000002.png"]).getpixel((2, 2)) == open_image(tmp_path / "c.gif").getpixel((2, 2))
    assert json.loads(files["000000002.json"]) == {"caption": ["one", "two"], "image_id": "c.gif"}


def test_encoded_pictures():
    array = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    png = encoded_picture(array)
    assert (np.asarray(Image.open(io.BytesIO(png))) == array).all()
    assert encoded_picture(png) is png
    with pytest.raises(BadSample):
        encoded_picture(b"no image")


FILE = "dataset: {name: shapes, split: train, size: 5, captions: web}\nsamples_per_shard: 2\n"


def test_the_command_writes_and_says_so(tmp_path, capsys):
    (tmp_path / "scenes.yaml").write_text(FILE)
    arguments = ["shards", str(tmp_path / "scenes.yaml"), "dataset.size=3", "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert f"3 samples in 2 shards in {tmp_path / 'out'}" in said.out + said.err
    assert len(WebShards(str(tmp_path / "out"), image_processor=pixels)) == 3


def test_a_job_says_what_it_wrote(tmp_path):
    (tmp_path / "scenes.yaml").write_text(FILE)
    job = ShardsJob.load(tmp_path / "scenes.yaml", [f"output_dir={tmp_path / 'out'}"])
    assert job.run() == {"folder": str(tmp_path / "out"), "shards": 3, "samples": 5, "left_out": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("dataset.nois=0.1", "unknown key 'nois'. Did you mean 'noise'"),
        ("dataset.name=shaps", "Closest: shapes"),
        ("samples_per_shard=0", "at least 1"),
        ("sampels_per_shard=3", "Did you mean 'samples_per_shard'"),
        ("dataset.image_processor={name: blip_image_eval}", "Leave image_processor out"),
        ("dataset.split=trian", "Did you mean 'train'"),
    ],
)
def test_mistakes_in_the_file(tmp_path, change, message):
    (tmp_path / "scenes.yaml").write_text(FILE)
    with pytest.raises((ConfigError, DataError)) as error:
        ShardsJob.load(tmp_path / "scenes.yaml", [change]).run()
    assert message in str(error.value)


def test_a_dataset_without_images_says_so(tmp_path):
    class Texts(Shapes):
        def sample(self, index, rng):
            return {"text_input": "a"}

    with pytest.raises(DataError, match="sample 0 has no encoded image"):
        write_shards(Texts("train", 2), tmp_path)
