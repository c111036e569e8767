"""docs/pipelines.md: its example is right, its table names all commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from tests.assets.run_files import write
from vlkit.pipeline import load_pipeline
from vlkit.pipeline.schema import Command
from vlkit.pipeline.stage import COMMANDS

PAGE = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text()


def test_the_table_names_every_command():
    assert tuple(re.findall(r"^\| `(\w+)` \|", PAGE, re.M)) == get_args(Command) == tuple(COMMANDS)


def test_the_example_can_be_loaded(tmp_path):
    tiny = {"model": {"name": "blip_caption", "type": "tiny"}, "task": {"name": "captioning"}, "optim": {"lr": 1e-3}}
    train = {**tiny, "datasets": {"train": [{"name": "shapes"}]}, "run": {"duration": "9 steps"}}
    write(
        tmp_path / "pretrain.yaml",
        {**train, "model": {"name": "blip_pretrain", "type": "tiny"}, "task": {"name": "pretrain"}},
    )
    write(tmp_path / "caption.yaml", train)
    write(
        tmp_path / "evaluate_captions.yaml",
        {**tiny, "datasets": {"eval": {"test": {"name": "shapes", "split": "test"}}}},
    )
    (tmp_path / "mine.yaml").write_text(re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[0])
    file = load_pipeline(tmp_path / "mine.yaml", variant="short")
    assert [stage.key for stage in file.stages[:4]] == ["web", "seed_0/pretrain", "seed_0/captioner", "seed_0/test"]
    stages = {stage.key: stage for stage in file.stages}
    assert len(stages) == 7
    assert stages["seed_1/pretrain"].job.config.data["datasets"]["train"][0]["path"] == "output/mine-short/web"
    assert stages["seed_1/captioner"].job.config.data["run"]["duration"] == "320 samples"
    assert stages["seed_1/test"].after == ("seed_1/captioner",)
