import gzip

import pytest

from vlkit.datasets.texts import read_answer_list
from vlkit.errors import DataError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '["yes", "no", "on the table", "yes"]'),
        ("a.json", '\ufeff{"no": 1, "on the table": 2, "yes": 0}'),
        ("a.txt", "yes\n\n no \r\non the table\n"),
        ("a.txt", "yes\rno\ron the table"),
        ("a.txt", '["yes", "no", "on the table"]'),
    ],
)
def test_formats(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_answer_list(tmp_path / name) == ["yes", "no", "on the table"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "not a list of texts"),
        ('{"yes": "no"}', "not a list of texts"),
        ("[]", "holds no answers"),
        ('["yes"', "not valid JSON at line 1"),
        ('["yes", NaN]', "it holds NaN"),
        ('["yes", [1]]', r"entry 2 is \[1\] \(list\)"),
        ('{"yes": 1, "no": true}', "a number of the mapping is True"),
        ('["yes", " "]', "answer 2 is empty"),
        ("[" * 200 + "]" * 200, "deeper than 100 levels"),
        ('{"yes": 1, "no": ' + "1" * 5000 + "}", "an integer of 5000 digits"),
        ("<html>404</html>", "web page"),
    ],
)
def test_what_is_no_list(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_answer_list(tmp_path / "a.json")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("text", ['["caf\\u00e9", "a\\u2028b"]', "café\na\u2028b\n"])
def test_encodings_and_gzip(tmp_path, text, encoding, packed):
    data = text.encode(encoding)
    (tmp_path / "answers.gz").write_bytes(gzip.compress(data) if packed else data)
    assert read_answer_list(tmp_path / "answers.gz") == ["café", "a\u2028b"]


def test_other_encodings_are_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("no\ncafé\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a.txt: line 2: not UTF-8 \(byte 0xe9\). It may be Latin-1"):
        read_answer_list(tmp_path / "a.txt")


def test_no_file(tmp_path):
    with pytest.raises(DataError, match=r"answer list: .*nothere"):
        read_answer_list(tmp_path / "nothere.json")
