"""Write weights under the names of another library: the original BLIP's (which LAVIS kept) or Hugging Face's; or small.

vlkit convert model_base_caption_capfilt_large.pth captioner --to hf
vlkit convert captioner captioner.safetensors --to blip
vlkit convert output/my_run captioner --to hf
vlkit convert output/my_run captioner.safetensors --to vlkit --precision fp16
"""

from __future__ import annotations

import argparse

from vlkit.cli.terminal import log_lines, say

FORMATS = ("blip", "lavis", "hf", "vlkit")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """From where, to where, for whom."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", metavar="SRC", help="weights file, folder of the hub or of a run, or an address")
    parser.add_argument("target", metavar="DST", help="a new folder (hf), or a .pth or .safetensors file")
    parser.add_argument("--to", required=True, choices=FORMATS, help="who is to read it; vlkit: no momentum encoders")
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=PRECISIONS,
        help="what the file stores; int8 (a scale for each row, vlkit alone) is a quarter of fp32",
    )
    parser.add_argument(
        "--model",
        metavar="NAME[/TYPE]",
        help="the model to write, if it is a part of what is there; with the type of a card for unusual sizes",
    )


def run(args: argparse.Namespace) -> int:
    """Convert, and say what became of the tensors."""
    from vlkit.jobs.convert import convert

    with log_lines():
        report = convert(args.source, args.target, args.to, args.model, args.precision)
    say(report.summary())
    say(f"written: {args.target}")
    return 0
