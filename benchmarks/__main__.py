"""Measure speed next to other implementations: same weights, same run, outputs compared.

Without a name the whole table is measured. `growth` plots how time and memory grow with the work. Two more names count
instead of measuring: `walk` the files of vlkit that a journey enters, `fake_cuda` what would wait for a GPU.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlkit.errors import VlkitError, did_you_mean
from vlkit.io.files import why_unwritable

if TYPE_CHECKING:
    from benchmarks.compare import Row

PARTS = {
    "encoder": "the image encoder",
    "caption": "captioning by beam search",
    "retrieval": "re-ranking of images and texts",
    "evaluation": "a whole evaluation of retrieval",
    "vqa": "ranking the answers to questions",
    "video": "re-ranking of videos",
    "pretrain": "a step of pre-training",
    "data": "the training transform of images",
    "capfilt": "the engine of CapFilt, beside its models alone and in two processes (on the CPU)",
}
"""Parts of the whole table, in its order."""
GROWTH = "growth"
COUNTERS = {"walk": "benchmarks.walk", "fake_cuda": "benchmarks.fake_cuda_runs"}
"""Scripts with arguments of their own."""
_ON_CPU = ("capfilt", GROWTH)
_BATCHES = {"cpu": (1, 4), "cuda": (1, 64)}
_DTYPES = {"cpu": ("fp32", "bf16"), "cuda": ("bf16",)}
_CAPFILT_IMAGES = {"base": 4096, "tiny": 64}
# Where the package has another name than its module.
_INSTALL = {"cv2": "opencv-python-headless", "PIL": "pillow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure."""
    parts = "; ".join(f"{name}: {what}" for name, what in PARTS.items())
    parser.add_argument("work", nargs="?", metavar="NAME", help=f"one part ({parts}), or {GROWTH}; default: all parts")
    parser.add_argument("--json", metavar="FILE", help="write the rows as a JSON list too")
    parser.add_argument("--size", choices=["base", "tiny"], default="base", help="tiny only shows that it runs")
    parser.add_argument("--dtype", nargs="+", choices=["fp32", "bf16"], help="default: both; on a GPU bf16")
    parser.add_argument(
        "--batch", nargs="+", type=int, help="images at a time, for encoder and caption; default: 1 4; on a GPU 1 64"
    )
    parser.add_argument("--repeat", type=int, default=3, help="timed runs of each; the median counts")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="of torch, on the CPU; default: its own choice")
    parser.add_argument("--images", type=int, help="in the shards, for capfilt; default: 4096")
    parser.add_argument("--out", metavar="FOLDER", default=GROWTH, help=f"for {GROWTH}: where plots and JSON go")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks that the arguments name.

    Returns:
        The exit code: 0 done, 1 outputs differ, 2 a mistake in the arguments.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in COUNTERS:
        counter: Any = importlib.import_module(COUNTERS[argv[0]])
        return counter.main(argv[1:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except VlkitError as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    """Print the table; return 1 when outputs differ."""
    if args.work is not None and args.work not in (*PARTS, GROWTH):
        known = (*PARTS, GROWTH, *COUNTERS)
        raise VlkitError(
            f"there is no benchmark {args.work!r}.{did_you_mean(args.work, known)} Benchmarks: {', '.join(known)}."
        )
    _prepare(args)
    if args.work == GROWTH:
        return _growth(args)
    if args.work == "capfilt":
        return _capfilt(args)
    everything = [part for part in PARTS if args.device == "cpu" or part not in _ON_CPU]
    return _table([args.work] if args.work else everything, args)


def _prepare(args: argparse.Namespace) -> None:
    """Fill in what depends on the device, which must be there."""
    import torch

    for name in ("repeat", "threads", "images"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise VlkitError(f"--{name}: {getattr(args, name)} given; it must be 1 or more.")
    if args.batch and min(args.batch) < 1:
        raise VlkitError(f"--batch: {min(args.batch)} given; it must be 1 or more.")
    if not re.fullmatch(r"cpu|cuda(:(0|[1-9][0-9]*))?", args.device):
        raise VlkitError(f"--device: {args.device!r} given; cpu, cuda and cuda:N can be measured.")
    kind, _, number = args.device.partition(":")
    if args.work in _ON_CPU and kind != "cpu":
        raise VlkitError(f"--device: {args.device!r} given; {args.work} is measured on the CPU.")
    if kind == "cuda":
        count = torch.cuda.device_count()
        if int(number or 0) >= count:
            raise VlkitError(
                f"--device: {args.device!r} given, but torch finds {count or 'no'} GPU{'s' if count > 1 else ''}; "
                "--device cpu measures the CPU."
            )
        torch.cuda.set_device(int(number or 0))
    _check_output(args)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    args.batch = args.batch or _BATCHES[kind]
    args.dtype = args.dtype or _DTYPES[kind]
    args.images = args.images or _CAPFILT_IMAGES[args.size]


def _check_output(args: argparse.Namespace) -> None:
    """Look before minutes of measuring whether their result can be written."""
    folders = {"--json": Path(args.json).parent} if args.json else {}
    if args.work == GROWTH:
        folders["--out"] = Path(args.out)
    for option, folder in folders.items():
        if why := why_unwritable(folder):
            raise VlkitError(f"{option}: {folder} cannot be used: {why}. Choose another.")
    if args.json and Path(args.json).is_dir():
        raise VlkitError(f"--json: {args.json} is a folder; name a file.")


def _table(parts: list[str], args: argparse.Namespace) -> int:
    from benchmarks.compare import table, write_json
    from benchmarks.limits import headline, measure_machine, with_share

    machine = measure_machine(args.device, args.dtype, args.size)
    print(headline(machine), end="\n\n", flush=True)
    rows: list[Row] = []
    for part in parts:
        try:
            found = _measured(part, args) if len(parts) == 1 else _measured_apart(part, args)
        except VlkitError as error:
            if len(parts) == 1:
                raise
            print(f"skipped {part}: {error}", file=sys.stderr, flush=True)
            continue
        rows += [with_share(row, machine) for row in found]
        if args.json:  # each time: a whole table takes most of an hour
            write_json(rows, args.json, machine)
    print(table(rows))
    return 0 if all(row.outputs_equal for row in rows) else 1


def _measured_apart(part: str, args: argparse.Namespace) -> list[Row]:
    """In a process of its own: how memory is handed out there does not depend on what ran before, for either side."""
    with ProcessPoolExecutor(1, get_context("spawn"), _prepare, (args,)) as process:
        return process.submit(_measured, part, args).result()


def _measured(part: str, args: argparse.Namespace) -> list[Row]:
    """Measure a part and report each row.

    Raises:
        VlkitError: something is missing here.
    """
    rows = []
    try:
        for row in _rows(part, args):
            rows.append(row)
            print(f"{row.work}, {row.dtype}: {row.ratio:.2f} times as fast", file=sys.stderr, flush=True)
    except ImportError as error:
        raise _missing(part, error) from error
    return rows


def _missing(part: str, error: ImportError) -> VlkitError:
    """What to install for a part of the table; an error of the package's own is raised."""
    name = (error.name or "").partition(".")[0]
    if name in ("", "vlkit"):
        raise error
    install = _INSTALL.get(name, name)
    return VlkitError(f"{part} is measured with {name!r}, which is not installed: pip install {install}")


def _rows(part: str, args: argparse.Namespace) -> Iterator[Row]:
    common: dict[str, Any] = {
        "size": args.size,
        "dtypes": args.dtype,
        "repeat": args.repeat,
        "device": args.device,
    }
    if part == "encoder":
        from benchmarks.encoder import encoder_rows

        return encoder_rows(batches=args.batch, **common)
    if part == "caption":
        from benchmarks.caption import caption_rows

        return caption_rows(batches=args.batch, **common)
    if part == "evaluation":
        from benchmarks.retrieval_eval import evaluation_rows

        return evaluation_rows(**common)
    if part == "vqa":
        from benchmarks.vqa import vqa_rows

        return vqa_rows(**common)
    if part == "pretrain":
        from benchmarks.pretrain import pretrain_rows

        return pretrain_rows(**common)
    if part == "data":
        from benchmarks.data import data_rows

        return data_rows(**common)
    if part == "capfilt":
        from benchmarks.capfilt import capfilt_rows

        return capfilt_rows(args.images, args.repeat, judged=args.size == "base")
    from benchmarks.rerank import IMAGES, VIDEOS, rerank_rows

    return rerank_rows(IMAGES if part == "retrieval" else VIDEOS, **common)


def _capfilt(args: argparse.Namespace) -> int:
    from benchmarks.capfilt import capfilt_speeds, report
    from benchmarks.compare import write_json

    speeds = capfilt_speeds(args.images, args.repeat)
    print(report(speeds))
    if args.json:
        write_json(speeds, args.json)
    return 0 if all(each.outputs_equal for each in speeds) else 1


def _growth(args: argparse.Namespace) -> int:
    from benchmarks.growth import grow

    for line in grow(Path(args.out), args.size, args.repeat):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
