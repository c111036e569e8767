"""The small models that the package brings along: they load without network and reach what their cards say.

Scores that are counts of right answers over all answers are compared exactly: nothing is drawn, and a decision between
two candidates would have to be closer than rounding to differ elsewhere (it is the same with and without vector
instructions). Scores that add up floats are compared to 1e-4. Where candidates of retrieval tie, the right one loses.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from vlkit import list_models, load_dataset, load_model, load_model_and_preprocess
from vlkit.config.cards import CONFIGS, model_card
from vlkit.io.fetch import fetch
from vlkit.jobs.train import EvaluateJob

MODELS = [name for name, types in list_models() if "tiny_shapes" in types]
FLOATS = {"cider", "mrr", "loss_nlvr"}
CAPTION = "there is a small white triangle"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("VLKIT_OFFLINE", "1")
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "empty").exists()


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_head_has_one_and_all_are_small():
    heads = {"caption", "retrieval", "image_text_matching", "feature_extractor", "vqa", "nlvr", "dialog", "pretrain"}
    assert set(MODELS) == {f"blip_{head}" for head in heads}
    cards = [model_card(name, "tiny_shapes")["weights"] for name in MODELS]
    files = {fetch(card["path"], sha256=card["sha256"]) for card in cards}
    assert files == set((CONFIGS / "weights" / "tiny_shapes").iterdir())
    assert sum(file.stat().st_size for file in files) < 10_000_000


@pytest.mark.parametrize("name", MODELS)
def test_it_reaches_what_its_card_says(name, tmp_path, one_thread):
    evaluation = model_card(name, "tiny_shapes")["evaluation"]
    run = {**evaluation["config"], "model": {"name": name, "type": "tiny_shapes"}}
    run["run"] = {**run["run"], "output_dir": "there", "sample_images": 0, "device": "cpu"}
    Path("run.yaml").write_text(yaml.safe_dump(run))
    scores = EvaluateJob.load("run.yaml").run()["metrics"]
    for score, recorded in evaluation["metrics"].items():
        tolerance = 1e-4 if score.partition("/")[2] in FLOATS else 0
        assert scores[score] == pytest.approx(recorded, abs=tolerance, rel=0), score
    assert len(evaluation["metrics"]) >= 3


def test_cards_name_runs_that_are_in_the_project():
    for name in MODELS:
        training = model_card(name, "tiny_shapes")["training"]
        run = yaml.safe_load((ROOT / training["config"]).read_text())
        assert run["model"] == {"name": "blip_retrieval" if "retrieval" in training["config"] else name, "type": "tiny"}
        assert (ROOT / training["log"]).is_file()


def test_float32_whatever_the_file_stores():
    for name in MODELS:
        model = load_model(name, "tiny_shapes")
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert not model.training


def test_caption_and_filter_of_one_scene():
    model, image_processors, _ = load_model_and_preprocess("blip_caption", "tiny_shapes")
    scene = load_dataset("shapes", split="test", size=3, image_processor=image_processors["eval"])[2]
    assert scene["text_input"] == "a small white triangle"
    samples = {"image": scene["image"][None]}
    assert model.generate(samples) == [CAPTION]
    matcher = load_model("blip_image_text_matching", "tiny_shapes")
    texts = {"text_input": [CAPTION, "there is a small blue triangle"]}
    right, wrong = matcher({"image": scene["image"].repeat(2, 1, 1, 1), **texts}, match_head="itm").softmax(1)[:, 1]
    assert right > 0.7
    assert wrong < 0.1


ELSEWHERE = """
import torch
from vlkit import load_dataset, load_model_and_preprocess
import vlkit, json, sys
model, image_processors, _ = load_model_and_preprocess("blip_caption", "tiny_shapes")
scene = load_dataset("shapes", split="test", size=3, image_processor=image_processors["eval"])[2]
slow = sorted({"timm", "torchvision", "transformers", "torch._dynamo"} & set(sys.modules))
print(json.dumps([vlkit.__file__, model.generate({"image": scene["image"][None]}), slow]))
"""


def test_from_a_wheel_elsewhere(tmp_path):
    """Built, unpacked into another folder, and used from a third: nothing of the checkout is needed."""
    source, unpacked = tmp_path / "source", tmp_path / "unpacked"
    source.mkdir()
    shutil.copytree(ROOT / "vlkit", source / "vlkit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 10_000_000
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    shutil.rmtree(source)
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    file, captions, slow = json.loads(done.stdout)
    assert Path(file).is_relative_to(unpacked)
    assert captions == [CAPTION]
    assert slow == []  # what takes seconds to import
