"""``vlkit train`` and ``vlkit evaluate``, and what commands with a run file share."""

from __future__ import annotations

import argparse
import json

from vlkit.cli.terminal import log_lines, say, scores_table


def add_run_file(parser: argparse.ArgumentParser, help: str = "run file") -> None:
    """Add the arguments that all commands with a file have."""
    parser.add_argument("file", metavar="run.yaml", help=help)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as optim.lr=1e-4")
    parser.add_argument("--output", metavar="DIR", help="where to write (run.output_dir)")


def overrides_of(args: argparse.Namespace, output_key: str = "run.output_dir") -> list[str]:
    """Return the overrides of the command line, with ``--output`` as one of them."""
    output = [f"{output_key}={json.dumps(args.output)}"] if args.output is not None else []
    return [*args.overrides, *output]


def refuse_other_kind(file: str, kind: str = "run") -> None:
    """Refuse a file that is for another command.

    Args:
        file: path.
        kind: what the command takes: "run", "job" or "pipeline".

    Raises:
        ConfigError: it is another one.
    """
    from vlkit.capfilt.job_file import is_job
    from vlkit.errors import ConfigError
    from vlkit.pipeline import is_pipeline

    if kind != "pipeline" and is_pipeline(file):
        raise ConfigError(f"{file} is a pipeline, which 'vlkit run' runs.")
    if kind != "job" and is_job(file):
        raise ConfigError(f"{file} is a job of CapFilt, which 'vlkit capfilt' does.")


class Train:
    """Train a model as a run file says; the same command again continues a run that was stopped.

    Under torchrun: torchrun --nproc-per-node 4 -m vlkit train run.yaml
    """

    add_arguments = staticmethod(add_run_file)

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Train; return 128 + signal when a signal stopped it."""
        from vlkit.jobs.train import TrainJob

        with log_lines():
            refuse_other_kind(args.file)
            job = TrainJob.load(args.file, overrides_of(args))
            result, folder = job.run(), job.output_dir
            if result["status"] == "interrupted":
                say(f"interrupted after step {result['step']}; the same command continues from {result['checkpoint']}")
                return 128 + int(result["signal"])
            counts = f"{result['step']} steps, {result['samples']} samples, {result['seconds']:.0f} s"
            say(f"\nfinished: {counts} in {folder}")
            if result["metrics"]:
                say(scores_table(result["metrics"]))
            if best := result["best"]:
                say(f"best {best['monitor']}: {best['value']:.4f} at step {best['step']} ({best['checkpoint']})")
            if bad := result["bad_samples"]:
                say(f"{bad} samples could not be used; they are listed in {folder}/ledger.jsonl")
            return 0


class Evaluate:
    """Evaluate a model on the evaluation sets of a run file.

    The weights are those of --checkpoint, else the best (or newest) checkpoint in the run's own output folder, else
    run.init_from, else the weights of the model's card.
    """

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add run file and weights."""
        add_run_file(parser)
        parser.add_argument("--checkpoint", metavar="PATH", help="weights file, or folder of a checkpoint or run")

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Evaluate and print a table."""
        from vlkit.jobs.train import EvaluateJob

        with log_lines():
            refuse_other_kind(args.file)
            job = EvaluateJob.load(args.file, overrides_of(args))
            job.checkpoint = args.checkpoint
            say(scores_table(job.run()["metrics"]))
            folder = job.output_dir
            results = [file for name in job.eval_sets for file in sorted(folder.glob(f"*_{name}.json"))]
            written = [folder / "evaluation.json", *results, folder / "samples.png"]
            say("written: " + ", ".join(str(file) for file in written if file.exists()))
        return 0
