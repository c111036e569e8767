"""``vlkit convert`` and ``vlkit shards``: write weights and datasets in the formats of other libraries."""

from __future__ import annotations

import argparse

from vlkit.cli.terminal import log_lines, say
from vlkit.cli.train import overrides_of

FORMATS = ("blip", "lavis", "hf", "vlkit")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


class Convert:
    """Write weights under the names of another library, the original BLIP's (as in LAVIS) or Hugging Face's; or small.

    vlkit convert model_base_caption_capfilt_large.pth captioner --to hf
    vlkit convert captioner captioner.safetensors --to blip
    vlkit convert output/my_run captioner --to hf
    vlkit convert output/my_run captioner.safetensors --to vlkit --precision fp16
    """

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add source, target and format."""
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument("source", metavar="SRC", help="weights file, folder of the hub or of a run, or an address")
        parser.add_argument("target", metavar="DST", help="a new folder (hf), or a .pth or .safetensors file")
        parser.add_argument("--to", required=True, choices=FORMATS, help="who reads it; vlkit: no momentum encoders")
        parser.add_argument(
            "--precision",
            default="fp32",
            choices=PRECISIONS,
            help="what the file stores; int8 (a scale for each row, vlkit alone) is a quarter of fp32",
        )
        parser.add_argument(
            "--model",
            metavar="NAME[/TYPE]",
            help="the model to write, if it is a part of the source; with the type of a card for unusual sizes",
        )

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Convert, and print what became of the tensors."""
        from vlkit.jobs.convert import convert

        with log_lines():
            report = convert(args.source, args.target, args.to, args.model, args.precision)
        say(report.summary())
        say(f"written: {args.target}")
        return 0


class Shards:
    """Write a dataset as webdataset shards, which `vlkit capfilt` and the dataset web_shards read.

    The same command again continues where it was stopped.
    """

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the file and what is changed in it."""
        parser.add_argument("file", metavar="shards.yaml", help="dataset, samples_per_shard, output_dir")
        parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as dataset.size=12000")
        parser.add_argument("--output", metavar="DIR", help="where to write (output_dir)")

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Write the shards."""
        from vlkit.jobs.shards import ShardsJob

        with log_lines():
            result = ShardsJob.load(args.file, overrides_of(args, "output_dir")).run()
        left_out = f", {result['left_out']} samples left out" if result["left_out"] else ""
        say(f"{result['samples']} samples in {result['shards']} shards in {result['folder']}{left_out}")
        return 0
