from __future__ import annotations

import pytest
import torch

from tests.assets.toy import ToyModel
from vlkit.config.schema import OptimConfig
from vlkit.errors import ConfigError
from vlkit.runner.optimizer import (
    build_optimizer,
    parameter_groups,
    restore_by_name,
    set_rate,
    state_by_name,
)


def test_tied_once_frozen_never():
    (group,) = parameter_groups(ToyModel(), 0.05)
    assert group["names"].count("embed.weight") == 1
    assert not any(name.startswith(("average", "head")) for name in group["names"])
    assert group["weight_decay"] == 0.05


def test_norms_and_biases_can_be_left_undecayed():
    groups = {
        group["weight_decay"]: set(group["names"])
        for group in parameter_groups(ToyModel(), 0.1, decay_norm_and_bias=False)
    }
    assert groups[0.0] == {"image.0.bias", "image.1.weight", "image.1.bias", "block.0.bias"}
    assert groups[0.1] == {"image.0.weight", "embed.weight", "block.0.weight"}


def test_rates_by_pattern_and_the_first_that_fits_counts():
    scale = {"image.1.*": 3.0, "image.*": 0.5, r"re:block\.\d\.bias": 2.0}
    model = ToyModel()
    optimizer = build_optimizer(model, OptimConfig(lr=1.0, lr_scale=scale), torch.device("cpu"))
    set_rate(optimizer, 0.1)
    found = {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}
    assert found["image.1.weight"] == pytest.approx(0.3)
    assert found["image.0.weight"] == pytest.approx(0.05)
    assert found["block.0.bias"] == pytest.approx(0.2)
    assert found["embed.weight"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("scale", "message"), [({"vision.*": 0.1}, "fits no trained parameter"), ({"re:(": 1.0}, "not a regular")]
)
def test_patterns_that_do_nothing_are_refused(scale, message):
    with pytest.raises(ConfigError, match=message):
        parameter_groups(ToyModel(), 0.0, lr_scale=scale)


def test_a_frozen_model_is_refused():
    with pytest.raises(ConfigError, match="all are frozen"):
        parameter_groups(ToyModel().requires_grad_(False), 0.0)


@pytest.mark.parametrize("fused", [False, True])
def test_state_goes_by_name_whatever_the_groups(fused):
    def step(model, optimizer):
        torch.manual_seed(0)
        loss = model(torch.ones(2, 3, 4, 4), torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4))["lm"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    cpu, plain = torch.device("cpu"), OptimConfig(lr=0.1, fused=fused)
    first, second = ToyModel(), ToyModel()
    optimizer = build_optimizer(first, plain, cpu)
    step(first, optimizer)
    tensors = {name: tensor.clone() for name, tensor in state_by_name(optimizer).items()}
    assert {"exp_avg:embed.weight", "exp_avg_sq:embed.weight", "step:embed.weight"} <= set(tensors)
    second.load_state_dict(first.state_dict())
    grouped = OptimConfig(lr=0.1, decay_norm_and_bias=False, weight_decay=0.05, fused=fused)
    other = build_optimizer(second, grouped, cpu)
    restore_by_name(other, tensors)
    for name, tensor in state_by_name(other).items():
        assert torch.equal(tensor, tensors[name])
    step(first, optimizer)
    step(second, other)
    assert torch.equal(first.block[0].weight, second.block[0].weight)
    with pytest.raises(KeyError):
        restore_by_name(other, {"exp_avg:nothing": torch.zeros(1)})
