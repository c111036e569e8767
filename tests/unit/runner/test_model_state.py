"""Each module returns to the mode that it had."""

from __future__ import annotations

import pytest
from torch import nn

from vlkit.runner.model_state import evaluating, start_training


def model() -> nn.Module:
    """Layers in training mode but for one, which is frozen, with a part of it that trains."""
    layers = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()), nn.Dropout())
    layers[1].eval()
    layers[1][1].train()
    return layers


def modes(layers: nn.Module) -> list[bool]:
    return [module.training for module in layers.modules()]


def test_modes_come_back():
    layers = model()
    before = modes(layers)
    assert before == [True, True, False, False, True, True]
    with evaluating(layers):
        assert not any(modes(layers))
    assert modes(layers) == before


def test_modes_come_back_after_an_error():
    layers = model()
    before = modes(layers)
    with pytest.raises(ZeroDivisionError), evaluating(layers):
        raise ZeroDivisionError
    assert modes(layers) == before


def test_a_model_with_overridden_train_is_called():
    class Releases(nn.Linear):
        calls = 0

        def train(self, mode: bool = True):
            self.calls += mode
            return super().train(mode)

    layers = nn.Sequential(Releases(1, 1))
    with evaluating(layers):
        pass
    assert layers[0].calls == 1


def test_training_starts_without_touching_what_is_frozen():
    layers = model()
    before = modes(layers)
    start_training(layers)
    assert modes(layers) == before
    layers.eval()
    start_training(layers)
    assert all(modes(layers))
