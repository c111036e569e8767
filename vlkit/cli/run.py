"""Run the stages of a pipeline file, skipping what is finished; the same command again continues where it stopped.

Under torchrun: torchrun --nproc-per-node 4 -m vlkit run pipeline.yaml
"""

from __future__ import annotations

import argparse

from vlkit.cli.terminal import log_lines, number, say, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The pipeline file, and what is changed in it."""
    parser.add_argument("file", metavar="pipeline.yaml", help="pipeline file")
    parser.add_argument("overrides", nargs="*", metavar="stage.key=value", help="such as pretrain.optim.lr=1e-4")
    parser.add_argument("--variant", metavar="NAME", help="one of the file's variants")
    parser.add_argument("--from", dest="redo_from", metavar="STAGE", help="redo this stage and the later ones")
    parser.add_argument("--output", metavar="DIR", help="where to write (output_dir of the file)")


def run(args: argparse.Namespace) -> int:
    """Run the stages; 128 + signal when a signal stopped one."""
    from vlkit.pipeline import Pipeline
    from vlkit.pipeline_file import load_pipeline

    with log_lines():
        file = load_pipeline(args.file, args.overrides, args.variant, args.output)
        results = Pipeline(file).run(args.redo_from)
    if results["status"] == "interrupted":
        say(f"interrupted in stage {results['stage']}; the same command continues it")
        return 128 + int(results["signal"])
    say()
    say(table([[row["name"], number(row["score"])] for row in results["table"]], [file.path.stem, "score"]))
    for name, record in results["stages"].items():
        picture = f", picture: {record['picture']}" if record["picture"] else ""
        say(f"{name}: {record['seconds']:.0f} s{picture}")
    say(f"written: {file.folder / 'results.json'}, {file.folder / 'results.md'}")
    return 0
