"""Count the files of vlkit that a journey of data enters: ``python -m benchmarks walk [JOURNEY] [--list]``.

A file counts when one of its functions runs between the start and the end of the journey, in this process, in its
threads, or in a process that it starts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import torch

import vlkit
from benchmarks import file_trace
from vlkit import load_model
from vlkit.cli import main as command_line

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples" / "capfilt"
_RUN = """
model: {{name: {model}, type: {kind}}}
datasets:
  train: [{{name: shapes, split: train, size: 64}}]
  eval: {{val: {{name: shapes, split: val, size: 32, unique: true}}}}
task: {{name: {task}}}
optim: {{lr: 0.001}}
run: {{max_steps: 2, batch_size: 8, output_dir: {folder}/run, sample_images: 0, device: cpu}}
"""


@contextlib.contextmanager
def recorded(folder: Path) -> Iterator[list[str]]:
    """Collect the files that are entered while the context is open; the list is filled when it is left.

    Args:
        folder: for the log.
    """
    log, files = folder / "files.txt", list[str]()
    shutil.copy(file_trace.__file__, folder / "sitecustomize.py")
    paths = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    settings = {file_trace.ROOT: f"{Path(vlkit.__file__).parent}/", file_trace.LOG: str(log), "PYTHONPATH": paths}
    with mock.patch.dict(os.environ, settings):
        file_trace.install()
        try:
            yield files
        finally:
            file_trace.remove()
            files += sorted(set(log.read_text().split())) if log.exists() else []


def generate(folder: Path) -> list[str]:
    """Generate captions in Python."""
    model = load_model("blip_caption", "tiny_shapes")
    image = torch.zeros(2, 3, 48, 48)
    with recorded(folder) as files:
        model.generate({"image": image})
    return files


def pretrain(folder: Path) -> list[str]:
    """Pre-train for two steps, with checks, an evaluation and a checkpoint."""
    return _run(folder, "train", model="blip_pretrain", task="pretrain", kind="tiny")


def retrieval(folder: Path) -> list[str]:
    """Evaluate retrieval."""
    return _run(folder, "evaluate", model="blip_retrieval", task="retrieval", kind="tiny_shapes")


def capfilt(folder: Path) -> list[str]:
    """Caption and filter a shard."""
    _command("shards", EXAMPLES / "shards.yaml", "--output", folder / "in", "dataset.size=40")
    with recorded(folder) as files:
        job = ("--output", folder / "job", "run.device=cpu")
        _command("capfilt", EXAMPLES / "job.yaml", f"input.path={folder}/in", *job)
    return files


JOURNEYS: dict[str, Callable[[Path], list[str]]] = {
    "generate": generate,
    "pretrain": pretrain,
    "retrieval": retrieval,
    "capfilt": capfilt,
}
LIMITS = {"generate": 9, "pretrain": 75, "retrieval": 75, "capfilt": 85}
"""Most files that a journey should enter."""


def _run(folder: Path, command: str, **parts: str) -> list[str]:
    file = folder / "run.yaml"
    file.write_text(_RUN.format(folder=folder, **parts))
    with recorded(folder) as files:
        _command(command, file)
    return files


def _command(*arguments: object) -> None:
    code = command_line([str(each) for each in arguments])
    if code:
        raise SystemExit(code)


def main(argv: Sequence[str]) -> int:
    """Print the number of files of each journey."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks walk", description=__doc__)
    parser.add_argument("journey", nargs="?", choices=JOURNEYS, help="default: all")
    parser.add_argument("--list", action="store_true", help="name the files")
    args = parser.parse_args(argv)
    for name in [args.journey] if args.journey else JOURNEYS:
        with tempfile.TemporaryDirectory() as folder:
            files = JOURNEYS[name](Path(folder))
        print(f"{name}: {len(files)} files of vlkit, at most {LIMITS[name]} wanted", file=sys.stderr)
        if args.list:
            print("\n".join(f"  {file}" for file in files))
    return 0
