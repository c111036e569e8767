"""Re-ranking of retrieval candidates, images and videos, beside the original's loop: over ``transformers``' modules at
equal precision, or the reference in fp32.

The image encoder is no part of it: both sides get the same random image tokens. Ours is what the task ``retrieval``
runs; it projects an image once for all texts that look at it. The other side does what the original's evaluation does:
query after query, the tokens of each candidate are repeated and projected again, texts are padded.

Shapes: ``I`` images, ``T`` texts, ``k`` candidates of a query, ``P`` image tokens, ``Dv`` their width.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.compare import Row, compare
from benchmarks.original import retrieval, video, weights
from benchmarks.peers import DTYPES, peer_of, sizes
from benchmarks.reference import measure, row
from vlkit.models.blip.image_text_matching import BlipImageTextMatching
from vlkit.tasks.base import EvalContext
from vlkit.tasks.reranking import Pool, Ranking, rerank

PIXELS = 384
# Largest difference of two scores, in standard deviations of the scores.
_TOLERANCE = {"fp32": 1e-3, "bf16": 0.25}
_IMAGES_AT_ONCE = 32
WORDS = ["dog", "cat", "man", "red", "two", "street", "on", "a", "the", "with", "plate", "train", "green", "table"]
"""What random texts consist of."""


@dataclass(frozen=True)
class Work:
    """What is scored.

    Args:
        images: I.
        texts: T.
        k: 0: every text with every image, all texts of an image at once, padded to the longest (what one writes with
            ``transformers``). Otherwise each text with k images, one text after the other, padded to 35 tokens (what
            the original does).
        frames: of each image; more than 1 for videos.
        timed: 0: beside ``transformers``. Otherwise beside the reference, which is timed and compared on this
            number of the texts (all cost it the same).
    """

    images: int
    texts: int
    k: int = 0
    frames: int = 1
    timed: int = 0

    def __str__(self) -> str:
        kind = "image" if self.frames == 1 else f"video of {self.frames} frames"
        if not self.k:
            return f"re-ranking, {self.images} {kind} x {self.texts} texts"
        kind = kind.replace("image", "images").replace("video", "videos")
        return f"re-ranking, {self.texts} texts x top {self.k} of {self.images} {kind}"


IMAGES = (Work(1, 32), Work(16, 16, k=8))
# In MSR-VTT's evaluation, the best 128 of 1,000 both ways, a video is matched with 128 to 256 different texts.
VIDEOS = (Work(1, 16, frames=8), Work(8, 8, k=4, frames=8), Work(2, 192, k=2, frames=8, timed=8))
WANTED = {
    (IMAGES[0], "fp32"): 6.5,
    (IMAGES[0], "bf16"): 5.0,
    (VIDEOS[2], "fp32"): 12.0,
    (VIDEOS[2], "bf16"): 12.0,
}
"""Least ratios at size "base" on a CPU."""


@dataclass
class Inputs:
    """What both sides get.

    Args:
        tokens: [I, P, Dv].
        texts: T texts.
        candidates: [T, k] images of each text, ascending.
    """

    tokens: Tensor
    texts: list[str]
    candidates: np.ndarray


def rerank_rows(
    works: Sequence[Work],
    size: str = "base",
    dtypes: Sequence[str] = ("fp32", "bf16"),
    repeat: int = 3,
    device: str = "cpu",
) -> Iterator[Row]:
    """One row per dtype and work.

    Args:
        works: :data:`IMAGES` or :data:`VIDEOS`.
        size: "base" (ViT-B/16 at 384 pixels) or "tiny" (to see that it runs).
        dtypes: of weights and tokens.
        repeat: timed runs.
        device: where.
    """
    vit, med = sizes(size, PIXELS)
    # With weights this large the scores of different pairs differ as those of a trained model do.
    med.initializer_range = 0.05
    torch.manual_seed(0)
    ours = BlipImageTextMatching(vit, med).eval()
    wanted = WANTED if (size, device) == ("base", "cpu") else {}
    for work in works:
        if work.timed:
            yield from _beside_original(work, ours.to(device), size, dtypes, repeat, wanted)
    peer, name = peer_of(ours, "blip_image_text_matching")
    for dtype in dtypes:
        ours, peer = ours.to(device, DTYPES[dtype]), peer.to(device, DTYPES[dtype])
        for work in works:
            if work.timed:
                continue
            inputs = _inputs(work, ours, DTYPES[dtype])
            theirs = partial(_text_after_text if work.k else _all_texts_at_once, ours, peer, inputs)
            mine, equal = partial(_ours, ours, inputs), partial(_close, tolerance=_TOLERANCE[dtype])
            least = wanted.get((work, dtype))
            yield compare(f"{work}, {size}", dtype, name, mine, theirs, equal, repeat, wanted=least)


def _beside_original(
    work: Work,
    ours: BlipImageTextMatching,
    size: str,
    dtypes: Sequence[str],
    repeat: int,
    wanted: Mapping[tuple[Work, str], float],
) -> Iterator[Row]:
    """One row per dtype; the reference is timed once for all."""
    matcher = retrieval.Matcher(ours.vit_config, ours.med_config)
    model = weights.share_weights(matcher, ours)
    inputs = _inputs(work, ours, torch.float32)
    ids = ours.tokenizer.encode(inputs.texts, max_length=ours.max_words)
    ids, mask = (table.to(ours.device) for table in weights.pad_texts(ids, ours.max_words))
    ids[:, 0] = ours.tokenizer.enc_id
    places = np.arange(work.timed) * work.texts // work.timed
    chosen = torch.from_numpy(inputs.candidates[places]).to(ours.device)
    theirs = measure(partial(video.text_after_text, model, ids[places], mask[places], inputs.tokens, chosen), repeat)
    theirs.seconds *= work.texts / work.timed
    note = f"reference: {work.timed} of {work.texts} texts timed, scaled"
    for dtype in dtypes:
        converted = ours if dtype == "fp32" else copy.deepcopy(ours).to(DTYPES[dtype])
        mine = measure(partial(_ours, converted, _inputs(work, converted, DTYPES[dtype])), repeat)
        equal = _close(mine.output[places], theirs.output, _TOLERANCE[dtype])
        yield row(f"{work}, {size}", dtype, mine, theirs, equal, wanted.get((work, dtype)), note)


def _inputs(work: Work, model: BlipImageTextMatching, dtype: torch.dtype) -> Inputs:
    """Random tokens, and texts with 9 to 18 tokens, most of COCO's captions."""
    rng = np.random.default_rng(0)
    vit = model.vit_config
    count = work.frames * (1 + (vit.image_size // vit.patch_size) ** 2)
    tokens = torch.randn(work.images, count, vit.embed_dim, generator=torch.Generator().manual_seed(0))
    texts = [" ".join(rng.choice(WORDS, rng.integers(7, 17))) for _ in range(work.texts)]
    chosen = [np.sort(rng.permutation(work.images)[: work.k or work.images]) for _ in texts]
    return Inputs(tokens.to(model.device, dtype), texts, np.stack(chosen))


@torch.inference_mode()
def _ours(model: BlipImageTextMatching, inputs: Inputs) -> Tensor:
    """[T, k] matching logits."""
    images, texts = len(inputs.tokens), len(inputs.texts)
    index, nothing = list(range(images)), torch.empty(0)
    pool = Pool(index, index, nothing, inputs.texts, nothing, np.zeros(texts, np.int64))
    none = Ranking(np.empty((images, 0), np.int64), np.empty((images, 0), np.float32), texts)
    wanted = Ranking(inputs.candidates, np.zeros(inputs.candidates.shape, np.float32), images)
    batches = [
        (index[i : i + _IMAGES_AT_ONCE], inputs.tokens[i : i + _IMAGES_AT_ONCE]) for i in index[::_IMAGES_AT_ONCE]
    ]
    context = EvalContext(model.device, contextlib.nullcontext)
    _, found = rerank(model, pool, batches, (none, wanted), context)
    return torch.from_numpy(found.scores)


@torch.inference_mode()
def _all_texts_at_once(ours: BlipImageTextMatching, peer: Any, inputs: Inputs) -> Tensor:
    ids, mask = ours.tokenize(inputs.texts).with_first(ours.tokenizer.enc_id).padded()
    return torch.stack([_peer_logits(peer, ids, mask, one.expand(len(ids), -1, -1)) for one in inputs.tokens], 1)


@torch.inference_mode()
def _text_after_text(ours: BlipImageTextMatching, peer: Any, inputs: Inputs) -> Tensor:
    ids, mask = ours.tokenize(inputs.texts).with_first(ours.tokenizer.enc_id).padded()
    room = ours.max_words - ids.shape[1]
    ids, mask = torch.nn.functional.pad(ids, (0, room)), torch.nn.functional.pad(mask, (0, room))
    k = inputs.candidates.shape[1]
    found = []
    for text, images in enumerate(torch.from_numpy(inputs.candidates).to(ids.device)):
        found.append(_peer_logits(peer, ids[[text] * k], mask[[text] * k], inputs.tokens[images]))
    return torch.stack(found)


def _peer_logits(peer: Any, ids: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
    """[n] matching logits of n pairs."""
    seen = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
    hidden = peer.text_encoder(
        input_ids=ids, attention_mask=mask, encoder_hidden_states=tokens, encoder_attention_mask=seen
    ).last_hidden_state
    return peer.itm_head(hidden[:, 0])[:, 1]


def _close(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    """Whether no score differs by more than ``tolerance`` standard deviations of the scores."""
    mine, other = ours.float().cpu(), theirs.float().cpu()
    return bool((mine - other).abs().max() <= tolerance * other.std())
