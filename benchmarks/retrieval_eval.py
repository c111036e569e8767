"""The whole evaluation of retrieval, from pixels to ranks, beside the original's loop.

Ours is the task ``retrieval``: every image is projected once, for all texts that either direction wants to be compared
with it. The reference takes query after query, repeats image tokens for each candidate and projects them again. At full
size it would take hours, so some of its queries are timed, which all cost it the same, and those are compared.

Shapes: ``I`` images, ``T`` texts, ``k`` candidates of a query.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.compare import Row
from benchmarks.original import retrieval as original
from benchmarks.original import weights
from benchmarks.peers import DTYPES, sizes
from benchmarks.reference import Measured, measure, row
from benchmarks.rerank import WORDS
from vlkit.models.blip.image_text_matching import BlipImageTextMatching
from vlkit.tasks.base import Batch, EvalContext
from vlkit.tasks.reranking import Retrieved
from vlkit.tasks.retrieval import Retrieval

PIXELS, TEXTS_AN_IMAGE = 384, 5
WANTED = {"fp32": 8.0, "bf16": 20.0}
_IMAGES_AT_ONCE = 32
# Difference of all scores in norm, over their norm; largest difference of two, over the largest score; and share of the
# candidates that both must have: bf16 rounds similarities across the cut.
_TOLERANCE = {"fp32": (1e-4, 1e-4, 1.0), "bf16": (2e-2, 0.1, 0.75)}


@dataclass(frozen=True)
class Work:
    """What is evaluated.

    Args:
        images: I; each has 5 texts.
        k: candidates of each query, in both directions.
        queries: how many images and how many texts the reference is timed on; None: all.
    """

    images: int
    k: int
    queries: tuple[int, int] | None = None

    @property
    def texts(self) -> int:
        """T."""
        return self.images * TEXTS_AN_IMAGE

    def sampled(self) -> tuple[list[int], list[int]]:
        """Images and texts that the reference is timed on, spread evenly."""
        counts = self.queries or (self.images, self.texts)
        totals = (self.images, self.texts)
        images, texts = (np.arange(n) * total // n for n, total in zip(counts, totals))
        return images.tolist(), texts.tolist()


WORKS = {"base": Work(200, 32, (4, 6)), "tiny": Work(12, 4)}


@dataclass
class Inputs:
    """What both sides get: images [I, 3, S, S], and the texts of each."""

    images: Tensor
    references: list[list[str]]


@dataclass
class Scores:
    """Of the queries that were sampled: images to texts [i, T], texts to images [t, I]; -100 where a pair was not
    matched."""

    to_texts: np.ndarray
    to_images: np.ndarray


def evaluation_rows(
    size: str = "base", dtypes: Sequence[str] = ("fp32", "bf16"), repeat: int = 3, device: str = "cpu"
) -> Iterator[Row]:
    """One row per dtype.

    Args:
        size: "base" (ViT-B/16 at 384 pixels, 200 images, 1,000 texts, top 32) or "tiny" (to see that it runs; the
            reference does all queries).
        dtypes: of our weights and images.
        repeat: timed runs; at size "base" each side runs once.
        device: where.
    """
    work, repeat = WORKS[size], repeat if size == "tiny" else 0
    ours = model_of(size).to(device)
    inputs = inputs_of(work.images, ours)
    theirs = reference(ours, inputs, work, repeat)
    queries = work.sampled()
    count, total = sum(map(len, queries)), work.images + work.texts
    note = f"reference: {count} of {total:,} queries timed, scaled" if count < total else ""
    for dtype in dtypes:
        model = ours if dtype == "fp32" else copy.deepcopy(ours).to(DTYPES[dtype])
        mine = measure(partial(evaluate, model, inputs, work), repeat)
        equal = close(picked(mine.output, queries), theirs.output, *_TOLERANCE[dtype])
        name = f"retrieval evaluation, {size}, {work.images} images x {work.texts:,} texts, top {work.k} both ways"
        wanted = WANTED[dtype] if (size, device) == ("base", "cpu") else None
        yield row(name, dtype, mine, theirs, equal, wanted, note)


def model_of(size: str) -> BlipImageTextMatching:
    """Ours, with weights so large that scores differ as those of a trained model do."""
    vit, med = sizes(size, PIXELS)
    vit.init_std = med.initializer_range = 0.05
    torch.manual_seed(0)
    return BlipImageTextMatching(vit, med).eval()


def inputs_of(images: int, model: BlipImageTextMatching, seed: int = 0) -> Inputs:
    """Images of blurred colors, each with five texts of 9 to 18 tokens, 12 on average, as COCO's."""
    rng = np.random.default_rng(seed)
    lengths = 7 + rng.binomial(9, 1 / 3, images * TEXTS_AN_IMAGE)
    texts = [" ".join(rng.choice(WORDS, length)) for length in lengths]
    side = model.vit_config.image_size
    coarse = torch.randn(images, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    each = range(0, len(texts), TEXTS_AN_IMAGE)
    return Inputs(fine.to(model.device), [texts[start : start + TEXTS_AN_IMAGE] for start in each])


@torch.inference_mode()
def evaluate(model: BlipImageTextMatching, inputs: Inputs, work: Work) -> Retrieved:
    """The evaluation by our task."""
    dtype = next(model.parameters()).dtype
    task = Retrieval(rerank_top_k=work.k, image_tokens_gib=1024)
    context = EvalContext(model.device, contextlib.nullcontext)
    return task.rank(model, list(_batches(inputs, dtype)), context)[1]


def _batches(inputs: Inputs, dtype: torch.dtype) -> Iterator[Batch]:
    for start in range(0, len(inputs.images), _IMAGES_AT_ONCE):
        part = slice(start, start + _IMAGES_AT_ONCE)
        index = list(range(len(inputs.images)))[part]
        image = inputs.images[part].to(dtype)
        yield {"image": image, "references": inputs.references[part], "image_id": index, "index": index}


def reference(ours: BlipImageTextMatching, inputs: Inputs, work: Work, repeat: int) -> Measured:
    """:class:`Scores` of the reference; its seconds are those of all queries."""
    made = original.Matcher(ours.vit_config, ours.med_config)
    model = weights.share_weights(made, ours)
    ids = ours.tokenizer.encode([text for own in inputs.references for text in own], max_length=original.LONGEST)
    images, texts = work.sampled()
    encode = partial(original.encode, model, inputs.images.split(_IMAGES_AT_ONCE), ids, ours.tokenizer.enc_id)
    encoded = measure(encode, repeat)

    def rank() -> Scores:
        to_texts = original.image_queries(model, encoded.output, work.k, images)[images]
        to_images = original.text_queries(model, encoded.output, work.k, texts)[texts]
        return Scores(to_texts.cpu().numpy(), to_images.cpu().numpy())

    # Where one run is timed and scaled, what a first query costs once must not count for each of them.
    original.image_queries(model, encoded.output, work.k, images[:1])
    ranked = measure(rank, repeat)
    share = (work.images + work.texts) / (len(images) + len(texts))
    mib = max((each.mib for each in (encoded, ranked) if each.mib is not None), default=None)
    return Measured(ranked.output, encoded.seconds + ranked.seconds * share, mib)


def picked(found: Retrieved, queries: tuple[list[int], list[int]]) -> Scores:
    """Our scores of the queries that were sampled."""
    return Scores(found.to_texts.matrix()[queries[0]], found.to_images.matrix()[queries[1]])


def close(ours: Scores, theirs: Scores, norm: float, largest: float, shared: float) -> bool:
    """Whether both score the same candidates alike, in both directions.

    Args:
        ours, theirs: of the same queries.
        norm: of the difference of all scores, over that of the scores.
        largest: difference of two scores, over the largest score.
        shared: share of the candidates that both must have; 1: all, and each query's in the same order.
    """
    unseen = original.UNSEEN
    for mine, other in ((ours.to_texts, theirs.to_texts), (ours.to_images, theirs.to_images)):
        seen = other != unseen
        both = seen & (mine != unseen)
        order, wanted = (np.argsort(-scores, axis=1, kind="stable") for scores in (mine, other))
        if both.sum() < shared * seen.sum() or (shared == 1 and not np.array_equal(order, wanted)):
            return False
        off, scores = np.abs(mine - other)[both], np.abs(other[both])
        if not (np.linalg.norm(off) <= norm * np.linalg.norm(scores) and off.max() <= largest * scores.max()):
            return False
    return True
