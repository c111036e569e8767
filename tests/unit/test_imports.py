"""The arrows of the design: which room may import which, and what is loaded when."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vlkit

PACKAGE = Path(vlkit.__file__).parent
# A room to the rooms of ours that it must not import, in functions neither.
_ABOVE = {"capfilt", "tasks", "runner", "jobs", "pipeline", "cli", "api"}  # nobody below uses them
_ALL = _ABOVE | {"models", "datasets", "processors", "metrics"}
FORBIDDEN = {
    "models": _ABOVE | {"datasets", "metrics", "config"},
    "processors": _ABOVE | {"models", "datasets", "metrics"},
    "datasets": _ABOVE | {"models", "metrics"},
    "metrics": _ALL - {"metrics"} | {"config"},
    "tasks": {"runner", "jobs", "pipeline", "cli", "api"},
    "runner": {"capfilt", "models", "jobs", "pipeline", "cli", "api"},
    "capfilt": {"cli", "api"},
    "config": _ALL,
    "io": _ALL | {"config", "registry"},
    "registry": _ALL | {"config", "io"},
    "errors": _ALL | {"config", "io", "registry"},
    "jobs": {"pipeline", "cli", "api"},
}
# Rooms that must not import these libraries.
FORBIDDEN_LIBRARIES = {
    "config": {"torch", "torchvision", "transformers", "timm"},
    "registry": {"torch", "torchvision", "transformers", "timm"},
    "metrics": {"torch.distributed"},
    "models": {"omegaconf", "urllib", "requests", "socket"},
}


def imported(tree: ast.AST, package: tuple[str, ...]) -> list[tuple[int, str]]:
    """(line, dotted name) of everything that a module imports; ``package`` resolves relative imports."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found += [(node.lineno, module)] + [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def wrong_arrows(source: str, parts: tuple[str, ...]) -> list[str]:
    """The forbidden imports of the module at ``parts`` (path inside the package, without suffix)."""
    room, wrong = parts[0], []
    for line, name in imported(ast.parse(source), ("vlkit", *parts[:-1])):
        ours = name.split(".")[1:2] if name.startswith("vlkit.") else []
        libraries = FORBIDDEN_LIBRARIES.get(room, ())
        if set(ours) & FORBIDDEN.get(room, set()) or any(f"{name}.".startswith(f"{lib}.") for lib in libraries):
            wrong.append(f"{'/'.join(parts)}.py:{line}: {room} imports {name}")
    return wrong


def test_no_arrow_points_the_wrong_way():
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        wrong += wrong_arrows(file.read_text(), file.relative_to(PACKAGE).with_suffix("").parts)
    assert wrong == []


@pytest.mark.parametrize(
    ("parts", "source"),
    [
        (("models", "vit"), "from vlkit.datasets import base"),
        (("models", "vit"), "def f():\n    import vlkit.tasks.base"),
        (("models", "vit"), "from ..runner import loop"),
        (("models", "blip", "x"), "from vlkit import config"),
        (("metrics", "cider"), "import torch.distributed as dist"),
        (("metrics", "cider"), "from torch import distributed"),
        (("config", "load"), "def f():\n    import torch"),
        (("registry",), "from . import models"),
    ],
)
def test_a_wrong_arrow_is_found(parts, source):
    assert len(set(wrong_arrows(source, parts))) >= 1


def test_right_arrows_are_left_alone():
    assert wrong_arrows("import torch\nfrom vlkit.errors import VlkitError\nfrom . import med", ("models", "x")) == []
    assert wrong_arrows("from vlkit.models import vit\nfrom vlkit.datasets import base", ("tasks", "x")) == []


def heavy_after(code: str) -> str:
    """Which heavy libraries a fresh interpreter has loaded after ``code``."""
    listing = "import sys; print([m for m in ('torch', 'transformers', 'timm', 'omegaconf') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{listing}"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_importing_the_package_loads_nothing_heavy():
    assert heavy_after("import vlkit; vlkit.MODELS, vlkit.VlkitError, dir(vlkit)") == "[]"


@pytest.mark.parametrize(
    "module", ["vlkit.registry", "vlkit.errors", "vlkit.io.files", "vlkit.config.run", "vlkit.cli.show"]
)
def test_foundations_load_nothing_heavy(module):
    assert heavy_after(f"import {module}") == "[]"


def test_help_loads_nothing_heavy():
    assert heavy_after("from vlkit.cli import main; assert main(['--help']) == 0") == "[]"


def test_a_heavy_library_would_be_noticed():
    assert heavy_after("import omegaconf") == "['omegaconf']"
