"""BLEU, ROUGE-L, CIDEr-D and the tokens below them against pycocoevalcap (case ``caption_metrics``)."""

from __future__ import annotations

import importlib.util
import shutil

import numpy as np
import pytest

from tests.parity.golden import Case
from vlkit.metrics.caption import bleu, caption_scores, cider_d, java_caption_scores, rouge_l
from vlkit.metrics.ptb import ptb_tokenize

TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("caption_metrics")


def _images(case: Case) -> tuple[list[dict], list[str], list[list[str]]]:
    images = case.info["images"]
    return images, [image["candidate_tokens"] for image in images], [image["reference_tokens"] for image in images]


def test_tokens(case: Case):
    images, candidates, references = _images(case)
    assert ptb_tokenize(image["candidate"] for image in images) == candidates
    assert [ptb_tokenize(image["references"]) for image in images] == references


def test_every_image(case: Case):
    images, candidates, references = _images(case)
    for name, (_, values) in {
        "bleu": bleu(candidates, references),
        "rouge_l": rouge_l(candidates, references),
        "cider": cider_d(candidates, references),
    }.items():
        np.testing.assert_allclose(values, [image[name] for image in images], rtol=0, atol=TOLERANCE, err_msg=name)


def test_corpus(case: Case):
    images, _, _ = _images(case)
    scores = caption_scores([image["candidate"] for image in images], [image["references"] for image in images])
    expected = {name.lower(): value for name, value in case.info["corpus"].items() if name != "METEOR"}
    assert scores == pytest.approx(expected, rel=0, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("java") and importlib.util.find_spec("pycocoevalcap")), reason="needs java and pycocoevalcap"
)
def test_meteor(case: Case):
    images, _, _ = _images(case)
    texts, references = [image["candidate"] for image in images], [image["references"] for image in images]
    scores, skipped = java_caption_scores(texts, references, names=["meteor"])
    assert not skipped
    assert scores["meteor"] == pytest.approx(case.info["corpus"]["METEOR"], rel=0, abs=1e-6)
