"""One loop for every task: :class:`Runner` trains, evaluates, checkpoints and continues."""

from vlkit.runner.context import RunContext
from vlkit.runner.distributed import World
from vlkit.runner.metric_window import NonFinite
from vlkit.runner.runner import Runner

__all__ = ["Runner", "RunContext", "World", "NonFinite"]
