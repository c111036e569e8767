"""Measure speed beside another implementation: same weights, same run, outputs compared.

`capfilt` compares the engine of CapFilt with its own models alone, and two processes with one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlkit.bench.compare import Row

WORKS = ("caption", "retrieval", "vqa", "video")
CAPFILT = "capfilt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure."""
    parser.add_argument("work", nargs="?", choices=[*WORKS, CAPFILT], help=f"one part; default: all but {CAPFILT}")
    parser.add_argument("--json", metavar="FILE", help="write the rows as a JSON list too")
    parser.add_argument("--size", choices=["base", "tiny"], default="base", help="tiny only shows that it runs")
    parser.add_argument("--dtype", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4], help="images at a time, for caption")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs of each; the median counts")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=4096, help="in the shards, for capfilt")


def run(args: argparse.Namespace) -> int:
    """Prints the table; 1 when outputs differ."""
    from vlkit.bench.compare import table, write_json

    if args.work == CAPFILT:
        return _capfilt(args)
    rows = []
    for work in [args.work] if args.work else WORKS:
        for row in _rows(work, args):
            rows.append(row)
            print(f"{row.work}, {row.dtype}: {row.ratio:.2f} times as fast", file=sys.stderr, flush=True)
    print(table(rows))
    if args.json:
        write_json(rows, args.json)
    return 0 if all(row.outputs_equal for row in rows) else 1


def _capfilt(args: argparse.Namespace) -> int:
    from vlkit.bench.capfilt import capfilt_speeds, report
    from vlkit.bench.compare import write_json

    speeds = capfilt_speeds(args.images, args.repeat)
    print(report(speeds))
    if args.json:
        write_json(speeds, args.json)
    return 0 if all(each.outputs_equal for each in speeds) else 1


def _rows(work: str, args: argparse.Namespace) -> Iterator[Row]:
    if work == "caption":
        from vlkit.bench.caption import caption_rows

        return caption_rows(args.size, args.batch, args.dtype, repeat=args.repeat, device=args.device)
    if work == "vqa":
        from vlkit.bench.vqa import vqa_rows

        return vqa_rows(args.size, args.dtype, args.repeat, args.device)
    from vlkit.bench.rerank import IMAGES, VIDEOS, rerank_rows

    works = IMAGES if work == "retrieval" else VIDEOS
    return rerank_rows(works, args.size, args.dtype, args.repeat, args.device)
