"""Feeds damaged images to everything that reads images: ``python -m tests.integration.image_campaign``.

Run by ``test_image_campaign.py``, in a process that may crash. An image that takes longer than ``SECONDS`` ends the
process by SIGALRM, and memory is limited.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.integration.image_mutants import KINDS, mutant, originals
from vlkit.capfilt.input_reader import Decoder, Ready
from vlkit.capfilt.inputs import Item
from vlkit.datasets.media import check_media, image_media
from vlkit.datasets.shard_writer import add_member, encoded_picture
from vlkit.datasets.web_shards import WebShards
from vlkit.errors import BadSample
from vlkit.processors.image import BlipImageEval
from vlkit.processors.open_image import open_image
from vlkit.processors.resize import open_tensor
from vlkit.processors.video import BlipVideoEval

SECONDS = 10
MEMORY = 1_500_000_000
PIXELS = 4_000_000
_GROUP = 50


def open_functions(folder: Path) -> dict[str, Callable[[bytes], Any]]:
    """What reads an encoded image, by name; each gives something, or raises BadSample. CapFilt's goes through an exact
    and a fast image processor."""
    exact, fast = (BlipImageEval(16, resize=resize, max_pixels=PIXELS) for resize in ("pil", "fast"))
    video = BlipVideoEval(1, 16, max_pixels=PIXELS)
    decoder = Decoder({"image": exact, "filter_image": fast}, PIXELS)

    def from_file(data: bytes) -> Any:
        (folder / "image.jpg").write_bytes(data)
        return open_image(folder / "image.jpg", PIXELS)

    def capfilt(data: bytes) -> Any:
        first = decoder(0, Item("key", data, "jpg", "text"))[0]
        if not isinstance(first, Ready):
            raise BadSample("key", str(first))
        return first

    return {
        "open_image": lambda data: open_image(data, PIXELS),
        "open_tensor": lambda data: open_tensor(data, PIXELS),
        "file": from_file,
        "frames": lambda data: video([data]),
        "capfilt": capfilt,
        "write_shards": encoded_picture,
    }


def run(first: int, count: int, seed: int, progress: int, result: Path) -> None:
    """Images ``first`` to ``first + count``. ``progress`` is a file where the number of the current one is written."""
    counts: Counter[str] = Counter()
    unexpected: dict[str, str] = {}
    pool = originals()
    with tempfile.TemporaryDirectory() as name:
        read = open_functions(Path(name))
        for start in range(first, first + count, _GROUP):
            numbers = range(start, min(start + _GROUP, first + count))
            images = {}
            for number in numbers:
                kind = KINDS[number % len(KINDS)]
                data = mutant(np.random.default_rng([seed, number]), kind, pool)
                images[number] = kind, data
                for reader, call in read.items():
                    with _watched(progress, number):
                        _count(counts, unexpected, number, kind, reader, partial(call, data))
            with _watched(progress, start, seconds=SECONDS * 6):
                _web_shards(counts, unexpected, images, Path(name) / "shard.tar")
            result.write_text(json.dumps({"counts": counts, "unexpected": unexpected, "next": numbers.stop}))


@contextmanager
def _watched(progress: int, number: int, seconds: float = SECONDS) -> Iterator[None]:
    os.pwrite(progress, b"%-12d" % number, 0)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)


def _count(counts: Counter, unexpected: dict, number: int, kind: str, reader: str, call: Callable[[], Any]) -> None:
    try:
        call()
        counts[f"{kind} {reader} read"] += 1
    except BadSample:
        counts[f"{kind} {reader} refused"] += 1
    except Exception as error:
        counts[f"{kind} {reader} failed"] += 1
        unexpected[str(number)] = f"{reader}: {type(error).__name__}: {error}"[:300]


def _web_shards(counts: Counter, unexpected: dict, images: dict[int, tuple[str, bytes]], shard: Path) -> None:
    """The same images as a training run reads them, and as ``vlkit check`` does."""
    shard.unlink(missing_ok=True)
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (_, data) in images.items():
            add_member(tar, f"{number:09d}.jpg", data or b"\0")
            add_member(tar, f"{number:09d}.txt", b"text")
    processor = BlipImageEval(16, max_pixels=PIXELS)
    dataset = WebShards(str(shard), image_processor=processor)
    for index, (number, (kind, _)) in enumerate(images.items()):
        _count(counts, unexpected, number, kind, "web_shards", partial(dataset.__getitem__, index))
    files = []
    for number, (_, data) in list(images.items())[:4]:
        files.append(shard.with_name(f"{number % 4}.jpg"))
        files[-1].write_bytes(data)
    check_media(image_media([str(file) for file in files], processor))


def main() -> None:
    """Arguments: first number, how many, seed, folder for the progress and the result."""
    first, count, seed = map(int, sys.argv[1:4])
    folder = Path(sys.argv[4])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with tempfile.TemporaryDirectory() as name:  # so that everything is loaded before memory is limited
        for call in open_functions(Path(name)).values():
            for files in originals().values():
                with contextlib.suppress(BadSample):
                    call(files[0])
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    progress = os.open(folder / "progress", os.O_RDWR | os.O_CREAT)
    run(first, count, seed, progress, folder / "result.json")


if __name__ == "__main__":
    main()
