"""Annotation files: every format gives the same rows; every wrong file gives one message that says what to do."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.datasets.annotation_files import find_file
from vlkit.datasets.caption_index import Row, read_rows
from vlkit.errors import DataError

PAIRS = [("a.jpg", "a red cross"), ("b/ü.png", 'two "big" circles, one\tblue'), ("a.jpg", "")]
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
one_line = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=12)
named = anything.filter(str.strip)


def pairs_as(format: str, pairs) -> str:
    if format == "json":
        return json.dumps([{"image": image, "caption": caption} for image, caption in pairs])
    if format == "jsonl":
        return "\n".join(json.dumps({"image": i, "caption": c}, ensure_ascii=False) for i, c in pairs) + "\n\n"
    if format == "txt":
        return "".join(f"{image}\t{caption}\r\n" for image, caption in pairs)
    if format == "coco":
        images = [{"id": n, "file_name": image} for n, (image, _) in enumerate(pairs)]
        captions = [{"image_id": n, "caption": caption} for n, (_, caption) in enumerate(pairs)]
        return json.dumps({"images": images, "annotations": captions})
    if format == "tsv":  # which has no quotes: a TAB or a line end in a text cannot be written
        return "".join(f"{c}\t{i}\r\n" for i, c in [("image", "caption"), *((i, in_one_field(c)) for i, c in pairs)])
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerows([("caption", "image"), *((caption, image) for image, caption in pairs)])
    return stream.getvalue()


def in_one_field(text: str) -> str:
    return re.sub(r"[\t\r\n]", " ", text)


def saved(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def error(file: Path, **kwargs) -> str:
    with pytest.raises(DataError) as raised:
        list(read_rows(file, **kwargs))
    message = str(raised.value)
    assert str(file) in message
    return message


@pytest.mark.parametrize("format", ["json", "jsonl", "csv", "tsv", "txt", "coco"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_every_format_gives_the_same_pairs(tmp_path, format, bom):
    suffix = "json" if format == "coco" else format
    file = saved(tmp_path, f"captions.{suffix}", bom + pairs_as(format, PAIRS).encode())
    for kind in ("auto", "csv" if format == "tsv" else format):
        rows = list(read_rows(file, kind, need_captions=True))
        read = [(row.image, row.captions[0]) for row in rows]
        assert read == [(i, in_one_field(c) if format == "tsv" else c) for i, c in PAIRS]
    assert find_file(tmp_path) == file


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.data", "json"), ("a.json", "jsonl"), ("a", "jsonl"), ("a.txt", "csv"), ("a.txt", "tsv"), ("a.dat", "txt")],
)
def test_auto_goes_by_content_where_the_extension_does_not_tell(tmp_path, name, format):
    rows = list(read_rows(saved(tmp_path, name, pairs_as(format, PAIRS))))
    assert [(row.image, row.captions[0]) for row in rows] == [
        (i, in_one_field(c) if format == "tsv" else c) for i, c in PAIRS
    ]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["json", "jsonl", "csv", "coco"]), st.lists(st.tuples(named, anything), min_size=1))
def test_any_text_survives(format, pairs):
    if format == "csv":  # the csv module of Python < 3.11 refuses NUL
        pairs = [(a.replace("\0", "-"), b.replace("\0", "-")) for a, b in pairs]
    with tempfile.TemporaryDirectory() as folder:
        file = saved(Path(folder), "captions", pairs_as(format, pairs))
        rows = list(read_rows(file, format))
    assert [(row.image, row.captions) for row in rows] == [(image, [caption]) for image, caption in pairs]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(one_line.filter(str.strip), one_line), min_size=1))
def test_any_line_survives_in_a_txt_file(pairs):
    with tempfile.TemporaryDirectory() as folder:
        rows = list(read_rows(saved(Path(folder), "captions", pairs_as("txt", pairs)), "txt"))
    assert [(row.image, row.captions[0]) for row in rows] == pairs


def test_numbers_point_into_the_file(tmp_path):
    quoted = 'image,caption\na.jpg,"two\nlines"\n\nb.jpg,one\n'
    assert [row.number for row in read_rows(saved(tmp_path, "a.csv", quoted))] == [2, 5]
    lines = '{"image": "a"}\n\n{"image": "b"}\n'
    assert [row.number for row in read_rows(saved(tmp_path, "a.jsonl", lines))] == [1, 3]
    assert [row.number for row in read_rows(saved(tmp_path, "a.json", '[{"image": "a"}, {"image": "b"}]'))] == [1, 2]


def test_rows_of_the_paper_nocaps_and_lists_of_captions(tmp_path):
    rows = [
        {"caption": "a cat", "image": "val2014/x.jpg", "image_id": "coco_522418"},
        {"image": "y.jpg", "caption": ["a dog", "the dog"]},
        {"image": "z.jpg", "img_id": 17, "domain": "near-domain"},
        {"image": "w.jpg", "caption": None},
    ]
    assert list(read_rows(saved(tmp_path, "rows.json", json.dumps(rows)))) == [
        Row(1, "val2014/x.jpg", ["a cat"], "coco_522418"),
        Row(2, "y.jpg", ["a dog", "the dog"], None),
        Row(3, "z.jpg", [], 17, "near-domain"),
        Row(4, "w.jpg", [], None),
    ]


def test_half_an_emoji_becomes_a_question_mark(tmp_path):
    file = saved(tmp_path, "a.json", r'[{"image": "a.jpg", "caption": "hi \ud83d"}]')
    assert next(read_rows(file)).captions == ["hi ?"]


def test_a_coco_file_prints_nothing_and_keeps_its_ids(tmp_path, capsys):
    data = {
        "info": {},
        "categories": [{"id": 1}],  # pycocotools would ask each annotation for its category
        "images": [{"id": 9, "file_name": "i.jpg"}, {"id": 4, "file_name": "j.jpg"}],
        "annotations": [
            {"image_id": image, "caption": text, "id": 3} for image, text in [(4, "x"), (9, "y"), (4, "z")]
        ],
    }
    rows = list(read_rows(saved(tmp_path, "coco.json", json.dumps(data))))
    assert rows == [Row(1, "i.jpg", ["y"], 9), Row(2, "j.jpg", ["x", "z"], 4)]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.json", "", ["the file is empty"]),
        ("a.csv", " \n ", ["the file is empty"]),
        ("a.json", "[]", ["holds no rows", "'image'"]),
        ("a.csv", "image,caption\n", ["holds no rows"]),
        ("a.json", '[{"image": "a",\n "caption" "b"}]', ["not valid JSON", "line 2, column 12"]),
        ("a.jsonl", '{"image": "a", "caption": "b"}\n{"image": \n', ["line 2: not valid JSON"]),
        ("a.json", '{"rows": []}', ["top level", "mapping with the keys 'rows'", "list of rows"]),
        ("a.json", '"text"', ["top level is 'text' (str)"]),
        ("a.json", '{"images": [{"file_name": "a"}]}', ["images entry 1: no key 'id', only 'file_name'"]),
        (
            "a.json",
            '[{"imgae": "a", "caption": "b"}]',
            ["row 1: no key 'image', only 'imgae', 'caption'", "mean 'imgae'?"],
        ),
        ("a.json", '[{"image": "a", "capion": "b"}]', ["row 1: no key 'caption'", "Did you mean 'capion'?"]),
        ("a.json", '[{"image": "a", "caption": 7}]', ["row 1: 'caption' is 7 (int)", "list of texts"]),
        ("a.json", '[{"image": "a", "caption": ["b", 7]}]', ["row 1: 'caption' is ['b', 7]"]),
        ("a.json", '[{"image": null, "caption": "b"}]', ["row 1: 'image' is None"]),
        ("a.json", '[{"image": " ", "caption": "b"}]', ["row 1: 'image' is ' '"]),
        ("a.json", '[{"image": "a", "caption": "b", "image_id": 1.5}]', ["row 1: 'image_id' is 1.5 (float)"]),
        ("a.json", '[["a", "b"]]', ["row 1: ['a', 'b'] (list) is not a mapping"]),
        ("a.json", "[1, 2, 3, 4, 5]", ["row 1: 1", "row 3: 3", "And 2 more."]),
        ("a.csv", "a.jpg,a dog\nb.jpg,a cat\n", ["the header, line 1", "no key 'image'", "'a.jpg', 'a dog'"]),
        ("a.csv", "image,texte\na,b\n", ["the header, line 1", "no key 'caption', only 'image', 'texte'"]),
        ("a.csv", "image,caption\na,b\na,b, c\n", ["line 3: 3 fields where the header has 2", "quotes"]),
        ("a.csv", "image,caption\na\n", ["line 2: 1 fields where the header has 2"]),
        ("a.csv", 'image,caption\na,b\na,"b\nc,d\n', ["line 3: a quote left open", "write a quote inside of it twice"]),
        ("a.txt", "a.jpg\ta dog\nb.jpg a cat\n", ["line 2", "no TAB between"]),
        (
            "a.jsonl",
            b'{"image": "a", "caption": "b"}\n{"image": "\xe4"}',
            ["line 2: not UTF-8 (byte 0xe4)", "Latin-1", "encoding UTF-8"],
        ),
        ("a.json", b'[{"image":\n "\xe4"}]', ["line 2 is not UTF-8", "encoding UTF-8"]),
        ("a.csv", "image,caption\na,b\n".encode("utf-16-le"), ["UTF-16 without a byte order mark"]),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, name, content, parts):
    message = error(saved(tmp_path, name, content), need_captions=True)
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"images": [{"id": 1, "file_name": "a"}] * 2}, ["images entry 2: the id 1 is that of an earlier image"]),
        ({"images": [{"id": 1.5, "file_name": "a"}]}, ["images entry 1: 'id' is 1.5 (float)"]),
        ({"images": [{"id": 1, "filename": "a"}]}, ["no key 'file_name'", "Did you mean 'filename'?"]),
        ({"images": {"id": 1}}, ["'images' ({id, file_name})"]),
        ({"annotations": [{"image_id": 2, "caption": "x"}]}, ["annotations entry 1: no image has the id 2"]),
        ({"annotations": [{"image_id": 1, "bbox": []}]}, ["annotations entry 1: no key 'caption', only 'image_id'"]),
        ({"annotations": [{"image_id": 1, "caption": 3}]}, ["annotations entry 1: 'caption' is 3 (int), not a text"]),
        ({"annotations": [5]}, ["annotations entry 1: 5 (int) is not a mapping"]),
    ],
)
def test_a_wrong_coco_file_is_explained(tmp_path, change, parts):
    data = {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "caption": "x"}], **change}
    message = error(saved(tmp_path, "coco.json", json.dumps(data)))
    assert [part for part in parts if part not in message] == [], message


def test_the_format_that_is_set_is_the_one_that_is_read(tmp_path):
    coco = saved(tmp_path, "coco.json", pairs_as("coco", PAIRS))
    assert "set format: coco" in error(coco, format="json")
    plain = saved(tmp_path, "plain.json", pairs_as("json", PAIRS))
    assert "'annotations' ({image_id, caption})" in error(plain, format="coco")
    near = saved(tmp_path, "near.json", '{"image": [], "annotations": []}')
    assert "Did you mean 'image'?" in error(near, format="coco")


def test_a_missing_file_names_the_closest(tmp_path):
    saved(tmp_path, "captions_train.json", "[]")
    with pytest.raises(DataError, match=r"caption_train.json: does not exist. Did you mean 'captions_train.json'"):
        find_file(tmp_path / "caption_train.json")


def test_a_folder_holds_one_captions_file(tmp_path):
    with pytest.raises(DataError, match=r"holds no captions file. One of captions.json, .* is needed"):
        find_file(tmp_path)
    saved(tmp_path, "captions.json", "[]")
    saved(tmp_path, "captions.csv", "")
    with pytest.raises(DataError, match=r"holds captions.json and captions.csv"):
        find_file(tmp_path)


def test_image_ids_of_coco_are_in_its_file_names(tmp_path):
    rows = [{"image": "val2014/COCO_val2014_000000391895.jpg", "caption": ["a cat"], "image_id": "coco_391895"}]
    file = saved(tmp_path, "rows.json", json.dumps(rows))
    assert next(read_rows(file)).image_id == "coco_391895"
    assert next(read_rows(file, image_ids="coco")).image_id == 391895
    file = saved(tmp_path, "own.json", json.dumps([*rows, {"image": "cat.jpg", "caption": "a cat"}]))
    with pytest.raises(DataError, match=r"row 2: 'cat\.jpg' .* has no number after its last underscore"):
        list(read_rows(file, image_ids="coco"))


def test_domains_of_a_coco_file(tmp_path):
    images = [{"id": 3, "file_name": "a.jpg", "domain": "in-domain"}, {"id": 4, "file_name": "b.jpg"}]
    data = {"images": images, "annotations": [{"image_id": 3, "caption": "a cat"}]}
    rows = list(read_rows(saved(tmp_path, "nocaps.json", json.dumps(data))))
    assert [(row.image_id, row.domain, row.captions) for row in rows] == [(3, "in-domain", ["a cat"]), (4, None, [])]
    wrong = saved(tmp_path, "wrong.json", json.dumps([{"image": "a.jpg", "domain": 7}]))
    with pytest.raises(DataError, match="'domain' is 7"):
        list(read_rows(wrong))


@pytest.mark.parametrize(("made", "path"), [("a.tar", "a.tar"), ("00000.tar", ""), ("{0..3}.tar", "{0..3}.tar")])
def test_shards_are_read_by_another_dataset(tmp_path, made, path):
    (tmp_path / made).write_bytes(b"")
    with pytest.raises(DataError, match="web_shards"):
        find_file(tmp_path / path)


@pytest.mark.parametrize(("made", "path"), [("dataset_info.json", ""), ("a.parquet", ""), ("a.parquet", "a.parquet")])
def test_what_hugging_face_wrote_is_read_by_another_dataset(tmp_path, made, path):
    (tmp_path / made).write_bytes(b"")
    with pytest.raises(DataError, match="hf_dataset"):
        find_file(tmp_path / path)
    (tmp_path / "captions.json").write_text("[]")
    assert find_file(tmp_path).name == "captions.json"


@pytest.mark.parametrize("start", ["[", "[\n ", '[{"image": "z", "caption": "zz"}, '])
def test_a_list_that_is_called_jsonl_is_read_as_the_list_it_is(tmp_path, start):
    file = tmp_path / "a.jsonl"
    file.write_text(start + '{"image": "a", "caption": "x"},\n{"image": "b", "caption": "y"}]\n')
    assert [row.image for row in read_rows(file)][-2:] == ["a", "b"]
