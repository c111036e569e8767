"""Every head of BLIP with all of its public calls that take pictures, for tests of what they take."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from vlkit import load_model_and_preprocess
from vlkit.models.generation import GenerationConfig

QUESTION, TEXT = "what color is the circle?", "a red circle"
ANSWERS = ["red", "blue", "two"]
ROUNDS = [{"question": QUESTION, "answer_options": ANSWERS, "gt_index": 0}]
GREEDY = GenerationConfig(max_length=12, min_length=5, num_beams=1)

HEADS = (
    "blip_caption",
    "blip_vqa",
    "blip_retrieval",
    "blip_image_text_matching",
    "blip_feature_extractor",
    "blip_nlvr",
    "blip_dialog",
    "blip_pretrain",
)


@functools.cache
def loaded(name: str) -> tuple[Any, Any]:
    """The model with the weights of ``tiny_shapes``, and its image processor for evaluation."""
    model, image_processors, _ = load_model_and_preprocess(name, "tiny_shapes")
    return model, image_processors["eval"]


def texts(count: int, kinds: Iterable[str] = ("a red circle", "a blue square and a star", "two shapes")) -> list[str]:
    kinds = list(kinds)
    return [kinds[i % len(kinds)] for i in range(count)]


def _sim_matrix(model: Any, image: Any, count: int) -> Any:
    batch = {"image": image, "references": [[text] for text in texts(count)]}
    return model.compute_sim_matrix([batch])


def _chat(model: Any, image: Any, count: int) -> Any:
    sessions = [model.chat(each, "a circle", ANSWERS) for each in (image if count > 1 else [image])]
    return [session.ask(QUESTION) for session in sessions]


def _pairs(image: Any, count: int) -> dict[str, Any]:
    return {"image0": image, "image1": image, "text_input": texts(count)}


# Head and call to a function of a model, pictures, their number, and perhaps batch_size.
CALLS: dict[str, dict[str, Callable[..., Any]]] = {
    "blip_caption": {
        "generate": lambda m, x, n, **b: m.generate({"image": x}, max_length=12, **b),
        "generate, sampled": lambda m, x, n, **b: _seeded(
            lambda: m.generate({"image": x}, use_nucleus_sampling=True, num_captions=2, max_length=12, **b)
        ),
        "caption": lambda m, x, n, **b: m.caption({"image": x}, GREEDY, **b),
        "forward": lambda m, x, n: m({"image": x, "text_input": texts(n)}),
        "image_embeds": lambda m, x, n: m.image_embeds({"image": x}),
    },
    "blip_pretrain": {
        "caption": lambda m, x, n, **b: m.caption({"image": x}, GREEDY, **b),
        "forward": lambda m, x, n: _seeded(lambda: copy.deepcopy(m)({"image": x, "text_input": texts(n)})),
    },
    "blip_vqa": {
        "predict_answers": lambda m, x, n, **b: m.predict_answers({"image": x, "text_input": QUESTION}, **b),
        "predict_answers, ranked": lambda m, x, n, **b: m.predict_answers(
            {"image": x, "text_input": texts(n)}, answer_list=ANSWERS, **b
        ),
        "rank": lambda m, x, n, **b: m.rank({"image": x, "text_input": texts(n)}, ANSWERS, **b),
        "generate": lambda m, x, n, **b: m.generate({"image": x, "text_input": texts(n)}, **b),
        "forward": lambda m, x, n: m({"image": x, "text_input": texts(n), "answers": [["red", "blue"]] * n}),
    },
    "blip_retrieval": {
        "forward": lambda m, x, n: _seeded(
            lambda: copy.deepcopy(m)({"image": x, "text_input": texts(n), "image_id": list(range(n))})
        ),
        "compute_sim_matrix": _sim_matrix,
        "image_embeds": lambda m, x, n: m.image_embeds({"image": x}),
    },
    "blip_image_text_matching": {
        "forward, itm": lambda m, x, n, **b: m({"image": x, "text_input": texts(n)}, match_head="itm", **b),
        "forward, itc": lambda m, x, n, **b: m({"image": x, "text_input": texts(5)}, match_head="itc", **b),
        "score, itm": lambda m, x, n, **b: m.score({"image": x, "text_input": texts(5)}, **b),
        "score, itc": lambda m, x, n, **b: m.score({"image": x, "text_input": TEXT}, "itc", **b),
    },
    "blip_feature_extractor": {
        "extract_features": lambda m, x, n, **b: m.extract_features({"image": x, "text_input": texts(n)}, **b),
        "extract_features, image": lambda m, x, n, **b: m.extract_features({"image": x}, mode="image", **b),
        "embed_images": lambda m, x, n, **b: m.embed_images(x, **b),
        "embed_images, not projected": lambda m, x, n, **b: m.embed_images(x, project=False, **b),
    },
    "blip_nlvr": {
        "predict": lambda m, x, n, **b: m.predict(_pairs(x, n), **b),
        "forward": lambda m, x, n: m({**_pairs(x, n), "label": [1] * n}),
    },
    "blip_dialog": {
        "score": lambda m, x, n, **b: m.score({"image": x, "text_input": texts(n), "dialog": [ROUNDS] * n}, **b),
        "chat": _chat,
        "forward": lambda m, x, n: _seeded(lambda: m({"image": x, "text_input": texts(n), "dialog": [ROUNDS] * n})),
    },
}


def _seeded(call: Callable[[], Any]) -> Any:
    torch.manual_seed(3)
    return call()


def leaves(found: Any) -> Iterator[Any]:
    """The tensors, numbers and texts of a result, in order."""
    if isinstance(found, np.ndarray):
        yield torch.from_numpy(found)
    elif dataclasses.is_dataclass(found):
        for field in dataclasses.fields(found):
            yield from leaves(getattr(found, field.name))
    elif isinstance(found, dict):
        for value in found.values():
            yield from leaves(value)
    elif isinstance(found, (list, tuple)):
        for value in found:
            yield from leaves(value)
    elif found is not None:
        yield found


def assert_equal(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Texts are the same, numbers within ``tolerance``."""
    found, expected = list(leaves(found)), list(leaves(expected))
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected):
        if isinstance(theirs, str):
            assert mine == theirs
        else:
            torch.testing.assert_close(torch.as_tensor(mine), torch.as_tensor(theirs), atol=tolerance, rtol=1e-4)
