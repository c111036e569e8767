"""CapFilt on 20 shards of 500 scenes, killed again and again: the output is that of a run which nobody disturbed."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.assets.run_files import SIZES, snapshot, start_cli, write
from tests.assets.waiting import LONG
from vlkit.config.parts import model_part
from vlkit.datasets.shapes.dataset import Shapes
from vlkit.datasets.shard_writer import add_member, encoded_picture
from vlkit.runner.checkpoint import save_tensors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SHARDS, SCENES = 20, 500
KILLS = 10
SEED = 4
ROOT = Path(__file__).parents[2]
RESULT = ("kept", "dropped", "tables", "ledger", "done", "summary.json", "capfilt.json")
BROKEN, NO_TEXT = 97, 41  # every so manieth
HELD = f"""
import os, signal, sys, threading, time
from pathlib import Path

def wait(event, given):
    folder = Path(os.fsdecode(given[1])).parent if event == "os.rename" else Path()
    if folder.name == "done" and len(list(folder.iterdir())) >= {SHARDS // 4}:
        while not Path(os.environ["HELD_UNTIL"]).exists():
            time.sleep(0.01)

def kill(seconds):
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)

def count(event, given):
    global left
    if event == "os.rename" and "/.unfinished/" in str(given[0]):
        left -= 1
        if left == 0:
            threading.Thread(target=kill, args=(seconds,), daemon=True).start()

if "HELD_UNTIL" in os.environ:
    sys.addaudithook(wait)
if "KILLED_AFTER" in os.environ:
    left, seconds = map(float, os.environ["KILLED_AFTER"].split())
    sys.addaudithook(count)
"""
"""A worker is killed when a number of files are finished, of which a shard has five, and a little later: progress
decides, however busy the machine is."""


def write_shard(file: Path) -> None:
    """A shard of scenes with web texts, some without a text and some whose picture is cut off."""
    first = int(file.stem) * SCENES
    world = Shapes("train", SHARDS * SCENES, captions="web", image_size=16, image_processor=encoded_picture)
    with tarfile.open(file, "w") as tar:
        for number in range(first, first + SCENES):
            sample = world[number]
            picture = sample["image"][: 40 if number % BROKEN == 0 else None]
            fields = {"scene": sample["scene"], "url": f"https://example.org/{number}"}
            if number % NO_TEXT:
                fields["caption"] = sample["text_input"]
            add_member(tar, f"{number:06d}.png", picture)
            add_member(tar, f"{number:06d}.json", json.dumps(fields).encode())


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> str:
    """The job file; shards and models of random weights are beside it."""
    folder = tmp_path_factory.mktemp("capfilt")
    (folder / "shards").mkdir()
    (folder / "held.py").write_text(HELD)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(write_shard, [folder / f"shards/{number:05d}.tar" for number in range(SHARDS)], chunksize=1)
    models = {}
    for role, name in (("captioner", "blip_caption"), ("filter", "blip_image_text_matching")):
        sizes = {**SIZES, "vit": {**SIZES["vit"], "image_size": 16, "patch_size": 8}}
        torch.manual_seed(len(models))
        models[role] = {"name": name, "type": "tiny", **sizes}
        save_tensors(folder / f"{role}.safetensors", model_part(models[role]).build().state_dict())
        models[role]["weights"] = str(folder / f"{role}.safetensors")
    return write(
        folder / "job.yaml",
        {
            "plugins": [str(folder / "held.py")],
            "model": {"name": "blip_capfilt", **models},
            "task": {
                "name": "capfilt",
                "generation": {"sample": True, "top_p": 0.9, "max_length": 8, "min_length": 2},
                "decision": {"texts": "both", "threshold": 0.485},
            },
            "input": {"path": str(folder / "shards")},
            "run": {"output_dir": str(folder / "reference"), "batch_size": 64, "device": "cpu", "shards_at_once": 2},
        },
    )


def capfilt(job: str, out: Path, *options: str, **more: Any) -> Any:
    """A process of ``vlkit capfilt``; see :func:`start_cli`."""
    out.mkdir(exist_ok=True)
    process = start_cli("capfilt", job, "--output", out, *options, printed=out / "printed", **more)
    process.printed = out / "printed"
    return process


def finish(process: Any) -> None:
    process.join(300)
    assert process.exitcode == 0, process.printed.read_text()


def result(out: Path) -> dict[str, str]:
    """Checksums of what the job is about."""
    return {name: digest for name, digest in snapshot(out).items() if name.split("/")[0] in RESULT}


def left_over(out: Path) -> list[str]:
    """What workers left behind besides the result."""
    return [name for name in snapshot(out) if name.split("/")[0] not in (*RESULT, "log", "printed")]


@pytest.fixture(scope="module")
def reference(job) -> dict[str, str]:
    """The result of one process that nobody disturbs."""
    out = Path(job).parent / "reference"
    finish(capfilt(job, out))
    assert left_over(out) == []
    return result(out)


def claims_of(out: Path, process: Any) -> list[str]:
    """Lots that a process has now."""
    found = []
    for file in (out / "claims").glob("*.json"):
        with contextlib.suppress(FileNotFoundError):  # given back meanwhile
            if f"-{process.pid}-" in json.loads(file.read_bytes())["owner"]:
                found.append(file.stem)
    return found


def test_the_reference_adds_up(job, reference):
    out = Path(job).parent / "reference"
    summary = json.loads((out / "summary.json").read_text())
    images, texts = summary["images"], summary["texts"]
    total = SHARDS * SCENES
    broken = len(range(0, total, BROKEN))
    without = len(range(0, total, NO_TEXT))
    assert images["read"] == total == images["kept"] + images["dropped"] + broken
    assert images["refused"] == {"undecodable image": broken}
    assert min(images["kept"], images["dropped"]) > total / 20
    assert texts["synthetic"]["scored"] == total - broken
    assert texts["web"]["read"] == total - without + texts["web"]["refused"].get("no text", 0)
    lines = [json.loads(line) for file in sorted(out.glob("ledger/*")) for line in file.read_text().splitlines()]
    reported = sorted(line["key"] for line in lines if line["kind"] == "image")
    assert reported == [f"{number:06d}" for number in range(0, total, BROKEN)]
    members: list[str] = []
    for file in out.glob("*/*.tar"):
        with tarfile.open(file) as tar:
            members += tar.getnames()
    assert len(members) == len(set(members)) == 2 * (total - broken)


def killed_once(job: str, out: Path, workers: int, kill_times: random.Random) -> str:
    """Starts ``workers`` processes; when one has killed itself at a random moment of its work, so are the others.

    Returns:
        What was going on.
    """
    after = [f"{kill_times.randint(3, 9)} {kill_times.uniform(0, 0.03)}" for _ in range(workers)]
    processes = [capfilt(job, out, environment={"KILLED_AFTER": each}) for each in after]
    assert multiprocessing.connection.wait([process.sentinel for process in processes], LONG)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    written = sum(file.stat().st_size for file in out.glob(".unfinished/*/*"))
    claims = sum(len(claims_of(out, process)) for process in processes)
    return f"{len(list(out.glob('done/*')))} shards done, {claims} claims, {written} bytes unfinished"


@pytest.mark.parametrize(("workers", "then"), [(1, 1), (2, 3)])
def test_killed_ten_times(job, reference, tmp_path, capsys, workers, then):
    """Each time in the middle of the work; ``then``: the number of processes that finish it."""
    kill_times = random.Random(SEED + workers)
    seen = [killed_once(job, tmp_path / "out", workers, kill_times) for _ in range(KILLS)]
    with capsys.disabled():
        reported = "\n".join([f"\nseed {SEED + workers}, killed at:", *seen])
        print(reported)  # noqa: T201  (a failure is repeated with it)
    assert len([line for line in seen if " 0 claims" not in line]) >= 7, seen
    assert len({line.split()[0] for line in seen}) > 3, seen  # there was progress between the kills
    processes = [capfilt(job, tmp_path / "out") for _ in range(then)]
    for process in processes:
        finish(process)
    assert result(tmp_path / "out") == reference
    assert left_over(tmp_path / "out") == []


def start(*arguments: str, module: str = "vlkit", held_until: Path = ROOT) -> Any:
    """A command as people give it, whose workers do a quarter of the shards before a file is there."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "HELD_UNTIL": str(held_until)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, **pipes, text=True, cwd=ROOT, env=environment)


def owners(out: Path) -> set[int]:
    """The processes that have claimed work."""
    found = set()
    for file in (out / "claims").glob("*.json"):
        with contextlib.suppress(FileNotFoundError):
            found.add(int(json.loads(file.read_bytes())["owner"].rsplit("-", 3)[1]))
    return found


def wait_until(condition: Callable[[], Any], process: Any) -> None:
    until = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_killed_launcher_takes_its_workers_along_and_others_finish(job, reference, tmp_path):
    out = tmp_path / "out"
    launcher = start("capfilt", job, "--output", str(out), "--workers", "2", held_until=tmp_path / "go on")
    wait_until(lambda: len(owners(out)) == 2 and list(out.glob("done/*")), launcher)
    workers = owners(out)
    launcher.kill()
    left = SHARDS - len(list(out.glob("done/*")))
    (tmp_path / "go on").touch()
    launcher.communicate()
    again = start("capfilt", job, "--output", str(out), "--workers", "3")
    printed = again.communicate(timeout=300)[0]
    assert again.returncode == 0, printed
    assert left > 5
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert result(out) == reference
    assert left_over(out) == []


def test_torchrun_starts_killed_workers_again(job, reference, tmp_path):
    out = tmp_path / "out"
    options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "2", "-m", "vlkit"]
    launcher = start(
        *options, "capfilt", job, "--output", str(out), module="torch.distributed.run", held_until=tmp_path / "go on"
    )
    wait_until(lambda: len(owners(out)) == 2 and list(out.glob("done/*")), launcher)
    left = SHARDS - len(list(out.glob("done/*")))
    with contextlib.suppress(ProcessLookupError):
        os.kill(max(owners(out)), signal.SIGKILL)
    (tmp_path / "go on").touch()
    printed = launcher.communicate(timeout=300)[0]
    assert launcher.returncode == 0, printed
    assert left > 5
    assert result(out) == reference
    assert left_over(out) == []
