from __future__ import annotations

import pytest
import torch

from vlkit.errors import ConfigError
from vlkit.runner.context import autocast, choose_device, seed_all


def test_auto_finds_something_and_cpu_is_cpu():
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:1", "cuda:99"])
def test_what_is_no_device_here_is_refused(name):
    with pytest.raises(ConfigError, match=r"run\.device"):
        choose_device(name)


def test_bf16_computes_in_bfloat16_and_fp32_does_not():
    layer, x = torch.nn.Linear(4, 4), torch.ones(1, 4)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with autocast(torch.device("cpu"), precision)():
            assert layer(x).dtype == dtype
    with pytest.raises(ConfigError, match="Did you mean 'bf16'"):
        autocast(torch.device("cpu"), "bf61")


def test_seeds_depend_on_every_number():
    draws = []
    for entropy in [(1, 2, 3, 0), (1, 2, 3, 1), (1, 2, 4, 0), (0, 2, 3, 0), (1, 3, 2, 0), (1, 2, 3, 0)]:
        seed_all(*entropy)
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[-1]
    assert len(set(draws)) == 5
