"""Files into tensors: every form that is read, and what is said about those that are not."""

import io
import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from vlkit.errors import CheckpointError
from vlkit.models.weights.files import read_checkpoint

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}


class Opens:
    """Restoring it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def same(found: dict) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(
    "wrapped",
    [
        STATE,
        {"model": STATE, "epoch": 3, "config": {"lr": 1e-5}},
        {"state_dict": STATE},
        {"model": {f"module.{name}": value for name, value in STATE.items()}},
    ],
    ids=["bare", "model", "state_dict", "distributed"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_files_of_torch_save(tmp_path, wrapped, zipped):
    path = tmp_path / "weights.pth"
    torch.save(wrapped, path, _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(path))
    assert same(read_checkpoint(str(path)))


def test_safetensors_by_content_whatever_the_suffix(tmp_path):
    save_file(STATE, str(tmp_path / "weights.bin"))
    assert same(read_checkpoint(tmp_path / "weights.bin"))


def step(folder: Path, number: int, value: float, best: int | None = None) -> Path:
    path = folder / f"step_{number:08d}"
    path.mkdir(parents=True)
    metadata = {"aliases": json.dumps({"tied": "a"})}
    save_file({"a": torch.tensor([value])}, str(path / "model.safetensors"), metadata=metadata)
    size = (path / "model.safetensors").stat().st_size
    trainer = {"best": {"step": best, "value": 1.0}, "files": {"model.safetensors": size}}
    (path / "trainer.json").write_text(json.dumps(trainer))
    return path


def test_checkpoint_folder_names_tied_tensors_twice(tmp_path):
    found = read_checkpoint(step(tmp_path, 3, 5.0))
    assert {name: value.item() for name, value in found.items()} == {"a": 5.0, "tied": 5.0}


def test_run_folder_gives_the_best_checkpoint(tmp_path):
    for number in (5, 10, 15):
        step(tmp_path / "checkpoints", number, float(number), best=10)
    assert read_checkpoint(tmp_path)["a"].item() == 10
    assert read_checkpoint(tmp_path / "checkpoints")["a"].item() == 10


def test_run_folder_without_a_best_gives_the_newest_complete_one(tmp_path):
    for number in (5, 99_999_999, 100_000_000, 100_000_001):
        step(tmp_path / "checkpoints", number, float(number))
    damaged = tmp_path / "checkpoints" / "step_100000001" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert read_checkpoint(tmp_path)["a"].item() == 100_000_000
    with pytest.raises(CheckpointError, match=r"step_100000001 is damaged: model.safetensors has \d+ bytes"):
        read_checkpoint(damaged.parent)


def test_folder_of_the_hugging_face_hub(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    assert same(read_checkpoint(tmp_path))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_malicious_pickles_are_refused_and_not_executed(tmp_path, zipped):
    path, trace = tmp_path / "evil.pth", tmp_path / "executed"
    torch.save({"model": STATE, "x": Opens(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"evil.pth was refused.*open.*Nothing was executed"):
        read_checkpoint(path)
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_malicious_plain_pickle(tmp_path):
    path, trace = tmp_path / "evil.bin", tmp_path / "executed"
    path.write_bytes(pickle.dumps(Opens(trace)))
    with pytest.raises(CheckpointError, match=r"refused.*Nothing was executed"):
        read_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_cut_short_anywhere(tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"model": {"a": torch.zeros(64)}}, path)
    else:
        save_file({"a": torch.zeros(64)}, str(path))
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=f"weights.{suffix}") as error:
            read_checkpoint(path)
        assert "\n" not in str(error.value)


def saved(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "safetensors":
        return save(STATE)
    torch.save({"model": STATE}, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


WHOLE = {kind: saved(kind) for kind in ("zip", "legacy", "safetensors")}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(list(WHOLE)), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1))
def test_changed_bytes_give_tensors_or_one_clear_line(tmp_path, kind, changes):
    content = bytearray(WHOLE[kind])
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    message, found = "", {}
    try:
        found = read_checkpoint(path)
    except CheckpointError as error:
        message = str(error)
    assert bool(found) != bool(message)
    assert "\n" not in message
    assert all(value.clone().shape == value.shape for value in found.values())  # every byte can be read


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n  <html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b'{"a": 1}', "JSON"),
        (b"some words about weights", "neither a file of torch.save nor safetensors"),
        (pickle.dumps({"a": 1}, protocol=4), "a pickle of another kind"),
        (pickle.dumps({"a": 1}, protocol=2), "damaged or cut short: Invalid magic number"),
    ],
)
def test_files_of_another_kind(tmp_path, content, message):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "weights.pth")


@pytest.mark.parametrize("content", [{"epoch": 3}, {"model": {"lr": 1.0}}, [1, 2], torch.zeros(2)])
def test_files_without_weights(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"holds no weights: found"):
        read_checkpoint(tmp_path / "weights.pth")


def test_paths_that_lead_nowhere(tmp_path):
    (tmp_path / "weights.pth").touch()
    with pytest.raises(CheckpointError, match=r"does not exist. Did you mean 'weights.pth'"):
        read_checkpoint(tmp_path / "weigths.pth")
    with pytest.raises(CheckpointError, match="is an address"):
        read_checkpoint("https://example.org/weights.pth")
    with pytest.raises(CheckpointError, match="no weights are in it"):
        read_checkpoint(tmp_path)
