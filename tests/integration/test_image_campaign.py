"""Damaged images through everything that reads images: no crash, no hang, no error but BadSample."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FULL = os.environ.get("VLKIT_CAMPAIGN") == "full"
IMAGES = int(os.environ.get("VLKIT_CAMPAIGN_IMAGES", "100000")) if FULL else 280
SEED = int(os.environ.get("VLKIT_CAMPAIGN_SEED", "11"))
_CHUNK = 5000


@pytest.mark.campaign
@pytest.mark.timeout(4 * 3600 if FULL else 300)
def test_damaged_images_never_end_the_process(tmp_path):
    counts, unexpected, ended = campaign(tmp_path, IMAGES, SEED)
    lines = "".join(f"\n{key}: {counts[key]}" for key in sorted(counts))
    sys.stdout.write(f"\n{IMAGES} images, seed {SEED}{lines}\nprocesses ended: {ended}\nerrors: {unexpected}\n")
    assert ended == {}
    assert unexpected == {}
    open_functions = {key.split()[1] for key in counts}
    assert len(open_functions) == 7
    for reader in open_functions:
        assert sum(count for key, count in counts.items() if key.split()[1] == reader) == IMAGES
        assert sum(count for key, count in counts.items() if key.split()[1:] == [reader, "read"]) > IMAGES / 10


def campaign(folder: Path, images: int, seed: int) -> tuple[Counter[str], dict[str, str], dict[int, str]]:
    """Outcomes counted, errors other than BadSample, and how processes ended, by the number of the image."""
    counts: Counter[str] = Counter()
    unexpected: dict[str, str] = {}
    ended: dict[int, str] = {}
    at = 0
    while at < images:
        code, errors = _process(folder, at, min(_CHUNK, images - at), seed)
        result = folder / "result.json"
        if result.exists():
            found = json.loads(result.read_text())
            counts.update(found["counts"])
            unexpected |= found["unexpected"]
            result.unlink()
        if code == 0:
            at += min(_CHUNK, images - at)
            continue
        number = int((folder / "progress").read_text() or at)
        ended[number] = f"exit code {code}: {errors[-1500:]}"
        at = number + 1
        if len(ended) > 5:
            break
    return counts, unexpected, ended


def _process(folder: Path, first: int, count: int, seed: int) -> tuple[int, str]:
    command = [sys.executable, "-m", "tests.integration.image_campaign", str(first), str(count), str(seed), str(folder)]
    with open(folder / "errors", "w+b") as errors:
        code = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors).returncode
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - 2000))
        return code, errors.read().decode("utf-8", "replace")
