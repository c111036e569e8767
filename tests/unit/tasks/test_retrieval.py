from __future__ import annotations

import contextlib
import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.unit.models import small
from tests.unit.tasks.shares import batches, context, evaluate_in_shares, parts
from vlkit.errors import ConfigError, DataError
from vlkit.io.tensor_files import TensorSpool
from vlkit.models.blip.retrieval import BlipRetrieval
from vlkit.tasks.base import EvalContext, Progress
from vlkit.tasks.reranking import UNSEEN
from vlkit.tasks.retrieval import Retrieval

REFERENCES = [
    ["A red circle.", "a circle"],
    ["a blue square above a star", "a square", "a blue square (and a star)"],
    ["two shapes"],
    ["a big yellow triangle", "a triangle"],
    ["a star"],
    ["two shapes", "a blue star"],
    ["a small green circle"],
]
SHAPES = {"image": (3, 16, 16), "video": (2, 3, 16, 16)}
COUNTS = [len(own) for own in REFERENCES]


@pytest.fixture(scope="module")
def model() -> BlipRetrieval:
    torch.manual_seed(0)
    return BlipRetrieval(small.vit(), small.med(initializer_range=0.3), "shapes", embed_dim=12, queue_size=8).eval()


def visual(key: str, *shape: int) -> list[dict]:
    images = torch.randn(7, *shape, generator=torch.Generator().manual_seed(0)) * 2
    return [
        {key: images[i], "references": REFERENCES[i], "index": 10 * i, "image_id": f"i{i}", "sample_id": f"s{i}"}
        for i in range(7)
    ]


@pytest.fixture(scope="module")
def samples() -> list[dict]:
    return visual("image", *SHAPES["image"])


def test_tokens_are_kept_in_the_type_of_autocast(model, samples):
    """In memory and on disk, with the same scores."""
    kinds, found = set(), []
    add = TensorSpool.add

    def watched(tokens, index, embeds):
        kinds.add(embeds.dtype)
        add(tokens, index, embeds)

    lent = EvalContext(torch.device("cpu"), partial(torch.autocast, "cpu", torch.bfloat16))
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(TensorSpool, "add", watched)
        for gib in (4, 0):
            _, each = Retrieval(rerank_top_k=4, image_tokens_gib=gib).rank(model, batches(samples, 3), lent)
            found.append(each.to_texts.matrix())
    assert kinds == {torch.bfloat16}
    assert np.array_equal(found[0], found[1])


@torch.inference_mode()
def evaluate(model, samples, size=3, lent=None, **settings) -> dict[str, float]:
    return Retrieval(**settings).evaluate(model, batches(samples, size), lent or context())


@torch.inference_mode()
def alone(model, samples) -> tuple[np.ndarray, np.ndarray]:
    """Similarities and matching logits [I, T], one image, one text, one pair at a time."""
    clean = {"A red circle.": "a red circle", "a blue square (and a star)": "a blue square and a star"}
    texts = [clean.get(text, text) for sample in samples for text in sample["references"]]
    embeds = [model.image_embeds({name: s[name][None] for name in ("image", "video") if name in s}) for s in samples]
    frames = [len(s["video"]) if "video" in s else 1 for s in samples]
    image_feats = torch.cat([model.image_feats(e, f) for e, f in zip(embeds, frames)])
    text_feats = torch.cat([model.text_feats(model.tokenize([text])) for text in texts])
    similarity = (image_feats @ text_feats.T).numpy()
    logits = np.zeros_like(similarity)
    for i, t in np.ndindex(logits.shape):
        logits[i, t] = model.match(model.tokenize([texts[t]]), model.text_encoder.project_images(embeds[i]))[0, 1]
    return similarity, logits


@pytest.fixture(scope="module")
def known(model) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {key: alone(model, visual(key, *shape)) for key, shape in SHAPES.items()}


def by_hand(similarity, logits, k) -> list[np.ndarray]:
    """The original's two score matrices."""
    both = []
    for sims, pairs in ((similarity, logits), (similarity.T, logits.T)):
        scores = np.full_like(sims, UNSEEN)
        for row, near in enumerate(np.argsort(-sims, axis=1, kind="stable")[:, :k]):
            scores[row, near] = sims[row, near] + pairs[row, near]
        both.append(scores)
    return both


def recalls(score_i2t, score_t2i) -> dict[str, float]:
    """Ranks by counting, unseen right answers last."""
    owner = np.repeat(np.arange(len(COUNTS)), COUNTS)
    found = {}
    for side, scores, right in (
        ("tr", score_i2t, owner == np.arange(len(COUNTS))[:, None]),
        ("ir", score_t2i, owner[:, None] == np.arange(len(COUNTS))),
    ):
        ranks = np.array([(row[~own] >= row[own].max()).sum() for row, own in zip(scores, right)])
        found |= {f"{side}@{k}": np.mean(ranks < k) for k in (1, 5, 10)}
        found[f"{side}_mean"] = np.mean([found[f"{side}@{k}"] for k in (1, 5, 10)])
        found[f"{side}_median_rank"] = np.median(ranks) + 1
    found["recall_mean"] = (found["tr_mean"] + found["ir_mean"]) / 2
    return found


@pytest.mark.parametrize("k", [2, 5, 100])
@pytest.mark.parametrize("size", [7, 3])
@pytest.mark.parametrize("key", SHAPES)
def test_scores_by_hand_whatever_the_batch_size(model, known, key, size, k):
    similarity, logits = known[key]
    expected = recalls(*by_hand(similarity, logits, k))
    expected |= {f"itc_{name}": value for name, value in recalls(similarity, similarity.T).items()}
    assert evaluate(model, visual(key, *SHAPES[key]), size, rerank_top_k=k) == pytest.approx(expected)


def test_each_video_and_each_different_text_is_encoded_once(model, monkeypatch):
    samples, texts, videos = visual("video", *SHAPES["video"]), [], []
    encode, embed = model.text_feats, model.image_embeds
    monkeypatch.setattr(model, "text_feats", lambda batch: texts.append(len(batch)) or encode(batch))
    monkeypatch.setattr(model, "image_embeds", lambda batch: videos.append(len(batch["video"])) or embed(batch))
    evaluate(model, samples, rerank_top_k=3)
    assert sum(videos) == 7
    assert sum(texts) == sum(COUNTS) - 1  # "two shapes" stands twice


@pytest.mark.parametrize("gib", [4, 0])
def test_image_tokens_in_memory_or_on_disk(model, samples, gib, tmp_path):
    lent = context(folder=tmp_path)
    expected = evaluate(model, samples, rerank_top_k=3)
    assert evaluate(model, samples, lent=lent, rerank_top_k=3, image_tokens_gib=gib) == expected
    assert [file.name for file in tmp_path.iterdir()] == ["retrieval_val.json"]


def test_without_reranking_scores_are_those_of_similarity(model, samples):
    scores = evaluate(model, samples, rerank_top_k=0)
    assert {f"itc_{name}": value for name, value in scores.items() if not name.startswith("itc_")} == {
        name: value for name, value in scores.items() if name.startswith("itc_")
    }


@pytest.mark.parametrize(("count", "size"), [(2, 7), (3, 2), (9, 1)])
def test_several_processes_give_the_scores_of_one(model, samples, count, size):
    """Nine processes for seven images: some have none."""
    task = Retrieval(rerank_top_k=3)
    shares = [batches(part, size) for part in parts(samples, count)]
    expected = evaluate(model, samples, rerank_top_k=3)
    for scores in evaluate_in_shares(lambda rank, lent: task.evaluate(model, shares[rank], lent), count):
        assert scores == pytest.approx(expected)


def test_result_file(model, samples, tmp_path):
    scores = evaluate(model, samples, lent=context(folder=tmp_path), rerank_top_k=4)
    result = json.loads((tmp_path / "retrieval_val.json").read_text())
    assert [row["image_id"] for row in result["images"]] == [f"i{i}" for i in range(7)]
    assert len(result["texts"]) == sum(COUNTS)
    assert np.mean([row["rank"] <= 5 for row in result["images"]]) == pytest.approx(scores["tr@5"])
    assert np.median([row["rank"] for row in result["texts"]]) == scores["ir_median_rank"]
    best = result["texts"][0]["images"]
    assert len(best) == 4
    assert [score for _, score in best] == sorted((score for _, score in best), reverse=True)


def test_one_text_where_samples_have_no_references(model, samples):
    plain = [
        {**{k: v for k, v in sample.items() if k != "references"}, "text_input": sample["references"][0]}
        for sample in samples
    ]
    single = [{**sample, "references": sample["references"][:1]} for sample in samples]
    assert evaluate(model, plain) == evaluate(model, single)


def test_sets_that_cannot_be_evaluated(model, samples):
    with pytest.raises(DataError, match="'val': none of its samples"):
        evaluate(model, [])
    with pytest.raises(DataError, match="1 samples have no text to be found by, the first is number 20"):
        evaluate(model, [{**s, "references": [] if s["index"] == 20 else s["references"]} for s in samples])


def test_wrong_arguments():
    with pytest.raises(ConfigError, match="rerank_top_k"):
        Retrieval(rerank_top_k=-1)


def test_training_step(model, samples):
    task = Retrieval(alpha=0.4, alpha_ramp_epochs=1.0)
    batch = {**batches(samples, 4)[0], "text_input": [own[0] for own in REFERENCES[:4]]}
    inputs = task.prepare(model, batch, torch.device("cpu"))
    assert inputs["image_id"] == ["i0", "i1", "i2", "i3"]
    calls = []

    def watched(inputs, alpha, update):
        calls.append((alpha, update))
        return model(inputs, alpha=alpha, update=update)

    for step, micro in ((0, 0), (5, 1), (40, 0)):
        out = task.train_step(watched, inputs, Progress(step, 100, 10.0, 4 * step, micro))
        assert set(out.losses) == {"loss_itc", "loss_itm"}
        assert 0 <= float(out.metrics["itm_accuracy"]) <= 1
        assert out.metrics["queue_age"] == 2
    assert calls == [(0.0, True), (pytest.approx(0.2), False), (0.4, True)]


@pytest.mark.parametrize(("rows", "accuracy"), [(6, 4 / 6), (2, 1 / 2)])
def test_accuracy_of_a_training_step(rows, accuracy):
    """Pairs: right, wrong; negatives: right, wrong, right, right. A batch of one image has no negatives."""
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])[:rows]
    one = torch.tensor(1.0)
    output = SimpleNamespace(itm_logits=logits, loss_itc=one, loss_itm=one, temperature=one, queue_age=1.0)
    out = Retrieval().train_step(lambda *_, **__: output, {"texts": ["a", "b"]}, Progress(0, 1, 1.0, 0))
    assert float(out.metrics["itm_accuracy"]) == pytest.approx(accuracy)


def test_descriptions_are_the_best_texts_of_the_batch(model, samples, known):
    some = [{key: value for key, value in sample.items() if key != "index"} for sample in samples[:4]]
    with torch.inference_mode():
        texts = Retrieval(rerank_top_k=100).describe(model, batches(some, 4)[0], context())
    similarity, logits = (matrix[:4, : sum(COUNTS[:4])] for matrix in known["image"])
    flat = [text for own in REFERENCES[:4] for text in own]
    flat[0], flat[4] = "a red circle", "a blue square and a star"
    assert texts == [flat[best] for best in (similarity + logits).argmax(1)]


def test_lavis_matrices(model, samples, known):
    """Batches without texts or ids, and a dataset that lists the texts in any order."""
    # Columns of the set whose texts need no preprocessing.
    columns = [7, 1, 5, 3, 5]
    flat = [text for own in REFERENCES for text in own]

    class Loader:
        dataset = SimpleNamespace(text=[flat[column] for column in columns])

        def __iter__(self):
            return iter([{"image": batch["image"]} for batch in batches(samples, 3)])

    similarity, logits = (matrix[:, columns] for matrix in known["image"])
    for k in (2, 100):
        score_i2t, score_t2i = Retrieval(rerank_top_k=k, max_words=None).sim_matrix(model, Loader())
        call = model.compute_sim_matrix(Loader(), SimpleNamespace(k_test=k))
        assert np.array_equal(call[0], score_i2t)
        assert np.array_equal(call[1], score_t2i)
        expected_i2t, expected_t2i = by_hand(similarity, logits, k)
        np.testing.assert_allclose(score_i2t, expected_i2t, atol=1e-5)
        np.testing.assert_allclose(score_t2i, expected_t2i, atol=1e-5)
    ours, _ = Retrieval(rerank_top_k=100, max_words=None).sim_matrix(model, batches(samples, 3))
    np.testing.assert_allclose(ours[:, columns], expected_i2t, atol=1e-5)


def test_evaluation_runs_in_the_runs_precision(model, samples):
    entered = []

    @contextlib.contextmanager
    def autocast():
        with torch.autocast("cpu", torch.bfloat16):
            entered.append(True)
            yield

    lent = context()
    lent.autocast = autocast
    scores = evaluate(model, samples, lent=lent, rerank_top_k=2)
    assert len(entered) >= 5
    assert 0 <= scores["recall_mean"] <= 1
