"""When steps are captured, without CUDA: its calls are replaced by what they are documented to do."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import torch

from vlkit.models.generation.cuda_graphs import CapturedStep


def test_elsewhere_steps_are_called_as_they_are():
    captured, calls = CapturedStep(torch.device("cpu")), []
    for _ in range(5):
        captured.run(lambda: calls.append("called"))
    assert calls == ["called"] * 5


class Driver:
    """Records what is asked of CUDA. While a graph is captured nothing is computed."""

    def __init__(self, monkeypatch, fails: bool):
        self.done: list[str] = []
        self.capturing = False
        self.fails = fails
        current = SimpleNamespace(wait_stream=lambda other: None)
        self.made: list[SimpleNamespace] = []
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
        assert (pool, capture_error_mode) == (None, "thread_local")
        assert stream.device == torch.device("cuda:1")  # where the step runs, whatever device is current
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


def test_every_call_does_the_work_once(monkeypatch):
    driver = Driver(monkeypatch, fails=False)
    captured = CapturedStep(torch.device("cuda:1"))
    for _ in range(5):
        captured.run(driver.step)
    assert driver.done == ["run", "run", "capture", "replay", "replay", "replay"]


def test_a_step_that_cannot_be_captured_runs_without(monkeypatch, caplog):
    driver = Driver(monkeypatch, fails=True)
    captured = CapturedStep(torch.device("cuda:1"))
    for _ in range(6):
        captured.run(driver.step)
    assert driver.done == ["run"] * 6
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "not permitted" in caplog.text
