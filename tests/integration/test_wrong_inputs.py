"""Wrong inputs end ``check`` and ``train`` with one clear message and exit code 2, and nothing is lost."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.assets.run_files import SIZES, caption_run, fails, pretrain_run, snapshot, write
from vlkit.cli import main
from vlkit.config.yamlfile import dump_yaml
from vlkit.registry import DATASETS, MODELS, PROCESSORS, TASKS
from vlkit.runner import checkpoint as checkpoint_module

Change = Callable[[dict[str, Any], Path], Any]


@dataclass(frozen=True)
class Row:
    """One mistake.

    Args:
        name: of the test.
        change: makes it: of the run (a mapping, changed in place; a text returned is the file instead) and its folder.
        says: what the message must contain.
        overrides: on the command line.
        commands: which of the two can meet it.
        writes: whether training begins before the mistake is met.
    """

    name: str
    change: Change
    says: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    commands: tuple[str, ...] = ("check", "train")
    writes: bool = field(default=False)


def at(path: str, value: Any) -> Change:
    """Sets one key."""

    def change(run: dict[str, Any], folder: Path) -> None:
        *keys, last = path.split(".")
        node: Any = run
        for key in keys:
            node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
        node[last] = value

    return change


def nothing(run: dict[str, Any], folder: Path) -> None:
    """The mistake is on the command line."""


def instead(text: str) -> Change:
    """The file holds ``text``."""
    return lambda run, folder: text


def renamed(old: str, new: str) -> Change:
    """Renames a section."""

    def change(run: dict[str, Any], folder: Path) -> None:
        run[new] = run.pop(old)

    return change


def files(change: Callable[[Path], Any]) -> Change:
    """Changes files alone."""
    return lambda run, folder: change(folder)


def truncated_picture(folder: Path) -> None:
    file = folder / "data/images/000002.png"
    file.write_bytes(file.read_bytes()[:60])


def truncated_weights(run: dict[str, Any], folder: Path) -> None:
    save_file({"visual_encoder.cls_token": torch.zeros(1, 1, 16)}, folder / "model.safetensors")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-8])
    run["run"]["init_from"] = "model.safetensors"


def weights_of_another(run: dict[str, Any], folder: Path) -> None:
    torch.save({"model": torch.nn.Linear(3, 4).state_dict()}, folder / "linear.pth")
    run["run"]["init_from"] = "linear.pth"


def weights_of_another_size(run: dict[str, Any], folder: Path) -> None:
    assert main(["train", write(folder / "narrow.yaml", caption_run(folder, max_steps=1, duration=None))]) == 0
    shutil.move(folder / "out", folder / "narrow")
    run["run"]["init_from"] = "narrow"
    run["model"]["vit"] = {**SIZES["vit"], "embed_dim": 24}


class Malice:
    """A pickle that makes a file when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)


def malicious_weights(run: dict[str, Any], folder: Path) -> None:
    (folder / "weights.pth").write_bytes(pickle.dumps({"model": Malice()}))
    run["run"]["init_from"] = "weights.pth"


def plugins(*texts: str) -> Change:
    """Plugin files with these contents."""

    def change(run: dict[str, Any], folder: Path) -> None:
        for number, text in enumerate(texts):
            (folder / f"plugin_{number}.py").write_text(text)
        run["plugins"] = [f"plugin_{number}.py" for number in range(len(texts))]

    return change


def another_run(run: dict[str, Any], folder: Path) -> None:
    """The output folder holds a run with another learning rate."""
    changed = {**run, "optim": {"lr": 2e-3}}
    assert main(["train", write(folder / "other.yaml", changed), "run.sample_images=0"]) == 0


def vocabulary_without(token: str) -> Change:
    def change(run: dict[str, Any], folder: Path) -> None:
        (folder / "vocab.txt").write_text("\n".join({"[PAD]", "[UNK]", "[CLS]", "[SEP]", "red"} - {token}) + "\n")
        run["model"]["tokenizer"] = "vocab.txt"

    return change


TOY = "from vlkit.registry import TASKS\n@TASKS.register('twin')\nclass Twin: ...\n"
EVAL_IMAGE = {"name": "blip_image_eval", "image_size": 64}
ROWS = [
    # Names
    Row("model name", at("model.name", "blip_captoin"), ("model.type", "blip_captoin")),
    Row(
        "model name without a card",
        lambda run, folder: run.update(model={"name": "blip_captoin", **SIZES}),
        ("model.name", "'blip_captoin'", "Closest: blip_caption"),
    ),
    Row("model type", at("model.type", "tiney"), ("model.type", "'tiney'", "Did you mean 'tiny'")),
    Row("dataset", at("datasets.train.0.name", "image_txt"), ("datasets.train.0.name", "Closest: image_text")),
    Row("task", at("task.name", "captionning"), ("task.name", "'captionning'", "Closest: captioning")),
    Row(
        "processor",
        at("datasets.eval.val.image_processor", {"name": "blip_image_evl"}),
        ("datasets.eval.val.image_processor.name", "'blip_image_evl'", "blip_image_eval"),
    ),
    Row("evaluation set of the monitor", at("run.monitor", "vall/cider"), ("run.monitor", "Did you mean 'val'")),
    Row(
        "score of the monitor", at("run.monitor", "val/cidr"), ("run.monitor", "'val/cidr'", "'val/cider'"), writes=True
    ),
    # Keys
    Row("section", renamed("datasets", "datsets"), ("'datsets'", "Did you mean 'datasets'")),
    Row("key of the model", at("model.promt", "a "), ("model.promt", "Did you mean 'prompt'")),
    Row("key inside the model", at("model.vit.image_sise", 48), ("image_sise", "Did you mean 'image_size'")),
    Row("key of datasets", at("datasets.evla", {}), ("datasets.evla", "Did you mean 'eval'")),
    Row("key of a dataset", at("datasets.train.0.image_rot", "data"), ("datasets.train.0", "'image_root'")),
    Row("key of the task", at("task.generaton", {}), ("task.generaton", "Did you mean 'generation'")),
    Row("key of optim", at("optim.weight_deca", 0.1), ("optim.weight_deca", "Did you mean 'weight_decay'")),
    Row("key of run", at("run.batchsize", 4), ("run.batchsize", "'batch_size'")),
    Row("key of an override", nothing, ("command line: optim.lrr", "Did you mean 'lr"), ("optim.lrr=1e-3",)),
    Row("override without a value", nothing, ("command line", "'optim.lr'", "key.path=value"), ("optim.lr",)),
    # Types and values
    Row("text for a number", at("optim.lr", "fast"), ("run.yaml: optim.lr", "'fast'", "float")),
    Row("list for a mapping", at("model", ["blip_caption"]), ("model", "['blip_caption']", "mapping")),
    Row("mapping for a list", at("datasets.train", {"name": "shapes"}), ("datasets.train", "a list: [{name: ...}]")),
    Row("number outside of its span", at("optim.lr", -1.0), ("optim.lr", "-1.0", "above 0")),
    Row("duration", at("run.duration", "3 bananas"), ("run.duration", "'3 bananas'", "'bananas' is no unit", "epochs")),
    Row("unit of a duration", at("run.duration", "3 epchs"), ("'epchs'", "Did you mean 'epochs'")),
    Row("two lengths", at("run.max_epochs", 2), ("duration and max_epochs",)),
    Row("no length", at("run.duration", None), ("run.duration", "'3000 steps'")),
    Row("accumulation", at("run.accumulate", 3), ("batch_size (4)", "accumulate (3)")),
    Row("weight of a dataset", at("datasets.train.0.weight", -1), ("datasets.train.0.weight", "-1", "above 0")),
    Row("pattern of rates", at("optim.lr_scale", {"visul*": 2.0}), ("'visul*'",), writes=True),
    # Files
    Row("malformed YAML", instead("model: {name: blip_caption\noptim: 3"), ("run.yaml:2", "not valid YAML")),
    Row("key given twice", instead("run: {seed: 1}\nrun: {seed: 2}"), ("run.yaml:2", "'run'", "line 1")),
    Row("missing base", at("extends", "bsae.yaml"), ("bsae.yaml", "does not exist", "Did you mean 'base.yaml'")),
    Row("missing annotations", at("datasets.train.0.path", "data/captoins.json"), ("captoins.json", "'captions.json'")),
    Row("no annotations", files(lambda f: (f / "data/captions.json").write_text("")), ("captions.json", "empty")),
    Row("no rows", files(lambda f: (f / "data/captions.json").write_text("[]")), ("captions.json",)),
    Row("annotations cut short", files(lambda f: (f / "data/captions.json").write_text('{"im')), ("captions.json",)),
    Row(
        "missing image",
        files(lambda f: (f / "data/images/000002.png").unlink()),
        ("000002.png", "do not exist", "run.bad_samples=skip"),
    ),
    Row("corrupt image", files(truncated_picture), ("000002.png", "cannot be used", "run.bad_samples=skip")),
    Row(
        "missing weights", at("run.init_from", "data/captions.jsno"), ("captions.jsno", "Did you mean 'captions.json'")
    ),
    Row("weights that are text", at("run.init_from", "data/captions.json"), ("run.init_from", "JSON")),
    Row("weights cut short", truncated_weights, ("run.init_from", "model.safetensors", "damaged or cut short")),
    Row("weights of another model", weights_of_another, ("linear.pth", "does not fit BlipCaption")),
    Row("weights of another size", weights_of_another_size, ("run.init_from", "width 16/8", "width 24/8")),
    Row("malicious weights", malicious_weights, ("weights.pth was refused", "Nothing was executed")),
    Row("card without weights", at("run.init_from", "card"), ("run.init_from", "blip_caption/tiny has no weights")),
    Row(
        "output folder of another run",
        another_run,
        ("out holds a run with another configuration", "optim.lr was 0.002"),
    ),
    Row("output folder is a file", files(lambda f: (f / "out").write_text("")), ("run.output_dir", "is a file")),
    Row("vocabulary without a token", vocabulary_without("[SEP]"), ("vocab.txt", "lacks [SEP]")),
    Row("missing vocabulary", at("model.tokenizer", "shape"), ("'shape'", "Did you mean 'shapes'")),
    Row("image size", at("datasets.eval.val.image_processor", EVAL_IMAGE), ("datasets.eval.val", "64x64", "48x48")),
    # Plugins
    Row("missing plugin", at("plugins", ["my_task.py"]), ("plugins.0", "my_task.py", "does not exist")),
    Row("plugin with a syntax error", plugins("def broken(:\n"), ("plugin_0.py", "SyntaxError")),
    Row(
        "plugin that fails", plugins("import nonsense_package\n"), ("plugin_0.py", "No module named 'nonsense_package'")
    ),
    Row("two plugins of one name", plugins(TOY, "\n" + TOY), ("'twin'", "plugin_0.py", "plugin_1.py", "Rename")),
]
CASES = [(row, command) for row in ROWS for command in row.commands]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder to work in; what plugins register is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    for registry in (MODELS, DATASETS, TASKS, PROCESSORS):
        registry.names()
        monkeypatch.setattr(registry, "_items", dict(registry._items))
    return tmp_path


@pytest.mark.parametrize(("row", "command"), CASES, ids=[f"{command}-{row.name}" for row, command in CASES])
def test_wrong_inputs(row, command, folder, capsys):
    (folder / "base.yaml").write_text("optim: {weight_decay: 0.1}\n")
    run = caption_run(folder)
    text = row.change(run, folder)
    (folder / "run.yaml").write_text(text if isinstance(text, str) else dump_yaml(run))
    before = snapshot(folder)
    message = fails(capsys, command, "run.yaml", *row.overrides)
    for part in row.says:
        assert part in message
    after = snapshot(folder)
    assert {name: after.get(name) for name in before} == before
    if not (row.writes and command == "train"):
        assert after == before
        assert not (folder / "pwned").exists()


def test_there_are_enough_rows():
    assert len({row.name for row in ROWS}) == len(ROWS) >= 50


def test_the_right_input_is_right(folder, capsys):
    """Otherwise every row could fail for a reason that they share."""
    run = write(folder / "run.yaml", caption_run(folder))
    assert main(["check", run]) == 0
    assert main(["train", run]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["check", "train", "evaluate", "run"])
def test_missing_file(command, folder, capsys):
    write(folder / "run.yaml", caption_run(folder))
    message = fails(capsys, command, "runn.yaml")
    assert "runn.yaml: does not exist" in message
    assert "Did you mean 'run.yaml'" in message


@pytest.mark.parametrize("command", ["check", "train"])
def test_all_mistakes_are_told_together(command, folder, capsys):
    run = caption_run(folder)
    run["model"]["promt"], run["optim"]["lr"], run["run"]["accumulate"] = "a ", "fast", 3
    run["datasets"]["train"][0]["name"] = "image_txt"
    message = fails(capsys, command, write(folder / "run.yaml", run))
    assert all(each in message for each in ("promt", "'fast'", "accumulate (3)", "image_txt"))


@pytest.mark.parametrize("command", ["check", "train"])
def test_mistakes_in_data_weights_and_model_are_told_together(command, folder, capsys):
    run = caption_run(folder, init_from="missing.pth")
    (folder / "data/images/000002.png").unlink()
    run["model"]["tokenizer"] = "nowhere.txt"
    message = fails(capsys, command, write(folder / "run.yaml", run))
    assert all(each in message for each in ("missing.pth", "000002.png", "nowhere.txt"))


@pytest.mark.parametrize("command", ["check", "train"])
def test_full_disk_is_found_before_the_first_step(command, folder, capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 5000, 5000))
    message = fails(capsys, command, write(folder / "run.yaml", caption_run(folder)))
    assert "no space for the checkpoints in out: 5.0 kB are free" in message
    assert not (folder / "out").exists()


def test_disk_that_fills_during_the_run_leaves_earlier_checkpoints(folder, capsys, monkeypatch):
    run = write(folder / "run.yaml", caption_run(folder, checkpoint_every=1, keep_checkpoints=3))
    save, saved = checkpoint_module.save_tensors, []

    def fill(path: Path, tensors: Any) -> None:
        saved.append(path)
        if len(saved) > 4:  # two files a checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, tensors)

    monkeypatch.setattr(checkpoint_module, "save_tensors", fill)
    message = fails(capsys, "train", run)
    assert "step_00000003" in message
    assert "no space left on the disk" in message
    left = sorted(path.name for path in (folder / "out/checkpoints").iterdir())
    assert left == ["step_00000001", "step_00000002"]
    monkeypatch.setattr(checkpoint_module, "save_tensors", save)
    assert main(["train", run]) == 0
    assert "continuing from out/checkpoints/step_00000002" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["check", "train"])
def test_a_pickle_is_not_executed_wherever_it_stands(command, folder, capsys):
    """Also under the name of a safetensors file, and in the archive that torch writes."""
    run = pretrain_run()
    (folder / "model.safetensors").write_bytes(pickle.dumps(Malice()))
    torch.save({"model": Malice()}, folder / "weights.bin")
    for name in ("model.safetensors", "weights.bin"):
        run["run"]["init_from"] = name
        assert name in fails(capsys, command, write(folder / "run.yaml", run))
    assert not (folder / "pwned").exists()
    pickle.loads((folder / "model.safetensors").read_bytes())
    assert (folder / "pwned").exists()  # so it would have been noticed


def test_wrong_checkpoint_of_an_evaluation(folder, capsys):
    run = write(folder / "run.yaml", caption_run(folder))
    (folder / "weights.pth").write_bytes(b"PK\x03\x04 cut")
    message = fails(capsys, "evaluate", run, "--checkpoint", "weights.pht")
    assert message.startswith("error: --checkpoint: ")
    assert "Did you mean 'weights.pth'" in message
    assert "damaged or cut short" in fails(capsys, "evaluate", run, "--checkpoint", "weights.pth")
