"""A name that is missing, misspelled or no text is reported at its own key, whatever section it stands in."""

from __future__ import annotations

import pytest

from vlkit.cli import main
from vlkit.config.load import load_config
from vlkit.config.run import check_run
from vlkit.config.yamlfile import dump_yaml
from vlkit.errors import ConfigError, RegistryError
from vlkit.registry import MODELS

ODD = [["blip_caption"], {"a": 1}, 3, 2.5, True, None]


def run_file():
    return {
        "model": {"name": "blip_caption", "type": "tiny"},
        "datasets": {"train": [{"name": "shapes"}], "eval": {"val": {"name": "shapes", "split": "val"}}},
        "task": {"name": "captioning"},
        "optim": {"lr": 1e-3},
        "run": {"duration": "4 steps"},
    }


def problems(data, tmp_path) -> list[str]:
    (tmp_path / "run.yaml").write_text(dump_yaml(data))
    with pytest.raises(ConfigError) as caught:
        check_run(load_config(tmp_path / "run.yaml"))
    return caught.value.problems


def put(data, path, value):
    *keys, last = path.split(".")
    node = data
    for key in keys:
        node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
    node[int(last) if isinstance(node, list) else last] = value


NAMES = [
    "model.name",
    "task.name",
    "datasets.train.0.name",
    "datasets.eval.val.name",
    "datasets.train.0.image_processor.name",
]


@pytest.mark.parametrize("path", NAMES)
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_a_name_of_the_wrong_type(path, value, tmp_path):
    data = run_file()
    put(data, path, value)
    (problem,) = problems(data, tmp_path)
    assert f": {path}" in problem
    assert "is needed: a text" in problem


@pytest.mark.parametrize("path", NAMES)
def test_a_missing_name(path, tmp_path):
    data = run_file()
    put(data, path, "x")
    section, _, _ = path.rpartition(".")
    put(data, section, {"x": 1})
    assert any(f": {section}" in problem and "'name' is missing" in problem for problem in problems(data, tmp_path))


@pytest.mark.parametrize("path", NAMES)
def test_a_misspelled_name(path, tmp_path):
    data = run_file()
    spelled = {"model": "blip_captoin", "task": "captionning", "datasets": "shaps"}
    wrong = "blip_image_evl" if "processor" in path else spelled[path.partition(".")[0]]
    put(data, path, wrong)
    (problem,) = problems(data, tmp_path)
    assert f": {path}" in problem
    assert repr(wrong) in problem
    assert "Closest: " in problem
    assert "type" not in problem.partition("Known")[0]


@pytest.mark.parametrize("value", [["tiny"], 3, True, {}], ids=repr)
def test_a_card_of_the_wrong_type(value, tmp_path):
    data = run_file()
    data["model"]["type"] = value
    (problem,) = problems(data, tmp_path)
    assert ": model.type" in problem
    assert "the name of a card is needed: a text" in problem


@pytest.mark.parametrize("value", ["blip_image_eval", 3, True, ["x"]], ids=repr)
def test_a_processor_that_is_no_mapping(value, tmp_path):
    data = run_file()
    data["datasets"]["train"][0]["image_processor"] = value
    (problem,) = problems(data, tmp_path)
    assert ": datasets.train.0.image_processor" in problem
    assert "a mapping is needed" in problem
    assert ("{name: blip_image_eval}" in problem) == (value == "blip_image_eval")


@pytest.mark.parametrize("section", ["model", "datasets", "task", "optim", "run"])
@pytest.mark.parametrize("value", [[], 3, "text", True, [1]], ids=repr)
def test_a_section_that_is_no_mapping(section, value, tmp_path):
    assert any(f": {section}" in problem for problem in problems(run_file() | {section: value}, tmp_path))


@pytest.mark.parametrize("value", [3, True, "x", [1]], ids=repr)
def test_evaluation_sets_that_are_no_mapping(value, tmp_path):
    data = run_file()
    data["datasets"]["eval"], data["run"]["monitor"] = value, "val/cider"
    assert any(": datasets.eval" in problem for problem in problems(data, tmp_path))


@pytest.mark.parametrize("value", [0, False, "", {}], ids=repr)
def test_plugins_that_are_no_list(value, tmp_path):
    assert any(": plugins" in problem for problem in problems(run_file() | {"plugins": value}, tmp_path))


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), 2**200, "1", True], ids=repr)
def test_the_weight_of_a_dataset(weight, tmp_path):
    data = run_file()
    data["datasets"]["train"][0]["weight"] = weight
    (problem,) = problems(data, tmp_path)
    assert ": datasets.train.0.weight" in problem


def test_what_a_constructor_says_is_not_hidden_by_null(tmp_path):
    """The generation section may be null, and the message was about that."""
    data = run_file()
    data["task"]["generation"] = {"num_beams": 1, "num_return_sequences": 3}
    (problem,) = problems(data, tmp_path)
    assert ": task.generation" in problem
    assert "3 sequences cannot come from 1 beams" in problem


@pytest.mark.parametrize("name", [["x"], {}, 3, None], ids=repr)
def test_a_registry_takes_texts_only(name):
    assert name not in MODELS
    with pytest.raises(RegistryError, match="a text"):
        MODELS.get(name)


@pytest.mark.parametrize("path", ["model", "task", "datasets.train.0"])
def test_a_misspelled_key_of_the_name_is_found(path, tmp_path):
    data = run_file()
    put(data, path, {"med": {}, "type": "tiny", "nmae": "blip_caption", "prompt": "a "})
    assert any("'name' is missing" in each and "Is 'nmae' meant?" in each for each in problems(data, tmp_path))
    put(data, path, {"med": {}})
    assert not any("meant?" in each for each in problems(data, tmp_path))


def test_a_misspelled_processor_is_named(tmp_path):
    data = run_file()
    put(data, "datasets.train.0.image_procesor", {"name": "blip_image_train"})
    (problem,) = problems(data, tmp_path)
    assert "unknown key 'image_procesor'. Did you mean 'image_processor'" in problem


@pytest.mark.parametrize(
    "address", ["s3://bucket/x", "https://us3r:t0ken@host/x", "file:///tmp/x", "package://vlkit/x"]
)
def test_an_address_is_no_folder_for_output(address, tmp_path):
    data = run_file()
    put(data, "run.output_dir", address)
    (problem,) = problems(data, tmp_path)
    assert "path or null allowed. An address cannot be used here." in problem
    assert "t0ken" not in problem


def test_a_plugin_that_exits_is_named(tmp_path):
    (tmp_path / "plugin.py").write_text("raise SystemExit(0)")
    data = run_file() | {"plugins": ["plugin.py"]}
    assert any("plugin.py fails to import: SystemExit" in each for each in problems(data, tmp_path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"model": {"name": "blip_capfilt"}, "task": {"name": "capfilt"}, "inptu": {"path": "a.tar"}},
            "unknown section 'inptu'. Did you mean 'input'?",
        ),
        (
            {"stage": [{"name": "a", "command": "train", "config": {"run": {"init_from": "${stages.b}"}}}]},
            "unknown key 'stage'. Did you mean 'stages'",
        ),
    ],
)
def test_a_misspelled_section_of_a_job_or_pipeline(data, message, tmp_path, capsys):
    (tmp_path / "file.yaml").write_text(dump_yaml(data))
    assert main(["check", str(tmp_path / "file.yaml")]) == 2
    assert message in capsys.readouterr().err
