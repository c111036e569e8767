"""Job files: what they resolve to, what their output depends on, and that a copy elsewhere is the same job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from vlkit.capfilt.job_file import NEUTRAL, JobOptions
from vlkit.config.yamlfile import dump_yaml
from vlkit.errors import ConfigError
from vlkit.jobs.capfilt import CapFiltJob

CONTENT: dict[str, Any] = {
    "model": {
        "name": "blip_capfilt",
        "captioner": {"name": "blip_caption", "type": "tiny", "weights": "captioner"},
        "filter": {"name": "blip_pretrain", "type": "tiny", "weights": "filter"},
    },
    "task": {"name": "capfilt", "decision": {"threshold": 0.4}},
    "input": {"path": "shards"},
    "run": {"batch_size": 8},
}


def job(folder: Path, *overrides: str, name: str = "job.yaml", **changes: Any) -> CapFiltJob:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dump_yaml({**CONTENT, **changes}))
    return CapFiltJob.load(file, overrides)


def test_options_and_where_it_writes(tmp_path):
    plain = job(tmp_path, name="both.yaml")
    assert plain.output_dir == str(Path("output/both"))
    assert plain.file.run == JobOptions(batch_size=8)
    assert job(tmp_path, "run.output_dir=s3://bucket/out").output_dir == "s3://bucket/out"


@pytest.mark.parametrize(
    "override",
    [
        "run.output_dir=x",
        "run.device=cpu",
        "run.decode_threads=9",
        "run.lease=1",
        "run.seed=0",
        "model.captioner.weights=other",
        "input.max_image_bytes=64M",
    ],
)
def test_what_leaves_the_output_as_it_is(tmp_path, override):
    assert job(tmp_path, override).file.essential() == job(tmp_path).file.essential()


@pytest.mark.parametrize(
    "override",
    [
        "run.seed=1",
        "run.batch_size=9",
        "run.threads=2",
        "run.shards_at_once=3",
        "run.precision=bf16",
        "run.store_dropped=false",
        "task.decision.threshold=.5",
        "task.generation={sample: true}",
        "model.filter.type=base",
        "input.path=other",
        "input.max_pixels=100",
    ],
)
def test_what_changes_the_output(tmp_path, override):
    assert job(tmp_path, override).file.essential() != job(tmp_path).file.essential()


def test_every_option_is_on_one_side(tmp_path):
    recorded = job(tmp_path).file.essential()["run"]
    assert set(recorded) | set(NEUTRAL) == set(JobOptions.__dataclass_fields__)
    assert not set(recorded) & set(NEUTRAL)


def test_a_copy_elsewhere_is_the_same_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plugin = (
        "from vlkit import TASKS\nfrom vlkit.tasks.capfilt import CapFiltTask\nTASKS.register('mine_{}')(CapFiltTask)\n"
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "a/plugin.py").write_text(plugin.format(os.getpid()))
    (tmp_path / "a/base.yaml").write_text("run: {seed: 4}\nplugins: [plugin.py]\n")
    task = {"name": f"mine_{os.getpid()}"}
    mine = job(tmp_path / "a", "run.decode_threads=3", extends="base.yaml", task=task)
    assert mine.file.run.seed == 4
    (tmp_path / "b").mkdir()
    (tmp_path / "b/copy.yaml").write_text(mine.as_yaml())
    copy = CapFiltJob.load("b/copy.yaml")
    assert copy.file.essential() == mine.file.essential()
    assert copy.file.run == JobOptions(**{**vars(mine.file.run), "output_dir": mine.output_dir})


def test_sections_that_are_missing_are_reported_together(tmp_path):
    (tmp_path / "empty.yaml").write_text("run: {}\n")
    with pytest.raises(ConfigError) as error:
        CapFiltJob.load(tmp_path / "empty.yaml")
    for section in ("model", "task", "input"):
        assert f"the section '{section}' is missing" in str(error.value)


def test_a_model_without_a_captioner_is_refused(tmp_path):
    model = {"name": "blip_image_text_matching", "type": "tiny"}
    with pytest.raises(ConfigError, match="has no captioner"):
        job(tmp_path, model=model).check()


def test_the_former_name_of_a_key_names_the_new_one(tmp_path):
    with pytest.raises(ConfigError, match="decode_threads"):
        job(tmp_path, "run.readers=3")
