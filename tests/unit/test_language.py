"""Names and words that were replaced by the terms of the field: none is left in code, tests, documents, configurations.

Old keys of configurations are listed in ``vlkit/config/old_keys.py`` and nowhere else. Words that also have ordinary
uses are left to review.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = (
    "vlkit",
    "tests",
    "docs",
    "projects",
    "benchmarks",
    "README.md",
    "CONTRIBUTING.md",
    "setup.cfg",
    "pyproject.toml",
)
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".cfg", ".toml", ".sh", ".html", ".j2", ".jinja"}
EXCEPT = (
    "vlkit/configs/vocab/",
    "tests/assets/golden/",
    "tests/assets/recorded_489eecb/",
    "tests/unit/test_language.py",
)
OLD_KEYS = ("vlkit/config/old_keys.py", "tests/unit/config/test_old_keys", "tests/integration/test_recorded_")

MODULES = """
    awaited rehearsal preflight overlap starting_weights foreign_caches data_folder nested_models freed_memory pool
    passes begun_texts matching packed caption_table self_cache linear static_decoding static_step window
    picture place stores stored finding fetching reading row_reading tar_reading lists hand_out owner apply cut
"""
"""Stems of modules of the package."""
IDENTIFIERS = """
    BegunTexts CrossStates Walk TreeCache Turned Looked Lot Spot Part Place Between Share ByNeed Awaited
    accumulate readers together moments freed_memory give_back whole_model
    rehearsal preflight starting_weights foreign_caches nested_models begun_texts caption_table static_decoding
    static_step
"""
"""Names of classes, functions, variables, arguments and attributes."""
WORDS = (
    r"told|mend(s|ed|ing)?|anew|lest|looked at|goes on|cut up|laid out anew|embedded world|whoever|whomever|so many|"
    r"what people import|starts random"
)
"""Words and phrases of prose, strings and the parts of identifiers."""
_NAMES = frozenset(IDENTIFIERS.split())
_WORDS = re.compile(rf"\b({WORDS})\b", re.IGNORECASE)
_LIBRARIES = {"itertools", "add", "np", "logaddexp", "maximum", "minimum", "multiply"}
"""``itertools.accumulate`` and the method of NumPy's functions keep their names."""


def files() -> list[Path]:
    """Every text file that is held to the list."""
    found: list[Path] = []
    for place in PLACES:
        path = ROOT / place
        found += (
            [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        )
    return [path for path in found if not relative(path).startswith(EXCEPT)]


def relative(path: Path) -> str:
    """The path inside the repository, with ``/``."""
    return path.relative_to(ROOT).as_posix()


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of all names of a module that its authors chose."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield line, node.name
        elif isinstance(node, ast.Name):
            yield line, node.id
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            yield getattr(node, "lineno", line), node.arg
        elif isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if owner not in _LIBRARIES:
                yield line, node.attr
        elif isinstance(node, ast.alias):
            yield line, node.asname or node.name.rpartition(".")[2]


def prose(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of the comments and strings of a module; comments on consecutive lines are one text."""
    comment: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if comment and token.start[0] > last + 1:
                yield first, " ".join(comment)
                comment = []
            first = first if comment else token.start[0]
            comment.append(token.string.lstrip("#! "))
            last = token.start[0]
        elif token.type == tokenize.STRING or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            yield token.start[0], token.string
    if comment:
        yield first, " ".join(comment)


def words_in(text: str) -> list[str]:
    """The words of the list in a text, also over line ends and between the quotes of joined strings."""
    return [found[0].lower() for found in _WORDS.finditer(re.sub(r"\s+", " ", text))]


def problems_of_module(source: str, where: str) -> list[str]:
    """Old names and words of a Python file."""
    tree, found = ast.parse(source), []
    if not where.startswith(OLD_KEYS):
        for line, name in identifiers(tree):
            if name in _NAMES:
                found.append(f"{where}:{line}: {name}")
            spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name)
            found += [f"{where}:{line}: {name} ({word})" for word in words_in(spaced)]
    for line, text in prose(source):
        found += [f"{where}:{line}: {word!r}" for word in words_in(text)]
    return list(dict.fromkeys(found))


def problems_of_text(text: str, where: str) -> list[str]:
    """Words of the list in a document or a configuration."""
    return [f"{where}: {word!r}" for word in words_in(text)]


def test_no_word_of_the_list_is_left():
    found = []
    for path in files():
        check = problems_of_module if path.suffix == ".py" else problems_of_text
        found += check(path.read_text(encoding="utf-8"), relative(path))
    assert found == []


def test_no_module_has_an_old_name():
    assert [relative(path) for path in (ROOT / "vlkit").rglob("*.py") if path.stem in MODULES.split()] == []


@pytest.mark.parametrize(
    "source",
    [
        "class BegunTexts: ...",
        "def f(readers): ...",
        "run.accumulate",
        "f(together=1)",
        "def test_a_typo_is_told(): ...",
        "x = 'fewer than\\n so   many'",
        "def f():\n    '''Fetched\n    anew.'''",
        "# what is\n# laid out\n# anew",
        "x = f'{y} is told'",
        "from a import Walk",
    ],
)
def test_a_word_is_found(source):
    assert problems_of_module(source, "x.py")


@pytest.mark.parametrize(
    "source",
    ["itertools.accumulate(x)", "np.add.accumulate(x)", "class Sampler: ...", "# recommend, endlessly", "'a share'"],
)
def test_other_words_are_left_alone(source):
    assert problems_of_module(source, "x.py") == []


def test_old_keys_are_allowed_in_their_table_only():
    source = "KEYS = {'accumulate': 'grad_accum_steps'}\naccumulate = 1"
    assert problems_of_module(source, "vlkit/config/old_keys.py") == []
    assert problems_of_module(source, "vlkit/config/load.py") == ["vlkit/config/load.py:2: accumulate"]
