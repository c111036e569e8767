"""Every public function of the metrics, with values of a wrong type: an error that names them, never a score."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlkit.errors import DataError
from vlkit.metrics.caption import bleu, caption_scores, cider_d, java_caption_scores, rouge_l
from vlkit.metrics.classification import accuracy, auc, best_threshold
from vlkit.metrics.dialog import (
    answer_rank,
    count_answers,
    ndcg,
    prior_reciprocal_rank,
    question_kind,
    ranks_of,
    sparse_scores,
)
from vlkit.metrics.ptb import ptb_tokenize, ptb_tokens
from vlkit.metrics.retrieval import median_rank, recall, recall_at_k, right_ranks
from vlkit.metrics.vqa import exact_match, normalize_answer, normalize_punctuation, vqa_accuracy

NAN, INF = float("nan"), float("inf")
NO_NUMBERS = {
    "nan": [NAN, 1.0],
    "inf": [INF, 0.0],
    "ragged": [[1], [1, 2]],
    "empty": [],
    "none": None,
    "nones": [None, 1],
    "text": "ab",
    "texts and numbers": ["1", 2],
    "bfloat16": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
    "gradient": torch.tensor([1.0, 2.0], requires_grad=True),
    "gradients": [torch.tensor(1.0, requires_grad=True), torch.tensor(2.0)],
    "meta": torch.zeros(2, device="meta"),
    "sparse": torch.tensor([1.0, 2.0]).to_sparse(),
    "objects": np.array([1, None], dtype=object),
    "complex": [1j, 2],
    "masked": np.ma.array([1.0, 2.0], mask=[False, True]),
    "dates": np.array(["2001-01-01", "2002-01-01"], dtype="M8[D]"),
    "mapping": {"a": 1},
    "set": {1, 2},
    "scalar": 3,
}
OF_NUMBERS = {
    "auc, scores": lambda x: auc(x, [0, 1]),
    "auc, labels": lambda x: auc([0.1, 0.2], x),
    "best_threshold": lambda x: best_threshold(x, [0, 1]),
    "accuracy": lambda x: accuracy(x, [0, 1]),
    "accuracy, labels": lambda x: accuracy([0, 1], x),
    "ranks_of": ranks_of,
    "answer_rank": lambda x: answer_rank(x, 0),
    "answer_rank, answer": lambda x: answer_rank([1.0, 2.0], x) if not isinstance(x, int) else answer_rank(x, 0),
    "sparse_scores": sparse_scores,
    "sparse_scores, ks": lambda x: sparse_scores([1], x),
    "ndcg": lambda x: ndcg(x, [0, 1]),
    "ndcg, relevance": lambda x: ndcg([0.1, 0.2], x),
    "right_ranks": lambda x: right_ranks(x if np.ma.isMaskedArray(x) else [x, x], np.eye(2, dtype=bool)),
    "right_ranks, right": lambda x: right_ranks(np.eye(2), x),
    "recall": lambda x: recall(x, [0, 1]),
    "recall, ks": lambda x: recall([0], [0], x),
    "median_rank": median_rank,
    "recall_at_k": lambda x: recall_at_k(x, [0, 1]),
    "recall_at_k, owner": lambda x: recall_at_k(np.eye(2), x),
    "recall_at_k, texts": lambda x: recall_at_k(np.eye(2), [0, 1], text_scores=[] if x is None else x),
}
NO_TEXTS = {
    key: value for key, value in NO_NUMBERS.items() if key not in ("text", "empty", "texts and numbers", "mapping")
}
OF_TEXTS = {
    "normalize_answer": normalize_answer,
    "normalize_punctuation": normalize_punctuation,
    "vqa_accuracy": lambda x: vqa_accuracy(x, ["a"]),
    "vqa_accuracy, answers": lambda x: vqa_accuracy("a", x),
    "exact_match": lambda x: exact_match("a", x),
    "caption_scores": lambda x: caption_scores(x, [["a"], ["b"]]),
    "caption_scores, references": lambda x: caption_scores(["a", "b"], x),
    "bleu": lambda x: bleu(["a"], [x]),
    "cider_d": lambda x: cider_d(x, [["a"], ["b"]]),
    "ptb_tokenize": ptb_tokenize,
    "ptb_tokens": ptb_tokens,
    "java": lambda x: java_caption_scores(["a"], [["a"]], x),
    "question_kind": question_kind,
    "count_answers": count_answers,
    "prior, question": lambda x: prior_reciprocal_rank({}, x, ["a"], 0),
    "prior, candidates": lambda x: prior_reciprocal_rank({}, "what is", x, 0),
    "prior, counts": lambda x: prior_reciprocal_rank(x, "what is", ["a"], 0),
}


@pytest.mark.parametrize("call", OF_NUMBERS)
@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_no_numbers(kind, call):
    with pytest.raises(DataError):
        OF_NUMBERS[call](NO_NUMBERS[kind])


@pytest.mark.parametrize("call", OF_TEXTS)
@pytest.mark.parametrize("kind", NO_TEXTS)
def test_no_texts(kind, call):
    with pytest.raises(DataError):
        OF_TEXTS[call](NO_TEXTS[kind])


@pytest.mark.parametrize("ks", [(1.5,), (True,), (NAN,), "15", b"ab", {1, 5}, (0,), (1, "5")])
def test_cut_offs(ks):
    for call in (lambda: recall([0], [0], ks), lambda: sparse_scores([1], ks), lambda: recall_at_k([[1.0]], [0], ks)):
        with pytest.raises(DataError, match="ks must be numbers from 1"):
            call()
    assert recall([0], [0], np.array([1, 5])) == recall([0], [0], (1, 5))


@pytest.mark.parametrize("value", [0, -1, NAN, INF, None, "1", [1.0], True])
def test_weights_of_caption_scores(value):
    with pytest.raises(DataError, match=r"beta must be a finite number above 0"):
        rouge_l(["a"], [["a"]], value)
    with pytest.raises(DataError, match=r"sigma must be a finite number above 0"):
        cider_d(["a"], [["a"]], value)
    with pytest.raises(DataError, match=r"timeout must be a finite number above 0"):
        java_caption_scores(["a"], [["a"]], (), value)


@pytest.mark.parametrize("rank", [1.7e308, 10**30, np.uint64(2**64 - 1)])
def test_ranks_that_no_integer_holds_are_not_wrapped(rank):
    for call in (lambda: sparse_scores([rank, 1]), lambda: median_rank([rank, 1]), lambda: recall([0], [rank, 1])):
        with pytest.raises(DataError):
            call()


def test_a_single_text_is_no_list_of_captions_or_names():
    for call in (lambda: ptb_tokenize("a dog"), lambda: java_caption_scores(["a"], [["a"]], "meteor")):
        with pytest.raises(DataError, match="must be a list of texts"):
            call()
    assert ptb_tokenize(text for text in ("a dog", "")) == ["a dog", ""]


def test_half_precision_and_whole_floats_count():
    assert auc(torch.tensor([1.0, 2.0]).half(), [0, 1]) == 1.0
    assert sparse_scores(torch.tensor([1.0, 2.0]))["mrr"] == 0.75
