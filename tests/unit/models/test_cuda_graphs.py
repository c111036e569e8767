"""When steps are captured, without CUDA: its calls are replaced by what they are documented to do."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from vlkit.models.cuda_graphs import CapturedSteps, LateFlags


def test_elsewhere_steps_are_called_as_they_are():
    steps, calls = CapturedSteps(torch.device("cpu")), []
    for _ in range(5):
        steps.run(1, lambda: calls.append("called"))
    assert calls == ["called"] * 5


class Driver:
    """Records what is asked of CUDA. While a graph is captured nothing is computed."""

    def __init__(self, monkeypatch, fails: bool):
        self.done: list[str] = []
        self.capturing = False
        self.fails = fails
        current = SimpleNamespace(wait_stream=lambda other: None)
        self.made: list[SimpleNamespace] = []
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
        monkeypatch.setattr(torch.cuda, "Stream", self.stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
        monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: self.done.append("replay")))
        monkeypatch.setattr(torch.cuda, "graph", self.graph)

    def stream(self, device):
        self.made.append(SimpleNamespace(device=device, wait_stream=lambda other: None))
        return self.made[-1]

    @contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        assert (pool, capture_error_mode) == ("pool", "thread_local")
        assert stream.device == torch.device("cuda:1")  # where the step runs, whatever device is current
        assert self.made == [stream]  # graphs of one pool are captured on one stream
        self.capturing = True
        try:
            yield
            if self.fails:
                raise RuntimeError("operation not permitted when stream is capturing")
        finally:
            self.capturing = False
        self.done.append("capture")

    def step(self):
        if not self.capturing:
            self.done.append("run")


@pytest.mark.parametrize("key", [3, (2, "beams")])
def test_every_call_does_the_work_once(monkeypatch, key):
    driver = Driver(monkeypatch, fails=False)
    steps = CapturedSteps(torch.device("cuda:1"))
    for _ in range(5):
        steps.run(key, driver.step)
    assert driver.done == ["run", "run", "capture", "replay", "replay", "replay"]
    driver.done.clear()
    steps.run("another", driver.step)
    steps.run(key, driver.step)
    assert driver.done == ["run", "replay"]


def test_a_step_that_cannot_be_captured_runs_without(monkeypatch, caplog):
    driver = Driver(monkeypatch, fails=True)
    steps = CapturedSteps(torch.device("cuda:1"))
    for key in (1, 2):
        for _ in range(4):
            steps.run(key, driver.step)
    assert driver.done == ["run"] * 8
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "not permitted" in caplog.text


def test_flags_are_waited_for_on_the_device_that_they_come_from(monkeypatch):
    """Which need not be the current one."""
    recorded, empty = [], torch.empty
    event = SimpleNamespace(record=recorded.append, synchronize=lambda: recorded.append("waited for"))
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: f"stream of {device}")
    monkeypatch.setattr(torch, "empty", lambda *given, pin_memory, **others: empty(*given, **others))
    flags = LateFlags(torch.device("cuda:1"))
    here = torch.tensor([True, False])
    assert flags.exchange(here) is None
    assert flags.exchange(here).tolist() == [True, False]
    assert recorded == ["stream of cuda:1", "stream of cuda:1", "waited for"]
