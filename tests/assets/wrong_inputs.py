"""The table of wrong inputs: mistakes in a run file, its overrides and the files that it names."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.assets.run_files import SIZES, caption_run, write
from vlkit.cli import main

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
    writes: bool = False


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
    Row("model name", at("model.name", "blip_captoin"), ("model.name", "blip_captoin", "Closest: blip_caption")),
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
    Row("accumulation", at("run.grad_accum_steps", 3), ("batch_size (4)", "grad_accum_steps (3)")),
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
