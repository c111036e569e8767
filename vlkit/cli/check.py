"""Do everything that a run would do, except train: config, plugins, files, weights, the first batch forward and
backward, a batch of each evaluation set. Also says how much memory and disk space the run needs, and how long it is.
"""

from __future__ import annotations

import argparse
import os

from vlkit.cli.terminal import log_lines, say
from vlkit.cli.train import add_run_file, file_kind, overrides_of

Lines = list[tuple[str, str]]
"""Title and text of each line of a report."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file and what is changed in it."""
    add_run_file(parser, "run file, pipeline file or job file of vlkit capfilt")
    parser.add_argument("--checkpoint", metavar="PATH", help="weights to evaluate")
    parser.add_argument("--variant", metavar="NAME", help="of a pipeline")
    parser.add_argument(
        "--images",
        choices=("some", "all"),
        default="some",
        help="images and videos that are decoded: a few or all",
    )


def run(args: argparse.Namespace) -> int:
    """Print a short report, or raise all problems."""
    from vlkit.errors import ConfigError

    with log_lines():
        kind = file_kind(args.file)
        if args.variant and kind != "pipeline":
            raise ConfigError(f"--variant {args.variant}: only pipelines have variants, and {args.file} is none.")
        if kind == "pipeline":
            reports = _pipeline(args)
        else:
            reports = {"": _capfilt(args) if kind == "job" else _run_file(args)}
    for name, report in reports.items():
        say(f"{args.file}{f', stage {name}' if name else ''}: nothing wrong was found")
        for title, text in report:
            say(f"  {title:12}{text}")
    return 0


def _run_file(args: argparse.Namespace) -> Lines:
    from vlkit.config.load import load_config
    from vlkit.jobs.train import EvaluateJob, TrainJob

    config = load_config(args.file, overrides_of(args))
    datasets = config.data.get("datasets")
    training = "optim" in config.data or not isinstance(datasets, dict) or "train" in datasets
    job = TrainJob(config) if training and args.checkpoint is None else EvaluateJob(config, args.checkpoint)
    return job.check_report(every_image=args.images == "all", world_size=int(os.environ.get("WORLD_SIZE", "1"))).lines()


def _capfilt(args: argparse.Namespace) -> Lines:
    from vlkit.errors import ConfigError
    from vlkit.jobs.capfilt import CapFiltJob

    if args.checkpoint:
        raise ConfigError("--checkpoint: the models of a job name their weights themselves, model.captioner.weights.")
    if args.images == "all":
        raise ConfigError("--images all: a job decodes every image itself, and counts those that cannot be used.")
    job = CapFiltJob.load(args.file, overrides_of(args))
    job.build(job.inspect())
    return []


def _pipeline(args: argparse.Namespace) -> dict[str, Lines]:
    from vlkit.errors import ConfigError
    from vlkit.pipeline import load_pipeline

    if args.checkpoint:
        raise ConfigError(f"--checkpoint: {args.file} is a pipeline; its stages say where their weights come from.")
    file = load_pipeline(args.file, args.overrides, args.variant, args.output)
    reports: dict[str, Lines] = {}
    problems: list[str] = []
    for stage in {stage.name: stage for stage in reversed(file.stages)}.values():  # of the first seed
        try:
            reports[stage.name] = stage.job.check(stage.pending(stage.after), args.images == "all")
        except ConfigError as error:
            problems += [f"stage {stage.name}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return dict(reversed(reports.items()))
