"""The fake device counts what waits for a GPU, and computes as the CPU does."""

import pytest
import torch

from benchmarks.fake_cuda import CUDA, FakeCuda, FakeTensor
from benchmarks.fake_cuda_runs import evaluate, train


def kinds(counter):
    return [kind for kind, _ in counter]


def test_values_are_those_of_the_cpu_and_reads_are_counted():
    model, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    expected = model(x)
    with FakeCuda() as fake, torch.no_grad():
        fake.move(model)
        out = model(x.to(CUDA))
        assert isinstance(out, FakeTensor)
        assert out.device == CUDA
        torch.testing.assert_close(out.cpu(), expected)
    assert kinds(fake.counts.blocking) == ["to device", "to host, cpu()"]
    assert fake.counts.mixed.total() == 0
    assert torch.tensor(1).device.type == "cpu"


def test_only_copies_from_pinned_memory_are_asynchronous():
    with FakeCuda() as fake:
        torch.ones(3).to(CUDA, non_blocking=True)
        torch.ones(3).pin_memory().to(CUDA, non_blocking=True)
        torch.ones(3, pin_memory=True).to(CUDA, non_blocking=True)
    assert kinds(fake.counts.blocking) == ["to device, not pinned"]
    assert fake.counts.asynchronous.total() == 2


@pytest.mark.parametrize("wait", ["nothing", "event", "device", "read"])
def test_a_copy_to_the_host_must_not_be_read_before_an_event(wait):
    with FakeCuda() as fake:
        tensor = torch.ones(3, device=CUDA)
        copied = tensor.to("cpu", non_blocking=True)
        if wait == "event":
            event = torch.cuda.Event.__new__(torch.cuda.Event)
            event.synchronize()
        elif wait == "device":
            torch.cuda.synchronize()
        elif wait == "read":
            tensor.sum().item()
        assert copied.tolist() == [1, 1, 1]
        copied + 1
    assert fake.counts.early_reads.total() == (2 if wait == "nothing" else 0)


def test_operations_on_two_devices_are_counted():
    with FakeCuda() as fake:
        x = torch.ones(3, device=CUDA)
        x + torch.ones(3)
        x + torch.tensor(1.0)  # a number may come from the host
        torch.stack([x.sum(), torch.tensor(1.0)])
    assert sum(fake.counts.mixed.values()) == 2


@pytest.mark.parametrize("graphs", [False, True])
def test_captions_are_the_same_and_fixed_shapes_wait_less(graphs):
    scores, fake = evaluate("caption", size=4, batch=4, graphs=graphs)
    assert scores["length"] > 5
    assert fake.counts.mixed.total() == fake.counts.early_reads.total() == 0
    waits = sum(number for (_, where), number in fake.counts.blocking.items() if "generation" in where)
    assert (waits < 40) == graphs


def test_reranking():
    scores, fake = evaluate("retrieval", size=8, batch=4, rerank_top_k=4)
    assert scores["tr@5"] > 0.5
    assert fake.counts.mixed.total() == fake.counts.early_reads.total() == 0


def test_a_training_step():
    losses, fake = train("pretrain", batch=4)
    assert losses["losses/loss_lm"] > 0
    assert fake.counts.mixed.total() == fake.counts.early_reads.total() == 0
