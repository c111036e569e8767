"""The dataset hf_dataset; most of it needs the package ``datasets``."""

from __future__ import annotations

import builtins
import io

import numpy as np
import pytest
from PIL import Image

from vlkit.datasets.hf import HuggingFaceDataset
from vlkit.errors import BadSample, ConfigError, DataError, MissingDependency
from vlkit.processors.open_image import open_image


def shade(source, rng) -> np.ndarray:
    return np.array([open_image(source).getpixel((0, 0))[0]])


def picture(red: int) -> Image.Image:
    return Image.new("RGB", (4, 3), (red, 90, 200))


def encoded(red: int) -> bytes:
    file = io.BytesIO()
    picture(red).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))
    return pytest.importorskip("datasets")


def table(datasets, captions, **columns):
    features = {"image": datasets.Image()}
    rows = {"image": [picture(i) for i in range(len(captions))], "caption": captions, **columns}
    return datasets.Dataset.from_dict(rows).cast_column("image", features["image"])


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingDependency, match=r"pip install 'vlkit\[hf\]'"):
        HuggingFaceDataset(str(tmp_path), image_processor=shade)


def test_wrong_arguments_are_reported_together():
    with pytest.raises(ConfigError) as error:
        HuggingFaceDataset("x", split="tain", limit=0)
    assert len(error.value.problems) == 3


def test_a_saved_dataset(datasets, tmp_path):
    table(datasets, ["a cat", ["a dog", "the dog"]][:1] * 2, image_id=[5, 6]).save_to_disk(tmp_path / "saved")
    found = HuggingFaceDataset(str(tmp_path / "saved"), image_processor=shade, text_processor=str.upper)
    assert len(found) == 2
    assert [(s["image_id"], s["sample_id"], s["text_input"], int(s["image"][0])) for s in found] == [
        (5, "saved:0", "A CAT", 0),
        (6, "saved:1", "A CAT", 1),
    ]
    assert list(found.images()) == [(5, f"{tmp_path / 'saved'}:0"), (6, f"{tmp_path / 'saved'}:1")]
    assert found.problems() == []


@pytest.mark.parametrize(
    ("ids", "bad"), [([3, -1, 7], 1), ([1.0, 2.5, 3.0], 3), ([[1], [2], [3]], 3), (["a", "b", ""], 1)]
)
def test_image_ids_that_cannot_be_used_are_named_and_bad_samples(datasets, tmp_path, ids, bad):
    table(datasets, ["a cat"] * 3, image_id=ids).save_to_disk(tmp_path / "saved")
    found = HuggingFaceDataset(str(tmp_path / "saved"), image_processor=shade)
    (problem,) = found.problems()
    assert problem.startswith(f"{bad} rows have an image_id that cannot be used")
    assert len(list(found.images())) == 3
    refused = 0
    for index in range(3):
        try:
            found[index]
        except BadSample as error:
            refused += "image_id" in error.reason
    assert refused == bad
    assert [text.processed for text in found.texts()] == ["a cat"] * 3


def test_splits_and_several_captions(datasets, tmp_path):
    train, val = table(datasets, [["one", "two"]] * 3), table(datasets, [["three", " "], []])
    datasets.DatasetDict(train=train, validation=val).save_to_disk(tmp_path / "both")
    found = HuggingFaceDataset(str(tmp_path / "both"), image_processor=shade)
    assert {found.sample(0, np.random.default_rng(i))["text_input"] for i in range(20)} == {"one", "two"}
    other = HuggingFaceDataset(str(tmp_path / "both"), split="val", image_processor=shade)
    assert [sample["references"] for sample in other] == [["three"], []]
    with pytest.raises(DataError, match=r"no split 'test'.*Set part: one of train, validation"):
        HuggingFaceDataset(str(tmp_path / "both"), split="test", image_processor=shade)
    again = HuggingFaceDataset(str(tmp_path / "both"), part="validation", image_processor=shade)
    assert "1 of the 2 rows checked have no caption (1)" in again.problems()[0]
    with pytest.raises(BadSample, match="both:1: it has no caption"):
        again[1]


def test_parquet_files_and_file_names(datasets, tmp_path):
    for i in range(2):
        picture(10 + i).save(tmp_path / f"{i}.png")
    rows = {"picture": ["0.png", "1.png", "gone.png"], "text": ["a", "b", "c"]}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "part-0.parquet"))
    columns = {"image_column": "picture", "caption_column": "text", "image_root": str(tmp_path)}
    for path in ("part-0.parquet", "part-*.parquet", ""):
        found = HuggingFaceDataset(str(tmp_path / path), image_processor=shade, **columns)
        assert [int(found[i]["image"][0]) for i in range(2)] == [10, 11]
    with pytest.raises(BadSample, match="no such file"):
        found[2]


def test_wrong_columns_and_places(datasets, tmp_path):
    table(datasets, ["a cat"]).rename_column("caption", "captoin").save_to_disk(tmp_path / "saved")
    with pytest.raises(
        DataError, match=r"no key 'caption', only 'image', 'captoin'\. Did you mean 'captoin'\? Set capt"
    ):
        HuggingFaceDataset(str(tmp_path / "saved"), image_processor=shade)
    with pytest.raises(DataError, match=r"image_key is 'img', and there is no key 'img', only 'image', 'captoin'"):
        HuggingFaceDataset(str(tmp_path / "saved"), image_processor=shade, image_key="img")
    with pytest.raises(ConfigError, match="image_column is its older name"):
        HuggingFaceDataset(str(tmp_path / "saved"), image_processor=shade, image_key="a", image_column="b")
    with pytest.raises(DataError, match="no folder of save_to_disk and no Parquet file"):
        HuggingFaceDataset(str(tmp_path / "nowhere"), image_processor=shade)
    numbers = datasets.Dataset.from_dict({"image": [1, 2], "caption": ["a", "b"]})
    numbers.save_to_disk(tmp_path / "numbers")
    with pytest.raises(DataError, match=r"the column 'image' holds .*no images"):
        HuggingFaceDataset(str(tmp_path / "numbers"), image_processor=shade)


def test_common_names_keys_and_patterns(datasets, tmp_path):
    picture(7).save(tmp_path / "007.png")
    rows = {"img": [{"bytes": encoded(5), "path": None}], "TEXT": ["a cat"], "number": [7], "img_id": [3]}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "part.parquet"))
    path = str(tmp_path / "part.parquet")
    found = HuggingFaceDataset(path, image_processor=shade)[0]
    assert (found["text_input"], int(found["image"][0]), found["image_id"]) == ("a cat", 5, 3)
    settings = {"image_key": "number", "image_pattern": "{:03d}.png", "image_root": str(tmp_path)}
    assert int(HuggingFaceDataset(path, image_processor=shade, **settings)[0]["image"][0]) == 7
    two = {"image": rows["img"], "text": ["a"], "title": ["b"]}
    datasets.Dataset.from_dict(two).to_parquet(str(tmp_path / "two.parquet"))
    with pytest.raises(DataError, match="'text' and 'title' could be the column 'caption': set caption_key"):
        HuggingFaceDataset(str(tmp_path / "two.parquet"), image_processor=shade)


def test_ids_that_retrieval_cannot_use_are_named_with_their_row(datasets, tmp_path):
    table(datasets, ["a", "b"], image_id=[5, -1]).save_to_disk(tmp_path / "saved")
    found = HuggingFaceDataset(str(tmp_path / "saved"), image_processor=shade)
    assert "1 rows have an image_id that cannot be used (1): 'image_id' is -1" in found.problems()[0]
    with pytest.raises(BadSample, match="saved:1: 'image_id' is -1"):
        found[1]


def test_a_folder_of_images_with_metadata(datasets, tmp_path):
    for folder, red in (("train", 4), ("validation", 6)):
        (tmp_path / folder).mkdir()
        picture(red).save(tmp_path / folder / "0.png")
        (tmp_path / folder / "metadata.csv").write_text(f"file_name,text\n0.png,of {folder}\n")
    found = HuggingFaceDataset(str(tmp_path), split="val", image_processor=shade)[0]
    assert (found["references"], int(found["image"][0])) == (["of validation"], 6)


def test_parquet_files_of_several_splits_are_distinguished_by_their_names(datasets, tmp_path):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
        table(datasets, [name]).to_parquet(str(tmp_path / "data" / f"{name}.parquet"))
    texts = [row["text_input"] for row in HuggingFaceDataset(str(tmp_path), image_processor=shade)]
    assert texts == ["train-00000-of-00002", "train-00001-of-00002"]
    found = HuggingFaceDataset(str(tmp_path), split="val", image_processor=shade)
    assert [row["references"] for row in found] == [["validation-00000-of-00001"]]
    with pytest.raises(DataError, match=r"no split 'test'.*Set part: one of train, validation"):
        HuggingFaceDataset(str(tmp_path), split="test", image_processor=shade)


def test_folders_and_files_of_no_use_are_named_as_what_they_are(datasets, tmp_path):
    with pytest.raises(DataError, match=r"nor a folder of images with metadata\.csv\. The folder is empty"):
        HuggingFaceDataset(str(tmp_path), image_processor=shade)
    picture(3).save(tmp_path / "0.png")
    with pytest.raises(DataError, match=r"The folder holds 0\.png"):
        HuggingFaceDataset(str(tmp_path), image_processor=shade)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read by the package datasets"):
        HuggingFaceDataset(str(tmp_path / "a.parquet"), image_processor=shade)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match="saved: cannot be read by the package datasets"):
        HuggingFaceDataset(str(tmp_path / "saved"), image_processor=shade)


def test_parts_that_are_not_there_are_named_as_such(datasets, tmp_path):
    table(datasets, ["a cat"]).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"saved as one dataset without splits, so 'part' \('valid'\) cannot be given"):
        HuggingFaceDataset(str(tmp_path / "saved"), part="valid", image_processor=shade)
    table(datasets, ["a cat"]).to_parquet(str(tmp_path / "part.parquet"))
    with pytest.raises(DataError, match="valid"):
        HuggingFaceDataset(str(tmp_path / "part.parquet"), part="valid", image_processor=shade)


def test_what_is_there_is_not_suggested(datasets, tmp_path):
    """A folder that exists was answered with "Did you mean" and its own name."""
    (tmp_path / "imgfolder").mkdir()
    with pytest.raises(DataError) as caught:
        HuggingFaceDataset(str(tmp_path / "imgfolder"), image_processor=shade)
    assert "Did you mean" not in str(caught.value)


def test_the_name_of_a_reader_is_no_dataset(datasets):
    with pytest.raises(DataError, match="the name of a reader of the package datasets"):
        HuggingFaceDataset("imagefolder", image_processor=shade)
