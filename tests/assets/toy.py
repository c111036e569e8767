"""A model, a task and datasets as small as can be that still have all that makes training hard to continue:
dropout, an EMA copy, a ring queue, unequal counts, augmentation."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlkit.config.durations import Duration
from vlkit.config.schema import OptimConfig, RunOptions
from vlkit.datasets.base import Sample, VLDataset
from vlkit.datasets.mixture import Mixture
from vlkit.errors import BadSample
from vlkit.runner.runner import Runner
from vlkit.tasks.base import Batch, EvalContext, Progress, StepOutput, Task

VOCABULARY, LENGTH, WIDTH, QUEUE = 17, 6, 8, 12


class ToyDataset(VLDataset):
    """Images of noise around a color, with 2 to 6 tokens that follow from it. The noise is augmentation.

    Args:
        size: samples.
        name: part of every sample_id.
        bad: indices that cannot be read.
        broken: indices that raise what is not BadSample.
    """

    def __init__(self, size: int, name: str = "toy", bad: Iterable[int] = (), broken: Iterable[int] = ()):
        self.size, self.name, self.bad, self.broken = size, name, frozenset(bad), frozenset(broken)

    def __len__(self) -> int:
        return self.size

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        if index in self.bad:
            raise BadSample(f"{self.name}/{index}.jpg", "cannot be decoded")
        if index in self.broken:
            raise OSError(f"{self.name}/{index}.jpg: input/output error")
        color = np.random.default_rng([index, self.size]).normal(size=(3, 1, 1))
        image = color + 0.1 * rng.normal(size=(3, 4, 4))
        steps = range(2 + index % 5)
        tokens = [1 + (index * 7 + place * (index % 3 + 1)) % (VOCABULARY - 1) for place in steps]
        return {
            "image": torch.from_numpy(image).float(),
            "tokens": tokens,
            "image_id": index,
            "sample_id": f"{self.name}-{index}",
        }


class ToyModel(nn.Module):
    """Predicts tokens from an image; an EMA copy of the projection fills a queue for a second loss."""

    def __init__(self, seed: int = 0, dropout: float = 0.2):
        super().__init__()
        torch.manual_seed(seed)
        self.image = nn.Sequential(nn.Linear(48, WIDTH), nn.LayerNorm(WIDTH))
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(dropout))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight  # tied
        self.average = nn.Linear(48, WIDTH).requires_grad_(False)
        self.register_buffer("queue", torch.randn(QUEUE, WIDTH))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def checkpoint_blocks(self) -> list[nn.Module]:
        return [self.block]

    def forward(self, image: Tensor, tokens: Tensor, mask: Tensor, update: bool = True) -> dict[str, Tensor]:
        feats = self.image(image.flatten(1))
        states = self.block(self.embed(tokens[:, :-1]) + feats[:, None])
        logits = self.head(states).float()
        losses = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        weights = mask[:, 1:].float()
        near = F.cross_entropy(feats.float() @ self.queue.t().clone(), tokens[:, 0] % QUEUE)
        if update and self.training:
            self._update(image)
        return {"lm": (losses * weights).sum() / weights.sum(), "near": near}

    @torch.no_grad()
    def _update(self, image: Tensor) -> None:
        online = self.image[0]
        for old, new in zip(self.average.parameters(), online.parameters()):
            old.mul_(0.9).add_(new, alpha=0.1)
        feats = self.average(image.flatten(1))
        places = (self.pointer + torch.arange(len(feats))) % QUEUE
        self.queue[places] = feats.float()
        self.pointer.copy_((self.pointer + len(feats)) % QUEUE)


class ToyTask(Task):
    """Token loss (mean over tokens) and a loss over the queue (mean over samples).

    Args:
        near: weight of the loss over the queue.
        poison: step (from 0) at which the loss becomes nan.
        kill: step before which the process kills itself, as the machine might.
        signal_at: step before which the process gets SIGTERM.
        pause: least seconds of a training step.
        broken_at: step before which process 0 raises an error.
    """

    def __init__(
        self,
        near: float = 1.0,
        poison: int | None = None,
        kill: int | None = None,
        signal_at: int | None = None,
        pause: float = 0.0,
        broken_at: int | None = None,
    ):
        self.near, self.poison, self.kill, self.signal_at = near, poison, kill, signal_at
        self.pause, self.broken_at = pause, broken_at
        self.seen: list[list[str]] = []

    def prepare(self, model: nn.Module, batch: Batch, device: torch.device) -> Batch:
        self.seen.append(list(batch["sample_id"]))
        tokens = torch.zeros(len(batch["tokens"]), LENGTH, dtype=torch.long)
        for row, each in zip(tokens, batch["tokens"]):
            row[: len(each)] = torch.tensor(each)
        return {
            "image": batch["image"].to(device),
            "tokens": tokens.to(device),
            "mask": (tokens > 0).to(device),
        }

    def counts(self, inputs: Batch) -> dict[str, float]:
        return {"lm": float(inputs["mask"][:, 1:].sum())}

    def train_step(self, model: nn.Module, inputs: Batch, progress: Progress) -> StepOutput:
        if self.kill == progress.step:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.signal_at == progress.step:
            self.signal_at = None
            os.kill(os.getpid(), signal.SIGTERM)
        if self.broken_at == progress.step and os.environ.get("RANK", "0") == "0":
            raise ValueError("broken on purpose")
        time.sleep(self.pause)
        found = model(**inputs)
        losses = {"lm": found["lm"], "near": found["near"] * self.near}
        if self.poison == progress.step:
            losses["lm"] = losses["lm"] * float("nan")
        return StepOutput(losses, {"length": inputs["mask"].sum(1).float().mean()})

    def evaluate(self, model: nn.Module, loader: Iterable[Batch], context: EvalContext) -> dict[str, float]:
        rows: list[tuple[int, float]] = []
        for batch in loader:
            inputs = self.prepare(model, batch, context.device)
            for place, index in enumerate(batch["index"]):
                one = {key: value[place : place + 1] for key, value in inputs.items()}
                with context.autocast():
                    rows.append((int(index), float(model(**one)["lm"])))
        rows = sorted(context.gather(rows))
        return {"loss": float(np.mean([loss for _, loss in rows])), "samples": float(len(rows))}

    def describe(self, model: nn.Module, batch: Batch, context: EvalContext) -> list[str]:
        return [f"tokens {tokens}" for tokens in batch["tokens"]]


def options(output: Path, **changes: Any) -> tuple[OptimConfig, RunOptions]:
    """Sections of a short run; keys of either section change it."""
    steps = Duration(4, "steps")
    optim: dict[str, Any] = {
        "lr": 0.02,
        "grad_clip": 1.0,
        "schedule": "cosine",
        "warmup": Duration(2, "steps"),
    }
    run: dict[str, Any] = {
        "max_steps": 12,
        "batch_size": 8,
        "seed": 3,
        "monitor": "val/loss",
        "mode": "min",
        "eval_every": steps,
        "checkpoint_every": steps,
        "log_every": 1,
        "output_dir": output,
        "device": "cpu",
        "sample_images": 2,
    }
    for key, value in changes.items():
        (optim if key in OptimConfig.__dataclass_fields__ else run)[key] = value
    return OptimConfig(**optim), RunOptions(**run)


def toy_runner(
    output: Path,
    task: Task | None = None,
    train: Any = "two",
    evals: dict[str, VLDataset] | None = None,
    model: nn.Module | None = None,
    **changes: Any,
) -> Runner:
    """A runner of the toy on two mixed datasets."""
    optim, run = options(output, **changes)
    if train == "two":
        train = Mixture([ToyDataset(21, "a"), ToyDataset(13, "b")], [2.0, 1.0], seed=run.seed)
    if train == "a minute":  # of steps of 8 that take a quarter of a second
        train = Mixture([ToyDataset(1920, "a")], seed=run.seed)
    evals = {"val": ToyDataset(11, "val")} if evals is None else evals
    return Runner(model or ToyModel(), task or ToyTask(), train, evals, optim, run)


def lines(output: Path) -> list[dict[str, Any]]:
    """``metrics.jsonl`` without the speed."""
    found = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    for line in found:
        line.pop("samples_per_s", None)
        line.pop("waited_for_data", None)
    return found


def start(output: Path, environment: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A run in a process of its own, which ends with the exit status that the command line would give.

    Args:
        output: its folder.
        environment: variables to set in it (those of ``torchrun``, say).
        changes: arguments of the task, the model or :func:`options`; numbers are durations in steps.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", __name__])  # imports are slow; they are done once
    process = context.Process(target=_run, args=(output, environment or {}, changes))
    process.start()
    return process


def _run(output: Path, environment: dict[str, Any], changes: dict[str, Any]) -> None:
    multiprocessing.set_start_method("fork", force=True)  # of the loader: a second server would import again
    os.environ.update({key: str(value) for key, value in environment.items()})
    torch.set_num_threads(1)
    of_task = {"kill", "poison", "signal_at", "near", "pause", "broken_at"} & set(changes)
    task = ToyTask(**{key: changes.pop(key) for key in of_task})
    model = ToyModel(dropout=changes.pop("dropout", 0.2))
    for key in ("eval_every", "checkpoint_every"):
        if isinstance(changes.get(key), int):
            changes[key] = Duration(changes[key], "steps")
    with toy_runner(output, task, model=model, **changes) as runner:
        result = runner.train()
        seen = runner.world.gather([[runner.world.rank, task.seen]])
    if runner.world.is_main:
        (output / "seen.json").write_text(json.dumps(seen))
    raise SystemExit(128 + result["signal"] if "signal" in result else 0)
