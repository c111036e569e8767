"""How time and memory grow with the work: retrieval with its pairs, captioning with the batch, decoding with the tokens
of the image. On the CPU, with random weights and models smaller than the released ones, so that it takes minutes.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.compare import readable, seconds
from benchmarks.limits import headline, measure_machine
from benchmarks.memory import measure_peak, resident, where_freed_is_returned
from vlkit.io.files import atomic_write
from vlkit.models.attention import attend
from vlkit.models.blip.caption import BlipCaption
from vlkit.models.blip.image_text_matching import BlipImageTextMatching
from vlkit.models.generation import GenerationConfig, generate
from vlkit.models.med import MedConfig
from vlkit.models.vit import VitConfig
from vlkit.tasks.base import Batch, EvalContext
from vlkit.tasks.reranking import Retrieved
from vlkit.tasks.retrieval import Retrieval

BEAMS, LENGTH, PATCH = 3, 20, 16
TOP_K = 8
"""Candidates of each image and of each text that matching re-ranks."""
_IMAGES_AT_ONCE = 25
# Larger than the caches of a CPU: what a decoding step reads besides the image has driven the image's keys out of them.
_CACHE_BYTES = 2**27
_ATTENTION_PASSES = 20


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Args:
        images: of the retrieval sets, each with as many texts.
        batches: of captioning.
        pixels: of images that are decoded, multiples of 16.
        retrieval, captioning: width, layers and pixels of the models.
    """

    images: tuple[int, ...] = (100, 250, 500, 1000, 1500, 2000)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    pixels: tuple[int, ...] = (128, 192, 256, 384, 512, 640, 768)
    retrieval: tuple[int, int, int] = (128, 3, 128)
    captioning: tuple[int, int, int] = (384, 6, 224)


SIZES = {"base": Sizes(), "tiny": Sizes((10, 20, 40), (1, 2, 4), (32, 64, 96), (64, 2, 32), (64, 2, 32))}


@dataclass(frozen=True)
class RetrievalPoint:
    """One evaluation of retrieval.

    Args:
        images: and as many texts.
        pairs: different pairs that matching scored.
        seconds: of the whole evaluation.
        peak_mib: most memory resident, over what was resident after an evaluation of the largest set, which leaves
            behind what oneDNN keeps for each new shape, up to a limit; None: not measured here.
        in_use_mib: the same in a process whose allocator keeps no freed blocks.
        tokens_mib: of all image tokens, which wait on disk.
    """

    images: int
    pairs: int
    seconds: float
    peak_mib: float | None
    in_use_mib: float | None
    tokens_mib: float


@dataclass(frozen=True)
class CaptioningPoint:
    """Captioning from pixels: images at a time, and seconds of each image."""

    batch: int
    seconds_per_image: float


@dataclass(frozen=True)
class DecodingPoint:
    """Decoding one image.

    Args:
        pixels: of the image.
        image_tokens: that it gives.
        ms_per_token: milliseconds of a step.
        attention_ms: of the cross-attention of all layers alone.
    """

    pixels: int
    image_tokens: int
    ms_per_token: float
    attention_ms: float


def grow(folder: Path, size: str = "base", repeat: int = 3) -> Iterator[str]:
    """Measure all three, write ``growth.json`` and the plots; yield lines that report progress.

    Args:
        folder: of the files; made if it is not there.
        size: "base" or "tiny" (to see that it runs).
        repeat: timed runs of each; the median counts.
    """
    from benchmarks.growth_plots import draw

    sizes = SIZES[size]
    machine = measure_machine("cpu", size=size)
    yield headline(machine)
    found: dict[str, list[Any]] = {"captioning": [], "decoding": [], "retrieval": []}
    parts: list[Iterator[Any]] = [
        each(sizes, repeat) for each in (captioning_growth, decoding_growth, retrieval_growth)
    ]
    for points, part in zip(found.values(), parts):
        for point in part:
            points.append(point)
            yield str(replace(point, **readable(asdict(point))))
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "growth.json", "w") as file:
        rows = {name: [readable(asdict(each)) for each in points] for name, points in found.items()}
        json.dump({"machine": machine} | rows, file, indent=1)
    yield from (f"wrote {path}" for path in draw(found, machine, folder))


def retrieval_growth(sizes: Sizes, repeat: int = 3) -> Iterator[RetrievalPoint]:
    """The task ``retrieval`` on sets of growing size; image tokens wait on disk, as they do in large sets."""
    width, _, pixels = sizes.retrieval
    evaluate = _evaluation(sizes)
    evaluate(max(sizes.images))
    start = resident()
    for images, in_use in zip(sizes.images, where_freed_is_returned(_peaks, sizes), strict=True):
        found, peak = _peak(evaluate, images, start)
        taken = statistics.median(seconds(partial(evaluate, images)) for _ in range(repeat))
        tokens = images * _tokens(pixels) * width * 4 / 2**20
        yield RetrievalPoint(images, _pairs(found), taken, peak, in_use, tokens)


def _evaluation(sizes: Sizes) -> Callable[[int], Retrieved]:
    """Evaluate ``count`` images."""
    width, layers, pixels = sizes.retrieval
    torch.manual_seed(0)
    model = BlipImageTextMatching(_vit(width, layers, pixels), _med(width, layers), embed_dim=64).eval()
    task, context = Retrieval(TOP_K, image_tokens_gib=0), EvalContext(torch.device("cpu"), nullcontext)

    def evaluate(images: int) -> Retrieved:
        with torch.inference_mode():
            return task.rank(model, _Set(images, pixels), context)[1]

    return evaluate


def _peaks(sizes: Sizes) -> list[float | None]:
    """Peak memory of each evaluation, in MiB, over what is in use after a first one, of the largest set."""
    evaluate = _evaluation(sizes)
    evaluate(max(sizes.images))
    start = resident()
    return [_peak(evaluate, images, start)[1] for images in sizes.images]


def _peak(evaluate: Callable[[int], Retrieved], images: int, start: float | None) -> tuple[Retrieved, float | None]:
    before = resident()
    found, peak = measure_peak(partial(evaluate, images))
    return found, None if peak is None or before is None or start is None else round(before + peak - start, 1)


def captioning_growth(sizes: Sizes, repeat: int = 3) -> Iterator[CaptioningPoint]:
    """Captions of the same images in batches of growing size."""
    width, layers, pixels = sizes.captioning
    model = _captioner(width, layers, pixels)
    config = GenerationConfig(max_length=LENGTH, min_length=LENGTH, num_beams=BEAMS)
    images = torch.randn(max(sizes.batches), 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
    for batch in sizes.batches:
        run = partial(model.caption, {"image": images[:batch]}, config)
        run()
        taken = statistics.median(seconds(run) for _ in range(repeat))
        yield CaptioningPoint(batch, taken / batch)


def decoding_growth(sizes: Sizes, repeat: int = 3) -> Iterator[DecodingPoint]:
    """Beam search on one image of growing size, from its projected keys and values."""
    width, layers, _ = sizes.captioning
    model = _captioner(width, layers, PATCH)
    for pixels in sizes.pixels:
        count = _tokens(pixels)
        tokens = torch.randn(1, count, width, generator=torch.Generator().manual_seed(0))
        taken = [_decode(model, tokens) for _ in range(repeat + 1)][1:]
        alone = _attention(model, tokens)
        yield DecodingPoint(pixels, count, 1e3 * statistics.median(taken), 1e3 * alone)


@torch.inference_mode()
def _decode(model: BlipCaption, tokens: Tensor) -> float:
    """Seconds per token."""
    config = GenerationConfig(max_length=LENGTH, min_length=LENGTH, num_beams=BEAMS)
    prompt = torch.tensor([[model.tokenizer.dec_id]])
    states = model.text_decoder.bert.project_images(tokens)  # again each time: decoding consumes it
    taken = seconds(lambda: generate(model.text_decoder, states, prompt, model.tokenizer.sep_id, config))
    return taken / (LENGTH - prompt.shape[1])


@torch.inference_mode()
def _attention(model: BlipCaption, tokens: Tensor) -> float:
    """Seconds of what all beams of one step read from the image, all layers."""
    bert = model.text_decoder.bert
    states = bert.project_images(tokens)
    heads = bert.config.num_attention_heads
    query = torch.randn(1, heads, BEAMS, bert.config.hidden_size // heads)
    other = torch.ones(_CACHE_BYTES // 4)

    def step() -> None:
        for key, value in states.layers:
            attend(query, key, value)

    taken = []
    for _ in range(_ATTENTION_PASSES):
        other.sum()
        taken.append(seconds(step))
    return statistics.median(taken)


def _captioner(width: int, layers: int, pixels: int) -> BlipCaption:
    torch.manual_seed(0)
    return BlipCaption(_vit(width, layers, pixels), _med(width, layers)).eval()


def _vit(width: int, layers: int, pixels: int) -> VitConfig:
    return VitConfig(image_size=pixels, patch_size=PATCH, embed_dim=width, depth=layers, num_heads=width // 32)


def _med(width: int, layers: int) -> MedConfig:
    return MedConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 32, intermediate_size=4 * width
    )


def _tokens(pixels: int) -> int:
    return 1 + (pixels // PATCH) ** 2


def _pairs(found: Retrieved) -> int:
    """Different pairs among the candidates of both directions."""
    images, texts = len(found.to_texts.candidates), found.to_texts.count
    asked = np.zeros((images, texts), bool)
    np.put_along_axis(asked, found.to_texts.candidates, True, 1)
    np.put_along_axis(asked.T, found.to_images.candidates, True, 1)
    return int(asked.sum())


class _Set(Iterable[Batch]):
    """Yield batches of random images, each with a text of 7 to 16 words."""

    def __init__(self, images: int, pixels: int):
        self.images, self.pixels = images, pixels
        words = [
            "a",
            "the",
            "dog",
            "cat",
            "man",
            "two",
            "red",
            "on",
            "with",
            "street",
            "plate",
            "train",
            "table",
            "boat",
        ]
        rng = np.random.default_rng(0)
        self.texts = [" ".join(rng.choice(words, rng.integers(7, 17))) for _ in range(images)]

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, self.images, _IMAGES_AT_ONCE):
            index = list(range(start, min(start + _IMAGES_AT_ONCE, self.images)))
            generator = torch.Generator().manual_seed(start)
            image = torch.randn(len(index), 3, self.pixels, self.pixels, generator=generator)
            yield {"image": image, "index": index, "image_id": index, "references": [[self.texts[i]] for i in index]}
