"""``vlkit run``: stages that use earlier ones, are skipped when finished, and go on when killed."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.assets.run_files import GENERATION, SIZES, caption_run, fails, pretrain_run, snapshot, start_cli, write
from tests.assets.waiting import LONG, wait_until
from vlkit.cli import main
from vlkit.pipeline import load_pipeline

OUT = Path("output/steps")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    return tmp_path


def pipeline(folder: Path, **changes: Any) -> dict[str, Any]:
    """Pre-training from a file, captioning that extends a file, and an evaluation."""
    run = pretrain_run(checkpoint_every=1, sample_images=0)
    write(folder / "runs/pretrain.yaml", run)
    write(folder / "runs/_base.yaml", {"optim": {"lr": 1e-3}, "run": {**run["run"], "batch_size": 2}})
    caption = caption_run(folder)
    caption["run"] = {"max_steps": 2, "duration": None}
    del caption["optim"]
    evaluation = {
        "extends": "runs/_base.yaml",
        "model": {"name": "blip_caption", "type": "tiny", **SIZES},
        "datasets": {"eval": {"test": {"name": "shapes", "split": "test", "size": 4}}},
        "task": {"name": "captioning", "generation": GENERATION},
        "run": {"init_from": "${stages.caption}", "sample_images": 2},
    }
    stages = [
        {"name": "pretrain", "command": "train", "config": "runs/pretrain.yaml", "set": {"run.seed": 7}},
        {
            "name": "caption",
            "command": "train",
            "config": {"extends": "runs/_base.yaml", **caption},
            "set": {"run.init_from": "${stages.pretrain}"},
        },
        {"name": "evaluate", "command": "evaluate", "config": evaluation},
    ]
    return {
        "stages": stages,
        "variants": {"short": {"pretrain.run.duration": "2 steps"}},
        "table": [
            {"name": "matching", "value": "pretrain/val/itm_auc"},
            {"name": "captions, CIDEr", "value": "evaluate/test/cider"},
        ],
        **changes,
    }


@pytest.fixture
def steps(folder) -> str:
    return write(folder / "steps.yaml", pipeline(folder))


def record(stage: str, out: Path = OUT) -> dict[str, Any]:
    return json.loads((out / stage / "stage.json").read_text())


def test_stages_run_in_order_and_use_each_other(steps, capsys):
    assert main(["run", steps]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    results = json.loads((OUT / "results.json").read_text())
    rows = {row["name"]: row["score"] for row in results["table"]}
    assert rows["matching"] == record("pretrain")["metrics"]["val/itm_auc"]
    assert rows["captions, CIDEr"] == record("evaluate")["metrics"]["test/cider"]
    assert f"captions, CIDEr  {rows['captions, CIDEr']:.4f}" in printed.out
    assert f"| matching | {rows['matching']:.4f} |" in (OUT / "results.md").read_text()
    assert "evaluate/samples.png" in printed.out
    assert (OUT / "evaluate/samples.png").exists()
    assert (OUT / "evaluate/captions_test.json").exists()
    started = json.loads((OUT / "caption/environment.json").read_text())["weights"]
    assert started["source"] == str(OUT / "pretrain")
    assert record("caption")["inputs"]["weights"] == started["sha256"]
    assert record("pretrain")["config"]["run"]["seed"] == 7


def test_finished_stages_are_skipped(steps, capsys):
    assert main(["run", steps]) == 0
    before = snapshot(OUT)
    table = capsys.readouterr().out.partition("\nsteps ")[2]
    assert main(["run", steps]) == 0
    again = capsys.readouterr().out
    assert [f"{stage}: finished, skipped" in again for stage in ("pretrain", "caption", "evaluate")] == [True] * 3
    assert again.partition("\nsteps ")[2] == table
    assert snapshot(OUT) == before


def test_a_killed_stage_resumes_and_gives_what_it_would_have_given(steps, folder):
    long = "pretrain.run.duration=40 steps"
    assert main(["run", steps, long, "--output", "whole"]) == 0
    process = start_cli("run", steps, long, held="step_00000004")
    wait_until((OUT / "pretrain/checkpoints/step_00000003").exists, process.is_alive)
    os.kill(process.pid, signal.SIGKILL)
    process.join(LONG)
    assert process.exitcode == -signal.SIGKILL
    assert record("pretrain")["status"] == "started"
    assert not (OUT / "caption").exists()
    process = start_cli("run", steps, long)
    process.join(LONG)
    printed = Path("printed").read_text()
    assert process.exitcode == 0, printed
    assert "pretrain: continued" in printed
    assert "continuing from" in printed
    for stage in ("pretrain", "caption"):
        last = Path(record(stage)["checkpoint"]).name
        files = [out / stage / "checkpoints" / last / "model.safetensors" for out in (OUT, Path("whole"))]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert record("evaluate")["metrics"] == record("evaluate", Path("whole"))["metrics"]


def test_a_signal_ends_the_pipeline(steps):
    process = start_cli("run", steps, "pretrain.run.duration=9000 steps")
    wait_until((OUT / "pretrain/checkpoints/step_00000002").exists, process.is_alive)
    os.kill(process.pid, signal.SIGTERM)
    process.join(LONG)
    assert process.exitcode == 128 + signal.SIGTERM
    assert "interrupted in stage pretrain" in Path("printed").read_text()
    assert record("pretrain")["status"] == "started"


def test_a_changed_configuration_is_refused_and_can_be_redone(steps, capsys):
    assert main(["run", steps]) == 0
    before = snapshot(OUT)
    message = fails(capsys, "run", steps, "caption.optim.lr=2e-3")
    assert "stage caption" in message
    assert "optim.lr was 0.001, is 0.002" in message
    assert "--from caption" in message
    assert snapshot(OUT) == before
    assert main(["run", steps, "caption.optim.lr=2e-3", "--from", "caption"]) == 0
    assert "pretrain: finished, skipped" in capsys.readouterr().out
    after = snapshot(OUT)
    moved = {name: sha for name, sha in before.items() if name.startswith(("caption/", "evaluate/"))}
    for name, sha in moved.items():
        stage, _, rest = name.partition("/")
        assert after[f"replaced/{stage}-1/{rest}"] == sha
    assert all(after[name] == sha for name, sha in before.items() if name.startswith("pretrain/"))
    assert record("caption")["config"]["optim"]["lr"] == 2e-3


def test_what_leaves_the_weights_as_they_are_may_change(steps, capsys):
    assert main(["run", steps]) == 0
    assert main(["run", steps, "pretrain.run.log_every=7", "caption.run.num_workers=1"]) == 0
    assert capsys.readouterr().out.count("finished, skipped") == 3


def test_changed_weights_of_an_earlier_stage_are_noticed(steps, capsys):
    assert main(["run", steps]) == 0
    assert main(["run", steps, "pretrain.run.seed=8", "--output", "other"]) == 0
    theirs = Path(record("pretrain", Path("other"))["checkpoint"]) / "model.safetensors"
    ours = Path(record("pretrain")["checkpoint"]) / "model.safetensors"
    ours.write_bytes(theirs.read_bytes())
    message = fails(capsys, "run", steps)
    assert "stage caption: what it uses has changed since it was run: weights, pretrain" in message
    assert "--from caption" in message


def test_a_variant_changes_its_stages_and_has_its_own_folder(steps):
    assert main(["run", steps, "--variant", "short"]) == 0
    out = Path("output/steps-short")
    assert json.loads((out / "pretrain/result.json").read_text())["step"] == 2
    assert json.loads((out / "results.json").read_text())["variant"] == "short"
    assert not OUT.exists()


def test_the_command_line_wins_over_the_variant_and_that_over_the_file(steps):
    file = load_pipeline(steps, ["pretrain.run.seed=9"], "short")
    run = file.stages[0].job.parts.run
    assert (run.seed, str(run.duration)) == (9, "2 steps")
    assert load_pipeline(steps).stages[0].job.parts.run.seed == 7
    assert [stage.after for stage in file.stages] == [(), ("pretrain",), ("caption",)]


def test_paths_are_relative_to_the_pipeline_file(folder):
    (folder / "sub").mkdir()
    data = pipeline(folder)
    (folder / "runs").rename(folder / "sub/runs")
    file = write(folder / "sub/steps.yaml", data)
    assert [stage.name for stage in load_pipeline(file).stages] == ["pretrain", "caption", "evaluate"]


def test_check_takes_a_pipeline(steps, capsys):
    before = snapshot(Path())
    assert main(["check", steps, "--variant", "short"]) == 0
    printed = capsys.readouterr().out
    assert all(f"stage {name}: nothing wrong" in printed for name in ("pretrain", "caption", "evaluate"))
    assert "2 steps" in printed
    assert snapshot(Path()) == before


def spoilt(key: str, value: Any, stage: int | None = None) -> Any:
    def change(data: dict[str, Any]) -> None:
        node = data if stage is None else data["stages"][stage]
        node[key] = value

    return change


WRONG = {
    "unknown key": (spoilt("tabel", []), (), ("'tabel'", "Did you mean 'table'")),
    "unknown key of a stage": (spoilt("conifg", "x", 0), (), ("stages.0.conifg", "Did you mean 'config'")),
    "unknown command": (spoilt("command", "trian", 0), (), ("stages.0.command", "'trian'", "Did you mean 'train'")),
    "no stages": (spoilt("stages", []), (), ("stages", "there is no stage")),
    "stage given twice": (spoilt("name", "caption", 0), (), ("two stages are named 'caption'",)),
    "name of a stage": (spoilt("name", "a/b", 0), (), ("stages.0.name", "'a/b'")),
    "stage that is not earlier": (
        spoilt("set", {"run.init_from": "${stages.pretrian}"}, 1),
        (),
        ("stage caption", "run.init_from", "stages.pretrian", "Did you mean 'stages.pretrain'"),
    ),
    "stage that comes later": (spoilt("set", {"run.init_from": "${stages.evaluate}"}, 0), (), ("stage pretrain",)),
    "missing run file": (spoilt("config", "runs/pretrian.yaml", 0), (), ("stage pretrain", "'pretrain.yaml'")),
    "config of another kind": (spoilt("config", 3, 0), (), ("stages.0.config",)),
    "key of set": (spoilt("set", {"run.sed": 1}, 0), (), ("stage pretrain", "run.sed", "Did you mean 'seed'")),
    "stage of the table": (spoilt("table", [{"name": "x", "value": "captoin/val/cider"}]), (), ("'caption/val'",)),
    "set of the table": (spoilt("table", [{"name": "x", "value": "caption/test/cider"}]), (), ("'caption/val'",)),
    "stage of a variant": (
        spoilt("variants", {"short": {"pretrian.run.seed": 1}}),
        ("--variant", "short"),
        ("pretrian", "Did you mean 'pretrain'"),
    ),
    "variant": (spoilt("output_dir", "o"), ("--variant", "shrot"), ("'shrot'", "Did you mean 'short'")),
    "stage of an override": (spoilt("output_dir", "o"), ("pretrian.run.seed=1",), ("Did you mean 'pretrain'",)),
    "override without a stage": (spoilt("output_dir", "o"), ("pretrain=1",), ("no key of the stage",)),
    "stage of --from": (spoilt("output_dir", "o"), ("--from", "captoin"), ("captoin", "Did you mean 'caption'")),
    "data of a later stage": (
        lambda data: data["stages"][1]["config"]["datasets"]["train"][0].update(path="data/nothing.json"),
        (),
        ("stage caption", "data/nothing.json"),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_pipelines_end_before_the_first_stage(name, folder, capsys):
    change, arguments, says = WRONG[name]
    data = pipeline(folder)
    change(data)
    file = write(folder / "steps.yaml", data)
    before = snapshot(folder)
    message = fails(capsys, "run", file, *arguments)
    assert all(part in message for part in says), message
    assert snapshot(folder) == before


def test_mistakes_of_all_stages_are_reported_together(folder, capsys):
    data = pipeline(folder)
    data["stages"][0]["set"] = {"optim.lr": "fast"}
    data["stages"][2]["config"]["task"] = {"name": "captionning"}
    for command in ("run", "check"):
        message = fails(capsys, command, write(folder / "steps.yaml", data))
        assert "stage pretrain: " in message
        assert "stage evaluate: " in message


def test_a_score_that_no_stage_gave_is_reported_and_shown_as_missing(folder, capsys):
    data = pipeline(folder, table=[{"name": "typo", "value": "pretrain/val/itm_acu"}])
    data["stages"] = data["stages"][:1]
    assert main(["run", write(folder / "steps.yaml", data)]) == 0
    printed = capsys.readouterr().out
    assert "Did you mean 'pretrain/val/itm_auc'" in printed
    assert "| typo | - |" in (OUT / "results.md").read_text()


def test_two_processes_run_a_pipeline(folder, steps):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    arguments = ("run", steps, "--variant", "short")
    processes = [
        start_cli(*arguments, environment={**common, "RANK": rank, "LOCAL_RANK": rank}, printed=folder / f"out-{rank}")
        for rank in range(2)
    ]
    for process in processes:
        process.join(LONG)
    printed = [(folder / f"out-{rank}").read_text() for rank in range(2)]
    assert [process.exitcode for process in processes] == [0, 0], printed
    assert "captions, CIDEr" in printed[0]
    assert "CIDEr" not in printed[1]
    assert "step 1" not in printed[1]
