"""``vlkit capfilt`` from and to places that are not folders, and through Slurm's stand-in on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.assets.run_files import fails, snapshot, write
from tests.integration.test_capfilt import content, made  # noqa: F401  (a fixture)
from tests.unit.capfilt.small import result
from vlkit.cli import main


@pytest.fixture
def job(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:  # noqa: F811
    """A job whose working directory is an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return content(made, "out")


def test_a_file_url_is_a_folder(job, tmp_path):
    assert main(["capfilt", write(Path("job.yaml"), job)]) == 0
    assert main(["capfilt", "job.yaml", "--output", (tmp_path / "by url").as_uri()]) == 0
    assert result(tmp_path / "by url") == result(Path("out")) != {}


def test_input_and_output_in_an_object_store(job, made):  # noqa: F811
    assert main(["capfilt", write(Path("job.yaml"), job)]) == 0
    files = fsspec.filesystem("memory")
    files.put(str(made / "shards") + "/", "/places/shards/", recursive=True)
    job["input"]["path"], job["run"]["output_dir"] = "memory://places/shards", "memory://places/out"
    try:
        assert main(["capfilt", write(Path("far.yaml"), job)]) == 0
        files.get("/places/out/", "copy/", recursive=True)
    finally:
        files.rm("/places", recursive=True)
    there, here = snapshot(Path("copy")), snapshot(Path("out"))
    assert there.pop("capfilt.json") != here.pop("capfilt.json")  # it names the input
    assert there == here
    assert len(here) > 10


def test_slurm_on_this_machine(job):
    assert main(["capfilt", write(Path("job.yaml"), job)]) == 0
    assert main(["capfilt", "job.yaml", "--output", "jobs", "--slurm", "local=1,workers_per_node=2,timeout_min=5"]) == 0
    assert result(Path("jobs")) == result(Path("out")) != {}
    printed = [path.read_text() for path in sorted(Path("jobs/log/local").glob("*_log.out"))]
    assert len(printed) == 2
    assert all("3 of 3 shards are done" in text or "images: 20 read" in text for text in printed)


def test_a_cluster_is_not_waited_for(job, tmp_path, monkeypatch, capsys):
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\necho Submitted batch job 4711\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert main(["capfilt", write(Path("job.yaml"), job), "--slurm", "partition=gpu,nodes=2"]) == 0
    assert f"submitted: 4711_0, 4711_1; logs are in {tmp_path}/out/log/slurm" in capsys.readouterr().out
    assert not Path("out/summary.json").exists()


def test_a_wrong_option_of_slurm_is_reported_before_anything_is_done(job, capsys):
    file = write(Path("job.yaml"), job)
    assert "Did you mean 'partition'?" in fails(capsys, "capfilt", file, "--slurm", "partion=gpu")
    assert "workers_per_node=N" in fails(capsys, "capfilt", file, "--slurm", "local=1", "--workers", "2")
    assert "--workers 0" in fails(capsys, "capfilt", file, "--workers", "0")
    assert not Path("out").exists()
