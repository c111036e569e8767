"""A changed bit in the weights of a run is noticed by everything that loads them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import vlkit
from tests.assets.damage import flip
from tests.assets.run_files import SIZES, caption_run, fails, write
from tests.unit.capfilt.small import write_shards
from vlkit.cli import main
from vlkit.errors import CheckpointError
from vlkit.io.checkpoint_files import MODEL, OPTIMIZER, _warned
from vlkit.models.weights.files import read_checkpoint

NOTICED = "does not agree with its checksum"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with data and a run of four steps with two checkpoints in ``out``."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = write(folder / "run.yaml", caption_run(folder, checkpoint_every="1 steps", keep_checkpoints=2))
        assert main(["train", run]) == 0
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch) -> Path:
    """A copy of it in which the last checkpoint has another bit."""
    copy = shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(copy)
    flip(copy / "out" / "checkpoints" / "step_00000004" / MODEL, 50_000)
    return copy


def job(folder: Path, weights: str) -> str:
    write_shards(folder / "shards", (3,))
    sizes = {"type": "tiny", **SIZES}
    return write(
        folder / "job.yaml",
        {
            "model": {"name": "blip_capfilt", "captioner": {"name": "blip_caption", **sizes, "weights": weights}},
            "task": {"name": "capfilt"},
            "input": {"path": "shards"},
            "run": {"output_dir": "filtered", "device": "cpu"},
        },
    )


def commands(folder: Path, weights: str) -> dict[str, list[str]]:
    return {
        "evaluate": ["evaluate", "run.yaml", "--checkpoint", weights],
        "init_from": ["train", "run.yaml", f"run.init_from={weights}", "run.output_dir=other"],
        "check": ["check", "run.yaml", f"run.init_from={weights}", "run.output_dir=other"],
        "convert": ["convert", weights, "converted.pth", "--to", "blip", "--model", "blip_caption/tiny"],
        "capfilt": ["capfilt", job(folder, weights)],
    }


@pytest.mark.parametrize("place", ["step_00000004", f"step_00000004/{MODEL}"])
@pytest.mark.parametrize("name", ["evaluate", "init_from", "check", "convert", "capfilt"])
def test_every_command_notices(folder, capsys, name, place):
    message = fails(capsys, *commands(folder, f"out/checkpoints/{place}")[name])
    assert f"step_00000004 is damaged: {MODEL} {NOTICED}" in message
    assert not any(Path(each).exists() for each in ("other", "converted.pth", "filtered"))


@pytest.mark.parametrize("load", [vlkit.load_model, vlkit.load_model_and_preprocess])
def test_python_calls_notice(folder, load):
    with pytest.raises(CheckpointError, match=NOTICED):
        load("blip_caption", "tiny", checkpoint="out/checkpoints/step_00000004")


def test_a_folder_gives_the_checkpoint_before_with_one_warning(folder, caplog, capsys):
    model = vlkit.load_model("blip_caption", "tiny", checkpoint="out")
    before = read_checkpoint("out/checkpoints/step_00000003")
    assert main(["evaluate", "run.yaml"]) == 0
    assert caplog.text.count(NOTICED) == 1
    assert "step_00000003 is used" in caplog.text
    assert all(model.state_dict()[name].equal(value) for name, value in before.items())


def test_a_damaged_optimizer_beside_sound_weights_is_a_warning(trained, tmp_path, caplog):
    copy = shutil.copytree(trained, tmp_path / "copy")
    step = copy / "out" / "checkpoints" / "step_00000004"
    flip(step / OPTIMIZER, 50_000)
    for weights in (step / MODEL, copy / "out"):
        caplog.clear()
        _warned.clear()
        assert read_checkpoint(weights)
        (warning,) = [record.message for record in caplog.records if NOTICED in record.message]
        assert f"{OPTIMIZER} {NOTICED}. Its {MODEL} is sound and is used." in warning
    (step / OPTIMIZER).unlink()  # weights alone are often kept
    caplog.clear()
    assert read_checkpoint(copy / "out")
    assert not caplog.records
