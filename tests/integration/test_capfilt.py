"""``vlkit capfilt``: a job file, shards in and shards out."""

from __future__ import annotations

import json
import os
import signal
import stat
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.assets.run_files import SIZES, fails, snapshot, start_cli, write
from tests.assets.waiting import LONG, wait_until
from tests.unit.capfilt.small import picture, result, write_shards, write_tar
from vlkit.cli import main
from vlkit.config.parts import model_part
from vlkit.datasets.web_shards import WebShards
from vlkit.io.tensor_files import load_tensors, save_tensors
from vlkit.jobs.capfilt import CapFiltJob

IMAGES = (6, 5, 9)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with shards and weights of random models."""
    folder = tmp_path_factory.mktemp("capfilt")
    write_shards(folder / "shards", IMAGES)
    for role, mapping in models(folder).items():
        torch.manual_seed(len(role))
        del mapping["weights"]
        save_tensors(folder / f"{role}.safetensors", model_part(mapping).build().state_dict())
    return folder


def models(folder: Path) -> dict[str, dict[str, Any]]:
    names = {"captioner": "blip_caption", "filter": "blip_image_text_matching"}
    return {
        role: {"name": name, "type": "tiny", "weights": str(folder / f"{role}.safetensors"), **deepcopy(SIZES)}
        for role, name in names.items()
    }


def content(folder: Path, output: str) -> dict[str, Any]:
    """A job file."""
    return {
        "model": {"name": "blip_capfilt", **models(folder)},
        "task": {
            "name": "capfilt",
            "generation": {"sample": True, "num_beams": 1, "max_length": 8, "min_length": 2},
            "decision": {"threshold": 0.49},
        },
        "input": {"path": str(folder / "shards")},
        "run": {"output_dir": output, "batch_size": 4, "device": "cpu"},
    }


@pytest.fixture
def job(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A job; the working directory is an empty folder."""
    monkeypatch.chdir(tmp_path)
    return content(made, "out")


@pytest.fixture(scope="module")
def whole(made: Path, tmp_path_factory) -> dict[str, str]:
    """The result of a job that nothing stopped, done elsewhere."""
    folder = tmp_path_factory.mktemp("whole")
    found = CapFiltJob.load(write(folder / "job.yaml", content(made, str(folder / "out")))).run()
    assert found["status"] == "finished"
    assert found["worked"]["images"] == sum(IMAGES)
    return result(folder / "out")


def test_shards_come_out_that_can_be_trained_on(job, whole, capsys):
    assert main(["capfilt", write(Path("job.yaml"), job)]) == 0
    printed = capsys.readouterr().out
    summary = json.loads(Path("out/summary.json").read_text())
    images = summary["images"]
    assert f"images: 20 read, {images['kept']} kept, {images['dropped']} dropped\n" in printed
    assert "3 of 3 shards are done" in printed
    assert result(Path("out")) == whole
    assert sorted(each.name for each in Path("out").iterdir() if each.name != "claims") == sorted(
        ["capfilt.json", "done", "dropped", "kept", "ledger", "summary.json", "tables"]
    )
    dataset = WebShards("out/kept", image_processor=lambda image, rng: image)
    assert len(dataset) == images["kept"] > 0
    keys = {dataset.place(index)[1] for index in range(len(dataset))}
    for index in range(len(dataset)):
        assert dataset[index]["text_input"]
        assert dataset[index]["image"][1:4] == b"PNG"
    assert keys <= {f"{shard}-{number:03d}" for shard, count in enumerate(IMAGES) for number in range(count)}


def test_a_finished_job_is_reported_again(job, capsys):
    file = write(Path("job.yaml"), job)
    assert main(["capfilt", file]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("images", "web", "synthetic"))]
    before = snapshot(Path("out"))
    assert main(["capfilt", file, "run.decode_threads=3", "run.lease=5"]) == 0
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line in lines] == lines
    assert "this process" not in printed
    assert "tensors loaded" not in printed  # no model is built for it
    assert snapshot(Path("out")) == before


def test_processes_share_a_job(job, whole, capfd):
    assert main(["capfilt", write(Path("job.yaml"), job), "--workers", "2", "--output", "two"]) == 0
    assert result(Path("two")) == whole
    assert "images: 20 read" in capfd.readouterr().out
    assert Path("two/log/worker_1.log").exists()


def test_a_signal_stops_a_worker_and_the_same_command_resumes(job, whole):
    slow = write(Path("job.yaml"), {**job, "plugins": [str(_slow_plugin())], "task": {**job["task"], "name": "slow"}})
    process = start_cli("capfilt", slow)
    wait_until(Path("out/done/00000.json").exists, process.is_alive)
    os.kill(process.pid, signal.SIGTERM)
    wait_until(lambda: "SIGTERM: the worker stops after this batch" in Path("printed").read_text(), process.is_alive)
    Path("go on").touch()
    process.join(LONG)
    printed = Path("printed").read_text()
    assert process.exitcode == 128 + signal.SIGTERM, printed
    assert "interrupted; the same command continues in out" in printed
    assert not list(Path("out/claims").glob("*"))
    assert not Path("out/summary.json").exists()
    assert main(["capfilt", slow]) == 0
    after = result(Path("out"))
    assert {**after, "capfilt.json": ""} == {**whole, "capfilt.json": ""}


def _slow_plugin() -> Path:
    """After a trial and two batches, which end the first shard, its models wait for the file "go on"."""
    file = Path("slow.py").resolve()
    file.write_text(
        "from pathlib import Path\n"
        "from tests.assets.waiting import wait_until\n"
        "from vlkit import TASKS\n"
        "from vlkit.tasks.capfilt import CapFiltTask\n\n\n"
        "@TASKS.register('slow')\n"
        "class Slow(CapFiltTask):\n"
        "    calls = 0\n\n"
        "    def annotate(self, *args):\n"
        "        self.calls += 1\n"
        "        if self.calls == 4:\n"
        "            wait_until(Path('go on').exists)\n"
        "        return super().annotate(*args)\n"
    )
    return file


def test_everything_that_is_wrong_is_reported_at_once_and_nothing_is_written(job, capsys):
    job["model"]["captioner"]["vit"]["depht"] = 2
    job["model"]["filter"]["name"] = "blip_retrievel"
    job["task"]["decision"]["threshold"] = "high"
    job["input"]["pth"] = job["input"].pop("path")
    job["run"] |= {"batch_size": 0, "sede": 3}
    job["rnu"] = {}
    message = fails(capsys, "capfilt", write(Path("job.yaml"), job))
    for says in (
        "'depht'",
        "Did you mean 'depth'",
        "blip_retrievel",
        "task.decision.threshold",
        "'pth'",
        "'path'",
        "run.batch_size",
        "Did you mean 'seed'",
        "'rnu'",
    ):
        assert says in message
    assert [file.name for file in Path().iterdir()] == ["job.yaml"]


def test_missing_files_are_reported_at_once_and_nothing_is_written(job, capsys):
    Path("file").write_text("")
    job["model"]["captioner"]["weights"] = "nothing.safetensors"
    job["model"]["filter"]["weights"] = None  # the card of tiny has none
    job["input"]["path"] = "nowhere/{00..03}.tar"
    message = fails(capsys, "capfilt", write(Path("job.yaml"), job), "run.output_dir=file/out")
    for says in ("nothing.safetensors", "nowhere", "file/out", "is a file"):
        assert says in message
    assert sorted(file.name for file in Path().iterdir()) == ["file", "job.yaml"]
    job["model"]["captioner"]["weights"] = job["model"]["filter"]["weights"]
    message = fails(capsys, "capfilt", write(Path("job.yaml"), job))
    assert "model.captioner.weights" in message
    assert "model.filter.weights" in message
    assert "there are no weights" in message


def test_what_the_models_refuse_is_reported_before_anything_is_written(job, capsys):
    job["task"]["generation"] |= {"max_length": 3}  # the prompt alone is longer
    message = fails(capsys, "capfilt", write(Path("job.yaml"), job))
    assert "max_length" in message
    job["task"]["generation"] |= {"max_length": 8}
    job["model"]["captioner"]["weights"] = job["model"]["filter"]["weights"]
    assert "captioner" in fails(capsys, "capfilt", write(Path("job.yaml"), job))
    assert not Path("out").exists()


def test_the_folder_of_another_job_is_refused(job, made, capsys):
    file = write(Path("job.yaml"), job)
    assert main(["capfilt", file]) == 0
    before = snapshot(Path("out"))
    for change, says in (
        ("run.seed=5", "run.seed was 0, is 5"),
        ("run.batch_size=8", "run.batch_size was 4, is 8"),
        ("task.decision.threshold=.6", "task.decision.threshold was 0.49, is 0.6"),
        (f"input.path={made}/shards/00001.tar", "inputs.00000"),
        (f"model.captioner.weights={made}/other.safetensors", "weights.captioner"),
    ):
        if "other" in change:
            torch.manual_seed(99)
            mapping = {key: value for key, value in models(made)["captioner"].items() if key != "weights"}
            save_tensors(made / "other.safetensors", model_part(mapping).build().state_dict())
        message = fails(capsys, "capfilt", file, change)
        assert "holds another job" in message
        assert says in message
    assert snapshot(Path("out")) == before


def test_weights_may_move(job, made, capsys):
    file = write(Path("job.yaml"), job)
    assert main(["capfilt", file]) == 0
    copy = made / "moved.safetensors"
    copy.write_bytes((made / "filter.safetensors").read_bytes())
    assert main(["capfilt", file, f"model.filter.weights={copy}"]) == 0


def test_a_job_can_write_to_an_object_store(job, whole):
    import fsspec

    job["run"]["output_dir"] = "memory://capfilt/out"
    assert main(["capfilt", write(Path("job.yaml"), job)]) == 0
    files = fsspec.filesystem("memory")
    try:
        files.get("/capfilt/out/", "copy/", recursive=True)
    finally:
        files.rm("/capfilt", recursive=True)
    assert result(Path("copy")) == whole


def test_scores_alone_are_reported_and_decided_again(job, whole, capsys):
    assert main(["capfilt", write(Path("job.yaml"), job), "run.output=scores"]) == 0
    found = result(Path("out"))
    assert not {name.split("/")[0] for name in found} & {"kept", "dropped"}
    tables = {name for name in whole if name.startswith("tables/")}
    assert {name: found[name] for name in tables} == {name: whole[name] for name in tables}
    assert main(["capfilt", "refilter", "out", "--output", "strict", "--threshold", "0.6"]) == 0
    assert main(["capfilt", "report", "strict"]) == 0
    assert "No examples: images were not stored (run.output: scores)." in capsys.readouterr().out
    message = fails(capsys, "capfilt", write(Path("job.yaml"), job))
    assert "run.output was scores, is shards" in message


@pytest.fixture
def nothing(job) -> dict[str, Any]:
    """A job of a list whose images are elsewhere."""
    Path("images").mkdir()
    write_tar(Path("list/other.tar"), {})
    rows = [{"image": f"{number % 20}.png", "caption": "a red circle", "url": "u"} for number in range(1200)]
    Path("list/list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for number in range(20):
        Path(f"images/{number}.png").write_bytes(picture(number))
    job["input"] = {"path": "list/list.jsonl", "rows_per_shard": 600}
    return job


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_a_job_of_which_nothing_comes_ends_with_the_reasons_and_continues_when_corrected(nothing, workers, capfd):
    file = write(Path("job.yaml"), nothing)
    message = fails(capfd, "capfilt", file, *workers)
    assert "nothing came of the first 2 shards: 1,200 images read, 1,200 refused (1,200 missing image file)" in message
    assert "list-00000: '000000000': missing image file (No such file or directory)" in message
    assert not list(Path("out/claims").glob("*"))
    corrected = ["input.image_root=images", "run.batch_size=64", "task.generation.max_length=6"]
    assert main(["capfilt", file, *corrected]) == 0
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["images"]["read"] == 1200
    assert summary["images"]["refused"] == {}
    assert json.loads(Path("out/capfilt.json").read_text())["input"]["image_root"] == "images"
    assert "holds another job" in fails(capfd, "capfilt", file)


def test_files_that_are_not_read_are_recorded_and_may_change(job, made, capsys):
    file = write(Path("job.yaml"), job)
    (made / "shards/notes.txt").write_text("")
    try:
        assert main(["capfilt", file]) == 0
        assert "1 files or folders of the input are not read: 1 .txt (notes.txt)" in capsys.readouterr().out
        assert json.loads(Path("out/capfilt.json").read_text())["not_read"] == "1 .txt (notes.txt)"
    finally:
        (made / "shards/notes.txt").unlink()
    assert main(["capfilt", file]) == 0


def test_check_warns_of_a_tokenizer_that_does_not_fit(job, capsys):
    files = {}
    for number in range(12):
        files[f"{number}.png"] = picture(number)
        files[f"{number}.txt"] = b"Grandmother reading newspapers in Copenhagen"
    write_tar(Path("own/0.tar"), files)
    job["input"]["path"] = "own"
    assert main(["check", write(Path("job.yaml"), job)]) == 0
    printed = capsys.readouterr()
    said = printed.out + printed.err
    assert said.count("the tokenizer 'shapes' does not fit: ") == 1
    assert "of 12 texts" in said


def test_sub_words_are_commands_of_their_own(capsys):
    assert main(["capfilt", "refilter", "--help"]) == 0
    assert "vlkit capfilt refilter" in capsys.readouterr().out
    assert main(["capfilt", "--help"]) == 0
    assert "job file" in capsys.readouterr().out


def test_weights_that_are_not_finite_write_no_texts(job, made, capsys):
    state = load_tensors(made / "captioner.safetensors")
    name = "text_decoder.bert.encoder.layer.0.output.dense.weight"
    state[name] = torch.full_like(state[name], float("nan"))
    save_tensors(Path("nan.safetensors"), state)
    job["model"]["captioner"]["weights"] = "nan.safetensors"
    message = fails(capsys, "capfilt", write(Path("job.yaml"), job))
    assert f"nan.safetensors holds weights that are not finite: {name}" in message
    assert not Path("out").exists()


def test_the_output_obeys_the_umask(job):
    before = os.umask(0o027)
    try:
        assert main(["capfilt", write(Path("job.yaml"), job)]) == 0
        assert main(["capfilt", "report", "out"]) == 0
    finally:
        os.umask(before)
    for path in [Path("out"), *Path("out").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path
