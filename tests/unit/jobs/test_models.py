"""Models that are arguments of another one: read from a config, checked, built with their weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from vlkit.config import cards
from vlkit.config.load import load_config
from vlkit.config.parts import dataset_part, model_part
from vlkit.config.run import check_run
from vlkit.errors import ConfigError
from vlkit.jobs.models import build_with_models, image_processors, model_weights
from vlkit.jobs.train import EvaluateJob
from vlkit.models.blip.capfilt import BlipCapFilt

SIZES = {
    "vit": {"image_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2},
    "med": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 20,
        "max_position_embeddings": 40,
    },
}
CAPTIONER = {"name": "blip_caption", "type": "tiny", **SIZES}
FILTER = {"name": "blip_image_text_matching", "type": "tiny", **SIZES, "embed_dim": 12}
PAIR = {"name": "blip_capfilt", "captioner": CAPTIONER, "filter": FILTER}


def saved(mapping: dict, file: Path, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = model_part(mapping).build()
    torch.save({"model": model.state_dict()}, file)
    return model


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def with_weights(captioner: object, filter_: object) -> dict:
    return {**PAIR, "captioner": {**CAPTIONER, "weights": captioner}, "filter": {**FILTER, "weights": filter_}}


def test_both_are_built_with_their_weights(tmp_path):
    files = [tmp_path / "captioner.pth", tmp_path / "filter.pth"]
    expected = [saved(mapping, file, seed) for seed, (mapping, file) in enumerate(zip((CAPTIONER, FILTER), files))]
    part = model_part(with_weights(*map(str, files)))
    assert part.check() == []
    model = build_with_models(part)
    assert isinstance(model, BlipCapFilt)
    assert equal(model.captioner, expected[0])
    assert equal(model.filter, expected[1])
    found = model_weights(part)
    assert list(found) == ["captioner", "filter"]
    assert [found[name].source for name in found] == list(map(str, files))
    assert found["captioner"].fingerprint() != found["filter"].fingerprint()


def test_without_a_filter_the_captioner_judges():
    part = model_part({"name": "blip_capfilt", "captioner": {"name": "blip_pretrain", "type": "tiny"}})
    assert part.check() == []
    model = part.build()
    assert model.filter is model.captioner
    assert model_weights(part) == {}


def test_weights_of_the_card_and_of_another_card(tmp_path, monkeypatch):
    saved(CAPTIONER, tmp_path / "mine.pth", 0)
    folder = tmp_path / "models" / "blip_caption"
    folder.mkdir(parents=True)
    card = {"model": {**SIZES, "tokenizer": "shapes"}, "weights": {"path": str(tmp_path / "mine.pth")}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(card))
    monkeypatch.setattr(cards, "CONFIGS", tmp_path)
    own = model_part({"name": "blip_capfilt", "captioner": {"name": "blip_caption", "type": "mine"}})
    assert model_weights(own)["captioner"].source == str(tmp_path / "mine.pth")
    named = {"name": "blip_caption", **SIZES, "tokenizer": "shapes", "weights": "card:blip_caption/mine"}
    found = model_weights(model_part({"name": "blip_capfilt", "captioner": named}))["captioner"]
    assert found.source == "card:blip_caption/mine"
    assert found.file() == tmp_path / "mine.pth"


def write(tmp_path: Path, model: dict, **more) -> Path:
    file = tmp_path / "run.yaml"
    processor = {"name": "blip_image_eval", "image_size": 16, "mean": 0.5, "std": 0.5}
    shapes = {"name": "shapes", "split": "val", "size": 12, "captions": "web", "image_processor": processor}
    run = {"model": model, "task": {"name": "matching_of_nobody"}, "datasets": {"eval": {"val": shapes}}, **more}
    file.write_text(yaml.safe_dump(run, sort_keys=False))
    return file


def test_all_mistakes_are_reported_at_once_with_their_places(tmp_path):
    wrong = {
        "name": "blip_capfilt",
        "captioner": {"name": "blip_caption", "type": "tiny", "vit": {"dept": 2}, "promt": "a", "weights": 3},
        "filter": {"name": "blip_image_text_matching", "type": "tyni"},
        "pairs_at_once": "many",
    }
    with pytest.raises(ConfigError) as caught:
        check_run(load_config(write(tmp_path, wrong)), training=False)
    found = "\n".join(caught.value.problems)
    for expected in (
        r"run.yaml: model.captioner.vit.dept (line ",
        r"unknown key 'dept'. Did you mean 'depth'",
        r"run.yaml: model.captioner.promt (line ",
        r"run.yaml: model.captioner.weights (line ",
        "3 given, a path, an address, card:<model>/<type> or null allowed",
        r"run.yaml: model.filter.type (line ",
        "no card of model 'blip_image_text_matching' is named 'tyni'",
        r"run.yaml: model.pairs_at_once (line ",
        "matching_of_nobody",
    ):
        assert expected in found


@pytest.mark.parametrize(
    ("captioner", "message"),
    [
        ("blip_caption", r"model.captioner: 'blip_caption' \(str\) given, model \(\{name"),
        ({"type": "tiny"}, r"model.captioner: the key 'name' is missing"),
        ({"vit": {}}, r"model.captioner: the key 'name' is missing: which model"),
        ({"name": "blip_captoin"}, r"model.captioner.name: .*blip_caption"),
        (None, r"model.captioner: null given, model"),
    ],
)
def test_a_captioner_that_is_no_model(captioner, message):
    part = model_part({"name": "blip_capfilt", "captioner": captioner})
    with pytest.raises(ConfigError, match=message):
        part.build()


def test_it_may_not_be_left_out():
    assert "the key 'captioner' (model" in model_part({"name": "blip_capfilt"}).check()[0]


def test_weights_that_are_not_there_or_of_another_model_are_reported_together(tmp_path):
    saved(CAPTIONER, tmp_path / "captioner.pth", 0)
    part = model_part(with_weights(str(tmp_path / "none.pth"), "card:blip_retrieval/tiny"))
    with pytest.raises(ConfigError) as caught:
        model_weights(part)
    places = [problem.partition(": ")[0] for problem in caught.value.problems]
    assert places == ["model.captioner.weights", "model.filter.weights"]
    part = model_part(with_weights(None, str(tmp_path / "captioner.pth")))
    with pytest.raises(ConfigError, match=r"model.filter.weights: .*a BLIP captioner"):
        build_with_models(part)


def test_a_model_alone_has_no_key_weights():
    assert "unknown key 'weights'" in model_part({**CAPTIONER, "weights": "x"}).check()[0]


def test_pixels_of_both():
    same = image_processors(model_part(PAIR))
    assert list(same) == ["image"]
    assert same["image"].build().image_size == 16
    larger = {**FILTER, "vit": {**SIZES["vit"], "image_size": 24}}
    other = image_processors(model_part({**PAIR, "filter": larger}))
    assert list(other) == ["image", "filter_image"]
    assert other["filter_image"].build().image_size == 24
    with pytest.raises(ConfigError, match=r"model.captioner: it has no card"):
        image_processors(model_part({**PAIR, "captioner": {"name": "blip_caption", **SIZES}}))


def test_a_dataset_takes_the_first_models_processors():
    part = dataset_part({"name": "image_text", "path": "x.json"}, "datasets.eval.val", model=model_part(PAIR))
    assert part.processors["image_processor"].mapping["name"] == "blip_image_eval"


def test_an_evaluation_asks_for_no_other_weights_and_records_them(tmp_path):
    files = [tmp_path / "captioner.pth", tmp_path / "filter.pth"]
    expected = [saved(mapping, file, seed) for seed, (mapping, file) in enumerate(zip((CAPTIONER, FILTER), files))]
    generation = {"sample": True, "max_length": 12, "min_length": 6}
    run = write(tmp_path, with_weights(*map(str, files)), task={"name": "capfilt", "generation": generation})
    job = EvaluateJob.load(run, [f"run.output_dir={tmp_path / 'out'}", "run.device=cpu"])
    assert job.initial_weights() is None
    with pytest.raises(ConfigError, match="48x48 pixels, the model's image encoder takes 16x16"):
        EvaluateJob.load(run, ["datasets.eval.val.image_processor.image_size=48"]).prepare()
    ready = job.prepare()
    runner, step = job.make_runner(ready), ready.weights.step() if ready.weights else 0
    assert equal(runner.model.filter, expected[1])
    with runner:
        scores = runner.evaluate(step)
    assert 0 <= scores["val/purity_before"] <= 1
    assert len(json.loads((tmp_path / "out" / "capfilt_val.json").read_text())) == 12
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (tmp_path / "out" / "samples.png").exists()
    assert record["metrics"]["val/web_itm"] == scores["val/web_itm"]


@pytest.mark.parametrize("wanted", [False, True])
def test_a_run_file_chooses_cuda_graphs(tmp_path, wanted):
    saved(CAPTIONER, tmp_path / "captioner.pth", 0)
    saved(FILTER, tmp_path / "filter.pth", 1)
    files = [str(tmp_path / name) for name in ("captioner.pth", "filter.pth")]
    run = write(tmp_path, with_weights(*files), task={"name": "capfilt"})
    ready = EvaluateJob.load(run, [f"run.cuda_graphs={str(wanted).lower()}", "run.device=cpu"]).prepare()
    assert ready.model.captioner.text_decoder.cuda_graphs == wanted
