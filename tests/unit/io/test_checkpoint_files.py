"""What is noticed of damage, and that nothing sound is refused."""

from __future__ import annotations

import json
import os
import random
import shutil

import pytest
import torch
from safetensors.torch import save_file

from tests.assets.damage import DAMAGES, OLD_DAMAGES, as_version_1, edit, flip, flip_somewhere
from tests.assets.toy import ToyTask, toy_runner
from vlkit.errors import CheckpointError
from vlkit.io.checkpoint_files import MODEL, OPTIMIZER, STATE, TRAINER, choose, read_trainer, seal, verify
from vlkit.models.weights.files import read_checkpoint
from vlkit.runner.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was stopped after step 8; it has checkpoints of steps 4 and 8."""
    folder = tmp_path_factory.mktemp("run")
    toy_runner(folder, ToyTask(signal_at=7), keep_checkpoints=2, monitor=None).train()
    return folder


@pytest.fixture
def folder(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run") / "checkpoints"


def test_what_a_run_writes_is_sound(folder):
    trainer = verify(folder / "step_00000008", required=STATE)
    assert trainer == read_trainer(folder / "step_00000008", STATE)
    assert trainer["step"] == 8
    assert set(trainer["sha256"]) == {MODEL, OPTIMIZER}


FLIPS = 100 if os.environ.get("VLKIT_CAMPAIGN") == "full" else 20


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(FLIPS))
def test_every_flipped_bit_is_noticed(folder, seed):
    path = folder / "step_00000008"
    name, bit = flip_somewhere(path, random.Random(seed))
    with pytest.raises(CheckpointError, match=rf"step_00000008 is damaged: {name}"):
        verify(path, required=STATE)
    if name != OPTIMIZER:
        with pytest.raises(CheckpointError, match="is damaged"):
            read_checkpoint(path)
        with pytest.raises(CheckpointError, match="is damaged"):
            read_checkpoint(path / MODEL)
    flip(path / name, bit)
    verify(path, required=STATE)
    read_checkpoint(path)


def test_flipped_bits_everywhere_in_the_record_are_noticed(tmp_path):
    path = tmp_path / "step_00000001"
    path.mkdir()
    content = {"version": 2, "step": 1, "value": 1e-7, "files": {}, "sha256": {}, "text": 'a "b" \u00e9'}
    (path / TRAINER).write_text(seal(content))
    verify(path, [])
    for bit in range(0, 8 * (path / TRAINER).stat().st_size, 7):
        flip(path / TRAINER, bit)
        with pytest.raises(CheckpointError, match=r"is damaged: trainer\.json"):
            verify(path, [])
        flip(path / TRAINER, bit)


@pytest.mark.parametrize("name", DAMAGES)
def test_the_newest_falls_back_with_one_warning(folder, name, caplog):
    file, damage = DAMAGES[name]
    damage(folder / "step_00000008" / file)
    assert Checkpoints(folder).newest(STATE) == folder / "step_00000004"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "step_00000008 is damaged" in caplog.text
    assert "continues from step_00000004" in caplog.text


@pytest.mark.parametrize("name", [name for name in DAMAGES if OPTIMIZER not in name and "unlink model" not in name])
def test_weights_of_a_run_fall_back_with_one_warning(folder, name, caplog):
    file, damage = DAMAGES[name]
    damage(folder / "step_00000008" / file)
    assert choose(folder) == folder / "step_00000004"
    assert len(read_checkpoint(folder.parent)) > 3
    assert choose(folder) == folder / "step_00000004"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_best_checkpoint_that_is_damaged_is_passed_over(folder, caplog):
    path = folder / "step_00000008"
    trainer = read_trainer(path)
    (path / TRAINER).write_text(seal({**_unsealed(trainer), "best": {**trainer["best"], "step": 4}}))
    assert choose(folder) == folder / "step_00000004"
    flip(folder / "step_00000004" / MODEL, 90_000 % (8 * (folder / "step_00000004" / MODEL).stat().st_size))
    assert choose(folder) == path
    assert "The best is passed over; step_00000008 is used." in caplog.text


def _unsealed(trainer):
    return {key: value for key, value in trainer.items() if key != "checksum"}


@pytest.mark.parametrize("weights", [True, False], ids=["weights", "resume"])
def test_when_all_are_damaged_nothing_is_chosen(folder, weights):
    for step in (4, 8):
        flip(folder / f"step_{step:08d}" / MODEL, 800)
    with pytest.raises(CheckpointError, match=r"step_00000008 is damaged.*step_00000004 is damaged"):
        choose(folder) if weights else Checkpoints(folder).newest()


def test_checkpoints_of_version_1_still_load(folder):
    for step in (4, 8):
        as_version_1(folder / f"step_{step:08d}")
    assert Checkpoints(folder).newest(STATE) == folder / "step_00000008"
    assert len(read_checkpoint(folder.parent)) > 3


@pytest.mark.parametrize("name", OLD_DAMAGES)
def test_keys_of_version_1_are_checked(folder, name, caplog):
    as_version_1(folder / "step_00000008")
    edit(OLD_DAMAGES[name])(folder / "step_00000008" / TRAINER)
    assert Checkpoints(folder).newest(STATE) == folder / "step_00000004"
    assert len(caplog.records) == 1


@pytest.mark.parametrize("aliases", ['{"a": "nowhere"}', "[]", "3", "{", "[" * 100_000])
def test_wrong_aliases_are_damage(folder, aliases):
    file = folder / "step_00000008" / MODEL
    save_file({"a": torch.ones(2)}, str(file), metadata={"aliases": aliases})
    as_version_1(file.parent)
    edit(lambda content: content["files"].update({MODEL: file.stat().st_size}))(file.parent / TRAINER)
    assert Checkpoints(folder).newest(STATE) == folder / "step_00000004"
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_checkpoint(file.parent)


def test_a_folder_that_lost_its_record_gives_no_weights(folder):
    (folder / "step_00000008" / TRAINER).unlink()
    with pytest.raises(CheckpointError, match=r"step_00000008 is damaged: trainer\.json cannot be read"):
        read_checkpoint(folder / "step_00000008")


def test_checkpoints_that_are_a_file(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="Not a directory"):
        Checkpoints(tmp_path / "checkpoints").newest()


def test_no_checkpoints_are_no_damage(tmp_path):
    assert Checkpoints(tmp_path / "checkpoints").newest() is None
    assert choose(tmp_path) is None


def test_the_record_is_plain_json(folder):
    assert json.loads((folder / "step_00000008" / TRAINER).read_text())["version"] == 2
