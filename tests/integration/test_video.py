"""Zero-shot evaluation of image models on videos: from files to scores."""

from __future__ import annotations

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.models import small
from vlkit.datasets.loading import EvalLoader
from vlkit.datasets.video import VideoQuestion, VideoText
from vlkit.errors import DataError
from vlkit.models.blip.vqa import BlipVqa
from vlkit.processors.image import BlipImageEval
from vlkit.tasks.base import EvalContext
from vlkit.tasks.retrieval import Retrieval
from vlkit.tasks.vqa import Vqa

COLORS = ("red", "green", "blue")
ANSWERS = ["red", "green", "blue", "yes"]


@pytest.fixture
def videos(tmp_path):
    """Three videos of six frames, with captions and, of all but the last, several questions."""
    noise = np.random.default_rng(0)
    for name in COLORS:
        (tmp_path / name).mkdir()
        for i in range(6):
            pixels = noise.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    captions = [{"clip_name": name, "caption": f"a {name} circle"} for name in COLORS]
    captions.append({"clip_name": "green", "caption": "a green square"})
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, captions)))
    asked = [
        ("red", "what color is the circle?"),
        ("green", "what color is the circle?"),
        ("red", "is there a circle?"),
    ]
    asked += [("blue", "what color is the square?"), ("green", "how many?")]
    rows = [{"question_id": i, "question": q, "answer": v, "video": v} for i, (v, q) in enumerate(asked)]
    (tmp_path / "questions.json").write_text(json.dumps(rows))
    return tmp_path


def context(folder=None, dataset=None) -> EvalContext:
    return EvalContext(torch.device("cpu"), nullcontext, output_dir=folder, name="test", dataset=dataset)


PROCESSOR = BlipImageEval(image_size=16)


def test_retrieval_of_videos(videos):
    torch.manual_seed(0)
    model = small.pretrainer().eval()
    data = VideoText(str(videos / "captions.jsonl"), split="test", frames=3, image_processor=PROCESSOR)
    task = Retrieval(rerank_top_k=3)
    with torch.inference_mode():
        scores = task.evaluate(model, EvalLoader(data, 2), context(videos))
    assert scores["tr@5"] == scores["ir@5"] == 1.0
    found = json.loads((videos / "retrieval_test.json").read_text())
    assert [image["image_id"] for image in found["images"]] == list(COLORS)
    # The score of a pair: similarity of the mean feature, plus matching over the tokens of all frames.
    with torch.inference_mode():
        video = data[0]["video"][None]
        embeds = torch.cat([model.visual_encoder(frame) for frame in video[0].split(1)], 1)
        feats = torch.stack([model.vision_proj(t[0]) for t in embeds.unflatten(1, (3, -1))[0]]).mean(0)
        texts = model.tokenize([found["images"][0]["texts"][0][0]])
        logits = model.match(texts, model.text_encoder.project_images(embeds))
        expected = torch.nn.functional.normalize(feats, dim=-1) @ model.text_feats(texts)[0] + logits[0, 1]
    assert found["images"][0]["texts"][0][1] == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("inference", ["rank", "generate"])
def test_questions_about_videos(videos, inference):
    torch.manual_seed(0)
    model = BlipVqa(small.vit(), small.med(), tokenizer="shapes").eval()
    data = VideoQuestion(str(videos / "questions.json"), split="test", frames=2, image_processor=PROCESSOR)
    task = Vqa(inference, answer_list=ANSWERS)
    with torch.inference_mode():
        scores = task.evaluate(model, EvalLoader(data, 2), context(videos, data))
    found = json.loads((videos / "answers_test.json").read_text())
    assert [row["question_id"] for row in found] == [0, 2, 1, 4, 3]  # video after video
    # Each answer is that of the question asked alone.
    right = 0
    for index in range(len(data)):
        sample = data[index]
        for question, answers, identity in zip(sample["text_input"], sample["answers"], sample["question_id"]):
            alone = {"video": sample["video"][None], "text_input": [question]}
            with torch.inference_mode():
                best = model.rank(alone, ANSWERS) if inference == "rank" else model.generate(alone, task.generation)
            assert best.texts[0][0] == next(row["answer"] for row in found if row["question_id"] == identity)
            right += best.texts[0][0] in answers
    assert scores["accuracy"] == pytest.approx(right / 5)


def test_losses_of_questions_about_videos(videos):
    torch.manual_seed(0)
    model = BlipVqa(small.vit(), small.med(), tokenizer="shapes").eval()
    data = VideoQuestion(str(videos / "questions.json"), frames=2, image_processor=PROCESSOR)
    (batch,) = EvalLoader(data, 3)
    task = Vqa()
    inputs = task.prepare(model, batch, torch.device("cpu"))
    assert task.counts(inputs) == {"loss_vqa": 5.0}
    alone = []
    for sample in data:
        for question, answers in zip(sample["text_input"], sample["answers"]):
            one = {"video": sample["video"][None], "text_input": [question], "answers": [answers], "weights": [[1.0]]}
            alone.append(model(one).loss_vqa)
    torch.testing.assert_close(model(inputs).loss_vqa, torch.stack(alone).mean())


def test_a_set_without_a_video_that_can_be_read(videos):
    for name in COLORS:
        (videos / name).rename(videos / f"not_{name}")
    model = BlipVqa(small.vit(), small.med(), tokenizer="shapes").eval()
    data = VideoQuestion(str(videos / "questions.json"), split="test", image_processor=PROCESSOR)
    with pytest.raises(DataError, match="none of its samples could be used"):
        Vqa("generate").evaluate(model, EvalLoader(data, 2), context(videos, data))
