"""A filter whose tokenizer does not know the texts of the web is a warning, once."""

from __future__ import annotations

import logging

from tests.unit.capfilt.small import annotator, members, worker, write_tar


def warnings_of(folder, caplog, text: str) -> list[str]:
    files = members(0, 24)
    files |= {name: text.encode() for name in files if name.endswith(".txt")}
    write_tar(folder / "in/00000.tar", files)
    with caplog.at_level(logging.WARNING):
        worker(folder / "in", folder / "out", annotator()).run()
    return [record.message for record in caplog.records if "does not fit" in record.message]


def test_texts_that_the_filter_does_not_know_are_a_warning(tmp_path, caplog):
    found = warnings_of(tmp_path, caplog, "two boys under umbrellas")
    assert len(found) == 1
    assert "the texts of the web: the tokenizer 'shapes' does not fit: 50% of the tokens of 10 texts" in found[0]
    assert "Set the tokenizer of model.filter: bert-base-uncased" in found[0]


def test_texts_that_it_knows_are_none(tmp_path, caplog):
    assert warnings_of(tmp_path, caplog, "a small blue square") == []
