"""A run file as a whole: parts, cards, plugins, and all of its problems at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlkit import registry
from vlkit.config import build as build_module
from vlkit.config import cards, parts
from vlkit.config.durations import Duration
from vlkit.config.load import load_config
from vlkit.config.run import RunConfig, check_run
from vlkit.errors import ConfigError
from vlkit.registry import Registry

PLUGIN = """
from vlkit.registry import DATASETS, MODELS, PROCESSORS, TASKS

@MODELS.register("toy")
class Toy:
    def __init__(self, width: int, depth: int = 2, heads: dict[str, int] | None = None):
        self.width, self.depth, self.heads = width, depth, heads

@TASKS.register("count")
class Count:
    def __init__(self, alpha: float = 0.4):
        self.alpha = alpha

@DATASETS.register("rows")
class Rows:
    def __init__(self, split: str, size: int = 3, image_processor=None, text_processor=None):
        self.split, self.size = split, size
        self.image_processor, self.text_processor = image_processor, text_processor

@DATASETS.register("plain")
class Plain:
    def __init__(self, size: int = 3):
        self.size = size

@PROCESSORS.register("crop")
class Crop:
    def __init__(self, size: int):
        self.size = size
"""
RUN = """
plugins: [plugins/toy.py]
model: {name: toy, width: 8}
datasets:
  train: [{name: rows, split: train, weight: 2}]
  eval: {val: {name: rows, split: val}}
task: {name: count}
optim: {lr: 1e-3}
run: {max_steps: 20, monitor: val/score}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working directory with a plugin, and registries of its own."""
    import sys

    monkeypatch.chdir(tmp_path)
    for kind in ("MODELS", "PROCESSORS", "DATASETS", "TASKS"):
        fresh = Registry(kind[:-1].lower(), "tests.assets_of_no_plugin")
        monkeypatch.setattr(fresh, "_scanned", True)
        monkeypatch.setattr(registry, kind, fresh)
        monkeypatch.setattr(parts, kind, fresh)
    monkeypatch.setattr(cards, "CONFIGS", tmp_path / "configs")
    Path("plugins").mkdir()
    Path("plugins/toy.py").write_text(PLUGIN)
    write("run.yaml", RUN)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("vlkit.registry.plugin_files."):
            del sys.modules[name]


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


def run(*overrides: str, training: bool = True) -> RunConfig:
    return check_run(load_config("run.yaml", overrides), training)


def problems(*overrides: str, training: bool = True) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        run(*overrides, training=training)
    return caught.value.problems


def test_a_right_file_gives_parts_that_build():
    found = run()
    assert found.model.build().width == 8
    assert found.task.build().alpha == 0.4
    assert found.datasets.train[0].build().split == "train"
    assert found.datasets.train[0].weight == 2
    assert found.datasets.eval["val"].build(image_processor=abs).image_processor is abs
    assert found.run.length == Duration(20, "steps")
    assert found.optim.lr == 1e-3
    assert found.output_dir == Path("output/run")
    assert run("run.output_dir=elsewhere").output_dir == Path("elsewhere")


def test_every_problem_of_every_section_is_reported():
    write(
        "run.yaml",
        """
plugins: [plugins/toy.py, plugins/none.py]
modell: {}
model: {name: toy, widht: 8}
datasets:
  train: [{name: rows, split: 3}, {name: row}]
  evaluation: {}
  eval: {val: {name: rows, split: val, image_processor: {name: crop}}}
task: {name: count, alpha: yes}
optim: {lr: "1e-3", beta: 3}
run: {max_steps: 20, monitor: vall/score, batch_size: 0, precision: fp16, eval_every: 2 stepps}
""",
    )
    found = problems("model.depth=x")
    starts = [
        "run.yaml: modell (line 3): unknown section 'modell'. Did you mean 'model'?",
        "run.yaml: plugins.1 (line 2): plugin file 'plugins/none.py' does not exist",
        "run.yaml: model.widht (line 4): unknown key 'widht'. Did you mean 'width'?",
        "command line: model.depth: 'x' (str) given, int allowed.",
        "run.yaml: model (line 4): the key 'width' (int) is missing.",
        "run.yaml: datasets.evaluation (line 7): unknown key 'evaluation'.",
        "run.yaml: datasets.train.0.split (line 6): 3 (int) given, str allowed.",
        "run.yaml: datasets.train.1.name (line 6): no dataset is named 'row'. Closest: rows",
        "run.yaml: datasets.eval.val.image_processor (line 8): the key 'size' (int) is missing.",
        "run.yaml: task.alpha (line 9): 'yes' (str) given, float allowed.",
        "run.yaml: optim.lr (line 10): '1e-3' (str) given, float allowed. Write the number",
        "run.yaml: optim.beta (line 10): unknown key 'beta'. Did you mean 'betas'",
        "run.yaml: run.batch_size (line 11): 0 (int) given, int at least 1 and at most 1000000 allowed.",
        "run.yaml: run.precision (line 11): 'fp16' (str) given, 'fp32' or 'bf16' allowed.",
        "run.yaml: run.eval_every (line 11): '2 stepps': 'stepps' is no unit. Did you mean 'steps'",
        "run.yaml: run.monitor (line 11): 'vall/score' names no evaluation set. Did you mean 'val'?",
    ]
    for start in starts:
        assert any(problem.startswith(start) for problem in found), (start, found)
    assert len(found) == len(starts)


def test_missing_sections_are_named():
    write("run.yaml", "plugins: []\n")
    text = "\n".join(problems())
    for expected in ("'model' is missing", "'task' is missing", "nothing to train on", "optim.lr", "run.duration"):
        assert expected in text


def test_evaluation_needs_less():
    write("run.yaml", RUN.replace("  train: [{name: rows, split: train, weight: 2}]\n", ""))
    write("run.yaml", Path("run.yaml").read_text().replace("optim: {lr: 1e-3}\nrun: {max_steps: 20, ", "run: {"))
    assert list(run(training=False).datasets.eval) == ["val"]
    assert "nothing to train on" in problems()[0]
    assert "nothing to evaluate on" in "\n".join(problems("datasets.eval=null", training=False))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run.max_epochs=2", "run (line 9): max_steps and max_epochs are given; one length is allowed"),
        ("run.grad_accum_steps=3", "run (line 9): batch_size (32) counts all micro-batches"),
        ("optim.min_lr=1", "optim (line 8): min_lr (1) is above lr (0.001)."),
        ("datasets={train: {name: rows}}", "datasets.train: {'name': 'rows'} given; write a list"),
        ("datasets=[1]", "datasets: [1] given, a mapping"),
        ("datasets.train.0.weight=0", "datasets.train.0.weight: 0 (int) given, float above 0"),
        ("datasets.eval.val.weight=2", "datasets.eval.val.weight: unknown key 'weight'"),
        ("datasets.eval.val=rows", "datasets.eval.val: 'rows' given, a mapping with 'name'"),
        ("model=toy", "model: 'toy' given, a mapping"),
        ("plugins=toy.py", "plugins: 'toy.py' (str) given, list of str allowed"),
        ("model.type=base", "model.type: no card of model 'toy' is named 'base'. This model has no cards"),
    ],
)
def test_problems_name_the_key(override, expected):
    assert any(expected in problem for problem in problems(override))


@pytest.mark.parametrize(
    ("override", "length"),
    [("max_epochs=2", "2 epochs"), ("max_samples=80k", "80k samples"), ("duration=0.5 epochs", "0.5 epochs")],
)
def test_length_in_any_unit(override, length):
    found = run("run.max_steps=null", f"run.{override}")
    assert found.run.length == Duration.parse(length)


def test_plugins_are_relative_to_the_file_that_lists_them():
    write("deep/base.yaml", "plugins: [toy.py]\n")
    write("deep/toy.py", PLUGIN)
    write("run.yaml", RUN.replace("plugins: [plugins/toy.py]", "extends: deep/base.yaml"))
    assert run().model.build().width == 8


CARD = """
description: a toy
license: MIT
model: {width: 16, depth: 3, heads: {a: 1, b: 2}}
weights: {url: "https://example.org/toy.pth", sha256: abc, format: blip}
preprocess:
  image: {train: {name: crop, size: 4}, eval: {name: crop, size: 5}}
  text: {name: crop, size: 6}
"""


def test_card_gives_arguments_and_processors():
    write("configs/models/toy/base.yaml", CARD)
    write("run.yaml", RUN.replace("width: 8", "type: base, depth: 9, heads: {b: 3}"))
    found = run()
    model = found.model.build()
    assert (model.width, model.depth, model.heads) == (16, 9, {"a": 1, "b": 3})
    assert found.model.type == "base"
    assert found.model.card["weights"]["format"] == "blip"
    train, val = found.datasets.train[0].build(), found.datasets.eval["val"].build()
    assert (train.image_processor.size, val.image_processor.size) == (4, 5)
    assert (train.text_processor.size, val.text_processor.size) == (6, 6)


def test_run_file_has_the_last_word_on_processors():
    write("configs/models/toy/base.yaml", CARD)
    write("run.yaml", RUN.replace("width: 8", "type: base"))
    own = "datasets.train.0={image_processor: {name: crop, size: 1}, text_processor: null}"
    train = run(own).datasets.train[0].build()
    assert train.image_processor.size == 1
    assert train.text_processor is None


def test_datasets_without_processors_get_none_from_the_card():
    write("configs/models/toy/base.yaml", CARD)
    write("run.yaml", RUN.replace("width: 8", "type: base").replace("rows, split: train", "plain"))
    assert run().datasets.train[0].build().size == 3


def test_problems_in_a_card_name_its_file():
    write("configs/models/toy/base.yaml", CARD.replace("width: 16", "widht: 16").replace("{name: crop, size: 4}", "{}"))
    write("run.yaml", RUN.replace("width: 8", "type: base, dept: 9"))
    found = problems()
    assert any("base.yaml: model.widht (line 4): unknown key" in problem for problem in found)
    assert any("run.yaml: model.dept (line 3): unknown key" in problem for problem in found)
    assert any("base.yaml: preprocess.image.train (line 7): the key 'name' is missing" in p for p in found)


def test_cards_are_listed_and_checked():
    write("configs/models/toy/base.yaml", CARD)
    write("configs/models/toy/large.yaml", "extends: base.yaml\nmodel: {width: 32}\n")
    write("configs/models/toy/_common.yaml", "")
    assert cards.list_cards() == {"toy": ["base", "large"]}
    assert cards.model_card("toy", "large")["model"]["width"] == 32
    with pytest.raises(ConfigError, match=r"Did you mean 'large'.* Known types: base, large"):
        cards.model_card("toy", "lage")
    write("configs/models/toy/bad.yaml", "weight: {url: x}\nweights: {uri: x}\n")
    with pytest.raises(ConfigError) as caught:
        cards.model_card("toy", "bad")
    assert "weight (line 1): unknown key 'weight'. Did you mean 'weights'" in caught.value.problems[0]
    assert "weights.uri (line 2): unknown key 'uri'. Did you mean 'url'" in caught.value.problems[1]


def test_dataset_cards_stand_for_a_class_and_its_arguments():
    write("configs/datasets/coco.yaml", "dataset: {name: rows, split: train, size: 7}\n")
    write("run.yaml", RUN.replace("name: rows, split: val", "name: coco, split: val"))
    val = run().datasets.eval["val"].build()
    assert (val.split, val.size) == ("val", 7)
    assert cards.list_dataset_cards() == ["coco"]
    assert cards.dataset_card("coco")["dataset"]["size"] == 7
    with pytest.raises(ConfigError, match="Did you mean 'coco'"):
        cards.dataset_card("coc")


def test_checking_a_part_agrees_with_building_it():
    part = parts.task_part({"name": "nothing"})
    with pytest.raises(ConfigError) as caught:
        part.build()
    assert caught.value.problems == part.check()
    assert part.name == "nothing"
    assert build_module.check(dict, {"a": 1}) == []
