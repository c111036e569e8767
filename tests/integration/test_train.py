"""``vlkit train``, ``evaluate`` and ``check`` from files to results."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.assets import plugin_task
from tests.assets.run_files import caption_run, fails, pretrain_run, snapshot, start_cli, write
from tests.assets.waiting import LONG, wait_until
from vlkit.cli import main
from vlkit.jobs.train import EvaluateJob, TrainJob
from vlkit.models.weights.files import read_checkpoint


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """The output folder of a pre-training run."""
    path = tmp_path_factory.mktemp("pretrained")
    file = write(path / "run.yaml", pretrain_run(monitor="val/loss_lm", mode="min", eval_every=2, checkpoint_every=2))
    assert main(["train", file, "--output", str(path / "out")]) == 0
    return path


def result(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


def test_pretraining_leaves_everything_behind(pretrained):
    out = pretrained / "out"
    found = result(out)
    assert (found["status"], found["step"], found["samples"]) == ("finished", 4, 16)
    assert {"val/itc_tr@1", "val/itm_auc", "val/loss_lm", "val/temperature"} <= set(found["metrics"])
    assert found["best"]["monitor"] == "val/loss_lm"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "eval" in line] == [2, 4]
    environment = json.loads((out / "environment.json").read_text())
    assert environment["weights"] is None
    assert environment["data"]["train"][0].startswith("Shapes:")
    assert Image.open(out / "samples.png").size[0] > 100


def test_a_finished_run_is_not_run_again(pretrained, capsys):
    before = snapshot(pretrained)
    assert main(["train", str(pretrained / "run.yaml"), "--output", str(pretrained / "out")]) == 0
    assert snapshot(pretrained) == before
    assert "itm_auc" in capsys.readouterr().out


def test_the_result_is_printed_as_a_table(pretrained, capsys):
    assert main(["train", str(pretrained / "run.yaml"), "--output", str(pretrained / "out")]) == 0
    printed = capsys.readouterr()
    row = next(line for line in printed.out.splitlines() if line.startswith("itc_tr@1 "))
    assert float(row.split()[-1]) == pytest.approx(result(pretrained / "out")["metrics"]["val/itc_tr@1"], abs=1e-4)
    assert printed.err == ""


def test_evaluating_gives_the_scores_of_training(pretrained, folder, capsys):
    """With the last checkpoint; without --checkpoint the best one counts."""
    arguments = ["evaluate", str(pretrained / "run.yaml"), "run.sample_images=0", "--output", str(folder / "eval")]
    last = result(pretrained / "out")["checkpoint"]
    assert main([*arguments, "--checkpoint", last]) == 0
    found = json.loads((folder / "eval/evaluation.json").read_text())
    assert found["step"] == 4
    assert found["metrics"] == pytest.approx(result(pretrained / "out")["metrics"], rel=1e-5)
    assert "itm_auc" in capsys.readouterr().out


def test_without_a_checkpoint_the_runs_best_is_evaluated(pretrained):
    job = EvaluateJob.load(pretrained / "run.yaml", [f"run.output_dir={pretrained / 'out'}"])
    best = Path(result(pretrained / "out")["best"]["checkpoint"])
    assert job.initial_weights().file() == best / "model.safetensors"


def test_the_captioner_starts_from_the_pretrained_weights(pretrained, folder):
    run = write(folder / "run.yaml", caption_run(folder, init_from=str(pretrained / "out"), sample_images=1))
    job = TrainJob.load(run)
    model = job.build_model(job.initial_weights())
    given = read_checkpoint(pretrained / "out")
    for name in ("visual_encoder.cls_token", "text_decoder.bert.embeddings.word_embeddings.weight"):
        assert torch.equal(model.state_dict()[name], given[name])
    assert main(["train", run]) == 0
    assert "val/cider" in result(folder / "out")["metrics"]
    recorded = json.loads((folder / "out/environment.json").read_text())["weights"]
    assert recorded["source"] == str(pretrained / "out")
    assert len(recorded["sha256"]) == 64
    assert main(["evaluate", run]) == 0
    captions = json.loads((folder / "out/captions_val.json").read_text())
    assert [row["image_id"] for row in captions] == [1, 2, 3, 4, 5, 6]
    assert json.loads((folder / "out/evaluation.json").read_text())["step"] == 4


def test_models_of_one_seed_are_equal_and_of_another_not(folder):
    file = write(folder / "run.yaml", pretrain_run(seed=5))
    one, two = (TrainJob.load(file).build_model() for _ in range(2))
    other = TrainJob.load(file, ["run.seed=6"]).build_model()
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
    assert not torch.equal(one.visual_encoder.pos_embed, other.visual_encoder.pos_embed)


def test_evaluating_random_weights_is_refused(folder, capsys):
    file = write(folder / "run.yaml", pretrain_run())
    message = fails(capsys, "evaluate", file)
    assert "there are no weights to evaluate" in message
    assert "--checkpoint" in message
    assert list(folder.iterdir()) == [folder / "run.yaml"]


def test_the_picture_shows_the_original_colors(folder):
    """White paper stays white: the processor's mean and deviation are undone."""
    run = caption_run(folder, sample_images=1, max_steps=1, duration=None)
    for file in (folder / "data/images").glob("*.png"):
        Image.new("RGB", (48, 48), (200, 100, 50)).save(file)
    assert main(["train", write(folder / "run.yaml", run)]) == 0
    assert Image.open(folder / "out/samples.png").getpixel((100, 100)) == pytest.approx((200, 100, 50), abs=1)


def steps_of(metrics: Path) -> list[int]:
    return [json.loads(line)["step"] for line in metrics.read_text().splitlines()] if metrics.exists() else []


def signalled(file: str, metrics: Path, number: int, after: int) -> str:
    """What ``vlkit train`` prints when it gets a signal after that many steps."""
    process = start_cli("train", file)
    wait_until(lambda: len(steps_of(metrics)) >= after, process.is_alive)
    os.kill(process.pid, number)
    process.join(LONG)
    printed = Path("printed").read_text()
    assert process.exitcode == 128 + number, printed
    assert "the same command continues from out/checkpoints" in printed
    return printed


def test_a_signal_ends_the_run_with_128_plus_its_number_and_the_same_command_continues(folder):
    file = write(folder / "run.yaml", pretrain_run(duration="9000 steps", checkpoint_every=9000))
    metrics = folder / "out/metrics.jsonl"
    printed = signalled(file, metrics, signal.SIGTERM, 2)
    done = int(printed.partition("interrupted after step ")[2].partition(";")[0])
    assert "continuing from" in signalled(file, metrics, signal.SIGINT, done + 2)
    assert steps_of(metrics) == list(range(1, len(steps_of(metrics)) + 1))


def test_bad_samples_are_skipped_and_named_when_asked(folder, capsys):
    run = caption_run(folder, bad_samples="skip", duration="1 epochs")
    (folder / "data/images/000003.png").write_bytes(b"no picture")
    assert main(["train", write(folder / "run.yaml", run)]) == 0
    ledger = [json.loads(line) for line in (folder / "out/ledger.jsonl").read_text().splitlines()]
    assert [Path(line["source"]).name for line in ledger] == ["000003.png"]
    assert "ledger.jsonl" in capsys.readouterr().out


def test_a_run_that_was_begun_may_go_on_without_what_has_become_unusable(folder, capsys):
    run = write(folder / "run.yaml", caption_run(folder))
    assert main(["train", run]) == 0
    (folder / "out/result.json").unlink()
    (folder / "data/images/000003.png").write_bytes(b"no picture")
    assert "run.bad_samples=skip" in fails(capsys, "train", run)
    assert main(["train", run, "run.bad_samples=skip"]) == 0
    assert "continuing from out/checkpoints/step_00000004" in capsys.readouterr().out


def test_each_process_says_who_it_is_when_it_fails(folder, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "nothing.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error (process 1): nothing.yaml")


def plugin_run(**run) -> dict:
    return {
        "plugins": [os.path.relpath(plugin_task.__file__)],
        "model": {"name": "plugin_classifier", "dropout": 0.2},
        "datasets": {
            "train": [{"name": "plugin_colors", "size": 30, "weight": 1}],
            "eval": {"val": {"name": "plugin_colors", "size": 9, "noise": 0.1}},
        },
        "task": {"name": "plugin_naming"},
        "optim": {"lr": 0.05},
        "run": {"max_epochs": 4, "batch_size": 6, "monitor": "val/accuracy", "device": "cpu", **run},
    }


def test_a_plugin_file_trains_and_evaluates(folder):
    """Loaded from its file, in processes that have not imported it; the first as a user would start it."""
    file = write(folder / "colors.yaml", plugin_run())
    done = subprocess.run([sys.executable, "-m", "vlkit", "train", file], capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr
    assert result(folder / "output/colors")["metrics"]["val/accuracy"] == 1.0
    process = start_cli("evaluate", file)
    process.join(LONG)
    printed = Path("printed").read_text()
    assert process.exitcode == 0, printed
    assert "accuracy  1.0000" in printed
    assert (folder / "output/colors/samples.png").exists()


def test_check_tells_what_a_run_needs_and_writes_nothing(folder, capsys):
    file = write(folder / "run.yaml", pretrain_run(batch_size=8))
    before = snapshot(folder)
    assert main(["check", file]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    model = TrainJob.load(file).build_model()
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in printed.out
    assert "4 steps, 0.8 epochs of 5.0 steps" in printed.out
    assert "val/itm_auc" in printed.out
    assert all(word in printed.out for word in ("loss_itc", "memory", "activations", "a checkpoint", "scaled to 8"))
    assert snapshot(folder) == before


def test_the_size_of_a_checkpoint_is_shown_before_it_is_written(pretrained):
    from vlkit.jobs.checks import checkpoint_bytes

    model = TrainJob.load(pretrained / "run.yaml").build_model()
    folder = Path(result(pretrained / "out")["checkpoint"])
    written = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert checkpoint_bytes(model) == pytest.approx(written, rel=0.2)  # headers weigh in so small a model


def test_estimated_activations_grow_with_the_batch_and_shrink_with_recomputation(folder):
    def activations(*overrides: str) -> int:
        return TrainJob.load(file, overrides).check_report().memory.activations

    file = write(folder / "run.yaml", pretrain_run(precision="bf16"))
    four, forty = activations(), activations("run.batch_size=40")
    assert 5 * four < forty < 11 * four
    assert activations("run.activation_checkpointing=torch") < 0.7 * four


def test_check_takes_an_evaluation(pretrained, folder, capsys):
    data = {key: value for key, value in pretrain_run().items() if key != "optim"}
    data["datasets"] = {"eval": data["datasets"]["eval"]}
    file = write(folder / "evaluate.yaml", data)
    assert main(["check", file, "--checkpoint", str(pretrained / "out")]) == 0
    assert "memory" not in capsys.readouterr().out
    assert "no weights to evaluate" in fails(capsys, "check", file)


def test_overrides_and_options_may_stand_in_any_order(folder):
    file = write(folder / "run.yaml", pretrain_run())
    assert (
        main(["train", file, "run.max_steps=1", "--output", "there", "run.duration=null", "run.sample_images=0"]) == 0
    )
    assert result(folder / "there")["step"] == 1


def test_two_processes_train_and_print_once(folder):
    file = write(folder / "run.yaml", pretrain_run(max_steps=2, duration=None))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environments = [{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in range(2)]
    files = [folder / f"printed-{rank}" for rank in range(2)]
    processes = [start_cli("train", file, environment=e, printed=p) for e, p in zip(environments, files)]
    for process in processes:
        process.join(LONG)
    printed = [each.read_text() for each in files]
    assert [process.exitcode for process in processes] == [0, 0], printed
    assert "finished: 2 steps" in printed[0]
    assert "val/" not in printed[1]
    assert "finished" not in printed[1]
    assert json.loads((folder / "out/environment.json").read_text())["device"]["processes"] == 2
