"""Objects of plugin classes cross processes: their module has one name everywhere, and every process finds it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.assets.two_ranks import in_two_ranks
from vlkit.datasets import loading
from vlkit.datasets.loading import TrainLoader
from vlkit.datasets.mixture import Mixture
from vlkit.registry import DATASETS, MODELS, TASKS, load_plugin, plugin_files

PLUGIN = Path(__file__).parents[2] / "assets" / "plugin_task.py"


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """What the plugin registers is forgotten afterwards."""
    monkeypatch.setenv(plugin_files.VARIABLE, "[]")
    for registry in (DATASETS, MODELS, TASKS):
        registry.names()
        monkeypatch.setattr(registry, "_items", dict(registry._items))
    yield
    sys.modules.pop(plugin_files.module_name(PLUGIN.resolve()), None)


def colors(size: int = 6):
    load_plugin(PLUGIN)
    return DATASETS.get("plugin_colors")(size)


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=given, timeout=120)


@pytest.fixture
def light(tmp_path):
    """A plugin that imports nothing heavy."""
    file = tmp_path / "light.py"
    file.write_text("class Light:\n    def __init__(self, size):\n        self.size = size\n")
    return file


def test_the_name_of_the_module_is_the_same_in_every_process(light):
    load = f"from vlkit.registry import load_plugin; load_plugin({str(light)!r}); import sys; print(*sys.modules)"
    for seed in ("1", "2"):
        assert plugin_files.module_name(light.resolve()) in python(load, PYTHONHASHSEED=seed).stdout.split()


def test_an_object_is_unpickled_by_a_process_that_knows_nothing_but_its_environment(light, tmp_path):
    load_plugin(light)
    made = sys.modules[plugin_files.module_name(light.resolve())].Light(5)
    (tmp_path / "object").write_bytes(pickle.dumps(made))
    read = f"import pickle; print(pickle.loads(open({str(tmp_path / 'object')!r}, 'rb').read()).size)"
    done = python(read)
    assert done.stdout.strip() == "5", done.stderr
    lost = python(read, VLKIT_PLUGIN_FILES="")
    assert "is the module of a plugin file that this process does not know. Load the file first" in lost.stderr


def test_training_loaders_that_start_by_spawn_read_the_same(monkeypatch):
    def first(workers: int) -> torch.Tensor:
        loader = TrainLoader(Mixture([colors()], seed=1), 4, num_workers=workers)
        return loader.next_step()[0]["image"]

    here = first(0)
    made = loading.DataLoader
    monkeypatch.setattr(loading, "DataLoader", lambda *a, **k: made(*a, multiprocessing_context="spawn", **k))
    assert torch.equal(first(1), here)


def gather(rank: int) -> None:
    dist.init_process_group("gloo")
    found: list = [None, None]
    dist.all_gather_object(found, colors(rank + 1))
    assert [len(dataset) for dataset in found] == [1, 2]
    assert all(type(dataset) is DATASETS.get("plugin_colors") for dataset in found)
    dist.destroy_process_group()


def test_objects_are_gathered_over_two_processes():
    in_two_ranks(gather)


@pytest.mark.parametrize("value", ["", "nonsense", "{}", "[1, null]"])
def test_a_variable_that_someone_else_set(value, monkeypatch):
    monkeypatch.setenv(plugin_files.VARIABLE, value)
    assert plugin_files.known_files() == {}
    assert len(colors(2)) == 2


def test_stems_that_are_no_names(tmp_path):
    file = tmp_path / "my-task.v2 \u00e4.py"
    file.write_text("VALUE = 3\n")
    load_plugin(file)
    assert sys.modules[plugin_files.module_name(file.resolve())].VALUE == 3
