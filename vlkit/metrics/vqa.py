"""Accuracy of answers to visual questions, equal to the official evaluation of VQA.

Its odd rules are kept, since published figures follow them: the prediction is normalized completely, human answers only
in their punctuation, and only if they are not all equal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlkit.metrics.base import check_text, check_texts

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DECIMAL_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS_REMOVED = 32
_ARTICLES = ("a", "an", "the")
_TO_TEN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_TO_TEN)}
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""


def _with_apostrophes() -> dict[str, str]:
    """Map words that lack one of their apostrophes ("cant", "couldnt've") to the full spelling."""
    table = {"somebody'd": "somebodyd"}  # as the official table has it
    for word in _CONTRACTIONS.split():
        for place, letter in enumerate(word):
            if letter == "'":
                table[word[:place] + word[place + 1 :]] = word
    return table


_SPELLING = _with_apostrophes()


def normalize_answer(text: str) -> str:
    """Remove articles and most punctuation, write numbers up to ten as digits and contractions with apostrophes.

    Raises:
        DataError: ``text`` is not a string.
    """
    text = check_text("normalize_answer", "the answer", text).replace("\n", " ").replace("\t", " ").strip()
    words = [_NUMBERS.get(word, word) for word in normalize_punctuation(text).lower().split()]
    return " ".join(_SPELLING.get(word, word) for word in words if word not in _ARTICLES)


def normalize_punctuation(text: str) -> str:
    """Delete punctuation, or replace it by a space between letters.

    Raises:
        DataError: ``text`` is not a string.
    """
    check_text("normalize_punctuation", "the answer", text)
    decimal_comma = _DECIMAL_COMMA.search(text) is not None
    found = text
    for mark in _MARKS:
        loose = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if loose or decimal_comma else " ")
    return _PERIOD.sub("", found, count=_PERIODS_REMOVED)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return min(1, matches / 3), averaged over leaving out each human answer.

    Args:
        prediction: the model's answer.
        answers: human answers, ten in VQA v2; at least one.

    Returns:
        0..1.

    Raises:
        DataError: there are no answers, or something is not a string (``answers`` a single one, say).
    """
    prediction = normalize_answer(check_text("vqa_accuracy", "the prediction", prediction))
    answers = check_texts("vqa_accuracy", "answers", answers)
    if len(set(answers)) > 1:
        answers = [normalize_punctuation(answer) for answer in answers]
    matches = sum(answer == prediction for answer in answers)
    # Leave out an answer that agrees, or one that does not.
    agreeing, other = min(1.0, (matches - 1) / 3), min(1.0, matches / 3)
    return (matches * agreeing + (len(answers) - matches) * other) / len(answers)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 if the normalized ``prediction`` is one of the normalized ``answers``, else 0.

    Raises:
        DataError: as :func:`vqa_accuracy`.
    """
    prediction = normalize_answer(check_text("exact_match", "the prediction", prediction))
    return float(any(normalize_answer(each) == prediction for each in check_texts("exact_match", "answers", answers)))
