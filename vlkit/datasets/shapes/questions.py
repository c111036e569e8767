"""Questions about one scene, with answers that the question alone does not give away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vlkit.datasets.shapes.captions import Mention, article, name
from vlkit.datasets.shapes.checker import matches
from vlkit.datasets.shapes.scene import COLORS, OPPOSITE, SHAPES, SIZES, Scene, SceneObject, relations

KINDS = ("color", "shape", "size", "count", "exist", "relation", "where")
COUNTS = ("0", "1", "2", "3")
ANSWERS = ("yes", "no", *COUNTS, *COLORS, *SHAPES, *SIZES)  # every answer there is

PHRASES = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
_PLURALS = {"cross": "crosses"}
# What may be named when an attribute is asked for.
_REFERENCES = {
    "color": (("shape",), ("shape", "size")),
    "shape": (("color",), ("color", "size")),
    "size": (("shape",), ("color",), ("color", "shape")),
}


@dataclass(frozen=True)
class Question:
    """A question, its one answer (one of ANSWERS), and its kind (one of KINDS)."""

    question: str
    answer: str
    kind: str


def ask(scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Question | None:
    """A random question about ``scene``.

    Args:
        kind: one of KINDS; None draws one that the scene allows.

    Returns:
        None where the scene allows no question of the ``kind`` asked for (a relation needs two objects).

    Raises:
        ValueError: no such kind.
    """
    if kind is not None and kind not in _MAKERS:
        raise ValueError(f"no question is of kind {kind!r}; kinds are {', '.join(KINDS)}")
    kinds = [kind] if kind else [KINDS[i] for i in rng.permutation(len(KINDS)).tolist()]
    for each in kinds:
        made = _MAKERS[each](scene, rng)
        if made is not None:
            return made
    return None


def questions(scene: Scene, rng: np.random.Generator, count: int) -> list[Question]:
    """Up to ``count`` questions about ``scene``, no two of the same words."""
    found: dict[str, Question] = {}
    for _ in range(20 * count):
        if len(found) == count:
            break
        made = ask(scene, rng)
        if made is not None:
            found.setdefault(made.question, made)
    return list(found.values())


def plural(shape: str) -> str:
    """More than one of a shape, in words."""
    return _PLURALS.get(shape, shape + "s")


def referring(scene: Scene, thing: SceneObject, hidden: str, rng: np.random.Generator) -> Mention | None:
    """What means ``thing`` and nothing else in ``scene`` without naming its ``hidden`` attribute, as little
    as will do; None where nothing does."""
    options = _REFERENCES[hidden]
    if hidden == "size" and rng.random() < 0.5:
        options = (options[1], options[0], options[2])
    for said in options:
        mention = Mention(*(getattr(thing, a) if a in said else None for a in ("color", "shape", "size")))
        if sum(matches(mention, other) for other in scene.objects) == 1:
            return mention
    return None


def near_miss(scene: Scene, rng: np.random.Generator) -> Mention:
    """A color and a shape that no one object has, though an object has one of the two."""
    while True:
        thing = scene.objects[int(rng.integers(len(scene.objects)))]
        if rng.random() < 0.5:
            mention = Mention(COLORS[int(rng.integers(len(COLORS)))], thing.shape)
        else:
            mention = Mention(thing.color, SHAPES[int(rng.integers(len(SHAPES)))])
        if not any(matches(mention, other) for other in scene.objects):
            return mention


def _attribute(attribute: str) -> Callable[[Scene, np.random.Generator], Question | None]:
    def make(scene: Scene, rng: np.random.Generator) -> Question | None:
        for i in rng.permutation(len(scene.objects)).tolist():
            thing = scene.objects[i]
            who = referring(scene, thing, attribute, rng)
            if who is not None:
                one = name(who).replace("shape", "one")
                return Question(f"what {attribute} is the {one}?", getattr(thing, attribute), attribute)
        return None

    return make


def _count(scene: Scene, rng: np.random.Generator) -> Question:
    if rng.random() < 0.3:
        return Question("how many shapes are there?", str(len(scene.objects)), "count")
    by_color = rng.random() < 0.5
    values: tuple[str, ...] = COLORS if by_color else SHAPES
    counts: dict[int, list[str]] = {}
    for value in values:
        number = sum(value in (o.color, o.shape) for o in scene.objects)
        counts.setdefault(number, []).append(value)
    # More than one is rare: where a scene offers it, it is asked for more often than not.
    if max(counts) > 1 and rng.random() < 0.6:
        number = max(counts)
    else:
        number = int(rng.choice([n for n in (0, 1) if n in counts]))
    value = counts[number][int(rng.integers(len(counts[number])))]
    what = f"{value} shapes" if by_color else plural(value)
    return Question(f"how many {what} are there?", str(number), "count")


def _exist(scene: Scene, rng: np.random.Generator) -> Question:
    if rng.random() < 0.5:
        thing = scene.objects[int(rng.integers(len(scene.objects)))]
        mention, answer = Mention(thing.color, thing.shape), "yes"
    else:
        mention, answer = near_miss(scene, rng), "no"
    return Question(f"is there {article(name(mention))}?", answer, "exist")


def _pair(scene: Scene, rng: np.random.Generator) -> tuple[SceneObject, SceneObject, str] | None:
    """Two objects and a relation in which the first stands to the second."""
    if len(scene.objects) < 2:
        return None
    i, j = rng.permutation(len(scene.objects)).tolist()[:2]
    a, b = scene.objects[i], scene.objects[j]
    return a, b, relations(a, b)[0]


def _relation(scene: Scene, rng: np.random.Generator) -> Question | None:
    pair = _pair(scene, rng)
    if pair is None:
        return None
    a, b, relation = pair
    if rng.random() < 0.5:
        answer = "yes"
    else:
        relation, answer = OPPOSITE[relation], "no"
    first, second = name(a, size=False), name(b, size=False)
    return Question(f"is the {first} {PHRASES[relation]} the {second}?", answer, "relation")


def _where(scene: Scene, rng: np.random.Generator) -> Question | None:
    """What color or shape stands in a relation to an object: only where one object does."""
    pair = _pair(scene, rng)
    if pair is None:
        return None
    a, b, relation = pair
    if sum(relation in relations(o, b) for o in scene.objects if o is not b) != 1:
        return None
    attribute, words = ("color", "what color is the shape") if rng.random() < 0.5 else ("shape", "what shape is")
    question = f"{words} {PHRASES[relation]} the {name(b, size=False)}?"
    return Question(question, getattr(a, attribute), "where")


_MAKERS: dict[str, Callable[[Scene, np.random.Generator], Question | None]] = {
    "color": _attribute("color"),
    "shape": _attribute("shape"),
    "size": _attribute("size"),
    "count": _count,
    "exist": _exist,
    "relation": _relation,
    "where": _where,
}
