"""Two processes do what one does."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.assets.toy import ToyDataset, ToyModel, ToyTask, lines, start, toy_runner
from tests.assets.waiting import LONG, wait_until
from vlkit.datasets.mixture import Mixture
from vlkit.runner.checkpoint import MODEL, load_tensors
from vlkit.runner.distributed import TIMEOUT_VARIABLE

PLAIN = {"near": 0.0, "dropout": 0.0}
"""Without the queue, which each process fills by itself, and without dropout, the steps are comparable."""


def launch(folder: Path, world: int = 2, **changes: Any) -> list[Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, TIMEOUT_VARIABLE: 200}
    return [start(folder, {**common, "RANK": rank, "LOCAL_RANK": rank}, **changes) for rank in range(world)]


def finish(processes: list[Any]) -> list[int]:
    for process in processes:
        process.join(LONG)
    return [process.exitcode for process in processes]


def wait_for_log(folder: Path, process: Any) -> None:
    wait_until((folder / "metrics.jsonl").exists, process.is_alive)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A run of two processes with two micro-batches each."""
    folder = tmp_path_factory.mktemp("two")
    assert finish(launch(folder, grad_accum_steps=2, **PLAIN)) == [0, 0]
    return folder


def test_two_processes_take_the_steps_of_one(tmp_path, two):
    toy_runner(tmp_path, ToyTask(near=0.0), model=ToyModel(dropout=0.0)).train()
    alone, joint = lines(tmp_path), lines(two)
    assert [line["step"] for line in joint] == [line["step"] for line in alone]
    for mine, theirs in zip(alone, joint):
        for key in {"loss", "grad_norm", "losses", "metrics", "eval", "lr"} & set(mine):
            assert theirs[key] == pytest.approx(mine[key], rel=2e-5, abs=1e-6), (mine["step"], key)
    first, second = (load_tensors(folder / "checkpoints" / "step_00000012" / MODEL) for folder in (tmp_path, two))
    for name in ("embed.weight", "block.0.weight", "image.0.weight"):
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=2e-5)


def test_evaluation_in_two_processes_counts_each_sample_once(two):
    scores = [line["eval"] for line in lines(two) if "eval" in line]
    assert [each["val/samples"] for each in scores] == [11.0] * 3


def test_a_run_resumes_in_two_processes_with_the_same_data(tmp_path):
    task = ToyTask(signal_at=4)
    toy_runner(tmp_path, task).train()
    assert finish(launch(tmp_path)) == [0, 0]
    seen = [each for batch in task.seen for each in batch if not each.startswith("val")]
    parts = [batches for _, batches in sorted(json.loads((tmp_path / "seen.json").read_text()))]
    parts = [[batch for batch in batches if not batch[0].startswith("val")] for batches in parts]
    assert [len(batches) for batches in parts] == [7, 7]
    for halves in zip(*parts):
        seen += [each for half in halves for each in half]
    stream = Mixture([ToyDataset(21, "a"), ToyDataset(13, "b")], [2.0, 1.0], seed=3)
    assert seen == [f"{'ab'[which]}-{index}" for which, _, index in stream.take(stream.start(), 12 * 8)]
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == list(range(1, 13))


def test_a_signal_to_one_process_stops_both_with_a_checkpoint(tmp_path):
    processes = launch(tmp_path, max_steps=100_000, log_every=10, eval_every=50_000, checkpoint_every=50_000)
    wait_for_log(tmp_path, processes[0])
    processes[1].terminate()
    assert finish(processes) == [143, 143]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_a_process_that_dies_takes_the_other_with_it(tmp_path):
    processes = launch(tmp_path, max_steps=100_000, log_every=10)
    wait_for_log(tmp_path, processes[0])
    processes[1].kill()
    codes = finish(processes)
    assert codes[1] == -9
    assert codes[0] not in (0, 143)


def test_a_loss_that_is_not_finite_ends_both(tmp_path):
    codes = finish(launch(tmp_path, poison=2))
    assert codes == [1, 1]
    found = json.loads((tmp_path / "nonfinite.json").read_text())
    assert found["step"] == 3
    assert len(found["sample_ids"]) == 8


def test_an_error_of_the_first_process_alone_loses_no_step(tmp_path, two):
    """The other one waits in a message by then, and takes no part in the checkpoint."""
    settings = {"grad_accum_steps": 2, "eval_every": None, "checkpoint_every": None, **PLAIN}
    codes = finish(launch(tmp_path, broken_at=7, **settings))
    assert 0 not in codes
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000007"]
    assert finish(launch(tmp_path, **settings)) == [0, 0]
    last = f"checkpoints/step_00000012/{MODEL}"
    assert (tmp_path / last).read_bytes() == (two / last).read_bytes()
