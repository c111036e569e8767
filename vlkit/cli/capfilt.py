"""``vlkit capfilt`` with ``refilter`` and ``report``: caption and filter web images."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlkit.cli.terminal import is_main, log_lines, say
from vlkit.cli.train import add_run_file, check_kind, overrides_of

if TYPE_CHECKING:
    from vlkit.capfilt.decision import Decision
    from vlkit.jobs.capfilt import CapFiltJob


class CapFilt:
    """Caption and filter web images as a job file says; the same command again continues what was stopped.

    Any number of these commands may work on one job, also on several machines that see its output folder. Under
    torchrun: torchrun --nproc-per-node 8 -m vlkit capfilt job.yaml
    """

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the job file and who works on it."""
        add_run_file(parser, "job file")
        parser.add_argument("--workers", type=int, metavar="N", help="start N processes on this machine")
        parser.add_argument("--slurm", metavar="KEY=VALUE,...", help="submit to Slurm: partition=gpu,nodes=4")

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Do the job; return 128 + signal when a signal stopped it."""
        from vlkit.errors import ConfigError
        from vlkit.jobs.capfilt import CapFiltJob

        with log_lines():
            check_kind(args.file, "job")
            job = CapFiltJob.load(args.file, overrides_of(args))
            if args.slurm is not None and args.workers is not None:
                raise ConfigError("--slurm and --workers are given; with --slurm write workers_per_node=N in it.")
            return _slurm(job, args) if args.slurm is not None else _run(job, args)


class Refilter:
    """Filter a CapFilt output again with other thresholds, and write its shards again. No model is needed; the same
    command again continues what was stopped.

    What is not given is as in the first decision.
    """

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add source, target and decision."""
        parser.add_argument("source", metavar="OUT", help="output folder of vlkit capfilt, or of an earlier refilter")
        parser.add_argument("--output", metavar="NEW", required=True, help="folder for the new shards")
        itm, itc = parser.add_mutually_exclusive_group(), parser.add_mutually_exclusive_group()
        itm.add_argument("--threshold", type=float, metavar="X", help="least ITM probability of kept texts, 0 to 1")
        itm.add_argument("--no-threshold", action="store_true", help="keep texts of any ITM probability")
        itc.add_argument("--itc-threshold", type=float, metavar="Y", help="least ITC similarity of kept texts, -1 to 1")
        itc.add_argument("--no-itc-threshold", action="store_true", help="keep texts of any ITC similarity")
        parser.add_argument("--texts", choices=["both", "web", "synthetic"], help="sources that texts are kept from")
        parser.add_argument(
            "--workers", type=int, default=1, metavar="N", help="processes, with one shard at a time each"
        )

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Filter, and print the counts."""
        from vlkit.capfilt.output import StoredOutput
        from vlkit.capfilt.refilter import refilter
        from vlkit.capfilt.storage import Storage

        with log_lines():
            with Storage(args.source) as place:
                decision = _decision(StoredOutput.open(place).decision, args)
            result = refilter(args.source, args.output, decision, args.workers)
            say(f"kept: {decision}")
            for line in _count_lines(result):
                say(line)
            if result["missing"]:
                say(
                    f"{args.source} is unfinished: {result['missing']:,} shards are not done yet. Refilter again later."
                )
            say(f"written: {args.output}")
        return 0


class Report:
    """Report on a CapFilt output: scores, keep rates, duplicates, refused inputs, examples.

    Writes report.html, which loads nothing from elsewhere, report.png and report.json.
    """

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add source and target."""
        parser.add_argument("source", metavar="OUT", help="output folder of vlkit capfilt or of its refilter")
        parser.add_argument("--output", metavar="DIR", help="folder of the report (default: OUT/report)")
        parser.add_argument("--examples", type=int, default=24, metavar="N", help="images of each kind to show")

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Write the report, and print the main numbers."""
        from vlkit.capfilt.report import write_report

        with log_lines():
            numbers = write_report(args.source, args.output, args.examples)
            for line in numbers["lines"]:
                say(line)
            say(f"written: {args.output or args.source.rstrip('/') + '/report'}")
        return 0


def _run(job: CapFiltJob, args: argparse.Namespace) -> int:
    result = job.run(args.workers, say, _arguments(args))
    if result["status"] == "interrupted":
        say(f"interrupted; the same command continues in {job.output_dir}")
        return 128 + int(result["signal"])
    if is_main():
        for line in _lines(result):
            say(line)
        say(f"written: {job.output_dir}")
    return 0


def _slurm(job: CapFiltJob, args: argparse.Namespace) -> int:
    from vlkit.capfilt.slurm import parse_slurm, submit, wait
    from vlkit.capfilt.storage import Storage

    options = parse_slurm(args.slurm)
    job.inspect()
    local = Storage(job.output_dir).local
    log_folder = Path(local, "log") if local is not None else None
    jobs = submit(options, _arguments(args), log_folder)
    return wait(jobs) if options.get("local") else 0  # on a cluster it may take days


def _arguments(args: argparse.Namespace) -> list[str]:
    """Return the arguments of a worker."""
    return [args.file, *overrides_of(args)]


def _lines(result: dict[str, Any]) -> list[str]:
    """Format the counts, and the speed of this process."""
    lines, worked = _count_lines(result), result["worked"]
    if worked and worked["images"]:
        lines.append(
            f"this process: {worked['images']:,} images in {worked['seconds']:,.0f} s, "
            f"{worked['images_per_s']:,.0f} images/s; the models worked {100 * worked['model_share']:.0f}% of the time"
        )
    return lines


def _count_lines(result: dict[str, Any]) -> list[str]:
    """Format the counts of a summary."""
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


def _decision(before: Decision, args: argparse.Namespace) -> Decision:
    changed: dict[str, Any] = {
        name: getattr(args, name) for name in ("texts", "threshold", "itc_threshold") if getattr(args, name) is not None
    }
    changed |= {name: None for name in ("threshold", "itc_threshold") if getattr(args, f"no_{name}")}
    return dataclasses.replace(before, **changed)
