"""Linear layers that use oneDNN on a CPU.

oneDNN multiplies faster by weights that are packed in its own layout: measured on Zen 4 (torch 2.15), fp32 products are
1.1 to 1.2 times as fast, and the few rows of a decoding step, which is bound by reading weights, 2 to 6 times.
Inference packs each large weight at its first use and keeps the copy. Training in fp32 calls oneDNN with plain
weights, which torch itself does only in bf16. GPUs, compiled graphs and other types of weights use torch's ``linear``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Each new number of rows costs oneDNN about a millisecond of preparation, which smaller weights do not save.
_LEAST_WEIGHTS = 2**18
# Rows of a product for which packing the weight pays even if it is used once.
_MANY_ROWS = 512
# Rows of a product with gradient below which the preparation costs more than it saves.
_SOME_ROWS = 64


class _Packed(NamedTuple):
    """Weights in the layout of oneDNN, and the state of the layers that they were packed from."""

    weight: Tensor
    bias: Tensor | None
    state: tuple[Any, ...]


class Linear(nn.Linear):
    """``nn.Linear`` with the same parameters and, to rounding, the same results; faster inference on a CPU.

    The packed copy takes as much memory as the weight. It is renewed when the weight was changed in place or replaced,
    and released by :meth:`train` and ``to``. A change through ``weight.data``, which torch does not count, is not
    noticed before that.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__(in_features, out_features, bias)
        self._packed: dict[int, _Packed] = {}  # by the number of layers in one product

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""
        dtype = self._packed_dtype(x)
        if dtype is not None:
            return self._product(x, [self], dtype, "none")
        if self._trains_by_onednn(x):
            return _Product.apply(x, self.weight, self.bias)
        return super().forward(x)

    def train(self, mode: bool = True) -> Linear:
        self._packed = {}
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._packed = {}
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # Packed weights can be neither copied nor sent to another process.
        return {**self.__dict__, "_packed": {}}

    def _packed_dtype(self, x: Tensor) -> torch.dtype | None:
        """Return the type to compute in with a packed weight; None: compute as torch does."""
        weight: Any = self._parameters.get("weight")  # quicker than self.weight
        if (
            torch.is_grad_enabled()
            or not self._suits_onednn(x)
            # Momentum encoders change at every step: only many rows pay for packing each time.
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
        )

    def _product(self, x: Tensor, layers: Sequence[nn.Module], dtype: torch.dtype, after: str) -> Tensor:
        # Not parameters(), which takes longer than all the rest here.
        tensors = [p for layer in layers for p in layer._parameters.values() if p is not None]
        state = (dtype, *[(p.data_ptr(), p._version) for p in tensors])
        found = self._packed.get(len(layers))
        if found is None or found.state != state:
            found = _pack(layers, dtype, state)
            if not self.training:
                self._packed[len(layers)] = found
        return _pointwise(x.to(dtype), found.weight, found.bias, after)


class _Product(torch.autograd.Function):
    """A linear layer in fp32 by oneDNN, except for the gradient of the weight, where torch is faster."""

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
    """Compute ``gelu(layer(x))``, in one kernel where possible."""
    dtype = _fused_dtype([layer], x)
    return F.gelu(layer(x)) if dtype is None else cast(Linear, layer)._product(x, [layer], dtype, "gelu")


def fused_projections(x: Tensor, *layers: nn.Module) -> list[Tensor]:
    """Apply each of ``layers``, which have the same sizes, to ``x``, in one product where that is faster."""
    dtype = _fused_dtype(layers, x)
    if dtype is None:
        return [layer(x) for layer in layers]
    return list(cast(Linear, layers[0])._product(x, layers, dtype, "none").chunk(len(layers), -1))


def _fused_dtype(layers: Sequence[nn.Module], x: Tensor) -> torch.dtype | None:
    """Return the type to compute in when ``layers`` are computed in one product; None: call them one by one, since one
    of them is replaced by an adapter, has hooks, or does not suit oneDNN."""
    for layer in layers:
        if type(layer) is not Linear or layer._forward_hooks or layer._forward_pre_hooks:
            return None
    dtypes = {cast(Linear, layer)._packed_dtype(x) for layer in layers}
    return dtypes.pop() if len(dtypes) == 1 else None


def _pack(layers: Sequence[Any], dtype: torch.dtype, state: tuple[Any, ...]) -> _Packed:
    weight = torch.cat([layer.weight.detach().to(dtype) for layer in layers])
    biases = [layer.bias for layer in layers if layer.bias is not None]
    bias = torch.cat([each.detach().to(dtype) for each in biases]) if biases else None
    return _Packed(torch.ops.mkldnn._reorder_linear_weight(weight), bias, state)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, after: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], "none")


@cache
def _supported(dtype: torch.dtype) -> bool:
    """Return whether this torch on this CPU multiplies by packed weights of ``dtype`` and gives right results: the
    operators are not part of torch's public interface."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        x, weight, bias = (torch.arange(n, dtype=torch.float32).sin().to(dtype) for n in (3 * 16, 32 * 16, 32))
        x, weight = x.view(3, 16), weight.view(32, 16)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        with torch.autocast("cpu", enabled=False):
            for after, other in (("none", lambda y: y), ("gelu", F.gelu)):
                expected = other(F.linear(x.float(), weight.float(), bias.float()))
                for how in (packed, weight):
                    found = _pointwise(x, how, bias, after).float()
                    if not torch.allclose(found, expected, atol=1e-5 if dtype == torch.float32 else 0.05):
                        return False
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return True
