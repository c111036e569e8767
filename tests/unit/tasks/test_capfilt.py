"""Scores of annotations by hand, and annotation as the model alone gives it."""

from __future__ import annotations

import json

import pytest
import torch

from tests.unit.models.blip.test_capfilt import captioner, images, judge
from tests.unit.tasks.shares import batches, context, evaluate_in_shares, parts
from vlkit.capfilt.decision import Decision
from vlkit.config.build import build
from vlkit.datasets.shapes.dataset import Shapes
from vlkit.errors import ConfigError, DataError
from vlkit.models.blip.capfilt import BlipCapFilt, ScoredText
from vlkit.models.generation import GenerationConfig
from vlkit.registry import TASKS
from vlkit.tasks.capfilt import CapFiltTask

NUCLEUS = GenerationConfig(max_length=14, min_length=6, sample=True, num_return_sequences=2)


class FakeCapFilt:
    """A model whose answers are known: synthetic texts and (itm, itc) by text."""

    def __init__(self, synthetic: list[list[str]], scores: dict[str, tuple[float, float]]):
        self.synthetic, self.scores, self.seen = synthetic, scores, []

    def annotate(self, samples, web, generation, seeds):
        self.seen += web
        found = []
        for own, seed in zip(web, seeds.tolist()):
            rows = [ScoredText(own, "web", *self.scores[own])] if own else []
            for text in self.synthetic[seed]:
                scores = self.scores[text] if text else (0.0, None)
                rows.append(ScoredText(text, "synthetic", *scores, -1.0 - seed))
            found.append(rows)
        return found


SCORES = {
    "a red circle": (0.9, 0.6),
    "buy now": (0.2, 0.1),
    "a blue star": (0.7, 0.5),
    "a green ring": (0.4, 0.2),
}
WEB = ["A red circle!", "buy now", "a blue star", "..."]
SYNTHETIC = [
    ["a red circle", "a blue star"],
    ["a green ring", "a green ring"],
    ["a red circle", ""],
    ["a blue star", "a blue star"],
]


def real_scenes(count: int) -> list[dict]:
    """Scenes of one object each."""
    looks = [("red", "circle"), ("green", "ring"), ("blue", "star"), ("blue", "star")]
    plain = Shapes(split="val", size=400)
    found = []
    for look in looks[:count]:
        scenes = map(plain.scene, range(400))
        found.append(next(s for s in scenes if [(o.color, o.shape) for o in s.objects] == [look]).to_dict())
    return found


@pytest.fixture(scope="module")
def samples() -> list[dict]:
    scenes = real_scenes(4)
    return [
        {"image": torch.zeros(3, 4, 4), "index": i, "image_id": f"i{i}", "text_input": WEB[i], "scene": scenes[i]}
        for i in range(4)
    ]


def fake_model() -> FakeCapFilt:
    return FakeCapFilt(SYNTHETIC, SCORES)


def test_scores_by_hand(samples, tmp_path):
    model = fake_model()
    scores = CapFiltTask(NUCLEUS).evaluate(model, batches(samples, 3), context(folder=tmp_path))
    assert model.seen == ["a red circle", "buy now", "a blue star", ""]
    # Web: .9 .2 .7 and the one of which nothing is left; synthetic: .9 .7 / .4 .4 / .9 (empty) / .7 .7
    expected = {
        "images_kept": 3 / 4,
        "web_kept": 2 / 4,
        "web_itm": (0.9 + 0.2 + 0.7 + 0.0) / 4,
        "web_itc": (0.6 + 0.1 + 0.5) / 3,
        "synthetic_kept": 5 / 8,
        "synthetic_itm": (0.9 + 0.7 + 0.4 + 0.4 + 0.9 + 0.7 + 0.7) / 7,
        "synthetic_itc": (0.6 + 0.5 + 0.2 + 0.2 + 0.6 + 0.5 + 0.5) / 7,
        "synthetic_log_prob": -(1 + 1 + 2 + 2 + 3 + 4 + 4) / 7,
        "duplicates": 3 / 12,
        "distinct": 4 / 8,
        # Correct: web 0 and 2; synthetic the first of image 0, both of 1, both of 3.
        "purity_before": 2 / 4,
        "purity_after": 5 / 7,
        "web_correct": 2 / 4,
        "web_correct_kept": 2 / 2,
        "synthetic_correct": 5 / 8,
        "synthetic_correct_kept": 3 / 5,
    }
    # Positives .9 .7 .9 .4 .4 .7 .7; negatives .2 0 .7 .9.
    expected["auc"] = (2 * (1 + 1 + 1 + 0.5) + 3 * (1 + 1 + 0.5) + 2 * (1 + 1)) / 28
    expected["best_threshold"], expected["balanced_accuracy"] = 0.3, (1 + 2 / 4) / 2
    assert scores == pytest.approx(expected)
    written = json.loads((tmp_path / "capfilt_val.json").read_text())
    assert [row["image_id"] for row in written] == ["i0", "i1", "i2", "i3"]
    assert written[0]["texts"][0] == {
        "text": "A red circle!",
        "source": "web",
        "itm": 0.9,
        "itc": 0.6,
        "log_prob": None,
        "kept": True,
        "correct": True,
    }
    assert [text["kept"] for row in written for text in row["texts"]].count(True) == 7


def test_the_decision_decides(samples):
    task = CapFiltTask(NUCLEUS, Decision(texts="synthetic", threshold=0.8))
    scores = task.evaluate(fake_model(), batches(samples, 4), context())
    assert scores["web_kept"] == 0
    assert scores["synthetic_kept"] == 2 / 8
    assert scores["purity_after"] == 1 / 2
    assert "web_correct_kept" not in scores
    described = task.describe(fake_model(), batches(samples, 4)[0], context())
    assert described[0] == "-0.90 A red circle! | +0.90 a red circle | -0.70 a blue star"


def test_without_scenes_and_with_references(samples):
    plain = [{key: value for key, value in each.items() if key not in ("scene", "text_input")} for each in samples]
    for each, text in zip(plain, WEB):
        each["references"] = [text, "another"]
    scores = CapFiltTask(NUCLEUS).evaluate(fake_model(), batches(plain, 4), context())
    assert scores["web_kept"] == 0.5
    assert not {"purity_before", "auc", "best_threshold"} & scores.keys()


def test_several_processes_give_the_scores_and_the_file_of_one(samples, tmp_path):
    task, shares = CapFiltTask(NUCLEUS), [batches(part, 2) for part in parts(samples, 3)]
    for name in ("one", "several"):
        (tmp_path / name).mkdir()
    expected = task.evaluate(fake_model(), batches(samples, 4), context(folder=tmp_path / "one"))
    found = evaluate_in_shares(
        lambda rank, own: task.evaluate(fake_model(), shares[rank], own), 3, tmp_path / "several"
    )
    assert all(scores == expected for scores in found)
    file = "capfilt_val.json"
    assert (tmp_path / "one" / file).read_text() == (tmp_path / "several" / file).read_text()


def test_an_annotation_is_the_models_with_the_webs_own_spelling():
    model = BlipCapFilt(captioner(), judge()).eval()
    web, seeds = ["A RED circle!", None, "two  shapes", "!!!"], torch.arange(4)
    found = CapFiltTask(NUCLEUS).annotate(model, {"image": images(4)}, web, seeds)
    expected = model.annotate({"image": images(4)}, ["a red circle", None, "two shapes", None], NUCLEUS, seeds)
    assert [rows[0].text for rows in found if rows[0].source == "web"] == ["A RED circle!", "two  shapes", "!!!"]
    assert (found[3][0].itm, found[3][0].itc) == (0.0, None)
    assert found[0][0].itm == expected[0][0].itm
    assert [rows[-2:] for rows in found] == [rows[-2:] for rows in expected]
    as_is = CapFiltTask(NUCLEUS, max_words=None).annotate(model, {"image": images(4)}, web, seeds)
    # The tokenizer has its own opinion of punctuation: "!" is a token.
    assert as_is[0][0].itm != pytest.approx(found[0][0].itm, abs=1e-9)


def test_texts_drawn_in_an_evaluation_do_not_depend_on_batches():
    model = BlipCapFilt(captioner(), judge()).eval()
    samples = [{"image": images(4)[i], "index": i, "text_input": "a red circle"} for i in range(4)]
    scores = [CapFiltTask(NUCLEUS).evaluate(model, batches(samples, size), context()) for size in (1, 4)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_from_a_config():
    task = build(
        TASKS,
        {
            "name": "capfilt",
            "generation": {"sample": True, "num_return_sequences": 3},
            "decision": {"texts": "web", "threshold": None},
        },
    )
    assert task.generation.num_return_sequences == 3
    assert task.decision == Decision("web", None)
    default = build(TASKS, {"name": "capfilt"})
    assert (default.generation.sample, default.generation.top_p, default.generation.max_length) == (True, 0.9, 20)
    assert default.decision == Decision("both", 0.5)
    with pytest.raises(ConfigError, match="max_words is 0"):
        CapFiltTask(max_words=0)
    with pytest.raises(ConfigError, match="decision"):
        build(TASKS, {"name": "capfilt", "decision": {"texts": "wbe"}})


def test_an_empty_set_is_reported():
    with pytest.raises(DataError, match="'val': none of its samples"):
        CapFiltTask().evaluate(fake_model(), [], context())
