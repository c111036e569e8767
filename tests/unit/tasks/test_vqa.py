from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.unit.models import small
from tests.unit.tasks.shares import batches, context, evaluate_in_shares, parts
from vlkit.errors import ConfigError, DataError
from vlkit.metrics.vqa import vqa_accuracy
from vlkit.models.blip.vqa import Answers, BlipVqa
from vlkit.models.generation import GenerationConfig
from vlkit.tasks.base import Progress
from vlkit.tasks.vqa import Vqa

LIST = ["yes", "no", "red", "blue", "red circle", "2"]
QUESTIONS = [
    "is it red?",
    "what color is the star?",
    "how many red shapes are there?",
    "is there a cross?",
    "what size?",
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> BlipVqa:
    torch.manual_seed(0)
    return BlipVqa(small.vit(), small.med(initializer_range=0.4), tokenizer="shapes").eval()


@pytest.fixture(scope="module")
def samples() -> list[dict]:
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 3
    kinds = ["yes/no", "other", "number", "yes/no", "other"]
    return [
        {
            "image": images[i],
            "index": i,
            "question_id": 100 + i,
            "sample_id": f"rows:{i}",
            "text_input": QUESTIONS[i],
            "answers": [LIST[i]],
            "weights": [1.0],
            "kind": kinds[i],
        }
        for i in range(5)
    ]


class Oracle:
    """Returns given answers, in order."""

    def __init__(self, *texts: str):
        self.texts = iter(texts)

    def tokenize(self, texts):
        return texts

    def rank(self, samples, answer_list, count):
        found = [next(self.texts) for _ in samples["texts"]]
        return Answers([[text, "no"] for text in found], [[-0.5, -1.0]] * len(found))


def test_exact_match_by_kind(samples):
    task = Vqa(answer_list=LIST)
    scores = task.evaluate(Oracle("yes", "the no", "blue", "yes", "red circle"), batches(samples, 2), context())
    assert scores == pytest.approx(
        {"score": -0.5, "accuracy": 0.6, "accuracy_yes_no": 0.5, "accuracy_other": 1.0, "accuracy_number": 0.0}
    )


def test_ten_people_are_judged_officially(samples):
    people = [["red"] * n + ["blue"] * (10 - n) for n in range(5)]
    asked = [{**sample, "references": given} for sample, given in zip(samples, people)]
    scores = Vqa(answer_list=LIST).evaluate(Oracle(*["red"] * 5), batches(asked, 2), context())
    assert scores["accuracy"] == pytest.approx(sum(vqa_accuracy("red", given) for given in people) / 5)
    assert scores["accuracy"] == pytest.approx((0 + 0.3 + 0.6 + 0.9 + 1.0) / 5)


def test_without_answers_only_the_file(samples, tmp_path):
    bare = [{k: v for k, v in s.items() if k not in ("answers", "weights", "kind")} for s in samples]
    scores = Vqa(answer_list=LIST).evaluate(Oracle(*LIST), batches(bare, 2), context(folder=tmp_path))
    assert scores == {"score": -0.5}
    found = json.loads((tmp_path / "answers_val.json").read_text())
    assert found == [{"question_id": 100 + i, "answer": LIST[i]} for i in range(5)]


@pytest.mark.parametrize("inference", ["rank", "generate"])
def test_what_is_scored_and_written(model, samples, tmp_path, inference):
    task = Vqa(inference=inference, num_ans_candidates=4, answer_list=LIST)
    with torch.inference_mode():
        scores = task.evaluate(model, batches(samples, 2), context(folder=tmp_path))
        alone = [
            model.predict_answers(
                {"image": s["image"][None], "text_input": s["text_input"]},
                inference_method=inference,
                num_ans_candidates=4,
                answer_list=LIST,
            )[0]
            for s in samples
        ]
    written = json.loads((tmp_path / "answers_val.json").read_text())
    assert written == [{"question_id": 100 + i, "answer": text} for i, text in enumerate(alone)]
    right = [text == sample["answers"][0] for text, sample in zip(alone, samples)]
    assert scores["accuracy"] == pytest.approx(sum(right) / 5)


@pytest.mark.parametrize("inference", ["rank", "generate"])
@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_give_the_scores_and_the_file_of_one(model, samples, tmp_path, inference, count):
    task = Vqa(inference=inference, num_ans_candidates=3, answer_list=LIST)
    shares = [batches(part, 2) for part in parts(samples, count)]
    folders = [tmp_path / name for name in ("one", "several")]
    for folder in folders:
        folder.mkdir()
    with torch.inference_mode():
        expected = task.evaluate(model, batches(samples, 5), context(folder=folders[0]))
    found = evaluate_in_shares(lambda rank, lent: task.evaluate(model, shares[rank], lent), count, folders[1])
    assert all(scores == pytest.approx(expected, abs=1e-5) for scores in found)
    one, several = ((folder / "answers_val.json").read_text() for folder in folders)
    assert one == several


def test_the_answer_list_of_the_evaluation_set(samples, tmp_path):
    lent = replace(context(), dataset=SimpleNamespace(answer_list=["yes", "no"]))
    task, seen = Vqa(), []
    oracle = Oracle(*LIST)
    oracle.rank = lambda inputs, choices, count: seen.append((choices, count)) or Answers([["no"]] * 5, [[0.0]] * 5)
    task.evaluate(oracle, batches(samples, 5), lent)
    (tmp_path / "list.txt").write_text("red\nblue\n")
    Vqa(answer_list=str(tmp_path / "list.txt"), num_ans_candidates=7).evaluate(oracle, batches(samples, 5), lent)
    assert seen == [(["yes", "no"], 128), (["red", "blue"], 7)]


def test_no_answer_list(samples):
    with pytest.raises(ConfigError, match=r"neither the task nor the evaluation set 'val'.*task.answer_list"):
        Vqa().evaluate(Oracle(), batches(samples, 5), context())


def test_nothing_usable():
    with pytest.raises(DataError, match="none of its samples"):
        Vqa(answer_list=LIST).evaluate(Oracle(), [], context())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inference": "ranked"}, "inference: 'ranked' given, rank, generate allowed. Did you mean 'rank'"),
        ({"num_ans_candidates": 0}, "num_ans_candidates: 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Vqa(**arguments)


def test_training_step(model, samples):
    task, batch = Vqa(), batches(samples, 3)[0]
    inputs = task.prepare(model, batch, CPU)
    assert task.counts(inputs) == {"loss_vqa": 3.0}
    out = task.train_step(model, inputs, Progress(0, 1, 1.0, 0))
    assert out.losses.keys() == {"loss_vqa"}
    torch.testing.assert_close(out.losses["loss_vqa"], model(batch).loss)


def test_a_step_does_not_depend_on_how_it_is_cut(model, samples):
    """Questions of unequal numbers of answers: the runner's weighing by counts gives the loss of the whole batch."""
    many = [{**s, "answers": LIST[: i + 1], "weights": [1 / (i + 1)] * (i + 1)} for i, s in enumerate(samples)]
    task = Vqa()

    def loss(share):
        inputs = task.prepare(model, batches(share, 5)[0], CPU)
        return (
            task.counts(inputs)["loss_vqa"] * task.train_step(model, inputs, Progress(0, 1, 1.0, 0)).losses["loss_vqa"]
        )

    with torch.no_grad():
        torch.testing.assert_close(loss(many), loss(many[:2]) + loss(many[2:]))


def test_describe(samples):
    task = Vqa(answer_list=LIST)
    texts = task.describe(Oracle("yes", "red", "2"), batches(samples, 3)[0], context())
    assert texts == ["is it red? yes", "what color is the star? red (no)", "how many red shapes are there? 2 (red)"]


def test_written_answers_are_decoded_as_asked(model, samples):
    task = Vqa(inference="generate", generation=GenerationConfig(max_length=4, min_length=1, num_beams=1))
    with torch.inference_mode():
        texts = task.describe(model, batches(samples, 5)[0], context())
        found = model.generate(batches(samples, 5)[0], task.generation)
    assert all(text.startswith(f"{q} {a[0]}") for text, q, a in zip(texts, QUESTIONS, found.texts))
