"""A step of pre-training beside the original's: forward, backward, optimizer.

Ours is what the runner does (fused AdamW, autocast for bf16, the norm of the gradient); the reference pads
texts, projects image tokens for every text again and is fp32. Nothing is drawn at random (no dropout, each pair's
negative is its neighbor) and the learning rate is 0, so that every step starts from the same weights. Steps fill the
queues: the first step of each side, which starts from the same ones, is compared, losses and gradients.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.compare import Row
from benchmarks.original import pretrain as original
from benchmarks.original import weights
from benchmarks.peers import sizes
from benchmarks.reference import Measured, measure, row
from vlkit.config.schema import OptimConfig
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.runner.context import autocast
from vlkit.runner.optimizer import build_optimizer, set_rate
from vlkit.tasks.base import Batch, Progress
from vlkit.tasks.pretrain import Pretrain

PIXELS, BATCH = 224, 8
WANTED = {"fp32": 1.6, "bf16": 3.5}
_ALPHA = 0.4
_QUEUE = {"base": 57600, "tiny": 1024}
# Of initial weights of the text side; narrow layers need more, or rounding is as large as what they compute.
_STD = {"base": 0.02, "tiny": 0.1}
# Largest relative difference of a loss, and of a gradient: of each parameter's for fp32, of all together for bf16.
_LOSS, _GRADIENT = {"fp32": 1e-4, "bf16": 2e-2}, {"fp32": 1e-4, "bf16": 5e-2}
# A gradient that is 0 but for rounding (of the biases of keys, say) is compared with this part of the largest one.
_NOTHING = 1e-3


@dataclass
class Step:
    """What a step gives: losses of contrast, matching and language modeling, and gradients by name."""

    losses: list[float]
    gradients: dict[str, Tensor]


def pretrain_rows(
    size: str = "base", dtypes: Sequence[str] = ("fp32", "bf16"), repeat: int = 3, device: str = "cpu"
) -> Iterator[Row]:
    """One row per dtype.

    Args:
        size: "base" (ViT-B/16 at 224 pixels, BERT-base, a queue of 57,600) or "tiny" (to see that it runs).
        dtypes: of ours.
        repeat: timed steps.
        device: where.
    """
    torch.manual_seed(0)
    vit, med = sizes(size, PIXELS)
    med = dataclasses.replace(
        med, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=_STD[size]
    )
    ours = BlipPretrain(vit, med, queue_size=_QUEUE[size]).to(device).train()
    ours.draw_negative = neighbor
    batch = batch_for(ours)
    start = {name: buffer.clone() for name, buffer in ours.named_buffers()}
    theirs = measure(reference(ours, batch), repeat)
    for dtype in dtypes:
        ours.load_state_dict(start, strict=False)  # queues as the first step of the reference has found them
        mine = measure(_ours(ours, batch, dtype), repeat)
        yield _row(f"pre-training step, {size}, batch {BATCH}", dtype, mine, theirs, size, device)


def neighbor(weights: Tensor) -> Tensor:
    """Index of the negative by its weights [..., B], of which the pair's own is the least: the next pair."""
    return (weights.argmin(-1) + 1) % weights.shape[-1]


def batch_for(model: BlipPretrain, count: int = BATCH, seed: int = 0) -> Batch:
    """``count`` pairs of noise with captions of 8 to 20 words, as on the web."""
    rng = np.random.default_rng(seed)
    words = [
        "photo",
        "of",
        "the",
        "old",
        "new",
        "house",
        "beach",
        "wedding",
        "in",
        "blue",
        "best",
        "ideas",
        "and",
        "for",
    ]
    texts = [" ".join(rng.choice(words, rng.integers(8, 21))) for _ in range(count)]
    side = model.vit_config.image_size
    image = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return {"image": image.to(model.device), "text_input": texts}


def reference(ours: BlipPretrain, batch: Batch) -> Callable[[], Step]:
    """A step of the reference with the weights of ours, and its own optimizer."""
    tokenizer = ours.tokenizer
    made = original.Pretrainer(
        ours.vit_config,
        ours.med_config,
        tokenizer.enc_id,
        tokenizer.dec_id,
        *ours.image_queue.shape,
        momentum=ours.momentum,
    )
    model = weights.share_weights(made, ours)
    model.draw = ours.draw_negative
    optimizer = original.optimizer_of(model, rate=0.0)

    def run() -> Step:
        texts = tokenizer.encode(batch["text_input"], max_length=original.LONGEST)
        ids, mask = (table.to(ours.device) for table in weights.pad_texts(texts, original.LONGEST))
        losses = original.step(model, optimizer, batch["image"], ids, mask, _ALPHA)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        return Step(losses, {name: cast(Tensor, p.grad) for name, p in trained.items()})

    return run


def _ours(model: BlipPretrain, batch: Batch, dtype: str) -> Callable[[], Step]:
    """A step as the runner makes it."""
    optimizer = build_optimizer(model, OptimConfig(fused=True), model.device)
    set_rate(optimizer, 0.0)
    precision = autocast(model.device, dtype)
    task = Pretrain(alpha=_ALPHA, alpha_ramp_epochs=1)
    progress = Progress(step=1, steps=2, steps_per_epoch=1, samples=BATCH)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def run() -> Step:
        inputs = task.prepare(model, batch, model.device)
        with precision():
            losses = task.train_step(model, inputs, progress).losses
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        gradients = {name: cast(Tensor, p.grad) for name, p in trained.items()}
        torch.nn.utils.get_total_norm(gradients.values())  # which the runner logs
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return Step([loss.item() for loss in losses.values()], gradients)

    return run


def _row(work: str, dtype: str, mine: Measured, theirs: Measured, size: str, device: str) -> Row:
    pairs = zip(mine.output.losses, theirs.output.losses, strict=True)
    loss = float(np.max([abs(a - b) / abs(b) for a, b in pairs]))  # not a number if one of them is not
    each, whole = differences(mine.output.gradients, theirs.output.gradients)
    gradient = each if dtype == "fp32" else whole
    what = "of a parameter's gradient, over its largest" if dtype == "fp32" else "of the gradient, over its norm"
    equal = loss <= _LOSS[dtype] and gradient <= _GRADIENT[dtype]
    wanted = WANTED[dtype] if (size, device) == ("base", "cpu") else None
    note = f"largest difference of a loss {loss:.0e}, {what} {gradient:.0e}"
    return row(work, dtype, mine, theirs, equal, wanted, note)


def differences(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[float, float]:
    """Largest relative difference of a parameter's gradient (over its largest entry), and the norm of the difference of
    all gradients over their norm; infinite where they have other names or one is not a number."""
    if mine.keys() != theirs.keys():
        return math.inf, math.inf
    largest = {name: float(gradient.abs().max()) for name, gradient in theirs.items()}
    least = _NOTHING * max(largest.values())
    each, off, norm = 0.0, 0.0, 0.0
    for name, gradient in theirs.items():
        difference = (mine[name] - gradient).abs()
        if not bool(difference.isfinite().all()):
            return math.inf, math.inf
        each = max(each, float(difference.max()) / max(largest[name], least))
        off += float(difference.square().sum())
        norm += float(gradient.square().sum())
    return each, math.sqrt(off / norm)
