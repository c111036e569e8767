"""Ways in which the files of a checkpoint are damaged."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from vlkit.io.checkpoint_files import MODEL, OPTIMIZER, TRAINER


def flip(file: Path, bit: int) -> None:
    """Change one bit of a file."""
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def flip_somewhere(folder: Path, rng: random.Random) -> tuple[str, int]:
    """Change a random bit of a random file of a folder; say which."""
    file = rng.choice(sorted(each for each in folder.iterdir() if each.is_file()))
    bit = rng.randrange(8 * file.stat().st_size)
    flip(file, bit)
    return file.name, bit


def zero_end(file: Path) -> None:
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[: size // 2] + b"\0" * (size - size // 2))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def replace_by_loop(file: Path) -> None:
    """A file that cannot be opened, for root either."""
    file.unlink()
    file.symlink_to(file.name)


def replace_by_unreadable(file: Path) -> None:
    """A file that can be opened, but gives an I/O error."""
    size = file.stat().st_size
    file.unlink()
    file.symlink_to("/proc/self/mem")
    assert size


def header(file: Path) -> None:
    file.write_bytes(b"\xff" * 16 + file.read_bytes()[16:])


def edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(file: Path) -> None:
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content, indent=1))

    return apply


def step_folder_is_a_file(file: Path) -> None:
    shutil.rmtree(file.parent)
    file.parent.write_text("")


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    **{
        f"{what.__name__} {name}": (name, what)
        for name in (MODEL, OPTIMIZER, TRAINER)
        for what in (zero_end, cut, replace_by_folder, replace_by_loop, replace_by_unreadable, Path.unlink, header)
    },
    "empty trainer": (TRAINER, lambda file: file.write_text("")),
    "a list": (TRAINER, lambda file: file.write_text("[]")),
    "deep": (TRAINER, lambda file: file.write_text("[" * 100_000)),
    "many digits": (TRAINER, lambda file: file.write_text('{"step": ' + "9" * 10_000 + "}")),
    "latin-1": (TRAINER, lambda file: file.write_bytes(b'{"step": "\xe9"}')),
    "key missing": (TRAINER, edit(lambda content: content.pop("data"))),
    "wrong type": (TRAINER, edit(lambda content: content.update(best=3))),
    "folder": (TRAINER, step_folder_is_a_file),
}
"""By name: the file, and what is done to it."""

OLD_DAMAGES: dict[str, Callable[[dict], object]] = {
    "no step": lambda content: content.pop("step"),
    "step of another folder": lambda content: content.update(step=3),
    "negative step": lambda content: content.update(step=-8),
    "step is text": lambda content: content.update(step="8"),
    "no best": lambda content: content.pop("best"),
    "best is a list": lambda content: content.update(best=[]),
    "best step is text": lambda content: content["best"].update(step="4"),
    "no data": lambda content: content.pop("data"),
    "no counts": lambda content: content["data"].clear(),
    "window is a number": lambda content: content.update(window=3),
    "sums are texts": lambda content: content["window"].update(sums={"loss": "x"}),
    "since is short": lambda content: content["report"].update(since=[1]),
    "seconds is a truth": lambda content: content.update(seconds=True),
    "evaluated is null": lambda content: content.update(evaluated=None),
    "files is a list": lambda content: content.update(files=[]),
    "size is text": lambda content: content["files"].update({MODEL: "12"}),
}
"""Of ``trainer.json`` without a checksum, as version 1 wrote it."""


def as_version_1(folder: Path) -> None:
    """Turn a checkpoint into what the first version of the format was."""
    content = json.loads((folder / TRAINER).read_text())
    del content["sha256"], content["checksum"]
    content["version"] = 1
    (folder / TRAINER).write_text(json.dumps(content, indent=1))
