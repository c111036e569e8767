"""docs/capfilt.md: its commands work, its configurations are right, its tables are complete."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from vlkit.capfilt.inputs import REASONS, InputOptions
from vlkit.capfilt.job_file import NEUTRAL, JobOptions
from vlkit.capfilt.shard_output import SUFFIXES
from vlkit.capfilt.tables import COLUMNS
from vlkit.cli import COMMANDS, main
from vlkit.config.parts import dataset_part
from vlkit.jobs.capfilt import CapFiltJob

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "capfilt.md").read_text()
FIRST_JOB = re.search(r"```sh\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()
SMALLER = {
    "shards": ["dataset.size=24", "samples_per_shard=10"],
    "capfilt docs": ["run.batch_size=8", "run.device=cpu"],
    "train": ["run.duration=2 steps", "datasets.train.1.size=20", "datasets.eval.val.size=4", "run.device=cpu"],
}
BLOCKS = {language: re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) for language in ("yaml", "python", "json")}
COMMAND_LINES = re.findall(r"^(?: {4})?(vlkit (?:capfilt|bench) .*)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the first job of the page was done, with fewer images."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "docs").symlink_to(DOCS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in FIRST_JOB:
            smaller = next((more for words, more in SMALLER.items() if line.startswith(f"vlkit {words}")), [])
            assert main([*shlex.split(line)[1:], *smaller]) == 0, line
    return folder


def test_the_first_job_does_what_the_page_says(folder):
    assert len(FIRST_JOB) == 5
    summary = json.loads((folder / "output/capfilt/summary.json").read_text())
    assert summary["images"]["read"] == summary["texts"]["synthetic"]["scored"] == 24
    cut = json.loads((folder / "output/strict/summary.json").read_text())
    assert cut["texts"]["web"]["kept"] <= summary["texts"]["web"]["kept"]
    assert (folder / "output/capfilt/report/report.html").is_file()


def test_the_folders_are_those_of_the_page(folder):
    listed = re.findall(r"^      (\w+)/<shard>(\.\w+) ", PAGE, re.MULTILINE)
    assert dict(listed) == SUFFIXES
    names = {file.name for file in (folder / "output/capfilt").iterdir()} - {"claims", "log", "report"}
    assert names == {*SUFFIXES, *re.findall(r"^      (\w+\.json) ", PAGE, re.MULTILINE)}


def test_a_job_is_checked_without_writing(folder, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(folder)
    job, out = "docs/examples/capfilt/job.yaml", tmp_path / "out"
    assert main(["check", job, "--output", str(out)]) == 0
    assert "nothing wrong was found" in capsys.readouterr().out
    assert not out.exists()
    for wrong in (["--variant", "short"], ["--checkpoint", "x"], ["model.captioner.weights=nowhere.pth"]):
        assert main(["check", job, *wrong]) == 2
    assert "nowhere.pth" in capsys.readouterr().err


def test_the_python_of_the_page(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (code,) = BLOCKS["python"]
    exec(compile(code, "docs/capfilt.md", "exec"), {})
    kept, correct = capsys.readouterr().out.split()
    assert int(kept) > 0
    assert 0.5 < float(correct) <= 1


def test_the_json_of_the_page_is_that_of_an_image(folder):
    import tarfile

    (block,) = BLOCKS["json"]
    with tarfile.open(folder / "output/capfilt/kept/00000.tar") as tar:
        name = next(name for name in tar.getnames() if name.endswith(".json"))
        found = json.load(tar.extractfile(name))
    shown = json.loads(block)
    assert set(shown) <= set(found)
    assert [list(text) for text in shown["texts"]] == [list(found["texts"][0])] * 2


def test_the_job_file_of_the_page(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(BLOCKS["yaml"][0])
    assert CapFiltJob.load(file).output_dir == "output/my"


def test_the_mixture_of_the_page(tmp_path):
    processor = {"name": "blip_image_eval", "image_size": 16}
    for entry in yaml.safe_load(BLOCKS["yaml"][1])["datasets"]["train"]:
        assert dataset_part({**entry, "image_processor": processor}, "data", training=True).check() == []


@pytest.mark.parametrize(("section", "options"), [("input", InputOptions), ("run", JobOptions)])
def test_a_table_has_all_keys_with_their_defaults(section, options):
    text = PAGE.split(f"**{section}.**")[1].split("\n**")[0].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| .*? \| (.*?) \|$", text, re.MULTILINE)
    reported = {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    fields = {field.name: field.default for field in dataclasses.fields(options)}
    assert set(reported) == set(fields) - {"path"}
    for name, shown_default in reported.items():
        default = fields[name]
        if isinstance(default, bool):
            assert shown_default == str(default).lower()
        elif isinstance(default, int | float):
            given = shown_default.replace(",", "").replace("M", "000000")
            assert float(given) == float(default), name


def test_what_may_change_is_reported():
    reported = re.search(r"naming the difference;\n(.*?) may change", PAGE)[1]
    assert set(re.findall(r"`(\w+)`", reported)) == set(NEUTRAL)


def test_all_reasons_and_columns_are_there():
    rows = re.findall(r"^\| ((?:`[a-z ]+`(?:, )?)+) \|", PAGE.split("Nothing is lost silently")[1], re.MULTILINE)
    assert sorted(re.findall(r"`([a-z ]+)`", " ".join(rows))) == sorted(REASONS)
    reported = PAGE.split("The table has the same")[1].split("**Nothing")[0]
    assert re.findall(r"`(\w+)`", reported) == list(COLUMNS)


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_a_command_is_understood(line):
    _, command, *arguments = shlex.split(line)
    if f"{command} {arguments[0]}" in COMMANDS:
        command, arguments = f"{command} {arguments[0]}", arguments[1:]
    parser = argparse.ArgumentParser()
    module, _, name = COMMANDS[command][0].partition(":")
    getattr(importlib.import_module(module), name).add_arguments(parser)
    assert vars(parser.parse_intermixed_args(arguments))


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PAGE) if "://" not in link]
    assert links
    assert all((DOCS / link.partition("#")[0]).exists() for link in links)
