"""Which weights a run starts from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.assets.run_files import pretrain_run, write
from vlkit.config.parts import ModelPart
from vlkit.errors import CheckpointError, ConfigError
from vlkit.jobs.models import from_card, from_name
from vlkit.jobs.train import EvaluateJob, TrainJob
from vlkit.models.weights.load import from_path, from_run
from vlkit.registry import MODELS


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def weights(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"weight": torch.ones(2)}, path)
    return path


def checkpoint(run: Path, step: int, best: int | None = None) -> Path:
    file = weights(run / f"checkpoints/step_{step:08d}/model.safetensors")
    content = {"step": step, "best": {"step": best}, "files": {file.name: file.stat().st_size}}
    (file.parent / "trainer.json").write_text(json.dumps(content))
    return file


def card(**given: str) -> ModelPart:
    return ModelPart(MODELS, {"name": "toy"}, "model", str, "base", {"weights": given} if given else {})


def test_a_file_is_identified_by_its_content(folder):
    file = weights(folder / "model.safetensors")
    found = from_path(file)
    assert found.facts() == {
        "source": str(file),
        "file": str(file),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    assert found.step() == 0


def test_of_a_run_the_best_weights_or_else_the_newest_are_taken(folder):
    assert from_run(folder / "run") is None
    checkpoint(folder / "run", 3)
    newest = checkpoint(folder / "run", 12)
    found = from_run(folder / "run")
    assert (found.file(), found.step()) == (newest, 12)
    checkpoint(folder / "run", 15, best=3)
    assert from_run(folder / "run").step() == 3


def test_addresses_are_fetched(folder):
    file = weights(folder / "model.safetensors")
    assert from_path(file.as_uri()).file() == file


def test_a_card_names_file_checksum_and_adapter(folder):
    file = weights(folder / "model.safetensors")
    found = from_card(card(path=str(file), format="lavis"))
    assert (found.file(), found.adapter) == (file, "lavis")
    assert from_card(card(path=str(file), format="lavis", adapter="hf")).adapter == "hf"
    with pytest.raises(Exception, match="sha256"):
        from_card(card(path=str(file), sha256="0" * 64)).file()


def test_a_card_without_weights():
    with pytest.raises(ConfigError, match="toy/base has no weights"):
        from_card(card())


def test_an_evaluation_looks_in_this_order(folder):
    """--checkpoint, the run's own folder, run.init_from."""
    given, own, named = folder / "given.safetensors", folder / "out", weights(folder / "named.safetensors")
    job = EvaluateJob.load(write(folder / "run.yaml", pretrain_run(init_from=str(named))))
    assert job.initial_weights().file() == named
    checkpoint(own, 4)
    assert job.initial_weights().step() == 4
    job.checkpoint = weights(given)
    assert job.initial_weights().file() == given


def test_training_starts_from_what_is_named_alone(folder):
    checkpoint(folder / "out", 4)
    run = write(folder / "run.yaml", pretrain_run())
    assert TrainJob.load(run).initial_weights() is None
    named = weights(folder / "named.safetensors")
    assert TrainJob.load(run, [f"run.init_from={named}"]).initial_weights().file() == named
    with pytest.raises(CheckpointError, match=r"nmed.safetensors does not exist. Did you mean 'named.safetensors'"):
        TrainJob.load(run, ["run.init_from=nmed.safetensors"]).initial_weights()
    with pytest.raises(ConfigError, match="blip_pretrain/tiny has no weights"):
        TrainJob.load(run, ["run.init_from=card"]).initial_weights()


def test_a_card_is_named_by_model_and_type():
    assert from_name("card:blip_pretrain/base").source == "card:blip_pretrain/base"
    with pytest.raises(ConfigError, match="base_coco"):
        from_name("card:blip_caption/base_cocoo")
    with pytest.raises(ConfigError, match="<model>/<type>"):
        from_name("card:blip_pretrain")
    with pytest.raises(ConfigError, match="has no weights"):
        from_name("card:blip_pretrain/tiny")
