"""Where tables come from: Karpathy's splits, Hugging Face's imagefolder, installed packages, tables with splits."""

from __future__ import annotations

import sys

import pytest

from tests.unit.datasets.test_columns import captions, name_of, saved
from vlkit.datasets.image_text import ImageText
from vlkit.datasets.vqa import ImageQuestion
from vlkit.errors import DataError

KARPATHY = {
    "dataset": "coco",
    "images": [
        {"filepath": "val2014", "filename": f"COCO_val2014_{i:012d}.jpg", "cocoid": i, "imgid": i, "split": split,
         "sentences": [{"raw": f"{split} one", "tokens": []}, {"raw": f"{split} two"}]}
        for i, split in enumerate(["train", "restval", "val", "test"])
    ],
}  # fmt: skip


def test_karpathys_splits(tmp_path):
    path = saved(tmp_path / "dataset_coco.json", KARPATHY)
    texts = [text for _, text in captions(path)]
    assert texts == ["train one", "train two", "restval one", "restval two"]
    assert [text for _, text in captions(path, part="train")] == texts[:2]
    assert [text for _, text in captions(path, part=["restval", "val"])] == [*texts[2:], "val one", "val two"]
    data = ImageText(path, split="test", image_processor=name_of)
    assert len(data) == 1
    assert (data[0]["image_id"], data[0]["references"]) == (3, ["test one", "test two"])
    assert data.image_path(0).endswith("/val2014/COCO_val2014_000000000003.jpg")
    with pytest.raises(
        DataError, match=r"holds no rows of 'vla', only of train, restval, val, test\. Did you mean 'val'"
    ):
        captions(path, part="vla")
    with pytest.raises(DataError, match=r"Karpathy's format has its own keys\. Leave out caption_key"):
        captions(path, caption_key="raw")


def test_karpathys_file_of_flickr_has_no_folders(tmp_path):
    images = [{"filename": "7.jpg", "imgid": 0, "split": "train", "sentences": [{"raw": "x"}]}]
    assert captions(saved(tmp_path / "dataset_flickr30k.json", {"images": images})) == [("7.jpg", "x")]
    images[0] = {"filename": "7.jpg", "sentences": [{"raw": "x"}]}
    with pytest.raises(DataError, match="images entry 1: no key 'split'"):
        captions(saved(tmp_path / "dataset_flickr30k.json", {"images": images}))


def test_an_imagefolder_below_data_as_the_hub_has_it(tmp_path):
    saved(tmp_path / "data" / "Test" / "metadata.csv", [["0.png", "x"]], ["file_name", "text"])
    assert captions(str(tmp_path), "test") == [("0.png", "x")]
    saved(tmp_path / "data" / "metadata.csv", [["Test/0.png", "y"]], ["file_name", "text"])
    assert captions(str(tmp_path), "test") == [("Test/0.png", "y")]
    (tmp_path / "other" / "train").mkdir(parents=True)
    (tmp_path / "other" / "train" / "metadata.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="hf_dataset"):
        captions(str(tmp_path / "other"))


def test_rows_of_karpathys_file_are_read_one_by_one_too(tmp_path):
    row = {"filename": "7.jpg", "split": "train", "sentences": [{"raw": "x", "tokens": ["x"]}, {"raw": "y"}]}
    assert captions(saved(tmp_path / "rows.jsonl", [row])) == [("7.jpg", "x"), ("7.jpg", "y")]


def test_a_captions_file_counts_before_metadata(tmp_path):
    saved(tmp_path / "captions.csv", [["a.jpg", "x"]], ["image", "caption"])
    saved(tmp_path / "metadata.csv", [["b.jpg", "y"]], ["file_name", "text"])
    assert captions(str(tmp_path)) == [("a.jpg", "x")]


def test_an_imagefolder_of_questions(tmp_path):
    saved(tmp_path / "test" / "metadata.jsonl", [{"file_name": "0.png", "question": "q", "answer": "a"}])
    data = ImageQuestion(str(tmp_path), split="test", image_processor=name_of)
    assert data.image_path(0) == str(tmp_path / "test" / "0.png")


def test_rows_of_any_table_are_chosen_by_their_split(tmp_path):
    path = saved(tmp_path / "a.csv", [["a", "x", "train"], ["b", "y", "test"]], ["image", "caption", "split"])
    assert captions(path) == [("a", "x"), ("b", "y")]
    assert captions(path, part="test") == [("b", "y")]
    with pytest.raises(DataError, match="'split' is None"):
        captions(saved(tmp_path / "b.json", [{"image": "a", "caption": "x"}]), part="test")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("validation", ["validation", "val", "dev"])
def test_an_imagefolder_with_a_folder_for_each_split(tmp_path, suffix, validation):
    for folder in ("train", validation):
        row = ["0.png", f"text of {folder}"]
        rows = [row] if suffix == "csv" else [dict(zip(("file_name", "text"), row))]
        saved(tmp_path / folder / f"metadata.{suffix}", rows, ["file_name", "text"])
    data = ImageText(str(tmp_path), split="val", image_processor=name_of)
    assert data[0]["references"] == [f"text of {validation}"]
    assert data.image_path(0) == str(tmp_path / validation / "0.png")
    assert captions(str(tmp_path)) == [("0.png", "text of train")]
    with pytest.raises(DataError, match="no folder of split 'test' holds a metadata file, only "):
        captions(str(tmp_path), "test")


def test_an_imagefolder_with_one_metadata_file_for_all_splits(tmp_path):
    rows = [["train/0.png", "a"], ["./test/1.png", "b"], ["more/2.png", "c"]]
    saved(tmp_path / "metadata.csv", rows, ["file_name", "text"])
    assert captions(str(tmp_path)) == [("train/0.png", "a"), ("more/2.png", "c")]
    assert captions(str(tmp_path), "test") == [("./test/1.png", "b"), ("more/2.png", "c")]
    saved(tmp_path / "metadata.jsonl", [])
    with pytest.raises(DataError, match=r"holds metadata.jsonl and metadata.csv"):
        captions(str(tmp_path))


def test_package_addresses_name_files_and_folders_without_an_import(tmp_path, monkeypatch):
    package = tmp_path / "site" / "own_pictures"
    saved(package / "data" / "captions.json", [{"image": "a.jpg", "caption": "x"}])
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for path in ("package://own_pictures/data/captions.json", "package://own_pictures/data"):
        assert captions(path) == [("a.jpg", "x")]
        data = ImageText(path, "package://own_pictures/data", image_processor=name_of)
        assert data.image_path(0) == str(package / "data" / "a.jpg")
    assert "own_pictures" not in sys.modules
    with pytest.raises(DataError, match="no installed package is named 'own-pictures'"):
        captions("package://own-pictures/data")
    with pytest.raises(DataError, match="leads out of the package"):
        captions("package://own_pictures/../../etc")
    with pytest.raises(DataError, match=r"image_root: .*/nowhere is not a folder"):
        ImageText("package://own_pictures/data", "package://own_pictures/nowhere", image_processor=name_of)
