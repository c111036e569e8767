"""Lists of answers that a model chooses from."""

from __future__ import annotations

import json
from os import PathLike

from vlkit.errors import DataError, VlkitError
from vlkit.io import fetch

_NEED = "An answer list is a JSON list of texts (or a mapping of texts to numbers), or a file of one answer a line."


def read_answer_list(path: str | PathLike[str]) -> list[str]:
    """The answers in a file, in its order; repeated ones are dropped.

    Args:
        path: of a file, or a URL: ``.json`` holds a list of texts, or a mapping of texts to numbers, which order them
            (``ans2label`` files); anything else one answer a line.

    Raises:
        DataError: the file is not there or is no such list.
    """
    try:
        file = fetch(str(path))
        text = file.read_text(encoding="utf-8-sig")
    except (VlkitError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"answer list: {error} {_NEED}") from error
    if file.suffix.lower() != ".json":
        found = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}: not valid JSON at line {error.lineno}: {error.msg}. {_NEED}") from error
        if isinstance(found, dict) and all(isinstance(number, int) for number in found.values()):
            found = sorted(found, key=found.__getitem__)
        if not isinstance(found, list) or not all(isinstance(answer, str) for answer in found):
            raise DataError(f"{file}: not a list of texts. {_NEED}")
    if not found:
        raise DataError(f"{file}: holds no answers. {_NEED}")
    return list(dict.fromkeys(found))
