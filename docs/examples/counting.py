"""A plugin for vlkit: how many objects does a picture show? A dataset, a model with an ordinal head, and a task."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from vlkit import DATASETS, MODELS, TASKS, VlkitError
from vlkit.datasets.base import VLDataset
from vlkit.datasets.shapes.dataset import Shapes
from vlkit.tasks.base import StepOutput, Task

MOST = 3  # objects of one scene


@DATASETS.register("counting_strips")
class Strips(VLDataset):
    """Scenes of the toy dataset ``shapes`` side by side, and how many objects they show together.

    Args:
        split: "train", "val" or "test".
        size: number of strips.
        scenes: scenes of a strip.
        seed: of the data.
    """

    splits = Shapes.splits

    def __init__(self, split: str = "train", size: int = 20000, scenes: int = 2, seed: int = 0):
        self.world, self.scenes = Shapes(split=split, size=size * scenes, seed=seed), scenes

    def __len__(self):
        return len(self.world) // self.scenes

    def sample(self, index, rng):
        parts = [self.world.sample(index * self.scenes + place, rng) for place in range(self.scenes)]
        return {
            "image": torch.cat([part["image"] for part in parts], -1),
            "count": sum(len(part["scene"]["objects"]) for part in parts),
            "image_id": "+".join(part["image_id"] for part in parts),
            "sample_id": f"strip-{index}",
        }

    def fingerprint(self):
        return f"{super().fingerprint()}:{self.world.fingerprint()}"


@MODELS.register("ordinal_counter")
class OrdinalCounter(nn.Module):
    """A small convolutional network and an ordinal head: one score, and a rising threshold for every count but the
    lowest. The probability of more than k objects is the sigmoid of the score's distance from the threshold of k.

    Args:
        lowest: smallest count.
        highest: largest count.
        width: channels.
    """

    def __init__(self, lowest: int = 2, highest: int = 2 * MOST, width: int = 32):
        super().__init__()
        if highest <= lowest:
            raise VlkitError(f"ordinal_counter: highest is {highest}; it must be above lowest, which is {lowest}.")
        self.lowest, self.highest = lowest, highest
        self.trunk = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2),
            nn.GroupNorm(4, width),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(4, 2 * width),
            nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(4, 2 * width),
            nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.GELU(),
        )
        # Every place adds its share to the score, as counting does.
        self.score = nn.Conv2d(2 * width, 1, 1)
        self.first = nn.Parameter(torch.zeros(1))
        self.steps = nn.Parameter(torch.zeros(highest - lowest - 1))

    def thresholds(self):
        """[K - 1], rising: a first one, and positive steps."""
        return torch.cat([self.first, self.first + F.softplus(self.steps).cumsum(0)])

    def forward(self, image):
        """Logits [B, K - 1] of "more than ``lowest`` + k objects"."""
        return self.score(self.trunk(image)).mean((2, 3)) - self.thresholds()

    def count(self, image):
        """[B]: the lowest count, and one for every threshold that the score is above."""
        return self.lowest + (self(image) > 0).sum(1)


@TASKS.register("ordinal_counting")
class OrdinalCounting(Task):
    """Trains every "more than k?" as a decision of its own. Scores: ``accuracy``, and ``error``: by how many objects
    the count is off on average."""

    def prepare(self, model, batch, device):
        count = torch.tensor(batch["count"], device=device)
        levels = torch.arange(model.lowest, model.highest, device=device)
        return {"image": batch["image"].to(device), "count": count, "more": (count[:, None] > levels).float()}

    def train_step(self, model, inputs, progress):
        loss = F.binary_cross_entropy_with_logits(model(inputs["image"]), inputs["more"])
        return StepOutput({"loss_ordinal": loss})

    def evaluate(self, model, loader, context):
        off = []
        for batch in loader:
            inputs = self.prepare(model, batch, context.device)
            with context.autocast():
                off += (model.count(inputs["image"]) - inputs["count"]).abs().tolist()
        off = context.gather(off)  # of all processes: each has read its share
        return {"accuracy": sum(each == 0 for each in off) / len(off), "error": sum(off) / len(off)}

    def describe(self, model, batch, context):
        counts = model.count(batch["image"].to(context.device)).tolist()
        return [f"{found} objects; there are {true}" for found, true in zip(counts, batch["count"])]
