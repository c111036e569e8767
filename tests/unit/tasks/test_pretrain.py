from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from tests.unit.models import small
from tests.unit.tasks.shares import batches, context, evaluate_in_shares, parts
from vlkit.errors import DataError
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.models.generation import GenerationConfig
from vlkit.tasks.base import Progress
from vlkit.tasks.pretrain import Pretrain

TEXTS = ["a red circle", "a blue square above a star", "two shapes", "a big yellow triangle", "a star", "blue", "a red"]
SWAPPED = ["a blue circle", "a red square above a star", "a shape", "a small yellow triangle", "a circle", "red", "a"]


@pytest.fixture(scope="module")
def model() -> BlipPretrain:
    torch.manual_seed(0)
    return BlipPretrain(small.vit(), small.med(initializer_range=0.3), "shapes", embed_dim=12, queue_size=8).eval()


@pytest.fixture(scope="module")
def samples() -> list[dict]:
    images = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2
    found = [
        {"image": images[i], "text_input": TEXTS[i], "index": 10 * i, "negatives": {"swapped": SWAPPED[i]}}
        for i in range(7)
    ]
    for i in (1, 2, 5):  # a kind of false text that not every sample has
        found[i]["negatives"]["vague"] = "things"
    return found


@torch.inference_mode()
def evaluate(model, samples, size=7, **settings) -> dict[str, float]:
    return Pretrain(**settings).evaluate(model, batches(samples, size), context())


@torch.inference_mode()
def by_hand(model, samples, k) -> dict[str, float]:
    """One pair after the other, and the definitions of the scores."""
    n = len(samples)
    embeds = [model.image_embeds({"image": s["image"][None]}) for s in samples]

    def logits(image, text):
        states = model.text_encoder.project_images(embeds[image])
        return model.match(model.tokenize([text]), states)[0]

    def matching(image, text):
        return float(logits(image, text).softmax(-1)[1])

    def logit(image, text):
        return float(logits(image, texts[text])[1])

    texts = [s["text_input"] for s in samples]
    true = [matching(i, texts[i]) for i in range(n)]
    random = [matching(i, texts[(i + 1) % n]) for i in range(n)]
    false = {
        name: [(true[i], matching(i, s["negatives"][name])) for i, s in enumerate(samples) if name in s["negatives"]]
        for name in ("swapped", "vague")
    }
    similarity = np.array(
        [[float(model.image_feats(e)[0] @ model.text_feats(model.tokenize([t]))[0]) for t in texts] for e in embeds]
    )
    scores = {
        "itm_accuracy": np.mean([p > 0.5 for p in true] + [p <= 0.5 for p in random]),
        "itm_auc": np.mean([[p > q for q in random] for p in true]),
        "temperature": float(model.temp),
        "loss_lm": language(model, embeds, texts),
    }
    for name, pairs in false.items():
        scores[f"itm_auc_{name}"] = np.mean([[p > q for _, q in pairs] for p, _ in pairs])
        scores[f"itm_accuracy_{name}"] = np.mean([[p > 0.5, q <= 0.5] for p, q in pairs])
    itm = [reranked(similarity, logit, k), reranked(similarity.T, lambda text, image: logit(image, text), k)]
    for name, matrices in (("itc", [similarity, similarity.T]), ("itm", itm)):
        for side, ranked in zip(("tr", "ir"), matrices):
            rank = np.array([(np.delete(row, i) >= row[i]).sum() for i, row in enumerate(ranked)])
            scores |= {f"{name}_{side}@{at}": np.mean(rank < at) for at in (1, 5, 10)}
    return scores


def reranked(similarity, logit, k) -> np.ndarray:
    """Similarity plus matching logit for the ``k`` most similar candidates of each query."""
    scores = np.full_like(similarity, -np.inf)
    for i, j in np.ndindex(similarity.shape):
        if (similarity[i] > similarity[i, j]).sum() < k:
            scores[i, j] = logit(i, j) + similarity[i, j]
    return scores


def language(model, embeds, texts) -> float:
    """Mean over all predicted tokens of the set."""
    total, count = 0.0, 0
    for image, text in zip(embeds, texts):
        batch = model.tokenize([text]).with_first(model.tokenizer.dec_id)
        hidden = model.text_decoder(batch, model.text_decoder.bert.project_images(image))
        log_probs = model.text_decoder.logits(hidden[:-1]).log_softmax(-1)
        chosen = log_probs.gather(1, batch.ids[1:, None]).squeeze(1)
        total -= float((0.9 * chosen + 0.1 * log_probs.mean(1)).sum())
        count += len(chosen)
    return total / count


@pytest.mark.parametrize("size", [7, 3, 2])
def test_scores_by_hand_whatever_the_batch_size(model, samples, size):
    expected = by_hand(model, samples, k=2)
    got = evaluate(model, samples, size, rerank_top_k=2)
    assert expected.keys() <= got.keys()
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=1e-5), name


@pytest.mark.parametrize(("count", "size"), [(2, 7), (2, 2), (3, 2), (7, 1)])
def test_several_processes_give_the_scores_of_one(model, samples, count, size):
    task = Pretrain(rerank_top_k=2)
    shares = [batches(part, size) for part in parts(samples, count)]
    expected = evaluate(model, samples, rerank_top_k=2)
    for scores in evaluate_in_shares(lambda rank, lent: task.evaluate(model, shares[rank], lent), count):
        assert scores == pytest.approx(expected, abs=1e-5)


def test_a_process_without_samples(model, samples):
    """More processes than samples, or all samples of a share unusable."""
    task, shares = Pretrain(rerank_top_k=2), [batches(samples, 4), []]
    for scores in evaluate_in_shares(lambda rank, lent: task.evaluate(model, shares[rank], lent), 2):
        assert scores == pytest.approx(evaluate(model, samples, rerank_top_k=2), abs=1e-5)


def test_what_is_reported_depends_on_the_samples(model, samples):
    plain = [{k: v for k, v in sample.items() if k != "negatives"} for sample in samples]
    scores = evaluate(model, plain)
    assert "itm_auc_swapped" not in scores
    assert not any(name.startswith("itm_tr") for name in scores)
    alone = evaluate(model, plain[:1])
    assert "itm_auc" not in alone  # there is no other pair
    assert alone["itc_tr@1"] == 1.0


def test_a_set_without_a_usable_sample(model):
    with pytest.raises(DataError, match="'val': none of its samples"):
        Pretrain().evaluate(model, [], context())


def test_training_step(model, samples):
    task = Pretrain(alpha=0.4, alpha_ramp_epochs=2.0)
    batch = batches(samples, 4)[0]
    inputs = task.prepare(model, batch, torch.device("cpu"))
    assert batch["text_input"] == TEXTS[:4]
    assert "texts" not in batch
    assert task.counts(inputs) == {"loss_lm": float(sum(len(ids) - 1 for ids in model.tokenizer.encode(TEXTS[:4])))}
    calls = []

    def watched(inputs, alpha, update):
        calls.append((alpha, update))
        return model(inputs, alpha=alpha, update=update)

    for step, micro in ((0, 0), (5, 1), (40, 0)):
        out = task.train_step(watched, inputs, Progress(step, 100, 10.0, 4 * step, micro))
        assert set(out.losses) == {"loss_itc", "loss_itm", "loss_lm"}
        assert 0 <= float(out.metrics["itm_accuracy"]) <= 1
        assert out.metrics["queue_age"] == 2
    assert calls == [(0.0, True), (pytest.approx(0.1), False), (0.4, True)]


def test_accuracy_of_a_training_step():
    class Output:
        itm_logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
        loss_itc = loss_itm = loss_lm = temperature = torch.tensor(1.0)
        queue_age = 1.0

    # Pairs: right, wrong; negatives: right, wrong, right, right.
    out = Pretrain().train_step(lambda *args, **kwargs: Output(), {}, Progress(0, 1, 1.0, 0))
    assert float(out.metrics["itm_accuracy"]) == pytest.approx(4 / 6)


def test_descriptions_are_captions(model, samples):
    config = GenerationConfig(max_length=8, min_length=3)
    batch = batches(samples, 3)[0]
    with torch.inference_mode():
        texts = Pretrain(generation=config).describe(model, batch, context())
        assert texts == [group[0] for group in model.caption({"image": batch["image"]}, config).texts]


def test_evaluation_runs_in_the_runs_precision(model, samples):
    entered = []

    @contextlib.contextmanager
    def autocast():
        with torch.autocast("cpu", torch.bfloat16):
            entered.append(True)
            yield

    lent = context()
    lent.autocast = autocast
    with torch.inference_mode():
        scores = Pretrain(rerank_top_k=2).evaluate(model, batches(samples, 4), lent)
    assert len(entered) >= 4
    assert scores["loss_lm"] == pytest.approx(evaluate(model, samples)["loss_lm"], abs=0.05)
