"""The layers of the design: which modules may import which, and what is loaded when."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vlkit

PACKAGE = Path(vlkit.__file__).parent
_FOUNDATIONS = {"errors", "registry", "contracts", "io"}
_TOP = {"jobs", "pipeline", "cli", "api"}
# A layer to what of ours it may import besides its own modules, in functions and under TYPE_CHECKING too.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "registry": {"errors", "contracts"},
    "contracts": {"errors", "registry"},
    "io": {"errors"},
    "config": {"errors", "registry", "io"},
    "processors": {"errors", "registry", "io", "metrics"},
    "metrics": {"errors", "registry", "io", "processors"},
    "models": _FOUNDATIONS | {"processors"},
    "datasets": {"errors", "registry", "io", "processors", "metrics.base"},
    "tasks": _FOUNDATIONS | {"metrics", "processors.text", "datasets"},
    "runner": {"errors", "io", "config", "contracts", "datasets.loading", "datasets.mixture", "tasks.base"},
    "capfilt": _FOUNDATIONS | {"config", "processors", "metrics", "datasets", "runner", "tasks.base"},
}
_BELOW_JOBS = set(ALLOWED) | {"models", "tasks"}
ALLOWED |= {
    "jobs": _BELOW_JOBS,
    "pipeline": _BELOW_JOBS | {"jobs"},
    "api": _BELOW_JOBS | _TOP,
    "cli": _BELOW_JOBS | _TOP | {"__init__"},
    "__init__": _BELOW_JOBS | _TOP,
    "__main__": _BELOW_JOBS | _TOP,
}
# (module, what it imports) that the table forbids: this list may only become shorter.
KNOWN = {
    ("runner.config_changes", "registry"),
    ("runner.evaluation", "datasets.base"),
    ("runner.runner", "datasets.base"),
    ("tasks.capfilt", "capfilt.decision"),
}
# Layers that must not import these libraries.
FORBIDDEN_LIBRARIES = {
    "config": {"torch", "torchvision", "transformers", "timm"},
    "registry": {"torch", "torchvision", "transformers", "timm"},
    "metrics": {"torch.distributed"},
    "models": {"omegaconf", "urllib", "requests", "socket"},
}
MODULES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}
"""Path inside the package, with dots, to the file; ``__init__`` is the package itself."""


def imported(tree: ast.AST, package: tuple[str, ...]) -> list[tuple[int, str]]:
    """(line, dotted name) of everything that a module imports; ``package`` resolves relative imports."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def own_module(name: str) -> str | None:
    """The module of ours that an import of ``name`` loads, without the name of the package; None: another library."""
    if name.partition(".")[0] != "vlkit":
        return None
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts) or "__init__"


def violations(source: str, module: str, package: tuple[str, ...]) -> list[tuple[int, str, str]]:
    """(line, module, what it imports) of the imports that the layer of ``module`` may not have."""
    layer, found = module.partition(".")[0], []
    for line, name in imported(ast.parse(source), ("vlkit", *package)):
        target = own_module(name)
        if target is None:
            wrong = any(f"{name}.".startswith(f"{library}.") for library in FORBIDDEN_LIBRARIES.get(layer, ()))
            found += [(line, module, name)] if wrong else []
        elif target.partition(".")[0] != layer:
            allowed = any(f"{target}.".startswith(f"{each}.") for each in ALLOWED[layer])
            found += [] if allowed else [(line, module, target)]
    return found


def package_of(module: str) -> tuple[str, ...]:
    """The package in which relative imports of a module begin."""
    parts = tuple(module.split("."))
    return parts if MODULES[module].name == "__init__.py" and module != "__init__" else parts[:-1]


def cycles(imports: dict[str, set[str]]) -> set[str]:
    """The modules on import cycles, or between two of them."""
    left = {module: targets - {module} for module, targets in imports.items()}
    while True:
        used = set().union(*left.values()) if left else set()
        free = {module for module, targets in left.items() if not targets & left.keys() or module not in used}
        if not free:
            return set(left)
        left = {module: targets for module, targets in left.items() if module not in free}


def test_each_module_imports_from_layers_below_its_own():
    found = [each for name, file in MODULES.items() for each in violations(file.read_text(), name, package_of(name))]
    assert [each for each in found if each[1:] not in KNOWN] == []


def test_there_are_no_import_cycles():
    imports = {
        name: {
            target
            for _, each in imported(ast.parse(file.read_text()), ("vlkit", *package_of(name)))
            if (target := own_module(each)) is not None
        }
        for name, file in MODULES.items()
    }
    assert cycles(imports) == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("models.vit", "from vlkit.datasets import base"),
        ("models.vit", "def f():\n    import vlkit.tasks.base"),
        ("models.vit", "from ..runner import runner"),
        ("models.blip.vqa", "from vlkit import config"),
        ("models.vit", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vlkit.tasks import base"),
        ("metrics.base", "import torch.distributed as dist"),
        ("metrics.base", "from torch import distributed"),
        ("config.load", "def f():\n    import torch"),
        ("registry", "from vlkit import models"),
        ("tasks.base", "from vlkit.models import vit"),
        ("datasets.base", "from vlkit.metrics import caption"),
        ("runner.runner", "from vlkit.tasks.vqa import VQATask"),
    ],
)
def test_a_forbidden_import_is_found(module, source):
    assert len(violations(source, module, package_of(module))) == 1


def test_allowed_imports_are_left_alone():
    assert (
        violations("import torch\nfrom vlkit.errors import VlkitError\nfrom . import med", "models.vit", ("models",))
        == []
    )
    assert violations("from vlkit.datasets import base", "tasks.base", ("tasks",)) == []
    assert violations("from vlkit.metrics.base import Metric", "datasets.base", ("datasets",)) == []


def test_a_cycle_is_found():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {"b", "c"}
    assert cycles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == set()


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
