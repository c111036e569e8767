from __future__ import annotations

import pytest
import torch

from vlkit.runner.activation_checkpointing import RESERVE, CudaMemory, SavedBytes, device_memory

GPU = torch.device("cuda", 0)


def test_saved_bytes_count_each_storage_once_and_known_ones_never():
    weight = torch.randn(3, 3, requires_grad=True)
    x = torch.randn(4, 3, requires_grad=True)
    with SavedBytes([weight]) as saved:
        y = (x @ weight).tanh()  # keeps x (weight is known) and its own result
        z = y * y.view(4, 3)  # keeps y twice, which is counted already
    assert saved.bytes == 2 * 4 * 3 * 4
    z.sum().backward()
    assert x.grad is not None


def test_only_a_gpu_has_memory_that_runs_out():
    assert device_memory(torch.device("cpu")) is None
    assert device_memory(torch.device("mps")) is None


@pytest.mark.parametrize(("part", "free"), [(1.0, 3000), (0.5, 1000)])
def test_spare_memory_of_a_gpu_is_what_the_fullest_moment_left(monkeypatch, part, free):
    """10,000 bytes, of which 3,000 are free and 4,000 are this process's, of which 3,500 were in use at most."""
    resets = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3000, 10_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3500)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: part, raising=False)
    memory = device_memory(GPU)
    assert isinstance(memory, CudaMemory)
    assert memory.reserve == pytest.approx(RESERVE * part * 10_000, abs=1)
    memory.watch()
    assert resets == [GPU]
    assert memory.spare() == free + 4000 - 3500 - memory.reserve
