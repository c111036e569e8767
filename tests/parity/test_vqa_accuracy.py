"""VQA accuracy against the official evaluation."""

import pytest

from tests.parity.golden import Case
from vlkit.metrics.vqa import normalize_answer, vqa_accuracy


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("vqa_accuracy")


def test_normalization(case):
    wrong = {text: normalize_answer(text) for text, said in case.info["normalised"] if normalize_answer(text) != said}
    assert not wrong


def test_accuracies(case):
    questions = case.info["questions"]
    found = [100 * vqa_accuracy(question["prediction"], question["answers"]) for question in questions]
    for question, accuracy in zip(questions, found):
        assert accuracy == pytest.approx(question["accuracy_percent"], abs=0.00501), question
    assert sum(found) / len(found) == pytest.approx(case.info["overall_percent"], abs=0.00501)
