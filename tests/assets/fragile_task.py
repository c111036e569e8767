"""A plugin whose task fails where it is asked to."""

from __future__ import annotations

import os

from tests.assets.plugin_task import Naming
from vlkit.registry import TASKS


@TASKS.register("fragile")
class Fragile(Naming):
    """Fails where it is asked to.

    Args:
        where: method.
        step: from which on.
        most: samples that an evaluation may have.
    """

    evaluation_keys = ("where", "step", "most")

    def __init__(self, where: str = "", step: int = 0, most: int = 1000, gain: float = 1.0):
        self.where, self.step, self.most, self.seen = where, step, most, []

    def train_step(self, model, inputs, progress):
        if self.where == "train_step" and progress.step >= self.step:
            raise ZeroDivisionError("in a step")
        return super().train_step(model, inputs, progress)

    def evaluate(self, model, loader, context):
        batches = list(loader)
        if sum(len(batch["image"]) for batch in batches) > self.most:
            raise ZeroDivisionError("too many samples")
        if self.where == "rank 1" and os.environ.get("RANK") == "1":
            raise ZeroDivisionError("in one process")
        if self.where == "evaluate" and context.step >= self.step:
            raise ZeroDivisionError("in an evaluation")
        return super().evaluate(model, batches, context)

    def describe(self, model, batch, context):
        if self.where == "describe":
            raise ZeroDivisionError("in a picture")
        return super().describe(model, batch, context)
