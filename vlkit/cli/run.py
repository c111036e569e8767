"""Run the stages of a pipeline file, skipping what is finished; the same command again continues where it stopped.

Under torchrun: torchrun --nproc-per-node 4 -m vlkit run pipeline.yaml
"""

from __future__ import annotations

import argparse
from typing import Any

from vlkit.cli.terminal import log_lines, say, table
from vlkit.cli.train import check_kind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the pipeline file and its options."""
    parser.add_argument("file", metavar="pipeline.yaml", help="pipeline file")
    parser.add_argument("overrides", nargs="*", metavar="stage.key=value", help="such as pretrain.optim.lr=1e-4")
    parser.add_argument("--variant", metavar="NAME", help="one of the file's variants")
    parser.add_argument("--from", dest="redo_from", metavar="STAGE", help="redo this stage and those that use it")
    parser.add_argument("--output", metavar="DIR", help="where to write (output_dir of the file)")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="run up to N stages at the same time, each in its own process and log.txt"
    )
    parser.add_argument("--only", metavar="STAGE", help="run only this stage; those that it uses must be finished")


def run(args: argparse.Namespace) -> int:
    """Run the stages; return 128 + signal when a signal stopped one."""
    from vlkit.errors import ConfigError
    from vlkit.io.processes import end_with_parent
    from vlkit.pipeline import ParallelPipeline, Pipeline, load_pipeline
    from vlkit.registry.bounds import MOST_PROCESSES

    end_with_parent()
    with log_lines():
        check_kind(args.file, "pipeline")
        file = load_pipeline(args.file, args.overrides, args.variant, args.output)
        jobs = file.jobs if args.jobs is None else args.jobs
        if not 1 <= jobs <= MOST_PROCESSES:
            raise ConfigError(f"--jobs {jobs}: a number from 1 to {MOST_PROCESSES:,} is needed.")
        pipeline = Pipeline(file)
        if args.only:
            record = pipeline.run_only(args.only)
            results: dict[str, Any] = {**record, "stage": args.only}
        elif jobs > 1:
            results = ParallelPipeline(pipeline, jobs, _arguments(args)).run(args.redo_from)
        else:
            results = pipeline.run(args.redo_from)
    if results["status"] == "interrupted":
        say(f"interrupted in stage {results['stage']}; the same command continues it")
        return 128 + int(results["signal"])
    if not args.only:
        _report(file, results)
    return 0


def _report(file: Any, results: dict[str, Any]) -> None:
    say()
    title = file.path.stem
    for grid in (file.table.grid(title, results["table"]), file.table.seeds_grid("seeds", results["table"])):
        if grid:
            say(table(grid[1:], grid[0]))
            say()
    for name, record in results["stages"].items():
        picture = f", picture: {record['picture']}" if record["picture"] else ""
        say(f"{name}: {record['seconds']:.0f} s{picture}")
    say(f"written: {', '.join(results['written'])}")


def _arguments(args: argparse.Namespace) -> list[str]:
    """Return the arguments with which another process loads the same pipeline."""
    options = {"--variant": args.variant, "--output": args.output}
    given = [text for option, value in options.items() if value is not None for text in (option, value)]
    return [args.file, *args.overrides, *given, "--jobs", "1"]
