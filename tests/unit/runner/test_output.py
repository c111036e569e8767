from __future__ import annotations

import json

import pytest
import torch

from vlkit.config.signature import signature
from vlkit.errors import ConfigError
from vlkit.io.disk_errors import FileError
from vlkit.registry import TASKS
from vlkit.runner.output import OutputFolder, environment

CONFIG = {"optim": {"lr": 1e-4, "betas": (0.9, 0.98)}, "run": {"seed": 1, "num_workers": 4, "output_dir": "a"}}


def changed(section: str, **keys):
    return {**CONFIG, section: {**CONFIG[section], **keys}}


def test_the_same_run_may_come_back(tmp_path):
    assert OutputFolder(tmp_path, CONFIG).claim() is None
    assert OutputFolder(tmp_path, CONFIG).claim() is None


def test_what_leaves_the_weights_as_they_are_may_change(tmp_path):
    first = OutputFolder(tmp_path, CONFIG)
    first.claim()
    other = OutputFolder(tmp_path, changed("run", num_workers=0, output_dir="b", log_every=7, device="cpu"))
    assert other.claim() is None
    assert other.config_hash == first.config_hash


def test_another_run_is_refused_with_the_keys_that_differ(tmp_path):
    first = OutputFolder(tmp_path, CONFIG)
    first.claim()
    other = OutputFolder(tmp_path, changed("optim", lr=2e-4, eps=1e-6))
    assert other.config_hash != first.config_hash
    with pytest.raises(ConfigError, match=r"optim\.lr was 0\.0001, is 0\.0002; optim\.eps was absent, is 1e-06"):
        other.claim()


def test_a_finished_run_gives_its_result(tmp_path):
    folder = OutputFolder(tmp_path, CONFIG)
    folder.claim()
    folder.write_json("result.json", {"step": 3, "metrics": {"val/x": float("nan")}})
    assert folder.claim() == {"step": 3, "metrics": {"val/x": None}}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        OutputFolder(tmp_path / "file" / "run", CONFIG).claim()


def test_environment_is_json_and_names_versions():
    found = json.loads(json.dumps(environment(torch.device("cpu"), 2, {"data": {"train": ["x"]}})))
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["device"]["processes"] == 2
    assert found["data"] == {"train": ["x"]}


@pytest.mark.parametrize("content", ["[1]", "3", "text", "\0", "a: ["])
def test_a_configuration_that_is_damaged_is_named(tmp_path, content):
    folder = OutputFolder(tmp_path, CONFIG)
    folder.claim()
    folder.release()
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        OutputFolder(tmp_path, CONFIG).claim()


def test_a_configuration_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "config.yaml").symlink_to("/proc/self/mem")
    with pytest.raises(FileError, match=r"config\.yaml: cannot be read \(Input/output error\)"):
        OutputFolder(tmp_path, CONFIG).check()


def test_keys_of_evaluation_are_arguments_of_the_task_that_declares_them():
    for name in TASKS.names():
        constructor = TASKS.get(name)
        keys = getattr(constructor, "evaluation_keys", ())
        assert set(keys) <= set(signature(constructor).parameters), name


def test_evaluation_and_length_are_no_reason_to_refuse_a_folder(tmp_path):
    task = {"name": "captioning", "java": False}
    config = {**CONFIG, "task": task, "datasets": {"train": [{"name": "a"}], "eval": {"val": {"name": "b"}}}}
    OutputFolder(tmp_path, config).record()
    for section, change in {
        "datasets": {"train": [{"name": "a"}], "eval": {"test": {"name": "c"}}},
        "task": {"name": "captioning", "generation": {"num_beams": 1}},
        "run": {"seed": 1, "max_epochs": 3, "monitor": "val/x", "num_workers": 0},
    }.items():
        OutputFolder(tmp_path, {**config, section: change}).check()
    for section, change in {
        "datasets": {"train": [{"name": "b"}], "eval": {}},
        "task": {"name": "vqa"},
        "run": {"seed": 2},
    }.items():
        with pytest.raises(ConfigError, match=rf"{section}.*run\.change_optimizer=true.*run\.init_from="):
            OutputFolder(tmp_path, {**config, section: change}).check()


def test_a_finished_run_is_reopened_by_a_longer_length_or_another_evaluation(tmp_path):
    folder = OutputFolder(tmp_path, changed("run", max_epochs=2))
    folder.record()
    folder.write_json("result.json", {"step": 3})
    (tmp_path / "checkpoints/step_00000003").mkdir(parents=True)
    settings = ({"max_epochs": 2}, {"max_epochs": 3}, {"max_epochs": 2, "monitor": "v/x"})
    same, longer, other = (OutputFolder(tmp_path, changed("run", **each)) for each in settings)
    assert same.finished() == {"step": 3}
    assert longer.finished() is other.finished() is None
