"""A fake CUDA device on the CPU: tensors with real values that claim to be on ``cuda:0``, and counts of transfers.

    with FakeCuda() as device:
        device.move(model)                 # parameters and buffers
        ...                                # whatever uses the model with ``torch.device("cuda", 0)``
    print(device.report("training step"))

It counts what makes the host wait for a GPU (reading a value, copies from memory that is not pinned), with the lines of
vlkit that do it, operations that mix devices, and values that are read from an asynchronous copy before an event. It
tests no kernels, no captured graphs, no NCCL and no rounding of a GPU.
"""

from __future__ import annotations

import collections
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

import vlkit

CUDA = torch.device("cuda", 0)
_PACKAGE = str(Path(vlkit.__file__).parent) + "/"
_FRAMES = 2
# Operations whose result depends on values, so that the host waits for them.
_WAITING = (
    "nonzero",
    "masked_select",
    "_local_scalar_dense",
    "unique",
    "equal",
    "repeat_interleave.Tensor",
    "bincount",
)
_ON_HOST = {"aten._local_scalar_dense.default", "aten.equal.default", "aten.is_same_size.default"}
_HOST_INDICES = ("aten.index.", "aten.index_put")
_FREE_MEMORY = (60 << 30, 80 << 30)


@dataclass
class Counts:
    """Events by (kind, lines of vlkit).

    Args:
        blocking: the host waits for the device.
        asynchronous: copies for which it does not wait.
        mixed: operations on tensors of two devices, which fail on a GPU.
        early_reads: reads of an asynchronous copy before an event.
        operations: on the device, by name.
    """

    blocking: collections.Counter = field(default_factory=collections.Counter)
    asynchronous: collections.Counter = field(default_factory=collections.Counter)
    mixed: collections.Counter = field(default_factory=collections.Counter)
    early_reads: collections.Counter = field(default_factory=collections.Counter)
    operations: collections.Counter = field(default_factory=collections.Counter)


class FakeTensor(torch.Tensor):
    """A tensor of the fake device; ``values`` holds its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    values: Tensor
    fake: FakeCuda

    @staticmethod
    def __new__(cls, values: Tensor, fake: FakeCuda) -> FakeTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            layout=values.layout,
            device="cpu",
        )
        made.values, made.fake = values, fake
        return made

    def __init__(self, *_: Any):
        pass

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self) -> int:
        return 0

    def __repr__(self, **_: Any) -> str:
        return f"FakeTensor({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied: Any = FakeTensor(self.values.clone(), self.fake)
        if isinstance(self, nn.Parameter):
            copied = nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    def to(self, *args: Any, **kwargs: Any) -> Any:
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        if device is not None and device.type == "cpu":
            found = self.fake.read(self, "to('cpu')", non_blocking)
            return found if dtype is None else found.to(dtype)
        return self if dtype in (None, self.dtype) else torch.Tensor.to(self, dtype)

    def cuda(self, *_: Any, **__: Any) -> FakeTensor:
        return self

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        return self.fake.read(self, "cpu()")

    def tolist(self) -> Any:
        return self.fake.read(self, "tolist()").tolist()

    def item(self) -> Any:
        return self.fake.read(self, "item()").item()

    def __bool__(self) -> bool:
        return bool(self.fake.read(self, "bool()").item())

    def __int__(self) -> int:
        return int(self.fake.read(self, "int()").item())

    def __float__(self) -> float:
        return float(self.fake.read(self, "float()").item())

    def __index__(self) -> int:
        return int(self.fake.read(self, "index()").item())

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fake = next(each.fake for each in tree_flatten((args, kwargs))[0] if isinstance(each, FakeTensor))
        return fake.dispatch(func, args, kwargs or {})


class FakeCuda(TorchDispatchMode):
    """The device, while entered; torch's functions that would ask for a GPU are replaced meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self._pinned: dict[int, Tensor] = {}
        self._unfinished: dict[int, Tensor] = {}
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> FakeCuda:
        for target, name, new in self._replacements():
            self._patches.enter_context(mock.patch.object(target, name, new))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.dispatch(func, args, kwargs or {})

    def move(self, model: nn.Module) -> nn.Module:
        """Move parameters and buffers to the device in place."""
        moved: dict[int, Any] = {}
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    on_device = FakeTensor(parameter.detach().clone(), self)
                    moved.setdefault(id(parameter), nn.Parameter(on_device, parameter.requires_grad))
                    module._parameters[name] = moved[id(parameter)]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    moved.setdefault(id(buffer), FakeTensor(buffer.clone(), self))
                    module._buffers[name] = moved[id(buffer)]
        return model

    def read(self, tensor: FakeTensor, how: str, non_blocking: bool = False) -> Tensor:
        """Copy a tensor to the host and count it."""
        copied = tensor.values.detach().clone()
        if non_blocking:
            self._count(self.counts.asynchronous, "to host")
            self._unfinished[_storage(copied)] = copied
        else:
            self._count(self.counts.blocking, f"to host, {how}")
            self.synchronize()
        return copied

    def synchronize(self, *_: Any, **__: Any) -> None:
        """Finish all copies."""
        self._unfinished.clear()

    def report(self, title: str) -> str:
        """Lines with the counts and where they come from."""
        counts = self.counts
        lines = [
            f"{title}: {counts.blocking.total()} blocking, {counts.asynchronous.total()} asynchronous copies, "
            f"{counts.operations.total()} operations, {counts.mixed.total()} on mixed devices, "
            f"{counts.early_reads.total()} early reads"
        ]
        for name, found in (("", counts.blocking), ("MIXED ", counts.mixed), ("EARLY ", counts.early_reads)):
            lines += [f"{number:7d}  {name}{kind:28s} {where}" for (kind, where), number in found.most_common()]
        return "\n".join(lines)

    def dispatch(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operation on the values and count it."""
        name, flat = str(func), tree_flatten((args, kwargs))[0]
        tensors = [each for each in flat if isinstance(each, torch.Tensor)]
        fakes = [each for each in tensors if isinstance(each, FakeTensor)]
        host = [each for each in tensors if not isinstance(each, FakeTensor)]
        to_device = _is_cuda(kwargs.get("device"))
        on_device = bool(fakes) or to_device
        if fakes:
            on_device = self._count_operation(name, args, kwargs, fakes, host)
        elif to_device and name == "aten._to_copy.default":
            self._count_copy("to device", args[0], bool(kwargs.get("non_blocking")))
        for each in host:
            if _storage(each) in self._unfinished and not (name == "aten.copy_.default" and each is args[0]):
                self._count(self.counts.early_reads, name)
        pinned = bool(kwargs.get("pin_memory"))
        kwargs = {**kwargs, **({"device": "cpu"} if to_device else {}), **({"pin_memory": False} if pinned else {})}
        args, kwargs = tree_map(lambda each: each.values if isinstance(each, FakeTensor) else each, (args, kwargs))
        out = func(*args, **kwargs)
        if pinned:
            self._pin(out)
        if not on_device or name in _ON_HOST:
            return out
        return self._wrapped(func, out, fakes)

    def _count_operation(
        self, name: str, args: Any, kwargs: dict[str, Any], fakes: list[FakeTensor], host: list[Tensor]
    ) -> bool:
        """Count an operation with tensors of the device; gives whether its results are there, too."""
        self.counts.operations[name] += 1
        if any(part in name for part in _WAITING):
            self._count(self.counts.blocking, name)
        if name.startswith(_HOST_INDICES) and any(
            isinstance(each, torch.Tensor) and each.dtype == torch.bool for each in args[1]
        ):
            self._count(self.counts.blocking, f"{name} by a mask")
        # A number in a tensor without dimensions may come from the host, but not in a list of tensors.
        host = [each for each in host if each.ndim or name.startswith(("aten.cat", "aten.stack"))]
        if not host:
            return True
        if name == "aten.copy_.default":
            non_blocking = bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            if isinstance(args[0], FakeTensor):
                self._count_copy("to device", args[1], non_blocking)
                return True
            if non_blocking and self._is_pinned(args[0]):
                self._count(self.counts.asynchronous, "to host")
                self._unfinished[_storage(args[0])] = args[0]
            else:
                self._count(self.counts.blocking, "to host, copy_()")
            return False
        if name.startswith(_HOST_INDICES):
            self._count(self.counts.blocking, "to device, indices")
        else:
            self._count(self.counts.mixed, name)
        return True

    def _count_copy(self, kind: str, source: Tensor, non_blocking: bool) -> None:
        """A copy is asynchronous only from pinned memory."""
        if non_blocking and self._is_pinned(source):
            self._count(self.counts.asynchronous, kind)
        else:
            self._count(self.counts.blocking, f"{kind}, not pinned" if non_blocking else kind)

    def _count(self, counter: collections.Counter, kind: str) -> None:
        where, frame = [], sys._getframe(1)
        while frame is not None and len(where) < _FRAMES:
            name = frame.f_code.co_filename
            if name.startswith(_PACKAGE):
                where.append(f"{name.removeprefix(_PACKAGE)}:{frame.f_lineno}")
            frame = frame.f_back  # type: ignore[assignment]
        counter[(kind, " < ".join(where))] += 1

    def _wrapped(self, func: Any, out: Any, fakes: list[FakeTensor]) -> Any:
        """Results as tensors of the device; those that an operation writes to are its arguments."""

        def wrap(value: Any, written: bool) -> Any:
            if isinstance(value, torch.Tensor):
                known = next((each for each in fakes if written and each.values is value), None)
                return FakeTensor(value, self) if known is None else known
            if isinstance(value, list | tuple):
                return type(value)(wrap(each, False) for each in value)
            return value

        returns = func._schema.returns
        if len(returns) != 1 and isinstance(out, tuple):
            pairs = zip(out, returns)
            return tuple(wrap(each, bool(kind.alias_info and kind.alias_info.is_write)) for each, kind in pairs)
        return wrap(out, bool(returns and returns[0].alias_info and returns[0].alias_info.is_write))

    def _pin(self, tensor: Tensor) -> Tensor:
        self._pinned[_storage(tensor)] = tensor
        return tensor

    def _is_pinned(self, tensor: Tensor) -> bool:
        return _storage(tensor) in self._pinned

    def _replacements(self) -> Iterator[tuple[Any, str, Any]]:
        """What of torch is replaced: (owner, name, replacement)."""
        fake, made, shared, plain_one_hot = self, torch.tensor, torch.as_tensor, nn.functional.one_hot

        def tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            if not _is_cuda(device):
                return made(data, *args, device=device, **kwargs)
            fake._count(fake.counts.blocking, "to device, torch.tensor()")
            return FakeTensor(made(data.values if isinstance(data, FakeTensor) else data, *args, **kwargs), fake)

        def as_tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            if isinstance(data, FakeTensor) or not _is_cuda(device):
                return data if isinstance(data, FakeTensor) else shared(data, *args, device=device, **kwargs)
            fake._count(fake.counts.blocking, "to device, torch.as_tensor()")
            return FakeTensor(shared(data, *args, **kwargs), fake)

        def host_read(name: str) -> Any:
            original = getattr(torch.Tensor, name)

            def read(self: Tensor, *args: Any, **kwargs: Any) -> Any:
                if not isinstance(self, FakeTensor) and _storage(self) in fake._unfinished:
                    fake._count(fake.counts.early_reads, f"{name}()")
                return original(self, *args, **kwargs)

            return read

        def enter(self: Any) -> None:  # tensors of inference mode skip the dispatch of subclasses
            self.stack = contextlib.ExitStack()
            if self.mode:
                self.stack.enter_context(torch.no_grad())

        def one_hot(labels: Tensor, *args: Any) -> Tensor:  # torch's asks for the device below Python
            if not isinstance(labels, FakeTensor):
                return plain_one_hot(labels, *args)
            return FakeTensor(plain_one_hot(labels.values, *args), fake)

        yield nn.functional, "one_hot", one_hot
        yield torch, "tensor", tensor
        yield torch, "as_tensor", as_tensor
        yield torch.inference_mode, "__enter__", enter
        yield torch.inference_mode, "__exit__", lambda self, *error: self.stack.close()
        yield torch.Tensor, "tolist", host_read("tolist")
        yield torch.Tensor, "numpy", host_read("numpy")
        yield torch.Tensor, "pin_memory", lambda self, *_: fake._pin(self.clone())
        yield torch.Tensor, "is_pinned", lambda self, *_: fake._is_pinned(self)
        yield torch.cuda, "_lazy_init", lambda: None
        yield torch.cuda, "mem_get_info", lambda *_: _FREE_MEMORY
        yield torch.cuda, "synchronize", fake.synchronize
        yield torch.cuda.Event, "record", lambda *_: None
        yield torch.cuda.Event, "synchronize", fake.synchronize
        yield torch.cuda.Stream, "synchronize", fake.synchronize


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # it has none
        return 0
