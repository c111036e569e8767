"""Training and evaluation mode of a model, module by module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """While entered, the model is in evaluation mode; afterwards each module is in the mode that it had."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:  # parents come before their children
            if module.training != training:
                module.train(training)


def start_training(model: nn.Module) -> None:
    """Put a model in training mode. One that is in it stays as it is: parts of it may be frozen in evaluation mode."""
    if not model.training:
        model.train()
