"""What ``vlkit train`` looks at before it trains, what may be changed afterwards, and how a finished run continues."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

from tests.assets import fragile_task, plugin_task
from tests.assets.run_files import SIZES, caption_run, fails, pretrain_run, snapshot, start_cli, write
from tests.assets.toy import lines
from tests.assets.waiting import LONG
from vlkit.cli import main
from vlkit.config.yamlfile import dump_yaml, parse_yaml
from vlkit.datasets.shapes.heads import ANSWERS
from vlkit.runner.checkpoint import MODEL, OPTIMIZER
from vlkit.runner.config_changes import plain


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def result(out="out") -> dict:
    return json.loads(Path(out, "result.json").read_text())


def saved(out="out") -> list[int]:
    return sorted(int(path.name[5:]) for path in Path(out, "checkpoints").glob("step_*"))


def vqa_run(folder: Path, **run) -> dict:
    """Questions about image files, whose task ranks answers that nobody lists."""
    caption_run(folder)
    rows = [{"image": f"images/{i:06d}.png", "question": "what color?", "answer": ANSWERS[i]} for i in range(1, 7)]
    (folder / "data/questions.json").write_text(json.dumps(rows))
    data = {"name": "image_question", "path": "data/questions.json"}
    return {
        "model": {"name": "blip_vqa", "type": "tiny", **SIZES},
        "datasets": {"train": [{**data, "split": "train"}], "eval": {"val": {**data, "split": "val"}}},
        "task": {"name": "vqa"},
        "optim": {"lr": 1e-3},
        "run": {**caption_run(folder)["run"], "duration": "2 epochs", "batch_size": 2, **run},
    }


def test_the_task_that_lacks_its_answer_list_is_found_before_training(folder, capsys):
    message = fails(capsys, "train", write(folder / "run.yaml", vqa_run(folder)))
    assert "datasets.eval.val" in message
    assert "Set task.answer_list" in message
    assert not (folder / "out").exists()


def test_the_task_that_lacks_its_answer_list_loses_nothing_and_continues_when_it_has_one(folder, capsys):
    file = write(folder / "run.yaml", vqa_run(folder, eval_every="2 epochs", checkpoint_every=None))
    message = fails(capsys, "train", file, "run.check=false")
    assert "Set task.answer_list" in message
    assert "Step 6 is saved in out/checkpoints/step_00000006" in message
    answers = json.dumps(ANSWERS[:4])
    assert main(["train", file, f"task.answer_list={answers}", "task.num_ans_candidates=2"]) == 0
    printed = capsys.readouterr().out
    assert "continuing from out/checkpoints/step_00000006" in printed
    assert "val/accuracy" in result()["metrics"]
    assert result()["step"] == 6


@pytest.mark.parametrize("make", [pretrain_run, None], ids=["momentum and queues", "plugin with dropout"])
def test_the_check_leaves_the_run_as_it_is(folder, make):
    if make is None:
        run = {
            "plugins": [plugin_task.__file__],
            "model": {"name": "plugin_classifier", "dropout": 0.5},
            "datasets": {
                "train": [{"name": "plugin_colors", "size": 30}],
                "eval": {"val": {"name": "plugin_colors", "size": 9}},
            },
            "task": {"name": "plugin_naming"},
            "optim": {"lr": 0.05},
            "run": {"max_steps": 4, "batch_size": 6, "log_every": 1, "device": "cpu"},
        }
    else:
        run = make(grad_accum_steps=2)
    file = write(folder / "run.yaml", run)
    for name in ("true", "false"):
        assert main(["train", file, "--output", name, f"run.check={name}"]) == 0
    assert len(lines(folder / "true")) == 5
    assert lines(folder / "true") == lines(folder / "false")
    for name in (MODEL, OPTIMIZER):
        last = Path("checkpoints/step_00000004") / name
        assert (folder / "true" / last).read_bytes() == (folder / "false" / last).read_bytes()


def fragile_run(folder: Path, **task) -> str:
    data = {"name": "plugin_colors", "size": 12}
    run = {
        "plugins": [fragile_task.__file__],
        "model": {"name": "plugin_classifier"},
        "datasets": {"train": [data], "eval": {"val": {**data, "noise": 0.1}}},
        "task": {"name": "fragile", **task},
        "optim": {"lr": 0.05},
        "run": {"max_epochs": 3, "batch_size": 6, "device": "cpu", "output_dir": "out", "log_every": 1},
    }
    return write(folder / "run.yaml", run)


@pytest.mark.parametrize("where", ["train_step", "evaluate"])
def test_what_fails_in_the_first_batch_fails_before_training(folder, capsys, where):
    message = fails(capsys, "train", fragile_run(folder, where=where))
    assert "ZeroDivisionError" in message
    assert ("task" if where == "train_step" else "datasets.eval.val") in message
    assert ("If it only needs more than 2 samples, set run.check=false" in message) is (where == "evaluate")
    assert not (folder / "out").exists()


def test_the_check_takes_two_samples_of_each_set(folder, capsys):
    file = fragile_run(folder, most=2)
    assert "Step 2 is saved" in fails(capsys, "train", file)  # the check has passed
    assert main(["train", file, "task.most=100"]) == 0
    assert result()["metrics"]["val/accuracy"] >= 0


def test_a_monitor_that_no_evaluation_gives_is_found_before_training(folder, capsys):
    message = fails(capsys, "train", fragile_run(folder), "run.monitor=val/acuracy")
    assert "Did you mean 'val/accuracy'" in message
    assert not (folder / "out").exists()


@pytest.mark.parametrize("where", ["train_step", "evaluate", "describe"])
def test_what_fails_later_is_saved_and_the_corrected_command_continues(folder, capsys, where):
    message = fails(capsys, "train", fragile_run(folder, where=where, step=3), "run.sample_images=2")
    step = {"train_step": 3, "evaluate": 4, "describe": 6}[where]
    assert f"Step {step} is saved in out/checkpoints/step_{step:08d}" in message
    assert "ZeroDivisionError" in message
    assert main(["train", "run.yaml", "task.where=nowhere"]) == 0
    assert main(["train", fragile_run(folder), "--output", "right"]) == 0
    assert lines(folder / "out") == lines(folder / "right")


@pytest.mark.parametrize(
    "change",
    [
        "datasets.eval.val.noise=0.2",
        "datasets.eval={other: {name: plugin_colors, size: 6}}",
        "task.most=50",
        "run.monitor=val/accuracy",
        "run.eval_every=1 steps",
        "run.checkpoint_every=[2 steps, 1 minute]",
        "run.log_every=2",
        "run.num_workers=1",
        "run.sample_images=0",
        "run.check=false",
        "run.max_epochs=4",
    ],
)
def test_what_cannot_change_what_was_trained_may_differ(folder, capsys, change):
    file = fragile_run(folder, where="train_step", step=3)
    fails(capsys, "train", file)
    assert main(["train", file, "task.where=nowhere", change]) == 0
    assert "continuing from out/checkpoints/step_00000003" in capsys.readouterr().out


def test_other_keys_of_a_task_may_not_differ_unless_it_declares_them(folder, capsys):
    file = fragile_run(folder, where="train_step", step=3)
    fails(capsys, "train", file)
    message = fails(capsys, "train", file, "task.where=nowhere", "task.gain=2.0")
    assert "task.gain was absent, is 2.0" in message


def test_other_evaluation_sets_give_other_scores_and_another_best(folder):
    file = fragile_run(folder)
    assert main(["train", file, "run.monitor=val/accuracy"]) == 0
    before = result()
    assert main(["train", file, "run.monitor=val/accuracy", "datasets.eval.val={name: plugin_colors, size: 3}"]) == 0
    after = result()
    assert after["best"]["step"] == after["step"] == before["step"] == 6
    assert json.loads((folder / "out/result_00000006.json").read_text()) == before
    evaluated = [line["step"] for line in lines(folder / "out") if "eval" in line]
    assert evaluated == [2, 4, 6]
    assert saved() == [4, 6]


def test_a_finished_run_is_made_longer(folder):
    file = fragile_run(folder)
    assert main(["train", file]) == 0
    short = [line for line in lines(folder / "out") if "loss" in line]
    assert main(["train", file, "run.max_epochs=5"]) == 0
    assert result()["history"] == [{"step": 6, "changed": ["length was 3 epochs, is 5 epochs"]}]
    assert main(["train", file, "run.max_epochs=5", "--output", "whole"]) == 0
    long, whole = ([line for line in lines(folder / each) if "loss" in line] for each in ("out", "whole"))
    assert long[:6] == short
    # The schedule of the new length, from the resumed step on.
    assert [line["lr"] for line in long[6:]] == [line["lr"] for line in whole[6:]]
    assert result()["step"] == 10
    assert "history" not in result("whole")
    assert plain(parse_yaml(Path("out/config.yaml").read_bytes(), "", None))["run"]["max_epochs"] == 5
    before = snapshot(folder)
    assert main(["train", file, "run.max_epochs=5"]) == 0
    assert snapshot(folder) == before


def test_a_run_is_not_made_shorter_than_it_is(folder, capsys):
    file = fragile_run(folder)
    assert main(["train", file]) == 0
    before = snapshot(folder)
    message = fails(capsys, "train", file, "run.max_epochs=2")
    assert "this run of 3 epochs has trained 6 steps already; run.duration (or run.max_epochs, ...) is now" in message
    assert "2 epochs, which is 4 steps" in message
    assert snapshot(folder) == before


def test_other_settings_of_the_optimizer_need_a_switch(folder, capsys):
    file = fragile_run(folder)
    assert main(["train", file]) == 0
    changed = ["run.max_epochs=5", "optim.lr=0.01", "optim.weight_decay=0.0", "run.grad_accum_steps=2"]
    message = fails(capsys, "train", file, *changed)
    assert "optim.lr was 0.05, is 0.01" in message
    assert "run.change_optimizer=true" in message
    assert "run.init_from=out" in message
    assert main(["train", file, *changed, "run.change_optimizer=true"]) == 0
    assert result()["history"] == [
        {
            "step": 6,
            "changed": [
                "length was 3 epochs, is 5 epochs",
                "grad_accum_steps was 1, is 2",
                "optim.lr was 0.05, is 0.01",
                "optim.weight_decay was 0.05, is 0.0",
            ],
        }
    ]
    rates = [line["lr"] for line in lines(folder / "out") if "loss" in line]
    assert max(rates[6:]) < 0.01 < max(rates[:6])


def test_a_finished_run_with_another_optimizer_and_the_same_length_has_nothing_to_do(folder, capsys):
    file = fragile_run(folder)
    assert main(["train", file]) == 0
    before = snapshot(folder / "out")
    message = fails(capsys, "train", file, "optim.lr=0.01", "run.change_optimizer=true")
    assert "finished after 6 steps, and only settings of the optimizer were changed" in message
    assert snapshot(folder / "out") == before


def test_the_offered_start_from_its_weights_works(folder):
    file = fragile_run(folder)
    assert main(["train", file]) == 0
    assert main(["train", file, "optim.lr=0.01", "run.init_from=out", "--output", "next"]) == 0
    assert json.loads(Path("next/environment.json").read_text())["weights"]["source"] == "out"


def test_a_finished_run_whose_checkpoints_are_gone_is_not_trained_again(folder, capsys):
    file = fragile_run(folder)
    assert main(["train", file]) == 0
    shutil.rmtree("out/checkpoints")
    before = snapshot(folder / "out")
    assert "its checkpoints are gone" in fails(capsys, "train", file, "run.max_epochs=5")
    assert snapshot(folder / "out") == before


def test_a_stage_of_a_pipeline_that_failed_in_its_evaluation_continues_when_corrected(folder, capsys):
    fragile_run(folder)
    stage = plain(parse_yaml((folder / "run.yaml").read_bytes(), "", None))
    del stage["run"]["output_dir"]
    stage["task"] = {"name": "fragile", "where": "evaluate", "step": 3}
    pipeline = {"output_dir": "pipe", "stages": [{"name": "first", "command": "train", "config": stage}]}
    (folder / "pipeline.yaml").write_text(dump_yaml(pipeline))
    assert "Step 4 is saved in pipe/first/checkpoints/step_00000004" in fails(capsys, "run", "pipeline.yaml")
    stage["task"]["where"] = ""
    (folder / "pipeline.yaml").write_text(dump_yaml(pipeline))
    assert main(["run", "pipeline.yaml"]) == 0
    assert "continuing from pipe/first/checkpoints/step_00000004" in capsys.readouterr().out
    stage["task"]["step"] = 5
    (folder / "pipeline.yaml").write_text(dump_yaml(pipeline))
    assert "with another configuration: task.step was 3, is 5" in fails(capsys, "run", "pipeline.yaml")


def two_processes(file: str) -> tuple[list[int], list[str]]:
    """Exit codes and what was printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    printed = [Path(f"printed-{rank}") for rank in range(2)]
    processes = [
        start_cli("train", file, environment={**common, "RANK": rank, "LOCAL_RANK": rank}, printed=printed[rank])
        for rank in range(2)
    ]
    for process in processes:
        process.join(LONG)
    return [process.exitcode for process in processes], [each.read_text() for each in printed]


def test_what_one_process_finds_ends_both(folder):
    codes, printed = two_processes(fragile_run(folder, where="rank 1"))
    assert codes == [2, 2], printed
    assert "process 1: " in printed[0]
    assert "ZeroDivisionError: in one process" in printed[0]
    assert "ZeroDivisionError: in one process" in printed[1]
    assert not Path("out").exists()


def test_two_processes_check_and_train_as_without_a_check(folder):
    codes, printed = two_processes(fragile_run(folder))
    assert codes == [0, 0], printed
    assert result()["step"] == 6


def test_the_check_takes_no_set_after_its_time(folder, capsys, monkeypatch):
    monkeypatch.setattr("vlkit.jobs.train._SECONDS", -1.0)
    assert "Step 2 is saved" in fails(capsys, "train", fragile_run(folder, where="evaluate"))  # not by the check
