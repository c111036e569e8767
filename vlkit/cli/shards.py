"""Write a dataset as webdataset shards, which `vlkit capfilt` and the dataset web_shards read.

The same command again continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json

from vlkit.cli.terminal import log_lines, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file and what is changed in it."""
    parser.add_argument("file", metavar="shards.yaml", help="dataset, samples_per_shard, output_dir")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as dataset.size=12000")
    parser.add_argument("--output", metavar="DIR", help="where to write (output_dir)")


def run(args: argparse.Namespace) -> int:
    """Write the shards."""
    from vlkit.jobs.shards import ShardsJob

    with log_lines():
        output = [f"output_dir={json.dumps(args.output)}"] if args.output is not None else []
        result = ShardsJob.open(args.file, [*args.overrides, *output]).run()
    left_out = f", {result['left_out']} samples left out" if result["left_out"] else ""
    say(f"{result['samples']} samples in {result['shards']} shards in {result['folder']}{left_out}")
    return 0
