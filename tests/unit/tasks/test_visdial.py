from __future__ import annotations

import json

import pytest
import torch

from tests.assets.visdial_files import visdial_files
from tests.unit.models import small
from tests.unit.tasks.shares import batches, context, evaluate_in_shares, parts
from vlkit.datasets.shapes.heads import ShapesDialog
from vlkit.datasets.visdial import VisDial as VisDialFiles
from vlkit.errors import DataError
from vlkit.metrics.dialog import answer_rank, ndcg, ranks_of
from vlkit.models.blip.dialog import BlipDialog
from vlkit.tasks.base import Progress
from vlkit.tasks.visdial import VisDial

COUNT, ROUNDS = 5, 3


@pytest.fixture(scope="module")
def model() -> BlipDialog:
    torch.manual_seed(0)
    return BlipDialog(small.vit(), small.med(initializer_range=0.4), "shapes", 40, 5).eval()


@pytest.fixture(scope="module")
def samples() -> list[dict]:
    world = ShapesDialog("val", COUNT, image_size=16, rounds=ROUNDS, candidates=6)
    return [{**world[i], "index": i, "image_id": 100 + i} for i in range(COUNT)]


def test_scores_and_file_by_hand(model, samples, tmp_path):
    with torch.inference_mode():
        scores = VisDial().evaluate(model, batches(samples, 2), context(folder=tmp_path))
    ranks, gains, results = [], [], []
    for sample in samples:
        [margins] = model.score(
            {"image": sample["image"][None], "text_input": [sample["text_input"]], "dialog": [sample["dialog"]]}
        )
        for number, (turn, values) in enumerate(zip(sample["dialog"], margins), 1):
            ranks.append(answer_rank(values, turn["gt_index"]))
            gains.append(ndcg(values, turn["gt_relevance"]))
            results.append({"image_id": sample["image_id"], "round_id": number, "ranks": ranks_of(values).tolist()})
    count = COUNT * ROUNDS
    assert scores["rounds"] == len(ranks) == count
    assert scores["mrr"] == pytest.approx(sum(1 / rank for rank in ranks) / count)
    assert scores["mean_rank"] == pytest.approx(sum(ranks) / count)
    assert [scores[f"r@{k}"] for k in (1, 5, 10)] == pytest.approx(
        [sum(r <= k for r in ranks) / count for k in (1, 5, 10)]
    )
    assert scores["ndcg"] == pytest.approx(sum(gains) / count)
    assert json.loads((tmp_path / "ranks_val.json").read_text()) == results


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_give_the_scores_and_the_file_of_one(model, samples, count, tmp_path):
    shares = [batches(part, 1) for part in parts(samples, count)]
    with torch.inference_mode():
        one = VisDial().evaluate(model, batches(samples, 2), context(folder=tmp_path))
    expected = (tmp_path / "ranks_val.json").read_text()
    several = evaluate_in_shares(lambda rank, lent: VisDial(50).evaluate(model, shares[rank], lent), count, tmp_path)
    assert several == [pytest.approx(one)] * count
    assert (tmp_path / "ranks_val.json").read_text() == expected


def test_the_prior_is_counted_in_the_other_half(model):
    def sample(index, answer):
        options = ["red", "blue", "green"]
        turn = {
            "question": "what color is it",
            "answer": answer,
            "answer_options": options,
            "gt_index": options.index(answer),
        }
        return {"image": torch.zeros(3, 16, 16), "text_input": "", "dialog": [turn], "index": index, "image_id": index}

    # Even places say red, blue, red; odd ones blue, blue.
    given = [sample(i, answer) for i, answer in enumerate(["red", "blue", "blue", "blue", "red"])]
    with torch.inference_mode():
        scores = VisDial().evaluate(model, batches(given, 2), context())
    # Of the odd half nothing but blue is known: red shares places 2 and 3. Of the even half red comes first.
    assert scores["mrr_prior"] == pytest.approx((2 * (1 / 2 + 1 / 3) / 2 + 1 + 2 * 1 / 2) / 5)
    assert "ndcg" not in scores


def test_a_test_set_gives_a_file_and_no_scores(model, tmp_path):
    files = visdial_files(tmp_path / "data", "test", count=2, rounds=3)
    data = VisDialFiles(str(files.path), split="test", image_processor=lambda path, rng: torch.zeros(3, 16, 16))
    given = [{**data[i], "index": i} for i in range(2)]
    with torch.inference_mode():
        assert VisDial().evaluate(model, batches(given, 2), context(folder=tmp_path)) == {"rounds": 2}
    results = json.loads((tmp_path / "ranks_val.json").read_text())
    assert [(row["image_id"], row["round_id"]) for row in results] == [(i, 3) for i in files.image_ids]
    assert all(sorted(row["ranks"]) == list(range(1, 21)) for row in results)


def test_a_set_without_candidates(model, samples):
    bare = [{**samples[0], "dialog": [{"question": "what?", "answer": "red"}]}]
    with torch.inference_mode(), pytest.raises(DataError, match="no round has answer_options"):
        VisDial().evaluate(model, batches(bare, 1), context())


def test_a_training_step(model, samples):
    task, [batch] = VisDial(), batches(samples, COUNT)
    inputs = task.prepare(model, batch, torch.device("cpu"))
    assert task.counts(inputs) == {"loss_itm": 2 * COUNT * ROUNDS}
    step = task.train_step(model, inputs, Progress(0, 10, 5, 0))
    again = model(inputs)
    assert step.losses.keys() == {"loss_itm"}
    torch.testing.assert_close(step.losses["loss_itm"], again.loss)
    right = (again.itm_logits.argmax(-1) == inputs["labels"]).float().mean()
    assert step.metrics["itm_accuracy"] == pytest.approx(right.item())


def test_the_picture_tells_each_question_with_the_model_s_answer(model, samples):
    [batch] = batches(samples[:2], 2)
    texts = VisDial().describe(model, batch, context())
    margins = model.score({key: batch[key] for key in ("image", "text_input", "dialog")})
    for text, dialog, scores in zip(texts, batch["dialog"], margins):
        best = [turn["answer_options"][int(values.argmax())] for turn, values in zip(dialog, scores)]
        assert text == ". ".join(f"{turn['question']} {answer}" for turn, answer in zip(dialog, best))
