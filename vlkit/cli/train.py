"""Train a model as a run file says; the same command again continues a run that was stopped.

Under torchrun: torchrun --nproc-per-node 4 -m vlkit train run.yaml
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from vlkit.cli.terminal import log_lines, say, scores_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run file and what is changed in it."""
    add_run_file(parser)
    parser.add_argument("--output", metavar="DIR", help="where to write (run.output_dir)")


def add_run_file(parser: argparse.ArgumentParser, help: str = "run file") -> None:
    """The arguments that all commands with a file have."""
    parser.add_argument("file", metavar="run.yaml", help=help)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as optim.lr=1e-4")


def overrides_of(args: argparse.Namespace) -> list[str]:
    """The overrides of the command line, with those that have an option of their own."""
    output = getattr(args, "output", None)
    return [*args.overrides, *([f"run.output_dir={json.dumps(output)}"] if output is not None else [])]


def refuse_other_kind(file: str, kind: str = "run") -> None:
    """End where a file is one for another command.

    Args:
        file: path.
        kind: what the command takes: "run", "job" or "pipeline".

    Raises:
        ConfigError: it is another one.
    """
    from vlkit.capfilt.job_file import is_job
    from vlkit.errors import ConfigError
    from vlkit.pipeline import is_pipeline

    if kind != "pipeline" and is_pipeline(file):
        raise ConfigError(f"{file} is a pipeline, which 'vlkit run' runs.")
    if kind != "job" and is_job(file):
        raise ConfigError(f"{file} is a job of CapFilt, which 'vlkit capfilt' does.")


def run(args: argparse.Namespace) -> int:
    """Train; 128 + signal when a signal stopped it."""
    from vlkit.jobs.experiment import Experiment
    from vlkit.jobs.train import checked_runner

    with log_lines():
        refuse_other_kind(args.file)
        experiment = Experiment.open(args.file, overrides_of(args))
        with checked_runner(experiment) as runner:
            result = runner.train()
        return report(result, str(experiment.output_dir))


def report(result: dict[str, Any], folder: str) -> int:
    """Print how a training run ended; its exit code."""
    if result["status"] == "interrupted":
        say(f"interrupted after step {result['step']}; the same command continues from {result['checkpoint']}")
        return 128 + int(result["signal"])
    say(f"\nfinished: {result['step']} steps, {result['samples']} samples, {result['seconds']:.0f} s in {folder}")
    if result["metrics"]:
        say(scores_table(result["metrics"]))
    best = result["best"]
    if best:
        say(f"best {best['monitor']}: {best['value']:.4f} at step {best['step']} ({best['checkpoint']})")
    if result["bad_samples"]:
        say(f"{result['bad_samples']} samples could not be used; they are listed in {folder}/ledger.jsonl")
    return 0
