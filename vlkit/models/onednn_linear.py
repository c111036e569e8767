"""Linear layers that know how a CPU multiplies fastest.

On a CPU, oneDNN multiplies by weights that were laid out for it beforehand: measured on Zen 4 (torch 2.15), fp32
products are 1.1 to 1.2 times as fast as with weights as they lie, and the few rows of a decoding step, which is bound
by reading weights, 2 to 6 times. So inference lays each large weight out once, at the first use, and keeps the copy
beside the weight. Training in fp32 lets oneDNN multiply by weights as they lie, which torch itself does in bf16 only.
GPUs, compiled graphs and other types of weights go the usual way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Each new number of rows costs oneDNN about a millisecond of preparation: smaller weights do not earn it back.
_LEAST_WEIGHTS = 2**18
# Rows of a product that earn back laying out its weight for them alone.
_MANY_ROWS = 512
# Rows of a product with gradient below which setting it up costs more than it brings.
_SOME_ROWS = 64

_onednn_allowed = True


@contextlib.contextmanager
def plain_linear() -> Iterator[None]:
    """Within it, torch multiplies as always: for tests and for measuring what the rest brings."""
    global _onednn_allowed
    before, _onednn_allowed = _onednn_allowed, False
    try:
        yield
    finally:
        _onednn_allowed = before


class _LaidOut(NamedTuple):
    """Weights in oneDNN's layout, and of which state of the layers they are."""

    weight: Tensor
    bias: Tensor | None
    state: tuple[Any, ...]


class Linear(nn.Linear):
    """``nn.Linear``, with the same parameters and results to rounding; on a CPU, inference is faster.

    The copy of the weight takes as much memory as the weight. It is made anew when the weight was changed in place or
    replaced, and given up by :meth:`train` and ``to``. Only a change through ``weight.data`` (which torch does not
    count) goes unseen until then.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__(in_features, out_features, bias)
        self._laid_out: dict[int, _LaidOut] = {}  # by the number of layers that are computed together

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        dtype = self._dtype_to_lay_out(x)
        if dtype is not None:
            return self._product(x, [self], dtype, "none")
        if self._trains_by_onednn(x):
            return _Product.apply(x, self.weight, self.bias)
        return super().forward(x)

    def train(self, mode: bool = True) -> Linear:
        self._laid_out = {}
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._laid_out = {}
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # What is laid out can be neither copied nor sent to another process.
        return {**self.__dict__, "_laid_out": {}}

    def _dtype_to_lay_out(self, x: Tensor) -> torch.dtype | None:
        """The type to compute in with a weight that is laid out; None: compute as torch does."""
        weight: Any = self._parameters.get("weight")  # quicker than self.weight
        if (
            torch.is_grad_enabled()
            or not self._suits_onednn(x)
            # Momentum encoders change at every step: only many rows pay for laying weights out each time.
            or (self.training and x.numel() < _MANY_ROWS * self.in_features)
            or weight.is_inference()
        ):
            return None
        dtype = weight.dtype
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
        elif x.dtype != dtype:
            return None  # torch's own error
        return dtype if _supported(dtype) else None

    def _trains_by_onednn(self, x: Tensor) -> bool:
        return (
            torch.is_grad_enabled()
            and self._suits_onednn(x)
            and x.dtype == self.weight.dtype == torch.float32
            and x.numel() >= _SOME_ROWS * self.in_features
            and not torch.is_autocast_enabled("cpu")
            and _supported(torch.float32)
        )

    def _suits_onednn(self, x: Tensor) -> bool:
        weight: Any = self._parameters.get("weight")
        return (
            x.is_cpu
            and type(weight) is nn.Parameter  # not a sharded, normalized or pruned weight
            and "bias" in self._parameters
            and weight.is_cpu
            and weight.numel() >= _LEAST_WEIGHTS
            and not torch.compiler.is_compiling()
            and _onednn_allowed
        )

    def _product(self, x: Tensor, layers: Sequence[nn.Module], dtype: torch.dtype, after: str) -> Tensor:
        # Not parameters(), which takes longer than all the rest here.
        tensors = [p for layer in layers for p in layer._parameters.values() if p is not None]
        state = (dtype, *[(p.data_ptr(), p._version) for p in tensors])
        found = self._laid_out.get(len(layers))
        if found is None or found.state != state:
            found = _lay_out(layers, dtype, state)
            if not self.training:
                self._laid_out[len(layers)] = found
        return _pointwise(x.to(dtype), found.weight, found.bias, after)


class _Product(torch.autograd.Function):
    """A linear layer in fp32, by oneDNN where that is faster than torch's own choice: not for the weight's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _pointwise(x, weight, bias, "none")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        grad_x = None
        if for_x and torch.is_grad_enabled():  # for gradients of gradients, by an operator that has some
            grad_x = grad @ weight
        elif for_x:
            grad_x = _pointwise(grad, weight.t(), None, "none")
        grad_weight = rows.t() @ x.reshape(-1, x.shape[-1]) if for_weight else None
        return grad_x, grad_weight, rows.sum(0) if for_bias else None


def gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """GELU of what ``layer`` gives for ``x``, in one pass where it can be."""
    dtype = _dtype_to_join([layer], x)
    return F.gelu(layer(x)) if dtype is None else cast(Linear, layer)._product(x, [layer], dtype, "gelu")


def fused_projections(x: Tensor, *layers: nn.Module) -> list[Tensor]:
    """What each of ``layers`` gives for ``x``, in one product where that is faster; all have the same sizes."""
    dtype = _dtype_to_join(layers, x)
    if dtype is None:
        return [layer(x) for layer in layers]
    return list(cast(Linear, layers[0])._product(x, layers, dtype, "none").chunk(len(layers), -1))


def _dtype_to_join(layers: Sequence[nn.Module], x: Tensor) -> torch.dtype | None:
    """The type to compute in when ``layers`` are not called one by one; None: call them. Somebody may have put an
    adapter in the place of a layer, or hooked something to it."""
    for layer in layers:
        if type(layer) is not Linear or layer._forward_hooks or layer._forward_pre_hooks:
            return None
    dtypes = {cast(Linear, layer)._dtype_to_lay_out(x) for layer in layers}
    return dtypes.pop() if len(dtypes) == 1 else None


def _lay_out(layers: Sequence[Any], dtype: torch.dtype, state: tuple[Any, ...]) -> _LaidOut:
    weight = torch.cat([layer.weight.detach().to(dtype) for layer in layers])
    biases = [layer.bias for layer in layers if layer.bias is not None]
    bias = torch.cat([each.detach().to(dtype) for each in biases]) if biases else None
    return _LaidOut(torch.ops.mkldnn._reorder_linear_weight(weight), bias, state)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, after: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], "none")


@cache
def _supported(dtype: torch.dtype) -> bool:
    """Whether this torch on this CPU multiplies weights of ``dtype`` that are laid out, and does it right: the
    operators are torch's own, but not part of its public interface."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        x, weight, bias = (torch.arange(n, dtype=torch.float32).sin().to(dtype) for n in (3 * 16, 32 * 16, 32))
        x, weight = x.view(3, 16), weight.view(32, 16)
        laid_out = torch.ops.mkldnn._reorder_linear_weight(weight)
        with torch.autocast("cpu", enabled=False):
            for after, other in (("none", lambda y: y), ("gelu", F.gelu)):
                expected = other(F.linear(x.float(), weight.float(), bias.float()))
                for how in (laid_out, weight):
                    found = _pointwise(x, how, bias, after).float()
                    if not torch.allclose(found, expected, atol=1e-5 if dtype == torch.float32 else 0.05):
                        return False
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return True
