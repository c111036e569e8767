"""A trial that leaves no trace: models and random numbers are afterwards as they were before."""

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
def restored(model: nn.Module, *others: Any) -> Iterator[None]:
    """While entered, anything may be done with ``model`` and the global random numbers (torch on every device, numpy,
    Python); on leaving, both are as on entering.

    Of the model that is: weights and buffers, also those that were exchanged for others; gradients; the mode of each
    module; hooks; and other attributes of modules, where tensors, lists, dictionaries, sets and deques are restored in
    place and other objects by reference.

    Args:
        model: on its device, which must not change meanwhile; its tensors are copied there.
        *others: objects whose attributes are restored in the same way (a task).
    """
    undo = [_attributes(each) for each in (*model.modules(), *others) if hasattr(each, "__dict__")]
    tensors = {id(each): each for each in (*model.parameters(), *model.buffers())}
    undo.append(_contents(list(tensors.values())))
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    states = random.getstate(), np.random.get_state()  # code that uses it finds it as it was
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
    """What puts the attributes of an object back."""
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
