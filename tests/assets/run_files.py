"""Run files of models that train in a second, and what tests of commands share."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from tests.assets.make_data import coco_file
from tests.assets.waiting import LONG
from vlkit.cli import main
from vlkit.config.yamlfile import dump_yaml

torch.set_num_threads(1)  # so small models gain nothing from more, and lose much where the cores are busy
SIZES: dict[str, Any] = {
    "vit": {"depth": 1, "embed_dim": 16, "num_heads": 2},
    "med": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
}
"""Laid over the tiny cards."""
GENERATION = {"num_beams": 1, "max_length": 8, "min_length": 1}


def pretrain_run(**run: Any) -> dict[str, Any]:
    """Pre-training on the toy dataset; ``run`` changes that section."""
    return {
        "model": {"name": "blip_pretrain", "type": "tiny", "queue_size": 16, "embed_dim": 8, **deepcopy(SIZES)},
        "datasets": {
            "train": [{"name": "shapes", "split": "train", "size": 40, "captions": "web"}],
            "eval": {"val": {"name": "shapes", "split": "val", "size": 6}},
        },
        "task": {"name": "pretrain", "generation": GENERATION},
        "optim": {"lr": 1e-3},
        "run": _run(run),
    }


def caption_run(folder: Path, **run: Any) -> dict[str, Any]:
    """Captioning of 6 image files, which are written to ``folder/data``; ``run`` changes that section."""
    if not (folder / "data").exists():
        coco_file(folder / "data", 6, captions=2)
    return {
        "model": {"name": "blip_caption", "type": "tiny", **deepcopy(SIZES)},
        "datasets": {
            "train": [{"name": "image_text", "path": "data/captions.json", "split": "train"}],
            "eval": {"val": {"name": "image_text", "path": "data/captions.json", "split": "val"}},
        },
        "task": {"name": "captioning", "generation": GENERATION},
        "optim": {"lr": 1e-3},
        "run": _run(run),
    }


def write(path: Path, data: dict[str, Any]) -> str:
    """A YAML file; its path as an argument."""
    path.write_text(dump_yaml(data))
    return str(path)


def fails(capsys: Any, *arguments: Any) -> str:
    """The one message with which ``vlkit`` ends with exit code 2."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    message = capsys.readouterr().err
    assert code == 2, message
    assert message.startswith("error: ")
    assert len(re.findall("^error", message, re.MULTILINE)) == 1
    assert "Traceback" not in message
    return message


def start_cli(
    *arguments: Any,
    environment: dict[str, Any] | None = None,
    printed: Path = Path("printed"),
    held: str = "",
) -> Any:
    """``vlkit`` in a process of its own and in this folder.

    Args:
        arguments: of the command.
        environment: added to that of this process.
        printed: the file that what it prints goes to.
        held: name of a file or folder. It goes no further than to the moment before this one appears, where somebody
            has to kill it.
    """
    context = multiprocessing.get_context("forkserver")
    modules = ["torch._dynamo", "vlkit.pipeline", "vlkit.jobs.capfilt", "pandas", "pyarrow.parquet", __name__]
    context.set_forkserver_preload(modules)  # imports are slow; done once
    texts = [str(argument) for argument in arguments]
    process = context.Process(target=_cli, args=(os.getcwd(), texts, environment or {}, printed, held))
    process.start()
    return process


def _cli(folder: str, arguments: list[str], environment: dict[str, Any], printed: Path, held: str) -> None:
    os.chdir(folder)
    os.environ.update({key: str(value) for key, value in environment.items()})
    torch.set_num_threads(1)
    with open(printed, "w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    if held:
        sys.addaudithook(lambda event, given: _wait_before(held, event, given))
    code = main(arguments)
    sys.stdout.flush()
    raise SystemExit(code)


def _wait_before(name: str, event: str, given: tuple[Any, ...]) -> None:
    if event == "os.rename" and Path(os.fsdecode(given[1])).name == name:
        time.sleep(LONG)


def snapshot(folder: Path) -> dict[str, str]:
    """Checksums of all files below ``folder``."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and "__pycache__" not in file.parts]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _run(changes: dict[str, Any]) -> dict[str, Any]:
    run = {"duration": "4 steps", "batch_size": 4, "device": "cpu", "sample_images": 2, "log_every": 1}
    return {**run, "output_dir": "out", **changes}
