"""Change a model for a while: evaluation mode, or anything that is undone afterwards."""

from __future__ import annotations

import contextlib
import copy
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode inside the context; restore the mode of each module afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:  # parents come before their children
            if module.training != training:
                module.train(training)


def start_training(model: nn.Module) -> None:
    """Put a model in training mode, unless it is: parts of it may be frozen in evaluation mode."""
    if not model.training:
        model.train()


@contextlib.contextmanager
def restored(model: nn.Module, *others: Any) -> Iterator[None]:
    """Restore ``model`` and the global random numbers (torch on every device, numpy, Python) on leaving the context.

    Restored are weights and buffers, also replaced ones; gradients; the mode of each module; hooks; and other
    attributes of modules: tensors, lists, dictionaries, sets and deques in place, other objects by reference.

    Args:
        model: must stay on its device; its tensors are copied there.
        *others: objects whose attributes are restored in the same way, such as a task.
    """
    undo = [_attributes(each) for each in (*model.modules(), *others) if hasattr(each, "__dict__")]
    tensors = {id(each): each for each in (*model.parameters(), *model.buffers())}
    undo.append(_contents(list(tensors.values())))
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for each in undo:
            each()
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _attributes(holder: Any) -> Callable[[], None]:
    """Return a function that restores the attributes of an object."""
    attributes = vars(holder)
    before = dict(attributes)
    inside = [_container(value) for value in before.values() if isinstance(value, (list, dict, set, deque))]
    inside.append(_contents([value for value in before.values() if isinstance(value, Tensor)]))

    def undo() -> None:
        attributes.clear()
        attributes.update(before)
        for each in inside:
            each()

    return undo


def _container(container: Any) -> Callable[[], None]:
    before = copy.copy(container)

    def undo() -> None:
        container.clear()
        if isinstance(container, (list, deque)):
            container.extend(before)
        else:
            container.update(before)

    return undo


def _contents(tensors: list[Tensor]) -> Callable[[], None]:
    before = [tensor.detach().clone() for tensor in tensors]

    @torch.no_grad()
    def undo() -> None:
        for tensor, values in zip(tensors, before):
            tensor.copy_(values)

    return undo
