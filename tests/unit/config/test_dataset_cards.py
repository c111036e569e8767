"""Every dataset card, and how a run chooses a split of one."""

from __future__ import annotations

import json

import pytest

from tests.assets.make_data import coco_file
from vlkit.api import load_dataset
from vlkit.config.cards import data_files, dataset_card, dataset_splits, list_dataset_cards
from vlkit.config.parts import dataset_part
from vlkit.errors import ConfigError, DataError
from vlkit.io.data_dir import SCHEME

PUBLISHED = "https://storage.googleapis.com/sfr-vision-language-research/"
OF_THE_PAPER = (
    *("coco_caption", "coco_retrieval", "flickr30k", "nocaps", "coco_vqa", "vg_vqa", "vg_caption", "nlvr", "visdial"),
    *("msrvtt_retrieval", "msrvtt_qa", "msvd_qa", "sbu_caption", "conceptual_caption_3m", "conceptual_caption_12m"),
    "bootstrapped",
)
PROCESSOR = {"name": "blip_image_eval", "image_size": 16}


def named(value) -> list[str]:
    """Everything that a card names in the data folder."""
    if isinstance(value, dict):
        return [name for each in value.values() for name in named(each)]
    if isinstance(value, list):
        return [name for each in value for name in named(each)]
    return [value[len(SCHEME) :]] if isinstance(value, str) and value.startswith(SCHEME) else []


def test_the_paper_is_covered():
    assert set(OF_THE_PAPER) <= set(list_dataset_cards())


@pytest.mark.parametrize("name", list_dataset_cards())
def test_card(name):
    card = dataset_card(name)
    assert card["description"].endswith((".", '."'))
    assert card["license"]
    assert card["homepage"].startswith("https://")
    assert named(card["dataset"]) + named(card["splits"])
    for path in named(card["dataset"]) + named(card["splits"]):
        assert path in card["files"], "says nowhere how to get it"
    for path, entry in card["files"].items():
        assert ("url" in entry) != ("how" in entry), path
        assert entry.get("url", PUBLISHED).startswith(PUBLISHED)
        assert entry.get("how", ".").endswith((".", ".)"))


@pytest.mark.parametrize(("name", "split"), [(name, split) for name in OF_THE_PAPER for split in dataset_splits(name)])
def test_every_split_has_the_arguments_of_its_class(name, split):
    part = dataset_part({"name": name, "split": split, "image_processor": PROCESSOR}, "data")
    assert part.check() == []
    assert part.mapping["split"] in ("train", "val", "test")


def test_files_of_one_name_are_described_alike():
    for name in list_dataset_cards():
        for path, entry in dataset_card(name)["files"].items():
            known = data_files()[path]
            assert (known.url, known.md5, known.how) == (entry.get("url"), entry.get("md5"), entry.get("how", "")), path


def test_a_split_gives_its_arguments_and_the_run_has_the_last_word():
    part = dataset_part({"name": "coco_caption", "split": "val", "limit": 5, "image_root": "mine"}, "data", str)
    assert part.mapping == {
        "name": "image_text",
        "path": "data://coco/annotations/coco_karpathy_val.json",
        "image_ids": "coco",
        "split": "val",
        "limit": 5,
        "image_root": "mine",
    }
    train = dataset_part({"name": "sbu_caption", "weight": 2.0}, "data", str, training=True)
    assert (train.mapping["split"], train.weight) == ("train", 2.0)


def test_origins_are_the_file_that_says_it():
    part = dataset_part({"name": "coco_caption", "split": "val", "limit": 5}, "data", str)
    assert "coco_caption.yaml: splits.val.image_ids (line" in part.origin("data.image_ids")
    assert "_coco.yaml: dataset.image_root (line" in part.origin("data.image_root")
    assert part.origin("data.limit") == "data.limit"


def test_a_split_that_is_not_there():
    with pytest.raises(ConfigError, match=r"^data.split: 'coco_caption' has no split 'tran'.*Did you mean 'train'\?.*"):
        dataset_part({"name": "coco_caption", "split": "tran"}, "data", str)
    with pytest.raises(ConfigError, match=r"has several splits\. Give split: one of train, val, test"):
        dataset_part({"name": "coco_caption"}, "data", str)


def test_load_dataset_gives_all_splits_or_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("VLKIT_OFFLINE", "1")
    monkeypatch.setenv("VLKIT_DATA", str(tmp_path))
    with pytest.raises(DataError) as error:
        load_dataset("flickr30k", "train", image_processor=PROCESSOR)
    assert f"put it at {tmp_path / 'flickr30k' / 'annotations' / 'train.json'}" in str(error.value)
    assert f"{tmp_path / 'flickr30k' / 'images'} does not exist. Ask for the images at https://" in str(error.value)
    rows = json.loads(coco_file(tmp_path / "flickr30k", 3).read_text())
    (tmp_path / "flickr30k" / "annotations").mkdir()
    for split in ("train", "val", "test"):
        named = [{"image": image["file_name"].removeprefix("images/"), "caption": "a cat"} for image in rows["images"]]
        (tmp_path / "flickr30k" / "annotations" / f"{split}.json").write_text(json.dumps(named))
    found = load_dataset("flickr30k", image_processor=PROCESSOR)
    assert list(found) == ["train", "val", "test"]
    assert [len(dataset) for dataset in found.values()] == [3, 3, 3]
    assert found["test"][2]["image"].shape == (3, 16, 16)
    assert found["test"][2]["references"] == ["a cat"]


def test_a_path_means_the_class_where_a_card_has_the_same_name(tmp_path):
    given = {"name": "visdial", "path": "mine.json", "image_processor": PROCESSOR}
    assert dataset_part(given, "data", str).mapping == {"name": "visdial", "path": "mine.json"}
    with pytest.raises(DataError, match=r"^annotations: .*mine\.json"):
        load_dataset("visdial", path=str(tmp_path / "mine.json"), image_processor=PROCESSOR)
