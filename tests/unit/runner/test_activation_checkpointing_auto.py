"""Automatic activation checkpointing, with made-up memory."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.assets.device_memory import FakeMemory, Stack, auto_checkpointing, sizes
from tests.assets.toy import ToyModel, ToyTask, lines, toy_runner
from vlkit.api import load_model
from vlkit.datasets.base import collate
from vlkit.datasets.shapes.dataset import Shapes
from vlkit.runner.activation_checkpointing import AutoCheckpointing
from vlkit.runner.checkpoint import MODEL, load_tensors
from vlkit.runner.context import autocast, compile_model

CPU = torch.device("cpu")
PLENTY = 10**9


def steps(
    model: nn.Module, need: AutoCheckpointing | None = None, count: int = 4, grad_accum_steps: int = 1
) -> list[torch.Tensor]:
    """Losses and gradients of some steps, whose random numbers follow from their number."""
    found = []
    for step in range(count):
        torch.manual_seed(step)
        model.zero_grad()
        for _ in range(grad_accum_steps):
            loss = model(torch.randn(5, 8))
            loss.backward()
        found += [loss.detach(), *(p.grad.clone() for p in model.parameters())]
        if need is not None:
            need.after_step(check=True)
    return found


SIZES = sizes(5)


def decided(room: int, **changes: int) -> list[bool]:
    model = Stack()
    need = auto_checkpointing(model, FakeMemory(room), **changes)
    steps(model, need, **changes)
    assert [block.bytes for block in need.blocks] == SIZES
    return need.recomputed


def test_enough_memory_recomputes_nothing_and_leaves_the_blocks_as_they_were():
    model = Stack()
    need = auto_checkpointing(model, FakeMemory(sum(SIZES)))
    steps(model, need)
    assert need.recomputed == [False] * 4
    assert all("forward" not in vars(block) for block in model.blocks)


def test_too_little_memory_recomputes_everything():
    assert decided(0) == [True] * 4
    assert decided(-5) == [True] * 4
    assert decided(min(SIZES) - 1) == [True] * 4


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (1, [True, False, False, False]),
        (SIZES[0], [True, False, False, False]),
        (SIZES[0] + 1, [True, True, False, False]),  # of two of the same size the first
        (SIZES[0] + SIZES[1] + 1, [True, True, True, False]),
    ],
)
def test_between_them_the_largest_blocks_are_recomputed_until_the_others_fit(missing, expected):
    assert decided(sum(SIZES) - missing) == expected


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(-0.1, 1.1))
def test_the_number_of_recomputed_blocks_is_the_smallest_that_fits(widths, share):
    model = Stack(widths)
    memory = FakeMemory(PLENTY)
    need = auto_checkpointing(model, memory)
    steps(model, need, 2)
    found = sorted(block.bytes for block in need.blocks)
    memory.room = share * sum(found)
    need = auto_checkpointing(model, memory)
    steps(model, need, 3)
    most = max(count for count in range(len(found) + 1) if count == 0 or sum(found[:count]) <= int(memory.room))
    assert need.recomputed.count(False) == most


def test_a_micro_batch_counts_not_the_whole_step():
    assert decided(sum(SIZES), grad_accum_steps=3) == [False] * 4


@pytest.mark.parametrize("missing", [0, 1, SIZES[0] + 1, sum(SIZES)])
@pytest.mark.parametrize("grad_accum_steps", [1, 2])
def test_losses_and_gradients_are_those_of_the_plain_run_to_the_bit(missing, grad_accum_steps):
    model = Stack()
    found = steps(
        model,
        auto_checkpointing(model, FakeMemory(sum(SIZES) - missing), grad_accum_steps),
        grad_accum_steps=grad_accum_steps,
    )
    expected = steps(Stack(), grad_accum_steps=grad_accum_steps)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_blocks_run_twice_as_often_only_where_they_are_recomputed():
    model, calls = Stack(), []
    for index, block in enumerate(model.blocks):
        block[0].register_forward_hook(lambda *_, index=index: calls.append(index))
    need = auto_checkpointing(model, FakeMemory(sum(SIZES) - 1))
    steps(model, need, 2)
    calls.clear()
    steps(model, None, 1)
    assert [calls.count(index) for index in range(4)] == [4, 2, 1, 1]
    with torch.no_grad():
        model.eval()(torch.randn(5, 8))
    assert [calls.count(index) for index in range(4)] == [6, 4, 2, 2]


def test_a_reserve_that_runs_low_recomputes_more_and_no_more_than_that():
    model = Stack()
    memory = FakeMemory(sum(SIZES), reserve=1000)
    need = auto_checkpointing(model, memory)
    steps(model, need, 3)
    assert not any(need.recomputed)
    memory.room -= 400
    steps(model, need, 2)
    assert not any(need.recomputed)  # what the reserve is for
    memory.room -= 200
    expected = steps(Stack(), count=2)
    found = steps(model, need, 2)
    assert need.recomputed == [True, False, False, False]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_the_reserve_is_checked_only_on_request():
    memory = FakeMemory(sum(SIZES), reserve=0)
    model = Stack()
    need = auto_checkpointing(model, memory)
    steps(model, need, 2)
    memory.room = 0
    need.after_step(check=False)
    assert not any(need.recomputed)
    need.after_step(check=True)
    assert all(need.recomputed)


def test_the_memory_of_an_evaluation_is_forgotten():
    memory = FakeMemory(0)
    need = auto_checkpointing(Stack(), memory)
    need.after_evaluation()
    assert memory.watched == 1


def test_the_choice_is_logged_once_in_one_line(caplog):
    model = Stack()
    with caplog.at_level(logging.INFO):
        steps(model, auto_checkpointing(model, FakeMemory(sum(SIZES) - 1)))
    assert [record.getMessage() for record in caplog.records] == [
        "activation checkpointing: 1 of 4 blocks are recomputed, which saves 0 of their 0 MiB."
    ]


def test_nothing_happens_without_memory_to_run_out_or_blocks():
    for need in (AutoCheckpointing(Stack(), None, None), auto_checkpointing(nn.Linear(8, 8), FakeMemory(0))):
        need.after_step(check=True)
        need.after_evaluation()
        assert need.blocks == []


def samples(first: int) -> dict:
    dataset = Shapes(size=20)
    return collate([dataset[i] for i in range(first, first + 4)])


@pytest.mark.parametrize(
    ("share", "backend", "precision"),
    [(0.0, None, "fp32"), (0.5, None, "fp32"), (1.0, None, "fp32"), (0.5, None, "bf16"), (0.5, "aot_eager", "fp32")],
)
def test_blip_takes_the_steps_of_the_plain_model(share, backend, precision):
    """Keys and values of the images are shared by blocks of which some are recomputed."""
    results, room = [], 0.0
    for memory in (None, FakeMemory(PLENTY), FakeMemory(0)):
        torch.manual_seed(0)
        model = load_model("blip_pretrain", "tiny", is_eval=False)
        model.draw_negative = lambda weights: weights.argmax(1)
        if backend is not None:
            compile_model(model, CPU, backend)
        if memory is not None and not memory.room:
            memory.room = room
        need = None if memory is None else auto_checkpointing(model, memory)
        found = []
        for step in range(3):
            torch.manual_seed(step)
            model.zero_grad()
            with autocast(CPU, precision)():
                out = model(samples(4 * step), alpha=0.4)
            out.loss.backward()
            found += [out.loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
            if need is not None:
                need.after_step(check=False)
        if need is not None:
            assert all(block.bytes > 0 for block in need.blocks)
            room = share * sum(block.bytes for block in need.blocks)
        results.append(found)
    assert any(need.recomputed) == (share < 1)
    assert all(need.recomputed) == (share == 0)
    for mine, theirs in zip(results[2], results[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-7)


def test_a_model_that_is_compiled_as_a_whole_takes_the_same_steps():
    results = []
    for room in (None, sum(SIZES) - 1):
        model = Stack()
        compile_model(model, CPU, "aot_eager")
        need = None if room is None else auto_checkpointing(model, FakeMemory(room))
        results.append(steps(model, need, 3))
    assert need.recomputed == [True, False, False, False]
    for mine, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


@pytest.fixture
def little(monkeypatch) -> list[FakeMemory]:
    """Devices of runs have memory, and too little of it."""
    given: list[FakeMemory] = []

    def memory(device: torch.device) -> FakeMemory:
        given.append(FakeMemory(0))
        return given[-1]

    monkeypatch.setattr("vlkit.runner.trainer.device_memory", memory)
    return given


def test_a_run_leaves_the_weights_and_lines_of_a_plain_one(tmp_path, little):
    calls = {}
    for kind in ("none", "auto"):
        model = ToyModel()
        model.block[0].register_forward_hook(lambda *_, kind=kind: calls.update({kind: calls.get(kind, 0) + 1}))
        toy_runner(tmp_path / kind, model=model, activation_checkpointing=kind, grad_accum_steps=2).train()
    assert len(little) == 1
    assert calls["auto"] == calls["none"] + 12 * 2 + 2  # all are recomputed; in the second step they run to be counted
    assert lines(tmp_path / "auto") == lines(tmp_path / "none")
    plain, mine = (load_tensors(tmp_path / kind / "checkpoints" / "step_00000012" / MODEL) for kind in ("none", "auto"))
    assert all(torch.equal(mine[name], tensor) for name, tensor in plain.items())


def test_a_run_is_continued_as_if_nothing_had_been(tmp_path, little):
    toy_runner(tmp_path / "straight").train()
    toy_runner(tmp_path / "parts", ToyTask(signal_at=6), activation_checkpointing="none").train()
    assert toy_runner(tmp_path / "parts").train()["status"] == "finished"
    assert len(little) == 2
    assert lines(tmp_path / "parts") == lines(tmp_path / "straight")


def test_a_cpu_recomputes_nothing_by_itself(tmp_path):
    model = ToyModel()
    toy_runner(tmp_path, model=model, max_steps=1).train()
    assert "forward" not in vars(model.block)
