"""Ranking the answers to visual questions beside the original's loop: the question's states are repeated for each
candidate and projected again, answers are padded to the longest of the list. The loop runs over ``transformers``'
modules at equal precision, and as the reference in fp32.

Shapes: ``B`` questions, ``A`` answers, ``K`` candidates.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.compare import Row, compare
from benchmarks.original import vqa as original
from benchmarks.original import weights
from benchmarks.peers import DTYPES, peer_of, sizes
from benchmarks.reference import measure, row
from vlkit.models.attention import ImageKV
from vlkit.models.blip.vqa import Answers, BlipVqa

PIXELS, READ = 480, "questions already read"
# With the same number of tokens: cross-attention in transformers sees the padding of shorter questions.
QUESTIONS = ("what color is the dog on the left", "how many people are near the old train")
# Answers to choose from, and candidates.
_COUNTS = {"base": (3128, 128), "tiny": (200, 16)}
# Largest difference of two losses, in standard deviations of the losses; and share of the candidates that may differ:
# bf16 rounds first tokens of nearly equal probability across the cut.
_TOLERANCE = {"fp32": (1e-4, 0.0), "bf16": (0.1, 0.1)}
# Of initial weights: with less, answers hardly depend on the image and their equality says little.
_STD = {"base": 0.08, "tiny": 0.12}
WANTED = 5.0
"""Least ratio of the ranking part to the reference, at size "base" on a CPU."""


@dataclass
class Inputs:
    """What both sides get: B images with questions, A answers, and how many K are kept."""

    samples: dict[str, Any]
    answers: list[str]
    candidates: int


def vqa_rows(
    size: str = "base",
    dtypes: Sequence[str] = ("fp32", "bf16"),
    repeat: int = 3,
    device: str = "cpu",
) -> Iterator[Row]:
    """Two rows per dtype beside ``transformers``: from pixels to answers, and from questions that have been read to
    answers; before them, the latter beside the reference.

    Args:
        size: "base" (ViT-B/16 at 480 pixels) or "tiny" (to see that it runs).
        dtypes: of weights and images.
        repeat: timed runs.
        device: where.
    """
    ours = model_of(size)
    count, candidates = _COUNTS[size]
    answers = answer_list(ours, count)
    work = f"VQA ranking, {size}, {candidates} of {count} answers, batch {len(QUESTIONS)}"
    wanted = WANTED if (size, device) == ("base", "cpu") else None
    yield from _beside_original(f"{work}, {READ}", ours.to(device), answers, candidates, dtypes, repeat, wanted)
    peer, name = peer_of(ours, "blip_vqa")
    for dtype in dtypes:
        ours, peer = ours.to(device, DTYPES[dtype]), peer.to(device, DTYPES[dtype])
        inputs = _inputs(ours, answers, candidates)
        samples = inputs.samples
        equal = partial(_close, tolerance=_TOLERANCE[dtype])
        ids, mask = ours.tokenize_answers(answers).padded()
        for part in ("from pixels", READ):
            questions, states = None, None
            if part == READ:
                with torch.inference_mode():
                    questions, states = ours.read_questions(samples), _read(ours, peer, samples)
            mine = partial(_ours, ours, inputs, questions)
            theirs = partial(_peer, ours, peer, inputs, (ids, mask), states)
            yield compare(f"{work}, {part}", dtype, name, mine, theirs, equal, repeat)


def model_of(size: str) -> BlipVqa:
    """Ours, with random weights."""
    vit, med = sizes(size, PIXELS)
    vit.init_std = med.initializer_range = _STD[size]
    torch.manual_seed(0)
    model = BlipVqa(vit, med).eval()
    with torch.no_grad():
        # Words of very different frequency, as in any language: otherwise rounding decides what is kept.
        model.text_decoder.cls.predictions.bias.exponential_(1 / 3)
    return model


def _beside_original(
    work: str,
    ours: BlipVqa,
    answers: list[str],
    candidates: int,
    dtypes: Sequence[str],
    repeat: int,
    wanted: float | None,
) -> Iterator[Row]:
    """One row per dtype; the reference is timed once for all."""
    model = weights.share_weights(original.Answerer(ours.vit_config, ours.med_config), ours)
    samples = _inputs(ours, answers, candidates).samples
    ids, seen = ours.tokenize(samples["text_input"]).padded()
    states = original.read_questions(model, samples["image"], ids, seen)
    answer_ids, mask = ours.tokenize_answers(answers).padded()
    theirs = measure(partial(original.rank_answers, model, states, seen, answer_ids, mask, candidates), repeat)
    chosen, losses = theirs.output
    expected = Answers([[answers[i] for i in each] for each in chosen.tolist()], (-losses).tolist())
    for dtype in dtypes:
        converted = ours if dtype == "fp32" else copy.deepcopy(ours).to(DTYPES[dtype])
        inputs = _inputs(converted, answers, candidates)
        with torch.inference_mode():
            questions = converted.read_questions(inputs.samples)
        mine = measure(partial(_ours, converted, inputs, questions), repeat)
        yield row(work, dtype, mine, theirs, _close(mine.output, expected, _TOLERANCE[dtype]), wanted)


def _inputs(model: BlipVqa, answers: list[str], candidates: int) -> Inputs:
    """Images of noise in the precision of ``model``, and their questions."""
    side = model.vit_config.image_size
    image = torch.randn(len(QUESTIONS), 3, side, side, generator=torch.Generator().manual_seed(0))
    image = image.to(model.device, next(model.parameters()).dtype)
    return Inputs({"image": image, "text_input": list(QUESTIONS)}, answers, candidates)


def answer_list(model: BlipVqa, count: int) -> list[str]:
    """``count`` different answers of one to five words of the vocabulary, most of one, many with the same beginning, as
    the frequent answers of VQAv2 are."""
    rng = np.random.default_rng(0)
    vocabulary = model.tokenizer.tokens(range(len(model.tokenizer)))
    words = [word for word in vocabulary if word.isascii() and word.isalpha() and len(word) > 2]
    words = [words[i] for i in rng.permutation(len(words))]
    chance = 1 / (1 + np.arange(len(words)))
    chance /= chance.sum()
    found: dict[str, None] = {}
    while len(found) < count:
        length = 1 + rng.choice(5, p=[0.62, 0.23, 0.1, 0.03, 0.02])
        found[" ".join(words[i] for i in rng.choice(len(words), length, p=chance))] = None
    return list(found)


def _ours(model: BlipVqa, inputs: Inputs, questions: ImageKV | None) -> Answers:
    if questions is None:
        return model.rank(inputs.samples, inputs.answers, inputs.candidates)
    return model.rank_read(questions, inputs.answers, inputs.candidates)


@torch.inference_mode()
def _peer(
    ours: BlipVqa,
    peer: Any,
    inputs: Inputs,
    answers: tuple[Tensor, Tensor],
    read: tuple[Tensor, Tensor] | None,
) -> Answers:
    """What ``rank_answer`` of the original does."""
    states, seen = _read(ours, peer, inputs.samples) if read is None else read
    answer_ids, answer_mask = answers
    count, k = len(states), inputs.candidates
    start = answer_ids[:1, :1].repeat(count, 1)
    logits = peer.text_decoder(start, encoder_hidden_states=states, encoder_attention_mask=seen).logits[:, 0]
    kept = logits.softmax(1).index_select(1, answer_ids[:, 1]).topk(k, dim=1).indices
    ids, mask = answer_ids[kept.flatten()], answer_mask[kept.flatten()]
    loss = peer.text_decoder(
        ids,
        attention_mask=mask,
        encoder_hidden_states=states.repeat_interleave(k, 0),
        encoder_attention_mask=seen.repeat_interleave(k, 0),
        labels=ids.masked_fill(mask == 0, -100),
        reduction="none",
    ).loss
    losses, order = loss.view(count, k).sort(1)
    chosen = kept.gather(1, order).tolist()
    return Answers([[inputs.answers[i] for i in row] for row in chosen], (-losses).tolist())


@torch.inference_mode()
def _read(ours: BlipVqa, peer: Any, samples: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """States [B, M, D] of the questions, which have seen their images, and their mask [B, M]."""
    ids, mask = ours.tokenize(samples["text_input"]).padded()
    tokens = peer.vision_model(samples["image"]).last_hidden_state
    states = peer.text_encoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=tokens).last_hidden_state
    return states, mask


def _close(ours: Answers, theirs: Answers, tolerance: tuple[float, float]) -> bool:
    """Whether both keep the same candidates, the best first, and give them the same losses, up to ``tolerance``. The
    order of ours is that of its own losses: rounding decides it where they are nearly equal."""
    largest, share = tolerance
    largest *= float(np.std(theirs.scores))
    for texts, scores, others, other_scores in zip(ours.texts, ours.scores, theirs.texts, theirs.scores, strict=True):
        mine, other = dict(zip(texts, scores, strict=True)), dict(zip(others, other_scores, strict=True))
        both = mine.keys() & other.keys()
        if len(mine) != len(other) or len(both) < (1 - share) * len(other) or scores != sorted(scores, reverse=True):
            return False
        if not all(abs(mine[text] - other[text]) <= largest for text in both):  # nor is it where one is not a number
            return False
    return True
