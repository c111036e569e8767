"""``python -m vlkit``: the command line, also under ``torchrun -m vlkit``."""

from __future__ import annotations

import sys

from vlkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
