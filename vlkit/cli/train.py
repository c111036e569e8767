"""``vlkit train`` and ``vlkit evaluate``, and what commands with a run file share."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from vlkit.cli.terminal import log_lines, say, scores_table
from vlkit.config.load import read_tree
from vlkit.errors import ConfigError, closest


def add_run_file(parser: argparse.ArgumentParser, help: str = "run file") -> None:
    """Add the arguments that all commands with a file have."""
    parser.add_argument("file", metavar="run.yaml", help=help)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as optim.lr=1e-4")
    parser.add_argument("--output", metavar="DIR", help="where to write (run.output_dir)")


def overrides_of(args: argparse.Namespace, output_key: str = "run.output_dir") -> list[str]:
    """Return the overrides of the command line, with ``--output`` as one of them."""
    output = [f"{output_key}={json.dumps(args.output)}"] if args.output is not None else []
    return [*args.overrides, *output]


def file_kind(path: str | Path) -> str:
    """Return what the file configures: "run", "job" (of CapFilt) or "pipeline". Misspelled sections count as well.

    Raises:
        ConfigError: it does not exist or is not YAML.
    """
    data = read_tree(path)[1].data
    lists = [key for key, value in data.items() if isinstance(value, list) and any(map(_like_stage, value))]
    if "stages" in data or ("model" not in data and closest("stages", lists)):
        return "pipeline"
    task = data.get("task")
    filters = "datasets" not in data and isinstance(task, dict) and task.get("name") == "capfilt"
    return "job" if "input" in data or filters else "run"


def _like_stage(entry: Any) -> bool:
    return isinstance(entry, dict) and ("config" in entry or "command" in entry)


def check_kind(path: str, kind: str) -> None:
    """Refuse a file that is for another command.

    Args:
        path: of the file.
        kind: what the command takes: "run", "job" or "pipeline".

    Raises:
        ConfigError: it is another one.
    """
    found = file_kind(path)
    if found == "pipeline" != kind:
        raise ConfigError(f"{path} is a pipeline, which 'vlkit run' runs.")
    if found == "job" != kind:
        raise ConfigError(f"{path} is a job of CapFilt, which 'vlkit capfilt' does.")


class Train:
    """Train a model as a run file says; the same command again continues a run that was stopped.

    Under torchrun: torchrun --nproc-per-node 4 -m vlkit train run.yaml
    """

    add_arguments = staticmethod(add_run_file)

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Train; return 128 + signal when a signal stopped it."""
        from vlkit.jobs.train import TrainJob

        with log_lines():
            check_kind(args.file, "run")
            job = TrainJob.load(args.file, overrides_of(args))
            result, folder = job.run(), job.output_dir
            if result["status"] == "interrupted":
                say(f"interrupted after step {result['step']}; the same command continues from {result['checkpoint']}")
                return 128 + int(result["signal"])
            counts = f"{result['step']} steps, {result['samples']} samples, {result['seconds']:.0f} s"
            say(f"\nfinished: {counts} in {folder}")
            if result["metrics"]:
                say(scores_table(result["metrics"]))
            if best := result["best"]:
                say(f"best {best['monitor']}: {best['value']:.4f} at step {best['step']} ({best['checkpoint']})")
            if bad := result["bad_samples"]:
                say(f"{bad} samples could not be used; they are listed in {folder}/ledger.jsonl")
            return 0


class Evaluate:
    """Evaluate a model on the evaluation sets of a run file.

    The weights are those of --checkpoint, else the best (or newest) checkpoint in the run's own output folder, else
    run.init_from, else the weights of the model's card.
    """

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add run file and weights."""
        add_run_file(parser)
        parser.add_argument("--checkpoint", metavar="PATH", help="weights file, or folder of a checkpoint or run")

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Evaluate and print a table."""
        from vlkit.jobs.train import EvaluateJob

        with log_lines():
            check_kind(args.file, "run")
            job = EvaluateJob.load(args.file, overrides_of(args))
            job.checkpoint = args.checkpoint
            say(scores_table(job.run()["metrics"]))
            folder = job.output_dir
            results = [file for name in job.eval_sets for file in sorted(folder.glob(f"*_{name}.json"))]
            written = [folder / "evaluation.json", *results, folder / "samples.png"]
            say("written: " + ", ".join(str(file) for file in written if file.exists()))
        return 0
