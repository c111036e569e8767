"""Bytes that the backward pass asks for, and bytes that a device has left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

RESERVE = 0.1
"""Share of a device's memory that is planned to stay free: texts of other lengths in other steps, gaps between
tensors."""


class SavedBytes:
    """While entered, counts the bytes that autograd keeps for the backward pass.

    Args:
        known: tensors that are there anyway, and count for nothing.
    """

    def __init__(self, known: Iterable[Tensor]):
        self._seen = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._held: list[Tensor] = []  # a freed tensor's address may be given to another one
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self.note, lambda tensor: tensor)
        self.bytes = 0

    def __enter__(self) -> SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)
        self._held.clear()

    def note(self, tensor: Tensor) -> Tensor:
        """Count what ``tensor`` lies in, once."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self._held.append(tensor.detach())
            self.bytes += storage.nbytes()
        return tensor


class ModelSavedBytes(SavedBytes):
    """While entered, counts the bytes that the backward pass needs, the model's own tensors aside.

    Args:
        model: whose forward pass runs.
        recomputed: whether its blocks keep their inputs alone.
    """

    def __init__(self, model: nn.Module, recomputed: bool):
        super().__init__(tensors_of(model))
        self._blocks = model.checkpoint_blocks() if recomputed else []  # type: ignore[operator]

    def __enter__(self) -> ModelSavedBytes:
        self._handles = [block.register_forward_pre_hook(self._inputs) for block in self._blocks]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def _inputs(self, block: nn.Module, args: tuple[Any, ...]) -> None:
        for each in args:
            if isinstance(each, Tensor):
                self.note(each)


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once."""
    return list({id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}.values())


class DeviceMemory(Protocol):
    """Memory of a device that runs out.

    Attributes:
        reserve: bytes that are planned to stay free.
    """

    reserve: int

    def watch(self) -> None:
        """Forget how full it has been."""

    def spare(self) -> int:
        """Bytes above the reserve that nobody needed at the fullest moment since :meth:`watch`; negative where the
        reserve was used."""


class CudaMemory:
    """Memory of a GPU, which other processes may use too.

    Args:
        device: with its index.
    """

    def __init__(self, device: torch.device):
        self.device = device
        # A process may have been given a part of the GPU (2.6, the oldest PyTorch we run on, need not have the call).
        part = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)(device)
        self.limit = int(part * torch.cuda.mem_get_info(device)[1])
        self.reserve = int(RESERVE * self.limit)

    def watch(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def spare(self) -> int:
        reserved = torch.cuda.memory_reserved(self.device)
        free = min(torch.cuda.mem_get_info(self.device)[0], self.limit - reserved)
        return free + reserved - torch.cuda.max_memory_allocated(self.device) - self.reserve


def device_memory(device: torch.device) -> DeviceMemory | None:
    """Of ``device``; None where memory does not run out (a CPU swaps) or nothing tells how much there is (MPS)."""
    return CudaMemory(device) if device.type == "cuda" else None
