"""Questions and dialogs about one scene.

A question alone does not give its answer away. A dialog starts from a vague caption; in its questions "it" is the
object that the dialog is about, so that a later question cannot be answered without the earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from vlkit.datasets.shapes.checker import matches
from vlkit.datasets.shapes.scene import (
    COLORS,
    NUMBERS,
    OPPOSITE,
    SHAPES,
    SIZES,
    Mention,
    Scene,
    SceneObject,
    article,
    name,
    relations,
)

KINDS = ("color", "shape", "size", "count", "exist", "relation", "where")
COUNTS = ("0", "1", "2", "3")
ANSWERS = ("yes", "no", *COUNTS, *COLORS, *SHAPES, *SIZES)  # all possible answers

PHRASES = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
# Attributes to name when another one is requested.
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
    """Sample a question about ``scene``, or None if the scene has none of this ``kind`` (a relation needs two objects).

    Args:
        kind: one of KINDS; None samples one that the scene allows.

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
    """Return up to ``count`` questions about ``scene`` with different words."""
    found: dict[str, Question] = {}
    for _ in range(20 * count):
        if len(found) == count:
            break
        made = ask(scene, rng)
        if made is not None:
            found.setdefault(made.question, made)
    return list(found.values())


def plural(shape: str) -> str:
    """Return the plural of a shape's name."""
    return "crosses" if shape == "cross" else shape + "s"


def referring(scene: Scene, thing: SceneObject, hidden: str, rng: np.random.Generator) -> Mention | None:
    """Return the shortest mention that identifies ``thing`` in ``scene`` without its ``hidden`` attribute, or None."""
    options = _REFERENCES[hidden]
    if hidden == "size" and rng.random() < 0.5:
        options = (options[1], options[0], options[2])
    for said in options:
        mention = Mention(*(getattr(thing, a) if a in said else None for a in ("color", "shape", "size")))
        if sum(matches(mention, other) for other in scene.objects) == 1:
            return mention
    return None


def near_miss(scene: Scene, rng: np.random.Generator) -> Mention:
    """Sample a color and a shape that no object has together, one of them that of an object."""
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
    # More than one is rare: prefer it if the scene has it.
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
    """Sample two objects and return them with the relation of the first to the second."""
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
    """Ask for the color or shape of the only object in a relation to another one."""
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


# The two forms of each answer, by kind of question.
_FORMS = {
    "color": {color: (color, f"it is {color}") for color in COLORS},
    "shape": {shape: (article(shape), f"it is {article(shape)}") for shape in SHAPES},
    "size": {size: (size, f"it is {size}") for size in SIZES},
    "count": {n: (n, f"there {'is' if n == '1' else 'are'} {n}") for n in COUNTS},
    "exist": {"yes": ("yes", "yes there is"), "no": ("no", "no there is not")},
}
_VALUES = {"color": COLORS, "shape": SHAPES, "size": SIZES}
OPTIONS = sum(2 * len(forms) for forms in _FORMS.values())  # all different answers


class Asked(NamedTuple):
    """A question of a dialog, its kind, and the value that answers it."""

    question: str
    kind: str
    answer: str


@dataclass(frozen=True)
class Round:
    """One question with its candidates.

    Args:
        question: may say "it" or "that".
        answer: the true answer, ``candidates[gt_index]``.
        candidates: different answers; those of the question's kind are added before others.
        gt_index: index of the answer.
        relevance: per candidate, in [0, 1]: 1 for the answer, 0.5 for the same answer in its other form, else 0.
    """

    question: str
    answer: str
    candidates: tuple[str, ...]
    gt_index: int
    relevance: tuple[float, ...]


@dataclass(frozen=True)
class Dialog:
    """A caption and the rounds that follow it."""

    caption: str
    rounds: tuple[Round, ...]


def make_dialog(scene: Scene, rng: np.random.Generator, rounds: int = 5, candidates: int = 20) -> Dialog:
    """Sample a dialog about ``scene``.

    Args:
        rounds: number of questions, at least 1.
        candidates: answers per question, 2 to OPTIONS.

    Raises:
        ValueError: ``rounds`` or ``candidates`` outside that.
    """
    if rounds < 1 or not 2 <= candidates <= OPTIONS:
        raise ValueError(
            f"rounds={rounds}, candidates={candidates}: a dialog needs at least 1 round, and 2 to {OPTIONS} "
            "candidates in each"
        )
    counted = bool(rng.random() < 0.5)
    asked = [] if counted else [Asked("how many shapes are there?", "count", str(len(scene.objects)))]
    known: set[tuple[SceneObject, str]] = set()
    for i in rng.permutation(len(scene.objects)).tolist():
        asked.extend(_topic(scene, scene.objects[i], known, rng))
    while len(asked) < rounds:  # all objects are described
        more = ask(scene, rng, ("count", "exist")[int(rng.integers(2))])
        if more is not None and all(more.question != each.question for each in asked):
            asked.append(Asked(more.question, more.kind, more.answer))
    caption, count = "some shapes on a background", len(scene.objects)
    if counted:
        shapes = f"{NUMBERS[count - 1]} {'shapes' if count > 1 else 'shape'}"
        caption = f"{shapes} on {article(scene.background.texture)} background"
    return Dialog(caption, tuple(_round(each, rng, candidates) for each in asked[:rounds]))


def _topic(
    scene: Scene, thing: SceneObject, known: set[tuple[SceneObject, str]], rng: np.random.Generator
) -> list[Asked]:
    """Return questions about one object, which the first ones identify; add the answers' attributes to ``known``."""
    hidden = ("color", "shape")[int(rng.integers(2))]
    who = referring(scene, thing, hidden, rng) or Mention(thing.color, thing.shape)
    unknown = [a for a in _VALUES if getattr(who, a) is None and (thing, a) not in known]
    if not unknown:
        return []
    asked = []
    while rng.random() < 0.5:  # "no" must be as likely as "yes", regardless of earlier answers
        asked.append(Asked(f"is there {article(name(_decoy(scene, who, rng)))}?", "exist", "no"))
    asked.append(Asked(f"is there {article(name(who))}?", "exist", "yes"))
    for i in rng.permutation(len(unknown)).tolist():
        asked.append(_about("it", thing, unknown[i]))
    known.update((thing, attribute) for attribute in _VALUES)
    return asked + _neighbor(scene, thing, known, rng)


def _decoy(scene: Scene, who: Mention, rng: np.random.Generator) -> Mention:
    """Return ``who`` with another color or shape that matches no object of ``scene``."""
    named = [a for a in ("color", "shape") if getattr(who, a) is not None]
    while True:
        attribute = named[int(rng.integers(len(named)))]
        values = _VALUES[attribute]
        decoy = replace(who, **{attribute: values[int(rng.integers(len(values)))]})
        if not any(matches(decoy, thing) for thing in scene.objects):
            return decoy


def _about(pronoun: str, thing: SceneObject, attribute: str) -> Asked:
    return Asked(f"what {attribute} is {pronoun}?", attribute, getattr(thing, attribute))


def _neighbor(
    scene: Scene, thing: SceneObject, known: set[tuple[SceneObject, str]], rng: np.random.Generator
) -> list[Asked]:
    """Return questions about the only object in some relation to "it", if there is one that is not known yet."""
    for i in rng.permutation(len(scene.objects)).tolist():
        other = scene.objects[i]
        if any((other, attribute) in known for attribute in _VALUES):
            continue
        relation = relations(other, thing)[0]
        if sum(relation in relations(o, thing) for o in scene.objects if o is not thing) == 1:
            attribute = ("color", "size")[int(rng.integers(2))]
            known.update([(other, "shape"), (other, attribute)])
            first = Asked(f"what shape is {PHRASES[relation]} it?", "shape", other.shape)
            return [first, _about("that one", other, attribute)]
    return []


def _round(asked: Asked, rng: np.random.Generator, candidates: int) -> Round:
    kind = asked.kind
    forms = _FORMS[kind][asked.answer]
    said = int(rng.integers(2))
    answer, other_form = forms[said], forms[1 - said]
    # First one form of every answer of this kind, then their other forms, then the rest: with few candidates the kind
    # of the question must not give the answer away.
    first, second = [], []
    for pair in _FORMS[kind].values():
        if pair != forms:
            turn = int(rng.integers(2))
            first.append(pair[turn])
            second.append(pair[1 - turn])
    rest = [form for k, pairs in _FORMS.items() if k != kind for pair in pairs.values() for form in pair]
    pools = (first, [other_form, *second], rest)
    others = [pool[i] for pool in pools for i in rng.permutation(len(pool)).tolist()]
    chosen = [answer, *others][:candidates]
    order = rng.permutation(candidates).tolist()
    shuffled = tuple(chosen[i] for i in order)
    relevance = tuple({answer: 1.0, other_form: 0.5}.get(text, 0.0) for text in shuffled)
    return Round(asked.question, answer, shuffled, order.index(0), relevance)
