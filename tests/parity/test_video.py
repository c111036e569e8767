"""Zero-shot retrieval of videos against the original: frame features, concatenated tokens, re-ranking, recalls."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from tests.parity.golden import Case
from tests.parity.test_retrieval_eval import batches, build, check_metrics, context, planted, score_arrays
from vlkit.metrics.retrieval import median_rank, recall_at_k, right_ranks
from vlkit.tasks.retrieval import Retrieval, read_pool


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("video")


@pytest.fixture(scope="module")
def model(case):
    return build(case)


@pytest.fixture(scope="module")
def loader(case):
    frames = case.input("input.video.frames")
    return batches("video", frames, case.info["texts"], [[i] for i in range(len(frames))], size=4)


def test_tokens_and_similarity(case, model, loader):
    with torch.inference_mode():
        pool = read_pool(model, loader, context())
        embeds = torch.cat([model.image_embeds(batch) for batch in loader])
    assert list(embeds.shape) == case.info["video_tokens"]
    step = int(re.search(r"every (\d+)", case.info["arrays"]["video_feats_row0"]["what"])[1])
    case.expect("video_feats_row0", embeds[0, ::step])
    case.expect("video_embeds", pool.image_feats)
    case.expect("sims", pool.image_feats @ pool.text_feats.T)


def test_reranked_scores_and_recalls(case, model, loader):
    for k, to_texts, to_videos in score_arrays(case, "score_v2t", "score_t2v"):
        score_v2t, score_t2v = Retrieval(rerank_top_k=k, max_words=None).sim_matrix(model, loader)
        case.expect(to_texts, torch.from_numpy(score_v2t))
        case.expect(to_videos, torch.from_numpy(score_t2v))
        expected = case.info.get(f"metrics_k{k}")
        if expected is not None:
            with torch.inference_mode():
                scores = Retrieval(rerank_top_k=k, max_words=None).evaluate(model, loader, context())
            everything = k >= len(case[to_texts])
            check_metrics(expected, scores, 10 if everything else k)
            if everything:
                assert scores["ir_median_rank"] == expected["vid_mdR"]


def test_metrics_of_planted_scores(case):
    (score_v2t, to_text), (score_t2v, to_video) = planted(case)
    matching = np.eye(len(score_v2t), dtype=bool)
    score_v2t, score_t2v = score_v2t + to_text * matching, score_t2v + to_video * matching
    scores = recall_at_k(score_v2t, np.arange(len(matching)), text_scores=score_t2v)
    check_metrics(case.info["metrics_planted"], scores, 10)
    assert median_rank(right_ranks(score_t2v, matching)) == case.info["metrics_planted"]["vid_mdR"]
