"""False and useless captions: minimal negatives of a caption, and the noise of texts found on the web."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vlkit.datasets.shapes.captions import Mention, Plan, caption, plan_caption, realize
from vlkit.datasets.shapes.checker import check
from vlkit.datasets.shapes.scene import COLORS, OPPOSITE, SHAPES, SIZES, Scene, sample_scene

KINDS = ("clean", "mismatched", "attribute", "vague", "filename", "advertisement")
_NOISE_SHARES = (0.3, 0.6, 0.8, 0.9)  # cumulative, over the kinds after "clean"

_VAGUE = (
    "some shapes on a background",
    "a picture of shapes",
    "a nice picture",
    "colorful shapes",
    "an image with some objects",
    "simple art",
    "a background with shapes",
    "some nice colorful objects",
)
_FILE_STEMS = ("img", "dsc", "scan", "photo", "image", "picture")
_FILE_NUMBERS = (
    "0001",
    "0017",
    "0042",
    "0108",
    "0256",
    "0423",
    "0777",
    "1024",
    "2048",
    "3141",
    "4096",
    "9001",
)
_FILE_ENDINGS = ("jpg", "png", "gif")
_AD_OPENINGS = ("buy now", "best price", "sale", "click here", "limited offer", "new")
_AD_THINGS = ("cheap poster", "wall art", "art print", "shirt", "sticker set", "free download")
_AD_ENDINGS = ("free shipping", "order today", "online shop", "in stock", "save big")


def swapped(plan: Plan, scene: Scene, rng: np.random.Generator) -> str | None:
    """The caption of ``plan`` with one attribute of one object swapped for another value.

    Returns:
        A text that is certainly false of ``scene``; None where the plan is of no object.
    """
    makers = [_change_color, _change_shape, _change_size]
    order = rng.choice(len(makers), len(makers), replace=False, p=(0.45, 0.45, 0.1))
    return _first_false([candidate for i in order.tolist() for candidate in makers[i](plan, rng)], scene)


def exchanged(plan: Plan, scene: Scene, rng: np.random.Generator) -> str | None:
    """The caption of ``plan`` with the colors of two objects exchanged: the words stay, what they belong to does not.
    None where that is not false (one object, equal colors)."""
    return _first_false(_exchange(plan, rng), scene)


def _first_false(candidates: Sequence[Plan], scene: Scene) -> str | None:
    for candidate in candidates:
        text = realize(candidate)
        if not check(text, scene).strict:
            return text
    return None


def reversed_relation(plan: Plan, scene: Scene) -> str | None:
    """The caption of ``plan`` with its relation turned round ("left of" for "right of"), which is false of ``scene``;
    None where it has no relation."""
    return _first_false([replace(plan, relation=OPPOSITE[plan.relation])] if plan.relation else [], scene)


def swapped_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of ``scene`` that is false by exactly one change; see :func:`swapped`."""
    text = swapped(plan_caption(scene, rng), scene, rng)
    if text is None:
        raise ValueError(f"no false caption could be made of {scene}: it has no objects")
    return text


def web_caption(scene: Scene, rng: np.random.Generator, noise: float = 0.5) -> tuple[str, str]:
    """A text as it might stand beside the image on the web.

    Args:
        noise: share of texts that are not a true caption, in [0, 1].

    Returns:
        The text and its kind (one of KINDS).
    """
    if rng.random() >= noise:
        return caption(scene, rng), "clean"
    u = rng.random()
    kind = KINDS[1 + sum(u >= share for share in _NOISE_SHARES)]
    if kind == "mismatched":
        return _caption_of_another(scene, rng), kind
    if kind == "attribute":
        return swapped_caption(scene, rng), kind
    if kind == "vague":
        return _pick(_VAGUE, rng), kind
    if kind == "filename":
        return " ".join(_pick(part, rng) for part in (_FILE_STEMS, _FILE_NUMBERS, _FILE_ENDINGS)), kind
    return " ".join(_pick(part, rng) for part in (_AD_OPENINGS, _AD_THINGS, _AD_ENDINGS)), kind


def _caption_of_another(scene: Scene, rng: np.random.Generator) -> str:
    while True:
        text = caption(sample_scene(rng), rng)
        if not check(text, scene).strict:
            return text


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _with_mention(plan: Plan, index: int, mention: Mention) -> Plan:
    mentions = (*plan.mentions[:index], mention, *plan.mentions[index + 1 :])
    return replace(plan, mentions=mentions)


def _change(plan: Plan, rng: np.random.Generator, attribute: str, values: tuple[str, ...]) -> list[Plan]:
    """Every plan in which one object has another value of ``attribute``, in random order."""
    plans: list[Plan] = []
    for i, mention in enumerate(plan.mentions):
        old = getattr(mention, attribute)
        if old is not None:
            new = (_with_mention(plan, i, replace(mention, **{attribute: v})) for v in values if v != old)
            plans.extend(new)
    return [plans[i] for i in rng.permutation(len(plans)).tolist()]


def _change_color(plan: Plan, rng: np.random.Generator) -> list[Plan]:
    return _change(plan, rng, "color", COLORS)


def _change_shape(plan: Plan, rng: np.random.Generator) -> list[Plan]:
    return _change(plan, rng, "shape", SHAPES)


def _change_size(plan: Plan, rng: np.random.Generator) -> list[Plan]:
    return _change(plan, rng, "size", SIZES)


def _exchange(plan: Plan, rng: np.random.Generator) -> list[Plan]:
    """Two objects exchange their colors."""
    plans = []
    for i in range(len(plan.mentions)):
        for j in range(i):
            a, b = plan.mentions[i], plan.mentions[j]
            once = _with_mention(plan, i, replace(a, color=b.color))
            plans.append(_with_mention(once, j, replace(b, color=a.color)))
    return [plans[i] for i in rng.permutation(len(plans)).tolist()]
