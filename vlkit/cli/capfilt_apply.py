"""Decide anew which texts of a CapFilt output are kept, and write its shards again. No model is needed; the same
command again continues what was stopped.

What is not given is as in the first decision.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from vlkit.cli.terminal import log_lines, say

if TYPE_CHECKING:
    from vlkit.capfilt.decision import Decision


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is cut, where to, and the decision."""
    parser.add_argument("source", metavar="OUT", help="output folder of vlkit capfilt, or of an earlier apply")
    parser.add_argument("--output", metavar="NEW", required=True, help="folder for the new shards")
    itm, itc = parser.add_mutually_exclusive_group(), parser.add_mutually_exclusive_group()
    itm.add_argument("--threshold", type=float, metavar="X", help="least ITM probability of kept texts, 0 to 1")
    itm.add_argument("--no-threshold", action="store_true", help="keep texts of any ITM probability")
    itc.add_argument("--itc-threshold", type=float, metavar="Y", help="least ITC similarity of kept texts, -1 to 1")
    itc.add_argument("--no-itc-threshold", action="store_true", help="keep texts of any ITC similarity")
    parser.add_argument("--texts", choices=["both", "web", "synthetic"], help="the sources that texts are kept from")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes, each with a shard at a time")


def run(args: argparse.Namespace) -> int:
    """Prints the counts."""
    from vlkit.capfilt.apply import apply
    from vlkit.capfilt.place import Place
    from vlkit.capfilt.stored import StoredOutput
    from vlkit.cli.capfilt import count_lines

    with log_lines():
        with Place(args.source) as place:
            decision = _decision(StoredOutput.open(place).decision, args)
        result = apply(args.source, args.output, decision, args.workers)
        say(f"kept: {decision}")
        for line in count_lines(result):
            say(line)
        if result["missing"]:
            say(f"{args.source} is unfinished: {result['missing']:,} shards are not done yet. Cut again later.")
        say(f"written: {args.output}")
    return 0


def _decision(before: Decision, args: argparse.Namespace) -> Decision:
    changed: dict[str, Any] = {
        name: getattr(args, name) for name in ("texts", "threshold", "itc_threshold") if getattr(args, name) is not None
    }
    changed |= {name: None for name in ("threshold", "itc_threshold") if getattr(args, f"no_{name}")}
    return dataclasses.replace(before, **changed)
