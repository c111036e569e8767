"""Linear layers whose weights are packed give what torch's own give."""

import contextlib
import copy
import pickle
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import prune

from vlkit.models import onednn_linear as linear
from vlkit.models.onednn_linear import Linear, fused_projections, gelu


def plain_linear():
    """Let torch compute all linear layers."""
    return mock.patch.object(Linear, "_suits_onednn", return_value=False)


TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
DTYPES = st.sampled_from(list(TOLERANCE))


@pytest.fixture(autouse=True)
def small_weights_too(monkeypatch):
    monkeypatch.setattr(linear, "_LEAST_WEIGHTS", 1)
    monkeypatch.setattr(linear, "_SOME_ROWS", 1)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return Linear(24, 16).eval()


def packed(layer):
    return bool(layer._packed)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), min_size=0, max_size=3),
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    bias=st.booleans(),
    dtype=DTYPES,
    transposed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_torch(shape, sizes, bias, dtype, transposed, seed):
    torch.manual_seed(seed)
    layer = Linear(*sizes, bias=bias).to(dtype).eval()
    x = torch.randn(*shape, sizes[0]).to(dtype)
    if transposed and x.ndim > 2:
        x = x.transpose(0, 1)
    with torch.no_grad():
        for found, with_plain in ((layer(x), lambda: layer(x)), (gelu(layer, x), lambda: gelu(layer, x))):
            with plain_linear():
                expected = with_plain()
            assert found.dtype == expected.dtype
            assert found.shape == expected.shape
            torch.testing.assert_close(found, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert not linear._supported(dtype) or packed(layer)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 4), rows=st.integers(1, 9), dtype=DTYPES, bias=st.booleans())
def test_together_equals_each_alone(count, rows, dtype, bias):
    torch.manual_seed(count)
    layers = [Linear(20, 12, bias=bias).to(dtype).eval() for _ in range(count)]
    x = torch.randn(rows, 20).to(dtype)
    with torch.no_grad():
        found = fused_projections(x, *layers)
        with plain_linear():
            expected = [layer(x) for layer in layers]
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@torch.no_grad()
def test_a_changed_weight_is_seen(layer):
    x = torch.randn(3, 24)
    layer(x)
    changes = [
        lambda: layer.weight.mul_(2),
        lambda: layer.bias.add_(1),
        lambda: torch._foreach_lerp_([layer.weight.detach()], [torch.ones_like(layer.weight)], 0.5),
        lambda: layer.load_state_dict({"weight": torch.randn(16, 24), "bias": torch.randn(16)}),
        lambda: layer.load_state_dict({"weight": torch.randn(16, 24), "bias": torch.randn(16)}, assign=True),
        lambda: setattr(layer, "weight", torch.nn.Parameter(torch.randn(16, 24))),
        lambda: (layer.weight.data.zero_(), layer.eval()),
    ]
    for change in changes:
        change()
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_change_of_one_of_several_is_seen(layer):
    other, x = Linear(24, 16).eval(), torch.randn(3, 24)
    fused_projections(x, layer, other)
    other.weight.add_(1)
    torch.testing.assert_close(fused_projections(x, layer, other)[1], F.linear(x, other.weight, other.bias))


class Adapter(torch.nn.Module):
    """In the place of a layer, as adapters of low rank are."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) + 1


def _replaced(layer):
    other = torch.nn.Linear(24, 16)
    other.load_state_dict(layer.state_dict())
    return other


CHANGED = {
    "an adapter": Adapter,
    "torch's own layer": _replaced,
    "weight_norm": torch.nn.utils.parametrizations.weight_norm,
    "the older weight_norm": torch.nn.utils.weight_norm,
    "a pruned weight": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "a pruned bias": lambda layer: prune.l1_unstructured(layer, "bias", 0.5),
    "a weight that is a buffer": lambda layer: (
        layer.register_buffer("weight", layer._parameters.pop("weight").data) or layer
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@torch.no_grad()
@pytest.mark.parametrize("what", CHANGED)
def test_layers_that_somebody_changed(layer, what):
    other, x = Linear(24, 16).eval(), torch.randn(3, 24)
    changed = CHANGED[what](layer)
    for _ in range(2):
        with plain_linear():
            expected = [changed(x), other(x), F.gelu(changed(x))]
        for found, wanted in zip([*fused_projections(x, changed, other), gelu(changed, x)], expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(fused_projections(x, other, changed)[1], expected[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(changed(x), expected[0], atol=1e-5, rtol=1e-5)
        inner = getattr(changed, "layer", changed)
        getattr(inner, "bias_orig", inner.bias).add_(1)  # the second round sees it


@torch.no_grad()
def test_hooks_are_called(layer):
    x, called = torch.randn(3, 24), []
    layer.register_forward_hook(lambda *_: called.append("after"))
    layer.register_forward_pre_hook(lambda *_: called.append("before"))
    fused_projections(x, Linear(24, 16).eval(), layer)
    gelu(layer, x)
    assert called == ["before", "after"] * 2


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    bias=st.booleans(),
    frozen=st.sampled_from([None, "x", "weight", "bias"]),
    autocast=st.booleans(),
    seed=st.integers(0, 99),
)
def test_gradients_equal_torchs(shape, sizes, bias, frozen, autocast, seed):
    torch.manual_seed(seed)
    layer = Linear(*sizes, bias=bias)
    x = torch.randn(*shape, sizes[0], requires_grad=frozen != "x")
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name != frozen)
    inputs = [each for each in (x, *layer.parameters()) if each.requires_grad]
    toward = torch.randn(*shape, sizes[1])
    found = []
    for plain in (False, True):
        with plain_linear() if plain else contextlib.nullcontext(), torch.autocast("cpu", enabled=autocast):
            out = gelu(layer, x)
        found.append([out, *torch.autograd.grad((out.float() * toward).sum(), inputs)])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_gradients_in_fp32_are_onednns(layer):
    x = torch.randn(3, 24, requires_grad=True)
    assert ("_Product" in layer(x).grad_fn.name()) == linear._supported(torch.float32)


def test_gradients_of_gradients(layer):
    x = torch.randn(3, 24, dtype=torch.float32, requires_grad=True)
    found = []
    for plain in (False, True):
        with plain_linear() if plain else contextlib.nullcontext():
            (grad,) = torch.autograd.grad(layer(x).sin().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), [x, layer.weight]))
    for mine, other in zip(*found):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("rows", [3, 600])
def test_weights_in_training_are_packed_for_many_rows_and_not_kept(layer, rows, monkeypatch):
    made, pack = [], linear._pack
    monkeypatch.setattr(linear, "_pack", lambda *given: made.append(given) or pack(*given))
    x = torch.randn(rows, 24)
    torch.testing.assert_close(layer.train()(x), F.linear(x, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)
    assert not packed(layer)
    assert len(made) == (rows == 600 and linear._supported(torch.float32))


@torch.no_grad()
def test_another_type_replaces_what_is_packed(layer):
    x = torch.randn(3, 24)
    layer(x)
    layer.to(torch.bfloat16)
    assert not packed(layer)
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="dtype"):
        layer(x)


@torch.no_grad()
def test_autocast_computes_in_its_type(layer):
    x = torch.randn(3, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)
        with plain_linear():
            expected = layer(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, atol=3e-2, rtol=3e-2)
    assert layer(x).dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_and_messages_leave_it_out(layer, copied):
    x = torch.randn(3, 24)
    expected = layer(x)
    twin = copied(layer)
    assert not packed(twin)
    assert torch.equal(twin(x), expected)
    layer.weight.zero_()
    assert torch.equal(twin(x), expected)


@torch.no_grad()
def test_small_weights_stay_as_they_are(layer, monkeypatch):
    monkeypatch.setattr(linear, "_LEAST_WEIGHTS", layer.weight.numel() + 1)
    layer(torch.randn(3, 24))
    assert not packed(layer)


@torch.no_grad()
def test_a_torch_without_the_operators(layer, monkeypatch):
    def missing(*_):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'")

    linear._supported.cache_clear()
    monkeypatch.setattr(linear, "_pointwise", missing)
    x = torch.randn(3, 24)
    try:
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    finally:
        linear._supported.cache_clear()
