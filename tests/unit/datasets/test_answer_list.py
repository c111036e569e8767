import pytest

from vlkit.datasets.answer_list import read_answer_list
from vlkit.errors import DataError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '["yes", "no", "on the table", "yes"]'),
        ("a.json", '\ufeff{"no": 1, "on the table": 2, "yes": 0}'),
        ("a.txt", "yes\n\n no \r\non the table\n"),
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
    ],
)
def test_what_is_no_list(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_answer_list(tmp_path / "a.json")


def test_no_file(tmp_path):
    with pytest.raises(DataError, match=r"answer list: .*nothere"):
        read_answer_list(tmp_path / "nothere.json")
