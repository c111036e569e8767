"""Tables and log lines of the commands."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from vlkit.cli.terminal import log_lines, number, say, scores_table, table


def test_columns_are_as_wide_as_they_must_be():
    assert table([["a", "1"], ["longer", "22"]], ["", "value"]) == "\n".join(
        ["        value", "------  -----", "a           1", "longer     22"]
    )
    assert table([["a", "1"], ["bb", "22"]]) == "a    1\nbb  22"


def test_scores_have_a_column_for_each_set():
    shown = scores_table({"val/cider": 1.5, "test/cider": 0.25, "test/bleu_4": 2e-5}).splitlines()
    assert shown[0].split() == ["val", "test"]
    assert [line.split() for line in shown[2:]] == [["cider", "1.5000", "0.2500"], ["bleu_4", "-", "2e-05"]]


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0.0000"), (0.12345, "0.1235"), (1e-7, "1e-07"), (123456.0, "1.235e+05"), (None, "-")]
)
def test_numbers(value, shown):
    assert number(value) == shown


def test_only_process_0_prints(capsys, monkeypatch):
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with log_lines():
            say(f"said by {rank}")
            logging.getLogger("vlkit.some.where").info("logged by %s", rank)
            logging.getLogger("vlkit.some.where").warning("warned by %s", rank)
    printed = capsys.readouterr()
    assert printed.out == "said by 0\nlogged by 0\nwarned by 0\nwarned by 1\n"
    assert printed.err == ""


def test_logging_is_left_as_it_was(capsys):
    logger = logging.getLogger("vlkit")
    before = (logger.level, list(logger.handlers))
    with log_lines():
        assert logger.handlers != before[1]
    assert (logger.level, logger.handlers) == before


def test_a_log_that_nobody_can_take_ends_nothing():
    code = (
        "import logging\n"
        "from vlkit.cli.terminal import log_lines\n"
        "with log_lines():\n"
        "    for number in range(3):\n"
        "        logging.getLogger('vlkit.x').info('line')\n"
        "raise SystemExit(7)\n"
    )
    done = subprocess.run(f'{sys.executable} -c "{code}" > /dev/full', shell=True, capture_output=True, text=True)
    assert done.returncode == 7
    assert done.stderr.count("the log cannot be printed any more: No space left on device. The command continues") == 1
    assert "Traceback" not in done.stderr
