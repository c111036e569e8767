from __future__ import annotations

import json

import pytest
import torch

from tests.unit.models import small
from tests.unit.tasks.shares import batches, context, evaluate_in_shares, parts
from vlkit.errors import DataError
from vlkit.metrics.caption import caption_scores
from vlkit.models.blip.caption import BlipCaption, Captions
from vlkit.models.generation import GenerationConfig
from vlkit.tasks.base import Progress
from vlkit.tasks.captioning import Captioning

REFERENCES = [["a red circle", "one circle"], ["a blue star"], ["two shapes"], ["a big square"], ["green"]]


@pytest.fixture(scope="module")
def model() -> BlipCaption:
    torch.manual_seed(0)
    model = BlipCaption(small.vit(), small.med(initializer_range=0.4), tokenizer="shapes").eval()
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[model.tokenizer.sep_id] = 3.0
    return model


@pytest.fixture(scope="module")
def samples() -> list[dict]:
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 3
    return [
        {"image": images[i], "index": i, "image_id": 100 + i, "references": REFERENCES[i], "text_input": "a circle"}
        for i in range(5)
    ]


CONFIGS = [GenerationConfig(max_length=12, min_length=6), GenerationConfig(max_length=12, min_length=6, sample=True)]


@pytest.mark.parametrize("config", CONFIGS, ids=["beam", "nucleus"])
def test_scores_and_file_by_hand(model, samples, config, tmp_path):
    with torch.inference_mode():
        scores = Captioning(config).evaluate(model, batches(samples, 2), context(folder=tmp_path))
        alone = [model.caption({"image": s["image"][None]}, config, torch.tensor([s["index"]])) for s in samples]
    texts = [captions.texts[0][0] for captions in alone]
    expected = caption_scores(texts, REFERENCES)
    expected["score"] = sum(captions.scores[0][0] for captions in alone) / 5
    expected["length"] = sum(len(text.split()) for text in texts) / 5
    assert scores == pytest.approx(expected, abs=1e-5)
    results = json.loads((tmp_path / "captions_val.json").read_text())
    assert results == [{"image_id": 100 + i, "caption": text} for i, text in enumerate(texts)]


@pytest.mark.parametrize("config", CONFIGS, ids=["beam", "nucleus"])
@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_give_the_scores_and_the_file_of_one(model, samples, config, count, tmp_path):
    task = Captioning(config)
    shares = [batches(part, 2) for part in parts(samples, count)]
    folders = [tmp_path / name for name in ("one", "several")]
    for folder in folders:
        folder.mkdir()
    with torch.inference_mode():
        expected = task.evaluate(model, batches(samples, 5), context(folder=folders[0]))
    found = evaluate_in_shares(lambda rank, lent: task.evaluate(model, shares[rank], lent), count, folders[1])
    assert all(scores == pytest.approx(expected, abs=1e-5) for scores in found)
    one, several = ((folder / "captions_val.json").read_text() for folder in folders)
    assert one == several


def test_the_file_is_read_by_pycocotools(model, samples, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    with torch.inference_mode():
        Captioning(CONFIGS[0]).evaluate(model, batches(samples, 2), context(folder=tmp_path))
    annotations = [
        {"id": 10 * i + j, "image_id": 100 + i, "caption": text}
        for i, texts in enumerate(REFERENCES)
        for j, text in enumerate(texts)
    ]
    images = [{"id": 100 + i} for i in range(5)]
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "annotations": annotations, "info": {}}))
    truth = coco.COCO(str(tmp_path / "truth.json"))
    results = truth.loadRes(str(tmp_path / "captions_val.json"))
    assert sorted(results.getImgIds()) == [100 + i for i in range(5)]
    written = json.loads((tmp_path / "captions_val.json").read_text())
    assert [a["caption"] for a in results.imgToAnns[102]] == [written[2]["caption"]]


class Parrot:
    """Returns given captions; knows beams only."""

    def __init__(self, *texts: str):
        self.texts = iter(texts)

    def caption(self, samples, config):
        count = len(samples["image"])
        return Captions([[next(self.texts)] for _ in range(count)], [[-0.5]] * count, [[[1]]] * count)


def test_any_model_that_captions(samples):
    task = Captioning()
    said = [references[0] for references in REFERENCES]
    scores = task.evaluate(Parrot(*said), batches(samples, 2), context())
    assert scores["bleu_1"] == pytest.approx(1.0)
    assert scores["rouge_l"] == pytest.approx(1.0)
    assert scores["score"] == -0.5
    assert scores["length"] == pytest.approx((3 + 3 + 2 + 3 + 1) / 5)
    assert task.describe(Parrot("a", "b"), batches(samples, 2)[0], context()) == ["a", "b"]


def test_scenes_of_the_toy_dataset_are_checked():
    from vlkit.datasets.base import collate
    from vlkit.datasets.shapes.dataset import Shapes

    dataset = Shapes(split="val", size=4, image_size=16)
    samples = [{**dataset[i], "index": i} for i in range(4)]
    scores = Captioning().evaluate(Parrot(*(s["references"][0] for s in samples)), [collate(samples)], context())
    assert scores["strict_precision"] == 1.0
    assert scores["bleu_4"] == pytest.approx(1.0)


def test_without_references_only_what_the_model_says_of_itself(samples):
    plain = [{k: v for k, v in sample.items() if k != "references"} for sample in samples]
    assert Captioning().evaluate(Parrot(*"abcde"), batches(plain, 2), context()) == {"score": -0.5, "length": 1.0}


def test_nothing_to_caption():
    with pytest.raises(DataError, match="evaluation set 'val': none of its samples could be used"):
        Captioning().evaluate(Parrot(), [], context())


def test_training_step(model, samples):
    task, batch = Captioning(), batches(samples, 3)[0]
    inputs = task.prepare(model, batch, torch.device("cpu"))
    # Behind "a picture of": a, circle, [SEP].
    assert task.counts(inputs) == {"loss_lm": 9.0}
    out = task.train_step(model, inputs, Progress(0, 1, 1.0, 0))
    assert out.losses.keys() == {"loss_lm"}
    torch.testing.assert_close(out.losses["loss_lm"], model(batch).loss)
    assert batch["text_input"] == ["a circle"] * 3


def test_domains_are_scored_by_themselves(samples):
    """nocaps: each domain against the references of its own images."""
    domains = ["in-domain", "out-domain", "in-domain", "out-domain", "in-domain"]
    given = [{**sample, "domain": domain} for sample, domain in zip(samples, domains, strict=True)]
    said = ["a red circle", "nothing like it", "two shapes", "a big square", "green"]
    scores = Captioning().evaluate(Parrot(*said), batches(given, 2), context())
    outside = caption_scores([said[1], said[3]], [REFERENCES[1], REFERENCES[3]])
    assert scores["in_domain_rouge_l"] == pytest.approx(1.0)
    assert {name: scores[f"out_domain_{name}"] for name in outside} == pytest.approx(outside)
    assert scores["bleu_1"] == pytest.approx(caption_scores(said, REFERENCES)["bleu_1"])
    assert not [name for name in Captioning().evaluate(Parrot(*said), batches(samples, 2), context()) if "dom" in name]
