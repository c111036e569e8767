"""Captioning beside ``transformers``' BlipForConditionalGeneration: from pixels to token ids, beam search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.compare import Row, compare
from benchmarks.peers import DTYPES, peer_of, sizes
from vlkit.models.blip.caption import BlipCaption
from vlkit.models.generation import GenerationConfig
from vlkit.models.losses import lm_loss, lm_targets, sum_by_text
from vlkit.models.packing import TextBatch

PIXELS = 384
# Largest difference of two captions' scores in bf16, where rounding may choose another one.
_TOLERANCE = 2e-2
# Of initial weights: narrow layers need more, or every image gets the same caption and their equality says nothing.
_STD = {"base": 0.02, "tiny": 0.12}
WANTED = {"cpu": {1: 1.5, 4: 1.7}, "cuda": {1: 3.0, 64: 2.0}}
"""Least ratio at size "base", by device and batch."""


def caption_rows(
    size: str = "base",
    batches: Sequence[int] = (1, 4),
    dtypes: Sequence[str] = ("fp32", "bf16"),
    beams: int = 3,
    length: int = 20,
    repeat: int = 3,
    device: str = "cpu",
) -> Iterator[Row]:
    """One row per dtype and batch size.

    Args:
        size: "base" (ViT-B/16 at 384 pixels) or "tiny" (to see that it runs).
        batches: images at a time.
        dtypes: of weights and images.
        beams: of the search.
        length: tokens of every caption, prompt included: shortest and longest are the same, because the peer's beam
            search divides by another length and would stop elsewhere.
        repeat: timed runs.
        device: where.
    """
    ours, peer, name = _models(size)
    config = GenerationConfig(max_length=length, min_length=length, num_beams=beams)
    wanted = WANTED[torch.device(device).type] if size == "base" else {}
    for dtype in dtypes:
        ours, peer = ours.to(device, DTYPES[dtype]), peer.to(device, DTYPES[dtype])
        for batch in batches:
            side = ours.vit_config.image_size
            image = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(batch))
            image = image.to(device, DTYPES[dtype])
            work = f"caption, {size}, beam {beams}, {length} tokens, batch {batch}"
            mine, theirs = partial(_run_ours, ours, image, config), partial(_run_peer, ours, peer, image, config)
            same = partial(_same, ours, image, 0.0 if dtype == "fp32" else _TOLERANCE)
            yield compare(work, dtype, name, mine, theirs, same, repeat, wanted=wanted.get(batch))


def _run_ours(model: BlipCaption, image: torch.Tensor, config: GenerationConfig) -> list[list[int]]:
    return [texts[0] for texts in model.caption({"image": image}, config).sequences]


def _run_peer(ours: BlipCaption, peer: Any, image: torch.Tensor, config: GenerationConfig) -> list[list[int]]:
    prompt = torch.tensor(ours.tokenizer.encode(ours.prompt), device=image.device)
    with torch.inference_mode():
        ids = peer.generate(
            image,
            input_ids=prompt.repeat(len(image), 1),
            num_beams=config.num_beams,
            max_length=config.max_length,
            min_length=config.min_length,
            do_sample=False,
        )
    return ids.tolist()


def _models(size: str) -> tuple[BlipCaption, Any, str]:
    """Both models with the same random weights."""
    torch.manual_seed(0)
    vit, med = sizes(size, PIXELS)
    vit.init_std = med.initializer_range = _STD[size]
    ours = BlipCaption(vit, med).eval()
    with torch.no_grad():
        # Untrained logits are so even that rounding decides the search. Words of very different frequency, as in any
        # language, and larger embeddings make it decide itself.
        ours.text_decoder.cls.predictions.bias.exponential_(1 / 3)
        ours.text_decoder.bert.embeddings.word_embeddings.weight.mul_(4)
    return ours, *peer_of(ours, "blip_caption")


def _same(
    model: BlipCaption, image: torch.Tensor, tolerance: float, ours: list[list[int]], theirs: list[list[int]]
) -> bool:
    """Whether all ids are equal, or the captions that differ equally likely up to ``tolerance``: then rounding has
    decided. The peer's first token is [DEC] too, and where it ends with [SEP] ours, cut at the longest length, does
    not; captions of ours that lack more are not the same."""
    cut = [other[: len(mine)] for mine, other in zip(ours, theirs, strict=True)]
    if any(other[len(mine) :] not in ([], [model.tokenizer.sep_id]) for mine, other in zip(ours, theirs)):
        return False
    if ours == cut:
        return True
    mine, other = _scores(model, image, ours), _scores(model, image, cut)
    return bool(((mine - other).abs() <= tolerance).all())


@torch.inference_mode()
def _scores(model: BlipCaption, image: torch.Tensor, ids: list[list[int]]) -> torch.Tensor:
    """[B] log-probability of each caption over its length, read at once."""
    texts = TextBatch.from_lists(ids, image.device)
    states = model.text_decoder.bert.project_images(model.visual_encoder(image))
    rows, targets = lm_targets(texts, model.prompt_length)
    logits = model.text_decoder.logits(model.text_decoder(texts, states).index_select(0, rows))
    losses = lm_loss(logits, targets, label_smoothing=0.0, reduction="none")
    return -sum_by_text(losses, texts, rows) / torch.tensor(texts.lengths, device=image.device)
