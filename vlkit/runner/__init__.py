"""Train and evaluate any task: :class:`Runner`."""

from vlkit.runner.context import RunContext
from vlkit.runner.distributed import World
from vlkit.runner.log import NonFinite
from vlkit.runner.runner import Runner

__all__ = ["Runner", "RunContext", "World", "NonFinite"]
