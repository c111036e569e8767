"""Submitting workers: the keys of --slurm, what sbatch gets, and jobs that go on elsewhere."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.assets.waiting import wait_until
from vlkit.capfilt import launch
from vlkit.capfilt.slurm import SlurmWorker, parse_slurm, submit, wait
from vlkit.errors import MissingDependency, VlkitError

submitit = pytest.importorskip("submitit")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands that take a script and do nothing with it; they note how they are called."""
    for name, printed in (("sbatch", "Submitted batch job 4711"), ("srun", ""), ("scontrol", ""), ("scancel", "")):
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/{name}.calls\necho {printed}\n')
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Makes ``vlkit capfilt`` of all jobs a script with these lines."""

    def become(lines: str) -> None:
        (tmp_path / "worker.py").write_text(f"import os, sys, time\nrank = os.environ['LOCAL_RANK']\n{lines}\n")
        (tmp_path / "sitecustomize.py").write_text(
            f"import vlkit.capfilt.launch as m\nm._COMMAND = ({str(tmp_path / 'worker.py')!r},)\n"
        )
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
        monkeypatch.setattr(launch, "_COMMAND", (str(tmp_path / "worker.py"),))

    return become


def test_keys_and_values():
    text = "partition=gpu, nodes=4,gpus_per_node=8,timeout_min=720,mem_gb=1.5,exclusive=true,account=17"
    assert parse_slurm(text) == {
        "partition": "gpu",
        "nodes": 4,
        "gpus_per_node": 8,
        "timeout_min": 720,
        "mem_gb": 1.5,
        "exclusive": True,
        "account": 17,
    }
    assert parse_slurm("") == {}


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("partion=gpu", "there is no key 'partion'. Did you mean 'partition'"),
        ("node=4", "there is no key 'node'. Did you mean 'nodes'"),
        ("nodes", "'nodes' is not key=value"),
        ("partition=", "'partition=' is not key=value"),
        ("nodes=0", "nodes=0: a number, 1 or more"),
        ("gpus_per_node=-1", "gpus_per_node=-1: a number, 0 or more"),
        ("timeout_min=12h", "timeout_min=12h: a number"),
    ],
)
def test_a_wrong_option_is_explained(text, reported):
    with pytest.raises(VlkitError, match=re.escape(reported)):
        parse_slurm(text)


def test_every_node_is_a_job_of_its_own_with_a_worker_for_each_gpu(slurm):
    options = parse_slurm("partition=gpu,nodes=4,gpus_per_node=8,timeout_min=90,qos=low,cpus_per_task=6")
    jobs = submit(options, ["job.yaml"], slurm / "log")
    assert [job.job_id for job in jobs] == [f"4711_{number}" for number in range(4)]
    script = next((slurm / "log/slurm").glob("*.sh")).read_text()
    for line in (
        "--array=0-3%4",
        "--nodes=1",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--cpus-per-task=6",
        "--time=90",
        "--partition=gpu",
        "--qos=low",
        "--job-name=vlkit-capfilt",
    ):
        assert f"#SBATCH {line}\n" in script
    assert "#SBATCH --signal=USR2@90\n" in script  # a signal before it is ended


def test_one_job_needs_no_array_and_has_time(slurm):
    jobs = submit({"workers_per_node": 3, "folder": str(slurm / "shared")}, [], None)
    assert [job.job_id for job in jobs] == ["4711"]
    script = next((slurm / "shared/slurm").glob("*.sh")).read_text()
    assert "#SBATCH --ntasks-per-node=3\n" in script
    assert "#SBATCH --time=720\n" in script
    assert "--array" not in script


def test_without_slurm_it_is_said_where_to_go(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VlkitError, match=r"--slurm: .*srun.*--slurm local=1"):
        submit({}, [], tmp_path)


def test_a_refusal_of_sbatch_is_passed_on(slurm):
    (slurm / "bin/sbatch").write_text("#!/bin/sh\necho invalid partition specified: gpuu >&2\nexit 1\n")
    with pytest.raises(VlkitError, match=r"could not be submitted.*invalid partition specified: gpuu"):
        submit({"partition": "gpuu"}, [], slurm)


def test_without_submitit_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MissingDependency, match=r"--slurm needs the package 'submitit': pip install 'vlkit\[slurm\]'"):
        submit({}, [], tmp_path)


def test_local_jobs_run_workers(tmp_path, worker):
    worker("open(sys.argv[1] + rank, 'w').write('done')")
    jobs = submit(parse_slurm("local=1,workers_per_node=2"), [str(tmp_path / "rank_")], tmp_path / "log")
    assert wait(jobs) == 0
    assert sorted(path.name for path in tmp_path.glob("rank_*")) == ["rank_0", "rank_1"]


def test_a_failed_worker_fails_its_job(tmp_path, worker, caplog):
    worker("print('what went wrong', file=sys.stderr); sys.exit(2)")
    jobs = submit({"local": 1}, [], tmp_path / "log")
    assert wait(jobs) == 1
    assert f"job {jobs[0].job_id} failed; its logs are in {tmp_path}/log/local" in caplog.text
    assert "what went wrong" in "".join(path.read_text() for path in Path(tmp_path / "log").rglob("*.err"))


def test_a_preempted_job_is_started_again(tmp_path, worker):
    """The first process is taken away while it works; the second finds what the first left."""
    started, finished = tmp_path / "started", tmp_path / "finished"
    worker(
        f"if os.path.exists({str(started)!r}): open({str(finished)!r}, 'w').close(); sys.exit()\n"
        f"open({str(started)!r}, 'w').close(); time.sleep(1000)"
    )
    (job,) = submit({"local": 1}, [], tmp_path / "log")
    wait_until(started.exists)
    tasks = Path(f"/proc/{job.job_id}/task/{job.job_id}/children")
    os.kill(int(tasks.read_text().split()[0]), submitit.JobEnvironment._usr_sig())
    assert wait([job]) == 0
    assert finished.exists()


def test_a_checkpoint_is_the_same_worker():
    again = SlurmWorker(["job.yaml", "run.seed=3"]).checkpoint()
    assert again.function.arguments == ["job.yaml", "run.seed=3"]
