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


def test_recomputed_blocks_keep_their_inputs():
    block = torch.nn.Linear(3, 3)
    x = torch.randn(4, 3)
    with torch.no_grad(), SavedBytes(block.parameters(), [block]) as saved:
        block(x)
        block(x)
    assert saved.bytes == 4 * 3 * 4
    block(torch.randn(5, 3))
    assert saved.bytes == 4 * 3 * 4  # the hooks are gone


def test_only_a_gpu_has_memory_that_runs_out():
    assert device_memory(torch.device("cpu")) is None
    assert device_memory(torch.device("mps")) is None


class FakeGpu:
    """A GPU of 10,000 bytes; this process holds ``reserved`` of them, others ``foreign``."""

    def __init__(self, part: float = 1.0, reserved: int = 4000, foreign: int = 3000):
        self.reserved, self.foreign, self.used, self.peak = reserved, foreign, 0, 0
        self.get_per_process_memory_fraction = lambda device: part
        self.mem_get_info = lambda device: (10_000 - self.reserved - self.foreign, 10_000)
        self.memory_reserved = lambda device: self.reserved
        self.max_memory_allocated = lambda device: self.peak

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.peak = self.used

    def use(self, count: int) -> None:
        self.used = count
        self.peak = max(self.peak, count)


@pytest.fixture
def gpu(request, monkeypatch) -> FakeGpu:
    fake = FakeGpu(getattr(request, "param", 1.0))
    for name in ("get_per_process_memory_fraction", "mem_get_info", "memory_reserved", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name), raising=False)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", fake.reset_peak_memory_stats)
    return fake


@pytest.mark.parametrize(("gpu", "free"), [(1.0, 3000), (0.5, 1000)], indirect=["gpu"])
def test_spare_memory_of_a_gpu_is_what_was_free_at_the_peak(gpu, free):
    part = gpu.get_per_process_memory_fraction(GPU)
    memory = device_memory(GPU)
    assert isinstance(memory, CudaMemory)
    assert memory.reserve == pytest.approx(RESERVE * part * 10_000, abs=1)
    gpu.use(3500)
    gpu.use(100)
    assert memory.spare() == free + 4000 - 3500 - memory.reserve
    memory.watch()
    gpu.use(200)
    assert memory.spare() == free + 4000 - 200 - memory.reserve
