"""The metric of the toy dataset: parse captions and check their claims against scene graphs.

A caption claims objects ("a large red circle", "a green shape"), relations between two of them, counts ("three shapes",
"two red circles") and the texture of the background. Other words are ignored, so that any generated text can be judged.
An incomplete phrase ("a red", "left of" without an object) is a claim that is never true.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlkit.datasets.shapes.scene import (
    COLORS,
    NUMBERS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Mention,
    Scene,
    SceneObject,
    name,
    relations,
)

_NOUNS = {"shape": None, "shapes": None, **{s: s for s in SHAPES}}
_NOUNS |= {("crosses" if s == "cross" else s + "s"): s for s in SHAPES}
_COUNTS = {word: i + 1 for i, word in enumerate(NUMBERS)} | {"1": 1, "2": 2, "3": 3}
_RELATIONS = {**dict(zip(RELATIONS, RELATIONS)), "over": "above", "under": "below"}
_BROKEN = Mention("?", "?")  # matches nothing


@dataclass(frozen=True)
class Relation:
    """A claimed relation between two mentions, by index; None: no object is named."""

    subject: int | None
    relation: str
    target: int | None


@dataclass
class Parse:
    """The content of a caption.

    Args:
        mentions: claimed objects in order.
        relations: between mentions, by index.
        counts: (number, what is counted).
        textures: of the background.
    """

    mentions: list[Mention] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    counts: list[tuple[int, Mention]] = field(default_factory=list)
    textures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Claim:
    """One claim: its kind (object, relation, count, background), its content in words, and whether it is true."""

    kind: str
    content: str
    true: bool


@dataclass(frozen=True)
class Claims:
    """All claims of a caption, judged under the assignment of mentions to distinct objects of the scene that makes most
    of them true.

    Args:
        claims: every claim.
        objects: number of objects of the scene that are correctly mentioned.
        attributes: number of their colors, shapes and sizes that are named.
        scene_objects: number of objects in the scene.
    """

    claims: tuple[Claim, ...]
    objects: int
    attributes: int
    scene_objects: int

    @property
    def strict(self) -> bool:
        """Whether the caption claims at least one object, and everything it claims is true."""
        return any(c.kind == "object" for c in self.claims) and all(c.true for c in self.claims)

    @property
    def true(self) -> int:
        """Number of true claims."""
        return sum(c.true for c in self.claims)


def parse(caption: str) -> Parse:
    """Parse a caption; any text is accepted."""
    return _Reader().read(re.findall(r"[a-z0-9]+|,", caption.lower()))


class _Reader:
    """Parser in one pass over the words: adjectives wait for their noun, relations for their second object."""

    def __init__(self) -> None:
        self.found = Parse()
        self.adjectives: list[str] = []
        self.number: int | None = None
        self.open: list[tuple[int | None, str]] = []  # relations without a second object yet
        self.subject: int | None = None  # of the last relation
        self.joined = False  # an "and" or a comma stands since the last noun

    def read(self, words: list[str]) -> Parse:
        for i, word in enumerate(words):
            if word in COLORS or word in SIZES:
                self.adjectives.append(word)
            elif word in _NOUNS:
                self._noun(_NOUNS[word])
            elif word in TEXTURES and words[i + 1 : i + 2] == ["background"]:
                self.found.textures.append(word)
            else:
                self._end_phrase()
                if word in _COUNTS:
                    self.number = _COUNTS[word]
                elif word in _RELATIONS:
                    self._relation(_RELATIONS[word])
                elif word in ("and", ","):
                    self.joined = True
        self._end_phrase()
        self._close(None)
        return self.found

    def _noun(self, shape: str | None) -> None:
        mention = _mention(self.adjectives, shape)
        bare = not self.adjectives and shape is None
        if self.number is not None:
            self.found.counts.append((self.number, mention))
        if not bare:
            self._close(len(self.found.mentions))
            self.found.mentions.extend([mention] * (self.number or 1))
        self.adjectives, self.number, self.joined = [], None, False

    def _end_phrase(self) -> None:
        if self.adjectives:  # "a red" and no noun
            self._close(len(self.found.mentions))
            self.found.mentions.append(_BROKEN)
        self.adjectives, self.number = [], None

    def _relation(self, relation: str) -> None:
        if not self.joined or self.subject is None:  # in "a left of b and above c" the subject stays a
            self.subject = len(self.found.mentions) - 1 if self.found.mentions else None
        self.open.append((self.subject, relation))

    def _close(self, target: int | None) -> None:
        self.found.relations.extend(Relation(subject, relation, target) for subject, relation in self.open)
        self.open = []


def _mention(adjectives: list[str], shape: str | None) -> Mention:
    colors = {word for word in adjectives if word in COLORS}
    sizes = {word for word in adjectives if word in SIZES}
    if len(colors) > 1 or len(sizes) > 1:  # "a red blue circle" is nowhere
        return _BROKEN
    return Mention(next(iter(colors), None), shape, next(iter(sizes), None))


def matches(mention: Mention, thing: SceneObject) -> bool:
    """Return whether ``thing`` has the attributes of ``mention``."""
    return all(getattr(mention, each) in (None, getattr(thing, each)) for each in ("shape", "color", "size"))


def check(caption: str, scene: Scene | Mapping[str, Any]) -> Claims:
    """Judge every claim of ``caption`` against ``scene``.

    Args:
        caption: any text.
        scene: the scene, or its plain form (:meth:`Scene.to_dict`).
    """
    if not isinstance(scene, Scene):
        scene = Scene.from_dict(scene)
    said = parse(caption)
    fixed = [
        Claim("count", f"{number} {name(what)}", sum(matches(what, o) for o in scene.objects) == number)
        for number, what in said.counts
    ]
    fixed += [Claim("background", t, t == scene.background.texture) for t in said.textures]
    best: tuple[Claim, ...] = ()
    best_given: dict[int, SceneObject] = {}
    best_true = -1
    for given in _assignments(said.mentions, scene.objects):
        claims = _judge(said, given)
        true = sum(c.true for c in claims)
        if true > best_true:
            best, best_given, best_true = claims, given, true
    named = sum(
        (m.color is not None) + (m.shape is not None) + (m.size is not None)
        for m in (said.mentions[i] for i in best_given)
    )
    return Claims((*best, *fixed), len(best_given), named, len(scene.objects))


def _assignments(mentions: list[Mention], objects: Sequence[SceneObject]) -> Iterator[dict[int, SceneObject]]:
    """Yield all assignments of distinct matching objects to distinct mentions; some mentions may get none."""
    # More than four mentions of one object are never strictly true: the first four bound the work.
    choices = [[i for i, m in enumerate(mentions) if matches(m, thing)][:4] for thing in objects]
    for picked in itertools.product(*([*options, None] for options in choices)):
        taken = [i for i in picked if i is not None]
        if len(taken) == len(set(taken)):
            yield {i: thing for i, thing in zip(picked, objects) if i is not None}


def _judge(said: Parse, given: Mapping[int, SceneObject]) -> tuple[Claim, ...]:
    claims = [Claim("object", name(mention), i in given) for i, mention in enumerate(said.mentions)]
    for r in said.relations:
        a = given.get(r.subject) if r.subject is not None else None
        b = given.get(r.target) if r.target is not None else None
        true = a is not None and b is not None and r.relation in relations(a, b)
        claims.append(Claim("relation", f"{r.subject} {r.relation} {r.target}", true))
    return tuple(claims)


def caption_quality(captions: Sequence[str], scenes: Sequence[Scene | Mapping[str, Any]]) -> dict[str, float]:
    """Score captions against the scenes that they describe; all scores are in [0, 1].

    Returns:
        ``strict_precision``: share of captions that claim an object and nothing false. ``claim_precision``:
        share of all claims that are true. ``object_recall``: share of all objects truly mentioned.
        ``attribute_recall``: share of all colors, shapes and sizes named of them. All 0 without captions.

    Raises:
        ValueError: not one scene per caption.
    """
    if len(captions) != len(scenes):
        raise ValueError(f"{len(captions)} captions but {len(scenes)} scenes: give one scene per caption")
    judged = [check(text, scene) for text, scene in zip(captions, scenes)]
    claims = sum(len(j.claims) for j in judged)
    objects = sum(j.scene_objects for j in judged)
    return {
        "strict_precision": sum(j.strict for j in judged) / max(len(judged), 1),
        "claim_precision": sum(j.true for j in judged) / max(claims, 1),
        "object_recall": sum(j.objects for j in judged) / max(objects, 1),
        "attribute_recall": sum(j.attributes for j in judged) / max(3 * objects, 1),
    }
