"""The command line: ``vlkit <command>``."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from vlkit import __version__
from vlkit.cli.terminal import escape_output, say
from vlkit.errors import LostProcess, VlkitError, did_you_mean, redacted
from vlkit.io.disk_errors import describe

COMMANDS = {
    "train": ("vlkit.cli.train:Train", "train a model as a run file says"),
    "evaluate": ("vlkit.cli.train:Evaluate", "evaluate a model on a run file's evaluation sets"),
    "check": ("vlkit.cli.check", "do everything that a run would do, except train"),
    "run": ("vlkit.cli.run", "run the stages of a pipeline file, skipping what is finished"),
    "capfilt": ("vlkit.cli.capfilt:CapFilt", "caption and filter web images, as a job file says"),
    "capfilt refilter": ("vlkit.cli.capfilt:Refilter", "filter scored shards again, without the models"),
    "capfilt report": ("vlkit.cli.capfilt:Report", "draw what was kept and dropped"),
    "shards": ("vlkit.cli.convert:Shards", "write a dataset as webdataset shards"),
    "convert": ("vlkit.cli.convert:Convert", "write weights under the names of another library"),
    "show": ("vlkit.cli.show", "list and describe models, datasets, processors, tasks and cards"),
}
"""Command (of one or two words) to a line of help and to its module, or ``module:class``, which is imported when the
command is chosen and has ``add_arguments(parser)`` and ``run(args) -> int``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after ``vlkit``; None: those of the process.

    Returns:
        The exit code: 0 done, 1 another process of the run was lost, 2 wrong usage or an error of a file, 130
        interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    escape_output()
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            say(_help())
            return 0 if arguments else 2
        if arguments[0] == "--version":
            say(f"vlkit {__version__}")
            return 0
        return _run(arguments[0], arguments[1:])
    except SystemExit as stop:  # argparse, after printing its help or an error
        return stop.code if isinstance(stop.code, int) else 1
    except LostProcess as error:
        return _fail(str(error), 1)
    except VlkitError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except OSError as error:
        return _fail(describe(error), 2)


def _run(name: str, arguments: list[str]) -> int:
    if name == "bench":
        raise VlkitError("'vlkit bench' is now 'python -m benchmarks', run in a checkout of vlkit.")
    if [name, *arguments[:1]] == ["capfilt", "apply"]:
        raise VlkitError("'vlkit capfilt apply' is now 'vlkit capfilt refilter'.")
    if name not in COMMANDS:
        raise VlkitError(
            f"there is no command {name!r}.{did_you_mean(name, COMMANDS)} Commands: {', '.join(COMMANDS)}."
        )
    if arguments and f"{name} {arguments[0]}" in COMMANDS:
        name, arguments = f"{name} {arguments[0]}", arguments[1:]
    (module, _, attribute), summary = COMMANDS[name][0].partition(":"), COMMANDS[name][1]
    command = importlib.import_module(module)
    if attribute:
        command = getattr(command, attribute)
    parser = _Parser(prog=f"vlkit {name}", description=inspect.getdoc(command) or summary)
    command.add_arguments(parser)
    given = parser.parse_intermixed_args(arguments)
    parser.refuse_empty(given)
    return int(command.run(given))


_MAY_BE_EMPTY = ("slurm",)  # all defaults of Slurm


class _Parser(argparse.ArgumentParser):
    """Argument parser whose messages hide credentials and name close matches."""

    def error(self, message: str) -> NoReturn:
        start = "the following arguments are required: "
        if message.startswith(start):  # argparse also lists optional positional arguments
            optional = {action.metavar or action.dest for action in self._actions if action.nargs in ("*", "?")}
            names = [name for name in message.removeprefix(start).split(", ") if name not in optional]
            message = start + ", ".join(names)
        if message.startswith("unrecognized arguments: "):
            options = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
            wrong = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
            message += "." + did_you_mean(wrong[0], options) if wrong else ""
        super().error(redacted(message))

    def refuse_empty(self, given: argparse.Namespace) -> None:
        """Refuse empty strings as arguments: they would mean the working directory, or nothing."""
        for action in self._actions:
            value = getattr(given, action.dest, None)
            if isinstance(value, str) and not value.strip() and action.dest not in _MAY_BE_EMPTY:
                name = "/".join(action.option_strings) or action.metavar or action.dest
                self.error(f"argument {name}: an empty text is given; leave it out, or name something")


def _fail(message: str, code: int) -> int:
    """Print an error, with the traceback if ``VLKIT_TRACEBACK`` is set; called while it is handled."""
    if os.environ.get("VLKIT_TRACEBACK", "") not in ("", "0"):
        import traceback

        print(redacted(traceback.format_exc()), end="", file=sys.stderr)
    rank = os.environ.get("RANK", "0")  # several processes may report the same error
    print(f"error{'' if rank == '0' else f' (process {rank})'}: {redacted(message)}", file=sys.stderr)
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vlkit <command> [arguments]",
            "",
            "Vision-language models as configs.",
            "",
            "commands:",
            *lines,
            "",
            "vlkit <command> --help says more. VLKIT_TRACEBACK=1 shows where an error comes from.",
        ]
    )
