"""Evaluation of retrieval against the original: similarity, re-ranking in both directions, recalls."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import numpy as np
import pytest
import torch

from tests.parity.golden import Case, fill_module, filled_state
from tests.parity.test_med import med_config
from tests.parity.test_pretrain import vit_config
from vlkit.datasets.base import collate
from vlkit.metrics.retrieval import recall_at_k
from vlkit.models.blip.retrieval import BlipRetrieval
from vlkit.tasks.base import EvalContext
from vlkit.tasks.retrieval import Retrieval, read_pool

NAMES = {"txt_r": "tr@", "img_r": "ir@", "vid_r": "ir@"}


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("retrieval_eval")


def build(case: Case) -> BlipRetrieval:
    config, shapes = case.info["config"], case.info["model"]["state_dict"]
    size = next(shape for name, shape in shapes.items() if name.endswith("image_queue"))[1]
    model = BlipRetrieval(
        vit_config(config["vit"]),
        med_config(config["med"]),
        embed_dim=config["embed_dim"],
        queue_size=size,
        max_words=case["input_ids"].shape[1],
    ).eval()
    report = model.load_state_dict(filled_state(case.info["model"]), strict=False)
    assert not report.unexpected_keys
    assert set(report.missing_keys) <= set(case.info["model"]["integer_buffers"])
    return model


def context() -> EvalContext:
    return EvalContext(torch.device("cpu"), contextlib.nullcontext)


def batches(key: str, visual: torch.Tensor, texts: list[str], of_image: list[list[int]], size: int = 5) -> list[Any]:
    samples = [
        {key: visual[i], "references": [texts[t] for t in own], "image_id": f"image {i}", "index": i}
        for i, own in enumerate(of_image)
    ]
    return [collate(samples[start : start + size]) for start in range(0, len(samples), size)]


def score_arrays(case: Case, to_texts: str, to_images: str) -> list[tuple[int, str, str]]:
    """(k, name, name) of the two arrays of each evaluation; what the name does not say the description does."""
    found = []
    for name in case.arrays:
        match = re.fullmatch(rf"{to_texts}(?:_k(\d+))?", name)
        if match:
            k = int(match[1]) if match[1] else int(case.said(name, "k_test")["k_test"])
            found.append((k, name, name.replace(to_texts, to_images)))
    assert found
    return found


def check_metrics(expected: dict[str, float], scores: dict[str, float], comparable: int) -> None:
    """Recalls up to ``comparable``: beyond it the original's depend on how equal scores are sorted."""
    compared = 0
    for name, value in expected.items():
        known = re.fullmatch(r"(txt_r|img_r|vid_r)(\d+)", name)
        if known and int(known[2]) <= comparable:
            assert 100 * scores[NAMES[known[1]] + known[2]] == pytest.approx(value), name
            compared += 1
        elif comparable >= 10 and name in ("txt_r_mean", "img_r_mean", "vid_r_mean", "r_mean"):
            ours = {"txt_r_mean": "tr_mean", "r_mean": "recall_mean"}.get(name, "ir_mean")
            assert 100 * scores[ours] == pytest.approx(value), name
            compared += 1
    assert compared >= 2


def planted(case: Case) -> list[np.ndarray]:
    """The two matrices that ``planted`` describes, without what stands at matching pairs, and that."""
    pattern = r"noise\(seed, '([^']+)', \((\d+), (\d+)\), (\w+)\) \+ ([\d.]+)"
    found = []
    for name, rows, columns, dtype, height in re.findall(pattern, case.info["planted"]):
        noise = fill_module.noise(case.info["model"]["seed"], name, (int(rows), int(columns)), getattr(np, dtype))
        found.append((noise, float(height)))
    assert len(found) == 2
    return found


def test_tokens(case):
    ids, mask = build(case).tokenize(case.info["texts"]).padded()
    width = ids.shape[1]
    assert torch.equal(ids, case["input_ids"][:, :width])
    assert torch.equal(mask, case["attention_mask"][:, :width])
    assert not case["attention_mask"][:, width:].any()


def test_features_and_similarity(case):
    loader = batches("image", case.input("input.retrieval_eval.image"), case.info["texts"], case.info["img2txt"])
    order = np.concatenate(case.info["img2txt"])
    with torch.inference_mode():
        pool = read_pool(build(case), loader, context())
    assert pool.texts == [case.info["texts"][t] for t in order]
    assert pool.image_of_text.tolist() == [case.info["txt2img"][t] for t in order]
    case.expect("image_embeds", pool.image_feats)
    case.expect_close("text_embeds", pool.text_feats, case["text_embeds"][order])
    case.expect_close("sims", pool.image_feats @ pool.text_feats.T, case["sims"][:, order])


def test_reranked_scores_and_recalls(case):
    model = build(case)
    loader = batches("image", case.input("input.retrieval_eval.image"), case.info["texts"], case.info["img2txt"])
    order = np.concatenate(case.info["img2txt"])
    for k, to_texts, to_images in score_arrays(case, "score_i2t", "score_t2i"):
        score_i2t, score_t2i = Retrieval(rerank_top_k=k, max_words=None).sim_matrix(model, loader)
        case.expect_close(to_texts, torch.from_numpy(score_i2t), case[to_texts][:, order])
        case.expect_close(to_images, torch.from_numpy(score_t2i), case[to_images][order])
        with torch.inference_mode():
            scores = Retrieval(rerank_top_k=k, max_words=None).evaluate(model, loader, context())
        everything = k >= max(case[to_texts].shape)
        expected = case.info.get(f"metrics_k{k}")
        if expected is not None:
            check_metrics(expected, scores, 10 if everything else k)


def test_metrics_of_planted_scores(case):
    owner = np.array(case.info["txt2img"])
    matching = np.arange(len(case.info["img2txt"]))[:, None] == owner
    (score_i2t, to_text), (score_t2i, to_image) = planted(case)
    scores = recall_at_k(score_i2t + to_text * matching, owner, text_scores=score_t2i + to_image * matching.T)
    check_metrics(case.info["metrics_planted"], scores, 10)
