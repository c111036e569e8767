"""Answer weights and collation of VQA's and Visual Genome's rows against the original."""

import json

import pytest

from tests.parity.golden import GOLDEN_DIR, Case
from vlkit.datasets.base import collate
from vlkit.datasets.vqa import ImageQuestion
from vlkit.processors.text import BlipQuestion


@pytest.fixture(scope="module")
def case() -> dict:
    return Case("datasets").info["vqa"]


@pytest.fixture(scope="module")
def samples(case, tmp_path_factory) -> list[dict]:
    path = tmp_path_factory.mktemp("vqa") / "rows.json"
    path.write_text(json.dumps(case["annotations"]))
    dataset = ImageQuestion(
        str(path), str(GOLDEN_DIR), image_processor=lambda file, rng: file, text_processor=BlipQuestion()
    )
    return [dataset[index] for index in range(len(dataset))]


def test_answers_and_weights(case, samples):
    assert len(samples) == len(case["items"])
    for sample, expected in zip(samples, case["items"]):
        assert sample["text_input"] == expected["question"]
        assert sample["answers"] == expected["answers"]
        assert sample["weights"] == pytest.approx(expected["weights"])


def test_collation(case, samples):
    """The batch keeps a list a question; flattened they are the original's."""
    batch, expected = collate(samples), case["collated"]
    assert batch["text_input"] == expected["questions"]
    assert [answer for answers in batch["answers"] for answer in answers] == expected["answers"]
    assert [weight for weights in batch["weights"] for weight in weights] == pytest.approx(expected["weights"])
    assert [len(answers) for answers in batch["answers"]] == expected["n"]
