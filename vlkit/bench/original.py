"""Finding the reference: a plain re-implementation of the original's loops, in ``benchmarks/original`` of a checkout.

It is no part of the package.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import vlkit
from vlkit.bench.compare import Row, seconds
from vlkit.bench.memory import measure_peak
from vlkit.errors import VlkitError

logger = logging.getLogger(__name__)
NAME = "original's loops, fp32"
"""What a row calls the reference."""
_PACKAGE = "vlkit_original"


def folder() -> Path:
    """Where the reference lies in a checkout."""
    return Path(vlkit.__file__).parents[1] / "benchmarks" / "original"


def in_checkout() -> bool:
    """Whether the reference is there; else a message says what is left out of the table."""
    found = folder().is_dir()
    if not found:
        logger.warning("rows beside the original's loops are left out: %s is part of a checkout only", folder())
    return found


def load(name: str) -> ModuleType:
    """The module ``name`` of the reference.

    Raises:
        VlkitError: this is no checkout, or there is no such module.
    """
    file = folder() / f"{name}.py"
    if not file.is_file():
        raise VlkitError(
            f"this benchmark compares with {file}, which is not there: it is part of a checkout of vlkit and not of an "
            f"installed package. Clone the repository and install it with `pip install -e .`."
        )
    if _PACKAGE not in sys.modules:
        start = folder() / "__init__.py"
        spec = importlib.util.spec_from_file_location(_PACKAGE, start, submodule_search_locations=[str(folder())])
        assert spec is not None  # a file that exists has both
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[_PACKAGE] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{_PACKAGE}.{name}")


@dataclass
class Measured:
    """What a piece of work gave and took.

    Args:
        output: of its first run.
        seconds: median, or of its only run.
        mib: peak memory of its first run; None: not known.
    """

    output: Any
    seconds: float
    mib: float | None


def measure(run: Callable[[], Any], repeat: int) -> Measured:
    """Run once to warm up, for the output and for peak memory, then ``repeat`` times against the clock; with
    ``repeat`` 0 the one run is timed."""
    first: list[Any] = []
    taken = seconds(lambda: first.extend(measure_peak(run)))
    times = [seconds(run) for _ in range(repeat)]
    return Measured(first[0], statistics.median(times or [taken]), first[1])


def row(
    work: str,
    dtype: str,
    ours: Measured,
    theirs: Measured,
    equal: bool,
    wanted: float | None = None,
    note: str = "",
) -> Row:
    """The row of two measurements."""
    ratio = theirs.seconds / ours.seconds
    return Row(work, dtype, ours.seconds, NAME, theirs.seconds, ratio, equal, wanted, ours.mib, theirs.mib, None, note)
