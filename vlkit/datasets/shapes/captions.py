"""Captions of toy scenes: true ones, minimally false ones, and the noisy texts of web pages.

A caption is planned first (objects, order, attributes) and realized as words afterwards, so that a false caption
differs from its true neighbor in one fact and nothing else. Captions have at most 16 words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlkit.datasets.shapes.checker import check
from vlkit.datasets.shapes.scene import (
    COLORS,
    NUMBERS,
    OPPOSITE,
    SHAPES,
    SIZES,
    Mention,
    Scene,
    article,
    name,
    relations,
    sample_scene,
)

# The first wording is used most.
RELATION_WORDS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_OPENINGS = ("", "there is ", "we see ", "count")
_OPENING_SHARES = (0.6, 0.8, 0.93)  # cumulative
_RELATION_SHARE = {2: 0.85, 3: 0.6}
_SIZED_SHARE = {1: 1.0, 2: 0.5, 3: 0.0}
_TEXTURE_SHARE = 0.25
_MAIN_WORDING_SHARE = 0.75

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
_FILE_NUMBERS = ("0001", "0017", "0042", "0108", "0256", "0423", "0777", "1024", "2048", "3141", "4096", "9001")
_FILE_ENDINGS = ("jpg", "png", "gif")
_AD_OPENINGS = ("buy now", "best price", "sale", "click here", "limited offer", "new")
_AD_THINGS = ("cheap poster", "wall art", "art print", "shirt", "sticker set", "free download")
_AD_ENDINGS = ("free shipping", "order today", "online shop", "in stock", "save big")


@dataclass(frozen=True)
class Plan:
    """Content and wording of a caption.

    Args:
        mentions: objects in order of mention.
        relation: of the first object to the second, or None.
        texture: of the background, or None.
        opening: first words.
        wording: index of the words that express the relation, 0 or 1.
        copula: whether to put "is" before the relation.
    """

    mentions: tuple[Mention, ...]
    relation: str | None = None
    texture: str | None = None
    opening: str = ""
    wording: int = 0
    copula: bool = False


def plan_caption(scene: Scene, rng: np.random.Generator) -> Plan:
    """Sample a true caption of ``scene`` that names color and shape of every object."""
    u = rng.random(7).tolist()
    count = len(scene.objects)
    things = [scene.objects[i] for i in _order(count, u[0])]
    sized = u[1] < _SIZED_SHARE[count]
    opening = _OPENINGS[sum(u[2] >= share for share in _OPENING_SHARES)]
    related = count > 1 and u[3] < _RELATION_SHARE[count]
    return Plan(
        mentions=tuple(Mention(o.color, o.shape, o.size if sized else None) for o in things),
        relation=relations(things[0], things[1])[0] if related else None,
        texture=scene.background.texture if count == 1 and u[3] < _TEXTURE_SHARE else None,
        opening=opening,
        wording=int(u[4] >= _MAIN_WORDING_SHARE),
        copula=related and not opening and u[5] < 0.25,
    )


def _order(count: int, u: float) -> tuple[int, ...]:
    if count == 1:
        return (0,)
    if count == 2:
        return ((0, 1), (1, 0))[int(u * 2)]
    return ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))[int(u * 6)]


def realize(plan: Plan) -> str:
    """Return the words of a plan, lower case."""
    phrases = [article(name(mention)) for mention in plan.mentions]
    if plan.relation:
        link = RELATION_WORDS[plan.relation][plan.wording]
        head = f"{phrases[0]} {'is ' if plan.copula else ''}{link} {phrases[1]}"
        text = " and ".join([head, *phrases[2:]])
    else:
        text = " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
    if plan.texture:
        text += f" on {article(plan.texture)} background"
    if plan.opening == "count":
        count = len(phrases)
        return f"{NUMBERS[count - 1]} {'shapes' if count > 1 else 'shape'}, {text}"
    return plan.opening + text


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Sample a true caption of ``scene`` of at most 16 words."""
    return realize(plan_caption(scene, rng))


def paraphrases(scene: Scene, rng: np.random.Generator, count: int = 5) -> list[str]:
    """Return ``count`` different true captions of ``scene``; fewer if it has fewer wordings."""
    return distinct(lambda: caption(scene, rng), count)


def distinct(draw: Callable[[], str], count: int, patience: int = 20) -> list[str]:
    """Return up to ``count`` different results of ``draw`` from at most ``patience * count`` draws."""
    found: dict[str, None] = {}
    for _ in range(patience * count):
        if len(found) == count:
            break
        found.setdefault(draw())
    return list(found)


def swapped(plan: Plan, scene: Scene, rng: np.random.Generator) -> str | None:
    """Return the caption of ``plan`` with one attribute of one object replaced by another value.

    The text is false of ``scene``. None if the plan names no object.
    """
    attributes = (("color", COLORS), ("shape", SHAPES), ("size", SIZES))
    order = rng.choice(len(attributes), len(attributes), replace=False, p=(0.45, 0.45, 0.1))
    candidates = [candidate for i in order.tolist() for candidate in _change(plan, rng, *attributes[i])]
    return _first_false(candidates, scene)


def exchanged(plan: Plan, scene: Scene, rng: np.random.Generator) -> str | None:
    """Return the caption of ``plan`` with the colors of two objects exchanged, or None if that is not false of
    ``scene`` (one object, equal colors)."""
    plans = []
    for i, a in enumerate(plan.mentions):
        for j, b in enumerate(plan.mentions[:i]):
            once = _with_mention(plan, i, replace(a, color=b.color))
            plans.append(_with_mention(once, j, replace(b, color=a.color)))
    return _first_false([plans[i] for i in rng.permutation(len(plans)).tolist()], scene)


def _first_false(candidates: Sequence[Plan], scene: Scene) -> str | None:
    for candidate in candidates:
        text = realize(candidate)
        if not check(text, scene).strict:
            return text
    return None


def reversed_relation(plan: Plan, scene: Scene) -> str | None:
    """Return the caption of ``plan`` with the opposite relation ("right of" for "left of"), or None if it has no
    relation."""
    return _first_false([replace(plan, relation=OPPOSITE[plan.relation])] if plan.relation else [], scene)


def swapped_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Sample a caption of ``scene`` that is false in exactly one attribute; see :func:`swapped`."""
    text = swapped(plan_caption(scene, rng), scene, rng)
    if text is None:
        raise ValueError(f"no false caption could be made of {scene}: it has no objects")
    return text


def web_caption(scene: Scene, rng: np.random.Generator, noise: float = 0.5) -> tuple[str, str]:
    """Sample a text like those next to images on web pages, and its kind (one of KINDS).

    Args:
        noise: share of texts that are not a true caption, in [0, 1].
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
    return replace(plan, mentions=(*plan.mentions[:index], mention, *plan.mentions[index + 1 :]))


def _change(plan: Plan, rng: np.random.Generator, attribute: str, values: tuple[str, ...]) -> list[Plan]:
    """Return all plans in which one object has another value of ``attribute``, in random order."""
    plans = [
        _with_mention(plan, i, replace(mention, **{attribute: value}))
        for i, mention in enumerate(plan.mentions)
        if getattr(mention, attribute) is not None
        for value in values
        if value != getattr(mention, attribute)
    ]
    return [plans[i] for i in rng.permutation(len(plans)).tolist()]
