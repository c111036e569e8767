"""What an evaluation of retrieval holds at its peak, counted by tensors that are alive, on sets of growing size."""

from __future__ import annotations

import contextlib
import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.unit.models import small
from vlkit.models.blip import text_prefix
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.tasks import reranking
from vlkit.tasks.base import EvalContext
from vlkit.tasks.retrieval import Retrieval

WORDS = ["a", "red", "blue", "circle", "star", "above", "two", "small"]
WIDTH = 12  # of features


class AliveTensors(TorchDispatchMode):
    """Bytes of storages that operators have made since, now and at the peak."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        made = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._known:
                storage = tensor.untyped_storage()
                self._known[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, storage._cdata)
        return made

    def _freed(self, key):
        self.now -= self._known.pop(key)


class Images:
    """Batches of five, made when they are asked for, each image with a text."""

    def __init__(self, count):
        self.count, rng = count, np.random.default_rng(0)
        self.texts = [" ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(count)]

    def __iter__(self):
        for start in range(0, self.count, 5):
            index = list(range(start, min(start + 5, self.count)))
            image = torch.randn(len(index), 3, 16, 16, generator=torch.Generator().manual_seed(start))
            yield {"image": image, "index": index, "image_id": index, "references": [[self.texts[i]] for i in index]}


@pytest.fixture
def model(monkeypatch) -> BlipPretrain:
    torch.manual_seed(0)
    # As small as the model, so that few images fill them.
    monkeypatch.setattr(text_prefix, "_CPU_TOKENS", (64, 96))
    monkeypatch.setattr(text_prefix, "_CPU_BYTES", 2**13)
    monkeypatch.setattr(reranking, "_BLOCK", 2**9)
    return BlipPretrain(small.vit(), small.med(initializer_range=0.15), "shapes", embed_dim=WIDTH, queue_size=8).eval()


def peak(model, count, folder) -> int:
    context = EvalContext(torch.device("cpu"), contextlib.nullcontext, output_dir=folder)
    with torch.inference_mode(), AliveTensors() as alive:
        Retrieval(4, image_tokens_gib=0).rank(model, Images(count), context)
    return alive.peak


def test_memory_does_not_grow_with_the_set(model, tmp_path):
    """Eight times the images: only what is kept of each image and text grows."""
    peak(model, 24, tmp_path)  # what the first use leaves behind
    few, many = (peak(model, count, tmp_path) for count in (24, 192))
    # Of an image and its text: two features, copies of them in one piece and per query where texts are the same, token
    # ids and where they belong (8 bytes each), and a score and a place of each pair that was asked for.
    inherent = 168 * (5 * WIDTH * 4 + 2 * 10 * 8 + 2 * 4 * (4 + 8))
    assert many - few <= inherent
    assert few > 2 * 96 * 16 * 4  # that passes are seen at all
