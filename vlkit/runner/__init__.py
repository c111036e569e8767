"""One loop for every task: :class:`Runner` trains, evaluates, checkpoints and continues."""

from vlkit.runner.distributed import World
from vlkit.runner.runner import Runner
from vlkit.runner.window import NonFinite

__all__ = ["Runner", "World", "NonFinite"]
