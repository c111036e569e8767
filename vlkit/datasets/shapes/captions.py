"""True captions of scenes, in several wordings of at most 16 words.

A caption is planned first (which objects, in which order, what is said of them) and put into words after, so
that a false neighbor of a caption differs from it by nothing but the false thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vlkit.datasets.shapes.scene import Scene, SceneObject, relations

NUMBERS = ("one", "two", "three")
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


@dataclass(frozen=True)
class Mention:
    """What a text says of one object; None: it does not say."""

    color: str | None
    shape: str | None
    size: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a caption says, and how.

    Args:
        mentions: the objects in order of mention.
        relation: in which the first object stands to the second, or None.
        texture: of the background, or None.
        opening: one of the ways to begin.
        wording: which words express the relation, 0 or 1.
        copula: whether "is" stands before the relation.
    """

    mentions: tuple[Mention, ...]
    relation: str | None = None
    texture: str | None = None
    opening: str = ""
    wording: int = 0
    copula: bool = False


def article(words: str) -> str:
    """``words`` with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def name(thing: Mention | SceneObject, size: bool = True) -> str:
    """Size, color and shape in words ("large red circle") as far as they are said; "shape" where it is not."""
    words = (thing.size if size else None, thing.color, thing.shape or "shape")
    return " ".join(word for word in words if word)


def plan_caption(scene: Scene, rng: np.random.Generator) -> Plan:
    """A random true caption of ``scene`` that mentions every object with color and shape."""
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
    """The words of a plan, lower case."""
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
    """A random true caption of ``scene``, at most 16 words."""
    return realize(plan_caption(scene, rng))


def paraphrases(scene: Scene, rng: np.random.Generator, count: int = 5) -> list[str]:
    """``count`` different true captions of ``scene`` (fewer only where so many wordings do not exist)."""
    return distinct(lambda: caption(scene, rng), count)


def distinct(draw: Callable[[], str], count: int, patience: int = 20) -> list[str]:
    """Up to ``count`` different results of ``draw``; gives up after ``patience`` draws per result."""
    found: dict[str, None] = {}
    for _ in range(patience * count):
        if len(found) == count:
            break
        found.setdefault(draw())
    return list(found)
