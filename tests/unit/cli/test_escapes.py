"""File names that are no text, and terminals that know few characters, end no command and no log line."""

from __future__ import annotations

import io
import logging
import sys

from vlkit.cli import main
from vlkit.cli.terminal import escape_output, log_lines, say


def test_what_cannot_be_encoded_is_printed_as_escapes(monkeypatch):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(["caf\udce9 ü"]) == 2
    say("caf\udce9 ü")
    with log_lines():
        logging.getLogger("vlkit.x").warning("skipped %s", "a\ud83d.png")
    out.flush()
    err.flush()
    assert out.buffer.getvalue() == b"caf\\udce9 \\xfc\nskipped a\\ud83d.png\n"
    assert b"there is no command 'caf\\udce9" in err.buffer.getvalue()
    assert b"Traceback" not in err.buffer.getvalue()


def test_streams_of_other_kinds_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    escape_output()
