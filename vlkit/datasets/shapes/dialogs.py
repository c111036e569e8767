"""Dialogs about a scene: a caption that leaves most open, then questions and answers that build on each other.

"it" means the object that the dialog speaks of, so a later question cannot be answered without the earlier ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from vlkit.datasets.shapes.captions import NUMBERS, Mention, article, name
from vlkit.datasets.shapes.checker import matches
from vlkit.datasets.shapes.questions import COUNTS, PHRASES, ask, referring
from vlkit.datasets.shapes.scene import COLORS, SHAPES, SIZES, Scene, SceneObject, relations

# Each answer in its two forms, by what is asked for.
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
    """A question, what it asks for, and the value that answers it."""

    question: str
    kind: str
    answer: str


@dataclass(frozen=True)
class Round:
    """One question with its candidates.

    Args:
        question: may say "it" or "that".
        answer: the true answer, ``candidates[gt_index]``.
        candidates: different answers; all forms of the kind asked for come before others are added.
        gt_index: where the answer stands.
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
    """A random dialog about ``scene``.

    Args:
        rounds: number of questions, at least 1.
        candidates: answers to choose from per question, 2 to OPTIONS.

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
    while len(asked) < rounds:  # nothing new to say about any object
        more = ask(scene, rng, ("count", "exist")[int(rng.integers(2))])
        if more is not None and all(more.question != each.question for each in asked):
            asked.append(Asked(more.question, more.kind, more.answer))
    return Dialog(_caption(scene, counted), tuple(_round(each, rng, candidates) for each in asked[:rounds]))


def _caption(scene: Scene, counted: bool) -> str:
    if not counted:
        return "some shapes on a background"
    count = len(scene.objects)
    shapes = f"{NUMBERS[count - 1]} {'shapes' if count > 1 else 'shape'}"
    return f"{shapes} on {article(scene.background.texture)} background"


def _topic(
    scene: Scene, thing: SceneObject, known: set[tuple[SceneObject, str]], rng: np.random.Generator
) -> list[Asked]:
    """Questions about one object, the first of which says which; what they tell is added to ``known``."""
    who = _introduce(scene, thing, rng)
    unknown = [a for a in _VALUES if getattr(who, a) is None and (thing, a) not in known]
    if not unknown:
        return []
    asked = []
    while rng.random() < 0.5:  # "no" must be as likely as "yes", whatever was answered before
        asked.append(Asked(f"is there {article(name(_decoy(scene, who, rng)))}?", "exist", "no"))
    asked.append(Asked(f"is there {article(name(who))}?", "exist", "yes"))
    for i in rng.permutation(len(unknown)).tolist():
        asked.append(_about("it", thing, unknown[i]))
    known.update((thing, attribute) for attribute in _VALUES)
    return asked + _neighbor(scene, thing, known, rng)


def _introduce(scene: Scene, thing: SceneObject, rng: np.random.Generator) -> Mention:
    hidden = ("color", "shape")[int(rng.integers(2))]
    return referring(scene, thing, hidden, rng) or Mention(thing.color, thing.shape)


def _decoy(scene: Scene, who: Mention, rng: np.random.Generator) -> Mention:
    """``who`` with another color or shape, such that nothing in ``scene`` is so."""
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
    """Questions about the only object that stands in some relation to "it", if there is one not yet spoken of."""
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
    # First one form of every answer of this kind, then their other forms, then anything: with few candidates
    # the kind of the question must not give the answer away.
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
