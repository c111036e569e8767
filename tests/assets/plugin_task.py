"""A plugin as a user would write it: a model, a dataset and a task in one file outside of the package."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vlkit.datasets.base import VLDataset
from vlkit.errors import DataError
from vlkit.registry import DATASETS, MODELS, TASKS
from vlkit.tasks.base import StepOutput, Task

COLORS = ("red", "green", "blue")


@DATASETS.register("plugin_colors")
class Colors(VLDataset):
    """Images of one color with its name; the noise is augmentation.

    Args:
        size: samples.
        noise: of the pixels, standard deviation.
    """

    def __init__(self, size: int, noise: float = 0.5):
        if size < 0:
            raise DataError(f"size: {size}; it must be 0 or more.")
        self.size, self.noise = size, noise

    def __len__(self):
        return self.size

    def sample(self, index, rng: np.random.Generator):
        image = self.noise * rng.normal(size=(3, 4, 4))
        image[index % 3] += 1
        name = COLORS[index % 3]
        return {"image": torch.tensor(image).float(), "text_input": name, "image_id": index, "sample_id": str(index)}


@MODELS.register("plugin_classifier")
class Classifier(nn.Module):
    """A linear layer.

    Args:
        dropout: share of the pixels, 0..1.
    """

    def __init__(self, dropout: float = 0.1):
        super().__init__()
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(48, 3)

    def forward(self, image):
        return self.head(self.dropout(image.flatten(1)))


@TASKS.register("plugin_naming")
class Naming(Task):
    """Names the color."""

    def prepare(self, model, batch, device):
        targets = torch.tensor([COLORS.index(text) for text in batch["text_input"]])
        return {"image": batch["image"].to(device), "targets": targets.to(device)}

    def train_step(self, model, inputs, progress):
        return StepOutput({"loss": F.cross_entropy(model(inputs["image"]), inputs["targets"])})

    def evaluate(self, model, loader, context):
        right = []
        for batch in loader:
            inputs = self.prepare(model, batch, context.device)
            right += (model(inputs["image"]).argmax(-1) == inputs["targets"]).tolist()
        right = context.gather(right)
        return {"accuracy": sum(right) / len(right)}

    def describe(self, model, batch, context):
        return [COLORS[i] for i in model(batch["image"].to(context.device)).argmax(-1).tolist()]
