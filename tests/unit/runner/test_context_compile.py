from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vlkit.api import load_model
from vlkit.datasets.base import collate
from vlkit.datasets.shapes.dataset import Shapes
from vlkit.errors import ConfigError
from vlkit.runner.activation_checkpointing import checkpoint_activations
from vlkit.runner.context import compile_model

CPU = torch.device("cpu")


def samples(first: int, count: int) -> dict:
    """Pairs whose texts have other lengths in each batch."""
    dataset = Shapes(size=20)
    return collate([dataset[i] for i in range(first, first + count)])


def pretraining_model() -> nn.Module:
    torch.manual_seed(0)
    model = load_model("blip_pretrain", "tiny", is_eval=False)
    model.draw_negative = lambda weights: weights.argmax(1)
    return model


def assert_same(backend: str, activation_checkpointing: str) -> None:
    plain = pretraining_model()
    model = pretraining_model()
    names = list(model.state_dict())
    compile_model(model, CPU, backend)
    checkpoint_activations(model, activation_checkpointing)
    assert list(model.state_dict()) == names
    for first in (0, 4):
        losses, gradients = [], []
        for each in (plain, model):
            each.zero_grad()
            torch.manual_seed(first)
            out = each(samples(first, 4), alpha=0.4)
            out.loss.backward()
            losses.append(out.loss.detach())
            gradients.append({name: p.grad for name, p in each.named_parameters() if p.grad is not None})
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
        assert gradients[0].keys() == gradients[1].keys()
        for name, expected in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], expected, rtol=1e-3, atol=1e-4, msg=name)
    with torch.inference_mode():
        expected, found = (each.eval().image_embeds(samples(8, 3)) for each in (plain, model))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation_checkpointing", ["none", "torch"])
def test_graphs_give_the_same_losses_and_gradients(activation_checkpointing):
    """Everything of torch.compile but the code that it would write."""
    assert_same("aot_eager", activation_checkpointing)


@pytest.mark.slow
def test_compiled_code_gives_the_same_losses_and_gradients():
    assert_same("inductor", "none")


def test_one_block_is_compiled_for_all():
    model, graphs = pretraining_model(), []
    torch._dynamo.reset()

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    for block in model.image_blocks():
        block.forward = torch.compile(block.forward, backend=count)
    model.image_embeds(samples(0, 2))
    assert len(model.image_blocks()) > 2
    assert len(graphs) == 1


def test_a_model_without_blocks_is_compiled_as_a_whole():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    plain, x = copy.deepcopy(model), torch.randn(2, 3)
    compile_model(model, CPU, "aot_eager")
    assert model._compiled_call_impl is not None
    torch.testing.assert_close(model(x), plain(x))
    assert list(model.state_dict()) == list(plain.state_dict())


def test_a_missing_compiler_is_said(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"no compiler 'no-such-compiler'.*CXX, or set run.compile to false"):
        compile_model(nn.Linear(2, 2), CPU)
