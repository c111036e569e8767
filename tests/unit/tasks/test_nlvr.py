from __future__ import annotations

import json

import pytest
import torch

from tests.unit.models import small
from tests.unit.tasks.shares import batches, context, evaluate_in_shares, parts
from vlkit.errors import DataError
from vlkit.models.blip.nlvr import BlipNlvr
from vlkit.tasks.base import Progress
from vlkit.tasks.nlvr import Nlvr

TEXTS = ["both images contain a red circle", "a star", "two shapes", "neither", "exactly one circle", "blue", "a"]
LABELS = [1, 0, 0, 1, 1, 0, 1]
KINDS = ["both", "each", "total", "both", "each", "total", "both"]


@pytest.fixture(scope="module")
def model() -> BlipNlvr:
    torch.manual_seed(1)
    return BlipNlvr(small.vit(), small.med(initializer_range=0.3), "shapes", merge_from=1).eval()


@pytest.fixture(scope="module")
def samples() -> list[dict]:
    images = torch.randn(7, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 3
    return [
        {"images": images[i], "text_input": TEXTS[i], "label": LABELS[i], "kind": KINDS[i], "index": 10 * i}
        | {"sample_id": f"pair {i}"}
        for i in range(7)
    ]


def by_hand(model, samples) -> tuple[dict[str, float], list[list[float]]]:
    """One pair after the other."""
    log_probs = []
    for sample in samples:
        logits = model.predict({"images": sample["images"][None], "text_input": [sample["text_input"]]})["predictions"]
        log_probs.append(logits[0].log_softmax(-1).tolist())
    right = [(pair[1] > pair[0]) == bool(label) for pair, label in zip(log_probs, LABELS)]
    scores = {
        "accuracy": sum(right) / 7,
        "loss_nlvr": -sum(pair[label] for pair, label in zip(log_probs, LABELS)) / 7,
    }
    for kind in set(KINDS):
        of_kind = [hit for hit, other in zip(right, KINDS) if other == kind]
        scores[f"accuracy_{kind}"] = sum(of_kind) / len(of_kind)
    return scores, log_probs


@pytest.mark.parametrize("size", [7, 3, 1])
def test_scores_and_file_by_hand_whatever_the_batch_size(model, samples, size, tmp_path):
    with torch.inference_mode():
        scores = Nlvr().evaluate(model, batches(samples, size), context(folder=tmp_path))
        expected, log_probs = by_hand(model, samples)
    assert scores == pytest.approx(expected, abs=1e-5)
    assert 0 < scores["accuracy"] < 1
    rows = json.loads((tmp_path / "nlvr_val.json").read_text())
    assert [row["sample_id"] for row in rows] == [f"pair {i}" for i in range(7)]
    assert [row["prediction"] for row in rows] == [str(pair[1] > pair[0]) for pair in log_probs]
    assert [row["label"] for row in rows] == [str(bool(label)) for label in LABELS]
    assert [row["log_probs"] for row in rows] == [pytest.approx(pair, abs=1e-5) for pair in log_probs]


@pytest.mark.parametrize(("count", "size"), [(2, 7), (3, 2), (7, 1)])
def test_several_processes_give_the_scores_of_one(model, samples, count, size, tmp_path):
    task, shares = Nlvr(), [batches(part, size) for part in parts(samples, count)]
    folders = [tmp_path / name for name in ("one", "several")]
    for folder in folders:
        folder.mkdir()
    with torch.inference_mode():
        expected = task.evaluate(model, batches(samples, 7), context(folder=folders[0]))
    found = evaluate_in_shares(lambda rank, lent: task.evaluate(model, shares[rank], lent), count, folders[1])
    assert all(scores == pytest.approx(expected, abs=1e-5) for scores in found)
    one, several = (json.loads((folder / "nlvr_val.json").read_text()) for folder in folders)
    assert [row["prediction"] for row in one] == [row["prediction"] for row in several]


def test_a_process_without_samples(model, samples):
    task, shares = Nlvr(), [batches(samples, 4), []]
    with torch.inference_mode():
        expected = task.evaluate(model, batches(samples, 4), context())
    for scores in evaluate_in_shares(lambda rank, lent: task.evaluate(model, shares[rank], lent), 2):
        assert scores == pytest.approx(expected, abs=1e-5)


def test_a_set_without_a_usable_sample(model):
    with pytest.raises(DataError, match="'val': none of its samples"):
        Nlvr().evaluate(model, [], context())


def test_samples_without_kinds(model, samples):
    plain = [{k: v for k, v in sample.items() if k not in ("kind", "sample_id")} for sample in samples]
    with torch.inference_mode():
        assert set(Nlvr().evaluate(model, batches(plain, 4), context())) == {"accuracy", "loss_nlvr"}


def test_training_step(model, samples):
    batch = batches(samples, 4)[0]
    inputs = Nlvr().prepare(model, batch, torch.device("cpu"))
    assert "texts" not in batch
    assert inputs["label"].tolist() == LABELS[:4]
    out = Nlvr().train_step(model, inputs, Progress(0, 10, 10.0, 0))
    right = model.predict(inputs)["predictions"].argmax(-1) == inputs["label"]
    assert float(out.metrics["accuracy"]) == pytest.approx(float(right.float().mean()))
    assert out.losses.keys() == {"loss_nlvr"}
    assert out.losses["loss_nlvr"].requires_grad


def test_descriptions_tell_sentence_judgement_and_truth(model, samples):
    with torch.inference_mode():
        texts = Nlvr().describe(model, batches(samples, 3)[0], context())
        [first, *_] = by_hand(model, samples)[1]
    probability = torch.tensor(first).exp()[1].item()
    says = "true" if probability > 0.5 else "false"
    assert texts[0] == f"both images contain a red circle: {says} ({probability:.2f}), is true"
    assert len(texts) == 3
