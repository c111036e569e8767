"""Do everything that a run would do, except train: config, plugins, files, weights, the first batch forward and
backward, a batch of each evaluation set. Also says how much memory and disk space the run needs, and how long it is.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from vlkit.cli.terminal import log_lines, say
from vlkit.cli.train import add_run_file, overrides_of

if TYPE_CHECKING:
    from vlkit.jobs.check import Report
    from vlkit.runner.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file and what is changed in it."""
    add_run_file(parser, "run file, pipeline file or job file of vlkit capfilt")
    parser.add_argument("--checkpoint", metavar="PATH", help="weights to evaluate")
    parser.add_argument("--variant", metavar="NAME", help="of a pipeline")
    parser.add_argument("--output", metavar="DIR", help="where the run would write")
    parser.add_argument(
        "--images",
        choices=("some", "all"),
        default="some",
        help="images and videos that are decoded: a few or all",
    )


def run(args: argparse.Namespace) -> int:
    """Print a short report, or raise all problems."""
    from vlkit.capfilt.job_file import is_job
    from vlkit.pipeline import is_pipeline

    with log_lines():
        if is_pipeline(args.file):
            reports = _pipeline(args)
        elif is_job(args.file):
            reports = _job(args)
        else:
            reports = {"": _run_file(args)}
    for name, report in reports.items():
        say(f"{args.file}{f', stage {name}' if name else ''}: nothing wrong was found")
        for title, text in _lines(report) if report else []:
            say(f"  {title:12}{text}")
    return 0


def _run_file(args: argparse.Namespace) -> Report:
    from vlkit.config.load import load_config
    from vlkit.jobs.check import rehearse
    from vlkit.jobs.experiment import Experiment

    _refuse_variant(args)
    config = load_config(args.file, overrides_of(args))
    datasets = config.data.get("datasets")
    training = "optim" in config.data or not isinstance(datasets, dict) or "train" in datasets
    experiment = Experiment.of(config, training and args.checkpoint is None)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    return rehearse(experiment, args.checkpoint, world_size=world_size, every_image=args.images == "all")


def _job(args: argparse.Namespace) -> dict[str, Report | None]:
    from vlkit.capfilt.job import Job
    from vlkit.errors import ConfigError

    _refuse_variant(args)
    if args.checkpoint:
        raise ConfigError("--checkpoint: the models of a job name their weights themselves, model.captioner.weights.")
    if args.images == "all":
        raise ConfigError("--images all: a job decodes every image itself, and counts those that cannot be used.")
    Job.open(args.file, overrides_of(args)).prepare()
    return {"": None}


def _refuse_variant(args: argparse.Namespace) -> None:
    from vlkit.errors import ConfigError

    if args.variant:
        raise ConfigError(f"--variant {args.variant}: only pipelines have variants, and {args.file} is none.")


def _pipeline(args: argparse.Namespace) -> dict[str, Report | None]:
    from vlkit.errors import ConfigError
    from vlkit.jobs.awaited import Awaited
    from vlkit.pipeline import load_pipeline

    if args.checkpoint:
        raise ConfigError(f"--checkpoint: {args.file} is a pipeline; its stages say where their weights come from.")
    file = load_pipeline(args.file, args.overrides, args.variant, args.output)
    folders = {stage.key: stage.folder for stage in file.stages}
    reports: dict[str, Report | None] = {}
    problems: list[str] = []
    for stage in {stage.name: stage for stage in reversed(file.stages)}.values():  # of the first seed
        try:
            reports[stage.name] = stage.rehearse(Awaited([folders[key] for key in stage.after]), args.images == "all")
        except ConfigError as error:
            problems += [f"stage {stage.name}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return dict(reversed(reports.items()))


def _length(plan: Plan) -> str:
    epochs = f"epochs of {plan.steps_per_epoch:,.1f} steps"
    if plan.steps is None:
        return f"{plan.seconds:,.0f} s of training steps, in {epochs}"
    return f"{plan.steps:,} steps, {plan.steps / plan.steps_per_epoch:.3g} {epochs}"


def _decoded(report: Report) -> str:
    found = {key.removeprefix("datasets."): check for key, check in report.media.items()}
    said = [f"{key}: {check.summary()}{_unusable(check.problems)}" for key, check in found.items()]
    some = any(check.decoded < check.count for check in found.values())
    return ", ".join(said) + ("; --images all decodes every one" if some else "")


def _unusable(problems: list[str]) -> str:
    return f" ({len(problems):,} cannot be used)" if problems else ""


def _lines(report: Report) -> list[tuple[str, str]]:
    from vlkit.jobs.checks import human

    def values(found: dict[str, float]) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in found.items())

    lines = [
        ("model", f"{report.model}: {report.parameters:,} parameters, {report.trained:,} of them trained"),
        ("weights", report.weights),
        ("data", ", ".join(f"{key.removeprefix('datasets.')}: {size:,}" for key, size in report.sizes.items())),
    ]
    if report.media:
        lines.append(("images", _decoded(report)))
    memory, plan = report.memory, report.plan
    if memory is not None and plan is not None:
        lines += [
            ("first batch", values(report.losses)),
            ("length", _length(plan)),
            (
                "memory",
                f"about {human(memory.total)} a process: weights {human(memory.weights)}, gradients "
                f"{human(memory.gradients)}, AdamW {human(memory.moments)}, activations {human(memory.activations)} "
                f"(estimated: what autograd keeps of {memory.measured_on} samples, scaled to {memory.scaled_to})",
            ),
            ("disk", f"{human(report.checkpoint)} a checkpoint, {human(report.free)} free"),
        ]
    if report.scores:
        lines.append(("evaluation", "gives " + ", ".join(report.scores)))
    return [*lines, *(("note", note) for note in report.notes)]
