"""The dispatch of commands, exit codes, and ``vlkit show``."""

from __future__ import annotations

import errno
import subprocess
import sys
import types

import pytest

from vlkit import cli
from vlkit.cli import main
from vlkit.errors import ConfigError
from vlkit.registry import TASKS


@pytest.fixture
def command(monkeypatch):
    """Makes ``vlkit probe`` run a function of the parsed arguments."""

    def install(run):
        module = types.ModuleType("probe_command", "Probe things.")
        module.add_arguments = lambda parser: parser.add_argument("--size", type=int, default=1)
        module.run = run
        monkeypatch.setitem(sys.modules, "probe_command", module)
        monkeypatch.setitem(cli.COMMANDS, "probe", ("probe_command", "probe things"))

    return install


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text and summary in text for name, (_, summary) in cli.COMMANDS.items())


def test_no_command_shows_the_help_and_fails(capsys):
    assert main([]) == 2
    assert "usage: vlkit" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vlkit 0.")


def test_unknown_command_names_the_closest(capsys):
    assert main(["trian", "x.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no command 'trian'. Did you mean 'train'")


def test_arguments_and_exit_code_are_passed_on(command):
    command(lambda args: args.size)
    assert main(["probe", "--size", "7"]) == 7


def test_bad_arguments_exit_with_2(command, capsys):
    command(lambda args: 0)
    assert main(["probe", "--size", "x"]) == 2
    assert "usage: vlkit probe" in capsys.readouterr().err
    assert main(["probe", "--help"]) == 0
    assert "Probe things." in capsys.readouterr().out


def test_a_misspelled_option_names_the_closest(capsys):
    assert main(["train", "run.yaml", "--outptu=x"]) == 2
    assert "unrecognized arguments: --outptu=x. Did you mean '--output'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", ""],
        ["train", "run.yaml", "--output", ""],
        ["evaluate", "run.yaml", "--checkpoint", " "],
        ["run", "pipeline.yaml", "--only", ""],
        ["run", "pipeline.yaml", "--output", ""],
        ["capfilt", "refilter", "", "--output", "new"],
        ["capfilt", "refilter", "job", "--output", ""],
        ["capfilt", "report", ""],
        ["convert", "a.pth", "", "--to", "hf"],
        ["show", "cards", ""],
    ],
)
def test_an_empty_argument_is_not_the_working_directory(arguments, capsys):
    assert main(arguments) == 2
    assert "an empty text is given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "kind", "says"),
    [
        ("train", "pipeline", "is a pipeline, which 'vlkit run' runs"),
        ("evaluate", "pipeline", "is a pipeline"),
        ("capfilt", "pipeline", "is a pipeline"),
        ("train", "job", "is a job of CapFilt, which 'vlkit capfilt' does"),
        ("evaluate", "job", "is a job of CapFilt"),
        ("run", "job", "is a job of CapFilt"),
    ],
)
def test_a_file_of_another_command_is_named(command, kind, says, tmp_path, capsys):
    stages = "stages: [{name: a, command: train, config: {run: {init_from: '${stages.b}'}}}]"
    job = "{input: {path: a.tar}, model: {name: blip_capfilt}, task: {name: capfilt}}"
    (tmp_path / "file.yaml").write_text(stages if kind == "pipeline" else job)
    assert main([command, str(tmp_path / "file.yaml")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1


def fail(error):
    def run(args):
        raise error

    return run


def test_mistakes_of_the_user_are_one_message(command, capsys, monkeypatch):
    monkeypatch.delenv("VLKIT_TRACEBACK", raising=False)
    command(fail(ConfigError(["a: wrong", "b: missing"])))
    assert main(["probe"]) == 2
    assert capsys.readouterr().err == "error: a: wrong\nb: missing\n"


def test_traceback_on_request(command, capsys, monkeypatch):
    monkeypatch.setenv("VLKIT_TRACEBACK", "1")
    command(fail(ConfigError("a: wrong")))
    assert main(["probe"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"), "a/b: No such file or directory. Was it"),
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), "out/x: No space left on device. Make room"),
        (OSError(errno.EROFS, "Read-only file system", "out"), "out: Read-only file system. Write elsewhere."),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "a file or stream: Broken pipe."),
    ],
)
def test_errors_of_files_are_one_message(command, capsys, error, message):
    command(fail(error))
    assert main(["probe"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_output_that_cannot_be_written():
    """A full device ends in one message, a reader that has seen enough in none."""
    run = f"{sys.executable} -m vlkit show cards"
    full = subprocess.run(f"{run} > /dev/full", shell=True, capture_output=True, text=True)
    assert (full.returncode, full.stderr) == (2, "error: standard output: No space left on device.\n")
    closed = subprocess.run(f"{run} | true", shell=True, capture_output=True, text=True)
    assert closed.stderr == ""


def test_interruption_exits_with_130(command, capsys):
    command(fail(KeyboardInterrupt()))
    assert main(["probe"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_mistakes_of_the_program_keep_their_traceback(command):
    command(fail(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["probe"])


PLUGIN = '''
from vlkit.registry import TASKS

@TASKS.register("probe_task")
class Probe:
    """Counts things."""
    def __init__(self, alpha: float = 0.4):
        pass
'''


@pytest.fixture
def task_left_out():
    """Takes the task of the plugin out of the registry again, for the tests that follow."""
    yield
    TASKS._items.pop("probe_task", None)


@pytest.mark.usefixtures("task_left_out")
def test_show_lists_and_describes(tmp_path, capsys):
    plugin = tmp_path / "plug_show.py"
    plugin.write_text(PLUGIN)
    assert main(["show", "tasks", "--plugin", str(plugin)]) == 0
    assert "probe_task" in capsys.readouterr().out.split()
    assert main(["show", "tasks", "probe_task"]) == 0
    text = capsys.readouterr().out
    assert "Counts things." in text
    assert "alpha: float, default 0.4" in text
    assert main(["show", "tasks", "prob_task"]) == 2
    assert "Closest: probe_task" in capsys.readouterr().err


def test_show_cards(tmp_path, capsys, monkeypatch):
    from vlkit.config import cards

    monkeypatch.setattr(cards, "CONFIGS", tmp_path)
    (tmp_path / "models" / "toy").mkdir(parents=True)
    (tmp_path / "models" / "toy" / "base.yaml").write_text("model: {width: 3}\n")
    assert main(["show", "cards"]) == 0
    assert capsys.readouterr().out == "toy/base\n"
    assert main(["show", "cards", "toy"]) == 0
    assert capsys.readouterr().out == "toy/base\n"
    assert main(["show", "cards", "toy/base"]) == 0
    assert capsys.readouterr().out == "model:\n  width: 3\n"
    assert main(["show", "cards", "toi"]) == 2
    assert "Did you mean 'toy'" in capsys.readouterr().err


def test_a_command_without_its_file_says_what_is_missing(capsys):
    for command in ("train", "check", "evaluate", "capfilt", "run"):
        assert main([command]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"usage: vlkit {command}")
        assert message.splitlines()[-1].endswith(".yaml") or "the following arguments are required" in message
        assert "key=value" not in message.splitlines()[-1]


def test_the_former_benchmark_command_names_the_new_one(capsys):
    assert cli.main(["bench", "caption"]) == 2
    assert "'python -m benchmarks'" in capsys.readouterr().err


def test_the_former_command_to_filter_again_names_the_new_one(capsys):
    assert cli.main(["capfilt", "apply", "out", "--output", "new"]) == 2
    assert "is now 'vlkit capfilt refilter'" in capsys.readouterr().err
