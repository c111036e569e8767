"""Disks that fill and folders that vanish in the middle of a run: one message with the path, and what was trained is
saved if that is possible."""

from __future__ import annotations

import os
import resource
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.assets.run_files import caption_run, write
from tests.assets.toy import ToyDataset, ToyTask, lines, toy_runner
from vlkit.cli import main
from vlkit.errors import VlkitError


class Meanwhile(ToyTask):
    """Does something before step 6."""

    def __init__(self, action: Callable[[], object]):
        super().__init__()
        self.action = action

    def train_step(self, model, inputs, progress):
        if progress.step == 5:
            self.action()
        return super().train_step(model, inputs, progress)


def full(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to("/dev/full")


def folder_instead(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.mkdir()


@pytest.mark.parametrize("damage", [full, folder_instead])
@pytest.mark.parametrize("name", ["metrics.jsonl", "ledger.jsonl"])
def test_a_log_that_cannot_be_written_loses_no_step(tmp_path, damage, name):
    data = [ToyDataset(300, "a", bad=range(0, 300, 3) if name == "ledger.jsonl" else ())]
    file = tmp_path / name
    with pytest.raises(VlkitError) as caught:
        toy_runner(tmp_path, Meanwhile(lambda: damage(file)), data).train()
    message = str(caught.value)
    assert f"{file}: cannot be written there (" in message
    assert "Step 6 is saved in" in message
    assert (tmp_path / "checkpoints" / "step_00000006").is_dir()
    file.unlink() if file.is_symlink() else file.rmdir()
    assert toy_runner(tmp_path, ToyTask(), data).train()["status"] == "finished"


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_folder_that_was_removed_is_made_again_with_what_was_trained(tmp_path, log_every):
    output = tmp_path / "out"
    with pytest.raises(VlkitError) as caught:
        toy_runner(output, Meanwhile(lambda: shutil.rmtree(output)), log_every=log_every).train()
    assert str(output) in str(caught.value)
    step = 6 if log_every == 1 else 8
    assert f"Step {step} is saved in" in str(caught.value)
    assert (output / "config.yaml").exists()
    task = ToyTask()
    assert toy_runner(output, task, log_every=log_every).train()["status"] == "finished"
    assert len(task.seen) > 12 - step


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_folder_that_became_a_file_is_named(tmp_path, log_every):
    output = tmp_path / "out"

    def replace() -> None:
        shutil.rmtree(output)
        output.write_text("")

    with pytest.raises(VlkitError, match=str(output)):
        toy_runner(output, Meanwhile(replace), log_every=log_every).train()


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_disk_that_takes_nothing_more_leaves_the_last_checkpoint(tmp_path, log_every):
    toy_runner(tmp_path / "whole", log_every=log_every).train()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        limit = Meanwhile(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard)))
        with pytest.raises(VlkitError, match="File too large") as caught:
            toy_runner(tmp_path / "full", limit, log_every=log_every).train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path / "full") in str(caught.value)
    assert [file.name for file in (tmp_path / "full" / "checkpoints").iterdir()] == ["step_00000004"]
    assert toy_runner(tmp_path / "full", log_every=log_every).train()["status"] == "finished"
    assert lines(tmp_path / "full") == lines(tmp_path / "whole")


def test_damaged_lines_of_the_log_do_not_end_a_run(tmp_path, caplog):
    toy_runner(tmp_path, ToyTask(signal_at=5)).train()
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'[1]\n7\n{"loss": 1}\n{"step": "x"}\n{"step": 3, "lo')
    assert toy_runner(tmp_path).train()["status"] == "finished"
    assert caplog.text.count("damaged or half-written") == 1
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == list(range(1, 13))


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_everything_that_a_run_leaves_obeys_the_umask(tmp_path, monkeypatch, umask):
    monkeypatch.chdir(tmp_path)
    run = write(tmp_path / "run.yaml", caption_run(tmp_path, duration="2 steps"))
    before = os.umask(umask)
    try:
        assert main(["train", run]) == 0
        assert main(["evaluate", run]) == 0
        for target, form in (("a.pth", "blip"), ("a.safetensors", "vlkit"), ("hugging", "hf")):
            assert main(["convert", "out", target, "--to", form]) == 0
    finally:
        os.umask(before)
    written = [Path(each) for each in ("out", "a.pth", "a.safetensors", "hugging")]
    for path in [*written, *(file for folder in written for file in folder.rglob("*"))]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o777 if path.is_dir() else 0o666) & ~umask, f"{path}: {mode:o}"
    assert {"model.safetensors", "samples.png", "metrics.jsonl"} <= {path.name for path in Path("out").rglob("*")}
