"""Evaluate a model on the evaluation sets of a run file.

The weights are those of --checkpoint, else of the run's own output folder (its best checkpoint, or else its newest),
else run.init_from, else the model card's.
"""

from __future__ import annotations

import argparse

from vlkit.cli.terminal import log_lines, say, scores_table
from vlkit.cli.train import add_run_file, overrides_of, refuse_other_kind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run file, what is changed in it, and the weights."""
    add_run_file(parser)
    parser.add_argument("--checkpoint", metavar="PATH", help="weights file, or folder of a checkpoint or run")
    parser.add_argument("--output", metavar="DIR", help="where to write (run.output_dir)")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print a table."""
    from vlkit.jobs.experiment import Experiment

    with log_lines():
        refuse_other_kind(args.file)
        experiment = Experiment.open(args.file, overrides_of(args), training=False)
        folder = experiment.output_dir
        runner, step = experiment.evaluator(args.checkpoint)
        with runner:
            scores = runner.evaluate(step)
        say(scores_table(scores))
        results = [file for name in experiment.parts.datasets.eval for file in sorted(folder.glob(f"*_{name}.json"))]
        written = [folder / "evaluation.json", *results, folder / "samples.png"]
        say("written: " + ", ".join(str(file) for file in written if file.exists()))
    return 0
