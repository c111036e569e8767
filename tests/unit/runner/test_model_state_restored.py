from __future__ import annotations

import random
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from tests.assets.toy import ToyModel
from vlkit.runner.model_state import restored


class Stateful(ToyModel):
    """All the ways in which a model may keep something."""

    def __init__(self):
        super().__init__()
        self.calls, self.history, self.names, self.last = 0, [], {"a": 1}, deque([1], maxlen=2)
        self.loose = torch.zeros(3)
        self.register_buffer("seen", torch.zeros(2), persistent=False)
        self.block[2].eval()  # frozen in this mode


def spoil(model: Stateful) -> None:
    model.train()
    for parameter in model.parameters():
        parameter.data.add_(1.0)
        parameter.grad = torch.ones_like(parameter)
    model.queue = torch.zeros_like(model.queue)
    model.pointer.add_(5)
    model.seen.add_(1)
    model.calls += 1
    model.history.append("x")
    model.names.clear()
    model.last.append(2)
    model.loose.add_(1)
    model.late = "made in a forward pass"
    model.block.forward = lambda x: x
    model.register_forward_pre_hook(lambda module, args: None)
    model.eval()
    for each in (torch.manual_seed, np.random.seed, random.seed):
        each(7)


def facts(model: Stateful) -> dict:
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    return {
        "state": {name: tensor.tolist() for name, tensor in model.state_dict().items()},
        "plain": (model.calls, list(model.history), dict(model.names), list(model.last), model.loose.tolist()),
        "seen": model.seen.tolist(),
        "modes": [module.training for module in model.modules()],
        "grads": [parameter.grad for parameter in model.parameters()],
        "attributes": sorted(vars(model)),
        "forward": "forward" in vars(model.block),
        "hooks": hooks,
    }


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_and_all_random_numbers_are_as_before(fails):
    model, task = Stateful(), nn.Module()
    task.seen = ["a"]
    before, history, queue = facts(model), model.history, model.queue
    draws = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    try:
        with restored(model, task):
            spoil(model)
            task.seen.append("b")
            assert facts(model) != before
            if fails:
                raise ValueError
    except ValueError:
        pass
    assert facts(model) == before
    assert task.seen == ["a"]
    assert model.history is history
    assert model.queue is queue
    assert torch.equal(torch.get_rng_state(), draws[0])
    assert (np.random.get_state()[1] == draws[1]).all()
    assert random.getstate() == draws[2]


def test_tied_weights_stay_tied():
    model = ToyModel()
    with restored(model):
        model.head.weight.data.zero_()
    assert model.head.weight is model.embed.weight
    assert model.head.weight.abs().sum() > 0
