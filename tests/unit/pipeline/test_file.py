"""References to earlier stages are resolved when a pipeline file is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vlkit.errors import ConfigError
from vlkit.jobs.base import Pending
from vlkit.pipeline import load_pipeline

SHAPES = {"name": "shapes", "split": "train", "size": 4}


def shards(name: str, **dataset) -> dict:
    return {"name": name, "command": "shards", "config": {"dataset": {**SHAPES, **dataset}}}


def train(name: str, path: str, run: dict | None = None, **more) -> dict:
    config = {
        "model": {"name": "blip_pretrain", "type": "tiny"},
        "datasets": {"train": [SHAPES, {"name": "web_shards", "path": path}]},
        "task": {"name": "pretrain"},
        "optim": {"lr": 1e-3},
        "run": {"duration": "1 steps", "batch_size": 2, **(run or {})},
    }
    return {"name": name, "command": "train", "config": config, **more}


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(*stages: dict, overrides=(), **more):
        Path("pipe.yaml").write_text(yaml.safe_dump({"stages": list(stages), **more}))
        return {stage.key: stage for stage in load_pipeline("pipe.yaml", overrides).stages}

    return load


def test_a_reference_becomes_the_folder_and_is_known_by_its_key_path(load):
    stages = load(shards("web"), shards("web2"), train("model", "${stages.web}/00000.tar"))
    model = stages["model"]
    assert model.job.config.data["datasets"]["train"][1]["path"] == "output/pipe/web/00000.tar"
    assert model.references == {"datasets.train.1.path": {"web"}}
    assert model.after == ("web",)
    assert model.pending(["web", "model"]) == Pending(frozenset({"datasets.train.1.path"}))
    assert not model.pending(["web2"])


def test_a_reference_to_a_reference_is_one_too(load):
    model = load(shards("web"), train("model", "${run.wandb}", {"wandb": "${stages.web}"}))["model"]
    assert model.references == {"datasets.train.1.path": {"web"}, "run.wandb": {"web"}}


def test_one_value_may_refer_to_several_stages(load):
    model = load(shards("a"), shards("b"), train("model", "${stages.b}/{1,2}.tar::${stages.a}"))["model"]
    assert model.job.config.data["datasets"]["train"][1]["path"] == "output/pipe/b/{1,2}.tar::output/pipe/a"
    assert model.references == {"datasets.train.1.path": {"a", "b"}}
    assert model.after == ("a", "b")


def test_references_of_set_and_of_the_command_line_count(load):
    stage = train("model", "${stages.a}", set={"run.init_from": "${stages.b}"})
    model = load(shards("a"), shards("b"), stage, overrides=["model.run.wandb=${stages.a}"])["model"]
    assert model.references == {
        "datasets.train.1.path": {"a"},
        "run.init_from": {"b"},
        "run.wandb": {"a"},
    }


def test_with_seeds_a_reference_is_to_the_stage_of_the_same_seed(load):
    stages = load(shards("web", seed="${seed}"), train("model", "${stages.web}"), seeds=[0, 1])
    assert stages["seed_1/model"].references == {"datasets.train.1.path": {"seed_1/web"}}
    assert stages["seed_1/model"].job.config.data["datasets"]["train"][1]["path"] == "output/pipe/seed_1/web"
    assert stages["seed_1/web"].job.config.data["dataset"]["seed"] == 1


def test_a_stage_that_is_run_once_cannot_use_one_that_is_not(load):
    once = {**train("model", "${stages.web}"), "once": True}
    with pytest.raises(ConfigError, match=r"stage model: .*stages\.web"):
        load(shards("web"), once, seeds=[0, 1])


def test_a_file_without_references(load):
    model = load(train("model", "data/*.tar"))["model"]
    assert (model.references, model.after) == ({}, ())


def test_a_former_command_of_a_stage_names_the_new_one(load):
    with pytest.raises(ConfigError, match=r"pipe\.yaml:.*stages\.1\.command.*: the command 'cut' is now 'refilter'"):
        load(shards("web"), {"name": "cut", "command": "cut", "config": {"source": "x", "decision": {}}})
