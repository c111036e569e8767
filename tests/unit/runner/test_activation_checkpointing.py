from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from tests.assets.toy import ToyModel
from vlkit.errors import ConfigError
from vlkit.runner.activation_checkpointing import checkpoint_activations


def gradients(kind: str) -> tuple[dict[str, torch.Tensor], list[str], int]:
    model, calls = ToyModel(), []
    model.block[0].register_forward_hook(lambda *_: calls.append(1))
    checkpoint_activations(model, kind)
    torch.manual_seed(5)
    image, tokens = torch.randn(4, 3, 4, 4), torch.randint(1, 17, (4, 6))
    losses = model(image, tokens, torch.ones(4, 6))
    (losses["lm"] + losses["near"]).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found, list(model.state_dict()), len(calls)


@pytest.mark.parametrize("kind", ["torch", "fairscale"])
def test_gradients_and_names_stay_and_blocks_run_twice(kind):
    plain, names, once = gradients("none")
    found, same, twice = gradients(kind)
    assert same == names
    assert (once, twice) == (1, 2)
    assert all(torch.equal(found[name], gradient) for name, gradient in plain.items())


def test_nothing_is_recomputed_in_evaluation():
    model, calls = ToyModel().eval(), []
    model.block[0].register_forward_hook(lambda *_: calls.append(1))
    checkpoint_activations(model, "torch")
    losses = model(torch.randn(2, 3, 4, 4), torch.ones(2, 6, dtype=torch.long), torch.ones(2, 6))
    losses["lm"].backward()
    assert len(calls) == 1


def test_a_missing_fairscale_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "fairscale.nn.checkpoint", None)
    with pytest.raises(ConfigError, match="pip install fairscale, or use 'torch'"):
        checkpoint_activations(ToyModel(), "fairscale")


def test_what_cannot_be_done_is_said():
    with pytest.raises(ConfigError, match=r"'tourch'.*Did you mean 'torch'"):
        checkpoint_activations(ToyModel(), "tourch")
    with pytest.raises(ConfigError, match=r"Linear has no method checkpoint_blocks"):
        checkpoint_activations(nn.Linear(2, 2), "torch")


@pytest.mark.parametrize("kind", ["torch", "fairscale"])
@pytest.mark.parametrize("name", ["blip_pretrain", "blip_caption"])
def test_blip_has_the_same_gradients(name, kind):
    """Keys and values of the images are shared by blocks that are recomputed one by one."""
    from vlkit.api import load_model
    from vlkit.datasets.base import collate
    from vlkit.datasets.shapes.dataset import Shapes

    dataset = Shapes(size=4)
    samples = collate([dataset[i] for i in range(4)])
    gradients = []
    for each in ("none", kind):
        torch.manual_seed(0)
        model = load_model(name, "tiny", is_eval=False)
        checkpoint_activations(model, each)
        torch.manual_seed(1)
        model(samples).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for parameter, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][parameter], expected, rtol=1e-4, atol=1e-5, msg=parameter)
