"""Caption and filter web images as a job file says; the same command again continues what was stopped.

Any number of these commands may work on one job, also on several machines that see its output folder. Under torchrun:
torchrun --nproc-per-node 8 -m vlkit capfilt job.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlkit.cli.terminal import is_main, log_lines, say
from vlkit.cli.train import add_run_file, overrides_of, refuse_other_kind

if TYPE_CHECKING:
    from vlkit.capfilt.job import Job


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The job file, what is changed in it, and who does it."""
    add_run_file(parser, "job file")
    parser.add_argument("--output", metavar="DIR", help="where to write (run.output_dir)")
    parser.add_argument("--workers", type=int, metavar="N", help="start N processes on this machine")
    parser.add_argument("--slurm", metavar="KEY=VALUE,...", help="submit to Slurm: partition=gpu,nodes=4")


def run(args: argparse.Namespace) -> int:
    """Do the job; 128 + signal when a signal stopped it."""
    from vlkit.capfilt.job import Job
    from vlkit.errors import ConfigError

    with log_lines():
        refuse_other_kind(args.file, "job")
        job = Job.open(args.file, overrides_of(args))
        if args.slurm is not None and args.workers is not None:
            raise ConfigError("--slurm and --workers are given; with --slurm write workers_per_node=N in it.")
        return _slurm(job, args) if args.slurm is not None else _run(job, args)


def _run(job: Job, args: argparse.Namespace) -> int:
    from vlkit.capfilt.run import run_job

    result = run_job(job, args.workers, say, _arguments(args))
    if result["status"] == "interrupted":
        say(f"interrupted; the same command goes on in {job.output_dir}")
        return 128 + int(result["signal"])
    if is_main():
        for line in _lines(result):
            say(line)
        say(f"written: {job.output_dir}")
    return 0


def _slurm(job: Job, args: argparse.Namespace) -> int:
    from vlkit.capfilt.place import Place
    from vlkit.capfilt.slurm import parse_slurm, submit, wait

    options = parse_slurm(args.slurm)
    job.check()
    local = Place(job.output_dir).local
    log_folder = Path(local, "log") if local is not None else None
    jobs = submit(options, _arguments(args), log_folder)
    return wait(jobs) if options.get("local") else 0  # on a cluster it may take days


def _arguments(args: argparse.Namespace) -> list[str]:
    """Those of a worker."""
    return [args.file, *overrides_of(args)]


def _lines(result: dict[str, Any]) -> list[str]:
    """What became of everything and how fast this process was, for people."""
    lines, worked = count_lines(result), result["worked"]
    if worked and worked["images"]:
        lines.append(
            f"this process: {worked['images']:,} images in {worked['seconds']:,.0f} s, "
            f"{worked['images_per_s']:,.0f} images/s; the models worked {100 * worked['model_share']:.0f}% of the time"
        )
    return lines


def count_lines(result: dict[str, Any]) -> list[str]:
    """The counts of a summary, for people."""
    images, web, synthetic = result["images"], result["texts"]["web"], result["texts"]["synthetic"]
    lines = [
        f"images: {images['read']:,} read, {images['kept']:,} kept, {images['dropped']:,} dropped{_why(images)}",
        f"web texts: {web['read']:,} read, {web['scored']:,} scored, {web['kept']:,} kept{_why(web)}",
        f"synthetic texts: {synthetic['scored']:,} scored, {synthetic['kept']:,} kept",
    ]
    for name, what in (("fields", "other data"), ("members", "other files in tars")):
        if refused := result.get(name, {}).get("refused"):
            lines.append(f"{what}: {sum(refused.values()):,} refused ({_list(refused)})")
    damaged = result["shards"]["damaged"]
    if damaged:
        lines.append(f"shards: {result['shards']['read']:,} read, of which {_list(damaged)}")
    return lines


def _why(counts: dict[str, Any]) -> str:
    refused = counts["refused"]
    return f", {sum(refused.values()):,} refused ({_list(refused)})" if refused else ""


def _list(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
