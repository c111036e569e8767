from __future__ import annotations

import pytest
import torch

from tests.assets.toy import options
from vlkit.errors import ConfigError
from vlkit.runner.context import RunContext


def test_the_context_of_a_run_file(tmp_path):
    context = RunContext.of(options(tmp_path, precision="bf16")[1])
    assert (context.device, context.seed, context.output.path) == (torch.device("cpu"), 3, tmp_path)
    with context.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_random_numbers_depend_on_the_seed_and_the_numbers_given(tmp_path):
    def draw(seed: int, *entropy: int) -> torch.Tensor:
        RunContext.of(options(tmp_path, seed=seed)[1]).seed_all(*entropy)
        return torch.rand(3)

    assert torch.equal(draw(1, 2), draw(1, 2))
    assert not torch.equal(draw(1, 2), draw(1, 3))
    assert not torch.equal(draw(1, 2), draw(2, 2))


def test_an_unknown_precision_is_reported_at_once(tmp_path):
    with pytest.raises(ConfigError, match="fp17"):
        RunContext.of(options(tmp_path, precision="fp17")[1])
