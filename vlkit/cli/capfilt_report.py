"""Tell what a CapFilt output holds: scores, keep rates, duplicates, refused inputs, examples.

Writes report.html, which loads nothing from elsewhere, report.png and report.json.
"""

from __future__ import annotations

import argparse

from vlkit.cli.terminal import log_lines, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to look at, and where to write."""
    parser.add_argument("source", metavar="OUT", help="output folder of vlkit capfilt or of its apply")
    parser.add_argument("--output", metavar="DIR", help="folder of the report (default: OUT/report)")
    parser.add_argument("--examples", type=int, default=24, metavar="N", help="images of each kind to show")


def run(args: argparse.Namespace) -> int:
    """Prints the main numbers."""
    from vlkit.capfilt.report import write_report

    with log_lines():
        numbers = write_report(args.source, args.output, args.examples)
        for line in numbers["lines"]:
            say(line)
        say(f"written: {args.output or args.source.rstrip('/') + '/report'}")
    return 0
