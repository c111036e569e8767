from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models import small
from vlkit.models import answer_tree
from vlkit.models.answer_tree import AnswerTree, smoothed_losses
from vlkit.models.attention import ImageKV
from vlkit.models.losses import lm_loss, lm_targets
from vlkit.models.med import TextDecoder
from vlkit.models.packing import MaskedSegments, TextBatch

DEC, SEP, VOCABULARY, WIDTH = 1, 2, 9, 16


@pytest.fixture(scope="module")
def decoder() -> TextDecoder:
    torch.manual_seed(0)
    return TextDecoder(small.med(vocab_size=VOCABULARY, initializer_range=0.3), WIDTH).eval()


@pytest.fixture(scope="module")
def questions(decoder) -> ImageKV:
    """Three questions of 5, 2 and 4 tokens."""
    states = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(5) < torch.tensor([[5], [2], [4]])
    with torch.no_grad():
        return decoder.bert.project_images(states, mask)


def alone(decoder: TextDecoder, questions: ImageKV, question: int, answer: list[int]) -> float:
    """The loss of one answer to one question by itself."""
    texts = TextBatch.from_lists([answer])
    hidden = decoder(texts, questions, [question])
    rows, targets = lm_targets(texts)
    return float(lm_loss(decoder.logits(hidden[rows]), targets, 0.1, reduction="none").sum())


answers_lists = st.lists(
    st.lists(st.integers(3, 5), max_size=4).map(lambda ids: [DEC, *ids, SEP]), min_size=1, max_size=6
)


@settings(deadline=None, max_examples=12, derandomize=True)
@given(answers=answers_lists, data=st.data())
def test_losses_are_those_of_each_answer_alone(decoder, questions, answers, data):
    """Few tokens, so that many answers begin alike; some repeat, some are empty."""
    tree = AnswerTree(answers)
    assert len(tree) == len(answers)
    assert tree.first.tolist() == [answer[1] for answer in answers]
    size = data.draw(st.integers(1, len(answers)))
    chosen = np.array([data.draw(st.permutations(range(len(answers))))[:size] for _ in range(3)])
    with torch.no_grad():
        found = tree.losses(decoder, questions, chosen, 0.1)
        expected = [[alone(decoder, questions, q, answers[a]) for a in row] for q, row in enumerate(chosen)]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-5)


def test_what_answers_begin_with_is_read_once(decoder, questions, monkeypatch):
    tree = AnswerTree([[DEC, 3, 4, SEP], [DEC, 3, 5, SEP], [DEC, 3, SEP], [DEC, 6, SEP]])
    read = []
    forward = decoder.bert.embeddings.forward
    monkeypatch.setattr(decoder.bert.embeddings, "forward", lambda i, p: read.append((i, p)) or forward(i, p))
    with torch.no_grad():
        tree.losses(decoder, questions, np.array([[0, 1, 2], [3, 2, 0], [1, 1, 1]]), 0.1)
    [(ids, positions)] = read
    assert ids.tolist() == [DEC, 3, 4, 5, DEC, 3, 4, 6, DEC, 3, 5]
    assert positions.tolist() == [0, 1, 2, 2, 0, 1, 2, 1, 0, 1, 2]


@pytest.mark.parametrize("bound", [1, 5, 8])
def test_questions_in_groups(decoder, questions, monkeypatch, bound):
    tree = AnswerTree([[DEC, 3, 4, SEP], [DEC, 5, SEP], [DEC, 3, SEP], [DEC, 6, 7, 8, SEP]])
    chosen = np.array([[0, 1], [2, 3], [3, 0]])
    with torch.no_grad():
        joint = tree.losses(decoder, questions, chosen, 0.1)
        monkeypatch.setattr(answer_tree, "_NODES_AT_ONCE", bound)
        torch.testing.assert_close(tree.losses(decoder, questions, chosen, 0.1), joint)


def test_smoothed_losses_are_torchs_cross_entropy():
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0)) * 5
    rows, targets = torch.tensor([0, 2, 2, 3, 0]), torch.tensor([6, 0, 1, 3, 6])
    for smoothing in (0.0, 0.1, 1.0):
        expected = torch.nn.functional.cross_entropy(logits[rows], targets, reduction="none", label_smoothing=smoothing)
        torch.testing.assert_close(smoothed_losses(logits, rows, targets, smoothing), expected)


def test_a_mask_that_hides_nothing_changes_nothing(decoder, questions):
    """Causal masks give what the decoder gives."""
    texts = TextBatch.from_lists([[DEC, 3, 4], [DEC, 5, 6], [DEC, 3, 3]])
    segments = MaskedSegments(texts.lengths, torch.ones(3, 3, 3, dtype=torch.bool).tril())
    with torch.no_grad():
        found = decoder.bert.masked_states(texts.ids, texts.positions, segments, questions)
        torch.testing.assert_close(found, decoder(texts, questions))
