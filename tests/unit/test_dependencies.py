"""Every third-party package that vlkit imports is declared in setup.cfg, and every required one is used."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Import names whose distribution is named differently.
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "cv2": "opencv-python-headless"}
# Optional at run time and imported by torch: ``torch.utils.tensorboard`` needs the package of that name.
IMPORTED_BY_TORCH = {"torch.utils.tensorboard": "tensorboard"}


def declared() -> tuple[set[str], set[str]]:
    """Names in ``install_requires``, and names in the extras that users install."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    required = _names(config["options"]["install_requires"])
    extras = {key: _names(value) for key, value in config["options.extras_require"].items() if key != "test"}
    return required, set().union(*extras.values())


def _names(lines: str) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", line.strip())[0].lower() for line in lines.strip().splitlines()}


def imports(source: str) -> set[str]:
    """Distributions that a module imports, also inside functions."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            modules.add(node.module)
    found = {IMPORTED_BY_TORCH[name] for name in modules if name in IMPORTED_BY_TORCH}
    for top in {name.partition(".")[0] for name in modules} - {"vlkit", *sys.stdlib_module_names}:
        found.add(DISTRIBUTIONS.get(top, top))
    return found


def imported() -> dict[str, list[str]]:
    """Distribution to the files that import it."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "vlkit").rglob("*.py")):
        for name in imports(file.read_text()):
            found.setdefault(name.lower(), []).append(str(file.relative_to(ROOT)))
    return found


def test_every_import_is_declared():
    required, optional = declared()
    missing = {name: files for name, files in imported().items() if name not in required | optional}
    assert missing == {}


def test_every_dependency_has_a_line_in_the_documents():
    required, optional = declared()
    lines = (ROOT / "docs" / "dependencies.md").read_text().lower()
    assert [name for name in sorted(required | optional) if f"`{name}`" not in lines] == []


def test_imports_are_found_in_functions_and_under_their_distribution():
    source = "import os, numpy.linalg\nfrom . import x\ndef f():\n    from PIL import Image\n"
    source += "    import torch.utils.tensorboard"
    assert imports(source) == {"numpy", "pillow", "torch", "tensorboard"}
