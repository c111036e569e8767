"""``vlkit run --jobs N`` and ``seeds``: stages side by side, each in its own process, for every seed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.assets.run_files import GENERATION, SIZES, fails, pretrain_run, snapshot, start_cli, write
from tests.assets.waiting import LONG, wait_until
from vlkit.cli import main
from vlkit.pipeline import load_pipeline

OUT = Path("output/both")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pipeline(**changes: Any) -> dict[str, Any]:
    """Two trainings that do not use each other, from one that both use; an evaluation of each."""

    def train(name: str, **run: Any) -> dict[str, Any]:
        config = pretrain_run(sample_images=0, **run)
        del config["datasets"]["eval"]
        return {"name": name, "command": "train", "config": config}

    def evaluate(name: str, of: str) -> dict[str, Any]:
        config = {
            "model": {"name": "blip_pretrain", "type": "tiny", "queue_size": 16, "embed_dim": 8, **SIZES},
            "datasets": {"eval": {"test": {"name": "shapes", "split": "test", "size": 6}}},
            "task": {"name": "pretrain", "generation": GENERATION},
            "run": {"init_from": f"${{stages.{of}}}", "device": "cpu", "sample_images": 0},
        }
        return {"name": name, "command": "evaluate", "config": config}

    return {
        "stages": [
            train("base"),
            train("left", init_from="${stages.base}"),
            train("right", init_from="${stages.base}"),
            evaluate("left_test", "left"),
            evaluate("right_test", "right"),
        ],
        "columns": ["AUC", "R@5"],
        "table": [
            {"name": "left", "values": ["left_test/test/itm_auc", "left_test/test/itc_tr@5"]},
            {"name": "right", "values": ["right_test/test/itm_auc", None]},
        ],
        **changes,
    }


def weights(out: Path = OUT) -> dict[str, str]:
    return {name: sha for name, sha in snapshot(out).items() if name.endswith("model.safetensors")}


def record(stage: str, out: Path = OUT) -> dict[str, Any]:
    return json.loads((out / stage / "stage.json").read_text())


def order(printed: str, what: str) -> list[str]:
    return [line.partition(": ")[0] for line in printed.splitlines() if f": {what}" in line]


@pytest.mark.slow
def test_jobs_and_seeds_give_what_one_process_gives(folder, capfd):
    data = pipeline(seeds=[0, 1], jobs=2)
    base, left, _, left_test, _ = data["stages"]
    file = write(folder / "both.yaml", {**data, "stages": [base, left, left_test], "table": data["table"][:1]})
    assert main(["run", file, "--output", "parallel"]) == 0
    printed = capfd.readouterr().out
    started = order(printed, "started")
    assert started[:2] == ["seed_0/base", "seed_1/base"]
    assert sorted(started) == sorted(order(printed, "finished after"))
    assert len(started) == 6
    assert "(6 of 6)" in printed
    assert "step 1/4" not in printed
    assert "step 1/4" in Path("parallel/seed_1/left/log.txt").read_text()

    assert main(["run", file, "--jobs", "1", "--output", "serial"]) == 0
    capfd.readouterr()
    assert len(set(weights(Path("serial")).values())) == 4
    assert weights(Path("parallel")) == weights(Path("serial"))
    tables = [json.loads(Path(out, "results.json").read_text())["table"] for out in ("parallel", "serial")]
    assert tables[0] == tables[1]
    auc = [record(f"seed_{seed}/left_test", Path("serial"))["metrics"]["test/itm_auc"] for seed in (0, 1)]
    cell = tables[0][0]["cells"][0]
    assert cell["seeds"] == {"0": auc[0], "1": auc[1]}
    assert cell["score"] == pytest.approx(sum(auc) / 2)
    assert [record(f"seed_{seed}/base", Path("serial"))["config"]["run"]["seed"] for seed in (0, 1)] == [0, 1]

    before = snapshot(Path("parallel"))
    assert main(["run", file, "--output", "parallel"]) == 0
    assert len(order(capfd.readouterr().out, "finished, skipped")) == 6
    assert snapshot(Path("parallel")) == before
    assert main(["run", file, "--output", "parallel", "--from", "seed_1/left"]) == 0
    assert order(capfd.readouterr().out, "started") == ["seed_1/left", "seed_1/left_test"]


def test_a_failed_stage_lets_others_finish(folder, capfd):
    data = pipeline(columns=[], table=[])
    data["stages"] = data["stages"][:4]
    file = write(folder / "both.yaml", data)
    (folder / "spoil.py").write_text(
        "from vlkit.tasks.pretrain import Pretrain\nfrom vlkit.registry import TASKS\n"
        "from vlkit.errors import DataError\n\n@TASKS.register('failing')\nclass Failing(Pretrain):\n"
        "    def train_step(self, model, inputs, progress):\n        raise DataError('spoilt on purpose')\n"
    )
    data["stages"][1]["config"] |= {"plugins": ["spoil.py"], "task": {"name": "failing"}}
    write(folder / "both.yaml", data)
    message = fails(capfd, "run", file, "--jobs", "2")
    assert "stage left failed: spoilt on purpose" in message
    assert "output/both/left/log.txt" in message
    assert "not run, because they use what failed: left_test" in message
    assert record("right")["status"] == "finished"
    assert record("left")["status"] == "started"
    assert not (OUT / "left_test").exists()
    data["stages"][1]["config"]["task"] = {"name": "pretrain"}
    write(folder / "both.yaml", data)
    message = fails(capfd, "run", file, "--jobs", "2")
    assert "--from left" in message
    assert main(["run", file, "--jobs", "2", "--from", "left"]) == 0
    assert order(capfd.readouterr().out, "finished, skipped") == ["base", "right"]


def test_a_signal_reaches_the_stages_and_nothing_is_lost(folder):
    long = ["left.run.duration=9000 steps", "left.run.checkpoint_every=1"]
    data = pipeline(columns=[], table=[])
    file = write(folder / "both.yaml", {**data, "stages": data["stages"][:2]})
    process = start_cli("run", file, "--jobs", "2", *long)
    wait_until((OUT / "left/checkpoints/step_00000002").exists, process.is_alive)
    os.kill(process.pid, signal.SIGINT)
    process.join(LONG)
    printed = Path("printed").read_text()
    assert process.exitcode == 128 + signal.SIGINT, printed
    assert "interrupted in stage left" in printed
    assert record("left")["status"] == "started"
    assert "interrupted" not in (OUT / "base/log.txt").read_text()
    assert "SIGINT: the run stops after this step" in (OUT / "left/log.txt").read_text()


def test_stages_end_with_a_pipeline_that_is_killed(folder):
    file = write(folder / "both.yaml", pipeline())
    process = start_cli("run", file, "--jobs", "2", "base.run.duration=9000 steps", "base.run.checkpoint_every=1")
    wait_until((OUT / "base/checkpoints/step_00000002").exists, process.is_alive)
    os.kill(process.pid, signal.SIGKILL)
    process.join(LONG)
    log = OUT / "base/log.txt"
    wait_until(lambda: "interrupted in stage base" in log.read_text())
    assert record("base")["status"] == "started"


def test_one_stage_can_be_run_alone(folder, capsys):
    file = write(folder / "both.yaml", pipeline())
    assert "uses base: not finished" in fails(capsys, "run", file, "--only", "left")
    assert not OUT.exists()
    assert main(["run", file, "--only", "base"]) == 0
    assert main(["run", file, "--only", "left"]) == 0
    assert [record(name)["status"] for name in ("base", "left")] == ["finished", "finished"]
    assert not (OUT / "right").exists()
    assert "Did you mean 'left'" in fails(capsys, "run", file, "--only", "lefft")


def test_seeds_reach_what_has_none_of_its_own(folder):
    data = pipeline(seeds=[3, 4])
    base, left, right = data["stages"][:3]
    (folder / "left.yaml").write_text(json.dumps(left["config"] | {"run": left["config"]["run"] | {"seed": 9}}))
    left["config"] = "left.yaml"  # a file's seed gives way
    right["set"] = {"run.seed": 7}
    base["config"]["datasets"]["train"][0]["seed"] = "${seed}"
    base["config"]["run"]["wandb"] = "run_${seed}"
    file = load_pipeline(write(folder / "both.yaml", data))
    stages = {stage.key: stage for stage in file.stages}
    seeds = {key: stage.job.config.data["run"].get("seed") for key, stage in stages.items()}
    assert seeds == {
        f"seed_{seed}/{name}": 7 if name == "right" else seed
        for seed in (3, 4)
        for name in ("base", "left", "right", "left_test", "right_test")
    }
    run = stages["seed_4/base"].job.config.data
    assert (run["datasets"]["train"][0]["seed"], run["run"]["wandb"]) == (4, "run_4")
    assert stages["seed_4/left"].job.config.data["run"]["init_from"] == str(OUT / "seed_4/base")
    assert stages["seed_4/left"].after == ("seed_4/base",)


def test_a_stage_can_be_run_once_for_all_seeds(folder):
    data = pipeline(seeds=[0, 1])
    data["stages"][0]["once"] = True
    stages = {stage.key: stage for stage in load_pipeline(write(folder / "both.yaml", data)).stages}
    assert len(stages) == 9
    assert stages["base"].folder == OUT / "base"
    assert stages["base"].job.config.data["run"].get("seed") is None
    assert stages["seed_1/left"].job.config.data["run"]["init_from"] == str(OUT / "base")
    assert stages["seed_1/left"].after == ("base",)


WRONG = {
    "values without columns": ({"columns": []}, ("table.0.values", "2 given", "no columns")),
    "too many values": ({"columns": ["AUC"]}, ("table.0.values", "2 given", "1 columns")),
    "both": ({"table": [{"name": "x", "value": "a/b/c", "values": []}]}, ("'x'", "'value', or 'values'")),
    "seed given twice": ({"seeds": [1, 1]}, ("seeds.1", "the seed 1 is given twice")),
    "seeds": ({"seeds": [-1]}, ("seeds.0", "-1")),
    "jobs": ({"jobs": 0}, ("jobs", "0")),
    "no seed": (
        {"output_dir": "${seed}", "stages": [{"name": "seed_1", "command": "train", "config": {}}]},
        ("seed_1",),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_pipelines_are_reported(name, folder, capsys):
    changes, says = WRONG[name]
    message = fails(capsys, "run", write(folder / "both.yaml", pipeline(**changes)))
    assert all(part in message for part in says), message


def test_mistakes_are_reported_once_for_all_seeds(folder, capsys):
    data = pipeline(seeds=[0, 1])
    data["stages"][0]["config"]["optim"] = {"lr": "fast"}
    message = fails(capsys, "run", write(folder / "both.yaml", data))
    assert message.count("optim.lr") == 1


def test_jobs_and_torchrun_exclude_each_other(folder, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "--jobs" in fails(capsys, "run", write(folder / "both.yaml", pipeline()), "--jobs", "2")
