"""The files of a checkpoint, and whether they are what was written.

``checkpoints/step_00000100/`` holds ``model.safetensors``, ``optimizer.safetensors`` and ``trainer.json``. The latter
records size and SHA-256 of the other two and ends with the SHA-256 of what stands before it, so that every changed bit
is noticed. Checkpoints of version 1 have sizes alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from vlkit.errors import CheckpointError
from vlkit.io.files import sha256

logger = logging.getLogger(__name__)

MODEL, OPTIMIZER, TRAINER = "model.safetensors", "optimizer.safetensors", "trainer.json"
VERSION = 2
_NAME = re.compile(r"step_(\d{8,})")
_SEAL, _END = b',\n "checksum": "', b'"\n}'
_NUMBER = (int, float)
_warned: set[str] = set()
_TYPES: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "files": (dict,),
    "seed": (int,),
    "seconds": _NUMBER,
    "batch_size": (int,),
    "data": (dict,),
    "data.counts": (list,),
    "fingerprints": (list,),
    "window": (dict,),
    "window.sums": (dict,),
    "window.counts": (dict,),
    "report": (dict,),
    "report.since": (list,),
    "best": (dict,),
    "best.monitor": (str, type(None)),
    "best.mode": (str,),
    "best.step": (int, type(None)),
    "best.value": (*_NUMBER, type(None)),
    "evaluated": (dict,),
    "evaluated.step": (int, type(None)),
    "evaluated.scores": (dict,),
}
"""Keys of ``trainer.json`` with the types that they may have; those of a mapping after a dot."""
STATE = tuple(_TYPES)
"""What a run needs to continue."""


def step_of(path: Path) -> int | None:
    """Return the step that the name of a checkpoint folder says; None for another name."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def steps_in(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in ``folder``, sound or not, ascending.

    Raises:
        CheckpointError: it cannot be read.
    """
    if not os.path.lexists(folder):
        return []
    try:
        found = [step_of(entry) for entry in folder.iterdir()]
    except OSError as error:
        raise CheckpointError(f"the checkpoints in {folder} cannot be read: {error.strerror}.") from error
    return sorted(step for step in found if step is not None)


def seal(content: Mapping[str, Any]) -> str:
    """Return the text of ``trainer.json`` with its own checksum at the end."""
    body = json.dumps(content, indent=1).encode()[: -len(b"\n}")] + _SEAL
    return (body + hashlib.sha256(body).hexdigest().encode() + _END).decode()


def read_trainer(path: Path, required: Collection[str] = ("step",)) -> dict[str, Any]:
    """Read ``trainer.json`` of a checkpoint whose files are all there, with their sizes.

    Args:
        path: the folder of the checkpoint.
        required: keys that must be there, as in :data:`STATE`.

    Raises:
        CheckpointError: a file is missing, cut short or unreadable; it is named.
    """
    trainer = _read_sealed(path, required)
    for name in (MODEL, OPTIMIZER):
        _check_size(path, name, trainer["files"])
    return trainer


def verify(path: Path, names: Collection[str] = (MODEL, OPTIMIZER), required: Collection[str] = ()) -> dict[str, Any]:
    """Check that the files of a checkpoint are what was written.

    Args:
        path: the folder of the checkpoint.
        names: the files of tensors to compare with their checksums.
        required: as for :func:`read_trainer`.

    Returns:
        The content of ``trainer.json``.

    Raises:
        CheckpointError: something is not; the file is named.
    """
    trainer = _read_sealed(path, required)
    for name in names:
        _check_size(path, name, trainer["files"])
        try:
            _check_content(path, name, trainer)
        except OSError as error:
            raise damaged(path, name, f"cannot be read ({error.strerror or error})") from error
    return trainer


def damaged(path: Path, name: str, reason: str) -> CheckpointError:
    """Return the error for a file of a checkpoint that is not what was written."""
    return CheckpointError(f"checkpoint {path} is damaged: {name} {reason.rstrip('.')}.")


def _read_sealed(path: Path, required: Collection[str]) -> dict[str, Any]:
    try:
        data = (path / TRAINER).read_bytes()
        trainer = json.loads(data)
    except OSError as error:
        raise damaged(path, TRAINER, f"cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, TRAINER, f"is not JSON ({type(error).__name__}: {error})") from error
    if not isinstance(trainer, dict):
        raise damaged(path, TRAINER, f"holds a {type(trainer).__name__}, not a mapping")
    _check_seal(path, data, trainer)
    for key in dict.fromkeys((*required, *({"step"} & set(trainer)), "files")):
        _check_key(path, trainer, key)
    return trainer


def _check_seal(path: Path, data: bytes, trainer: Mapping[str, Any]) -> None:
    old = trainer.get("version", 1) == 1 and not {"checksum", "sha256"} & set(trainer)
    end = len(data) - len(_END) - 64
    body, given = data[: max(0, end)], data[max(0, end) :]
    if not old and not (body.endswith(_SEAL) and given == hashlib.sha256(body).hexdigest().encode() + _END):
        raise damaged(path, TRAINER, "does not agree with its checksum")


def _check_key(path: Path, trainer: Mapping[str, Any], key: str) -> None:
    value: Any = trainer
    for part in key.split("."):
        if part not in value:
            raise damaged(path, TRAINER, f"lacks the key {key!r}")
        value = value[part]
    fits: bool = type(value) in _TYPES[key]
    if not fits:
        raise damaged(path, TRAINER, f"says that {key!r} is {_shown(value)}, not of type {_TYPES[key][0].__name__}")
    inside: Collection[Any] = ()
    if key in ("window.sums", "window.counts"):
        inside = value.values()
    elif key == "report.since":
        inside = value if len(value) == 2 else [None]
    if not all(type(each) in _NUMBER for each in inside):
        raise damaged(path, TRAINER, f"says that {key!r} is {_shown(value)}, where numbers are needed")
    if key == "step" and (value < 0 or step_of(path) not in (value, None)):
        raise damaged(path, TRAINER, f"says that 'step' is {value}, which is not that of the folder")


def _check_size(path: Path, name: str, sizes: Mapping[str, Any]) -> None:
    file = path / name
    try:
        size = file.stat().st_size
    except OSError as error:
        raise damaged(path, name, f"is missing ({error.strerror})") from error
    if not file.is_file():
        raise damaged(path, name, "is not a file")
    if size != sizes.get(name):
        raise damaged(path, name, f"has {size:,} bytes instead of {_shown(sizes.get(name))}")


def _check_content(path: Path, name: str, trainer: Mapping[str, Any]) -> None:
    sums = trainer.get("sha256")
    if sums is None:  # version 1: at least its header can be read
        _check_header(path, name)
    elif not isinstance(sums, dict) or sha256(path / name) != sums.get(name):
        raise damaged(path, name, "does not agree with its checksum")


def _check_header(path: Path, name: str) -> None:
    from safetensors import safe_open

    from vlkit.io.tensor_files import alias_names

    try:
        with safe_open(str(path / name), framework="pt", device="cpu") as file:
            alias_names(file.metadata(), dict.fromkeys(file.keys()))
    except Exception as error:  # a damaged file raises whatever its reader stumbles over
        raise damaged(path, name, f"has a header that cannot be read ({type(error).__name__}: {error})") from error


def _shown(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else repr(value)
    return text if len(text) <= 40 else text[:40] + "..."


def verify_weights(file: Path) -> None:
    """Check a file of weights that lies in a checkpoint folder, and warn of damage beside it; do nothing for others.

    Raises:
        CheckpointError: it is not what was written.
    """
    if file.name == MODEL and is_checkpoint(file.parent):
        verify(file.parent, [MODEL])
        _warn_of_the_optimizer(file.parent)


def _warn_of_the_optimizer(path: Path) -> None:
    """Warn where the optimizer's state beside sound weights is damaged: no run could resume from it. It may be missing,
    since weights alone are often kept."""
    if os.path.lexists(path / OPTIMIZER):
        try:
            verify(path, [OPTIMIZER])
        except CheckpointError as error:
            _warn_once(f"{error} Its {MODEL} is sound and is used.")


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder is a checkpoint of ours, sound or not."""
    return os.path.lexists(folder / TRAINER) or (
        step_of(folder) is not None and any(os.path.lexists(folder / name) for name in (MODEL, OPTIMIZER))
    )


def choose(folder: Path) -> Path | None:
    """Return the best checkpoint in ``folder``, else its newest, whose weights are what was written.

    Those that are damaged are passed over with one warning.

    Returns:
        None if there are no checkpoints.

    Raises:
        CheckpointError: all of them are damaged.
    """
    steps = steps_in(folder)[::-1]
    reasons: dict[int, str] = {}
    best = _best(folder, steps)
    for step in dict.fromkeys([*([best] if best is not None else []), *steps]):
        path = folder / f"step_{step:08d}"
        try:
            verify(path, [MODEL])
        except CheckpointError as error:
            reasons[step] = str(error)
            continue
        if reasons:
            what = "best" if best in reasons else "newest"
            _warn_once(f"{' '.join(reasons.values())} The {what} is passed over; {path.name} is used.")
        _warn_of_the_optimizer(path)
        return path
    if reasons:
        raise CheckpointError(" ".join(["no checkpoint can be used.", *reasons.values()]))
    return None


def _warn_once(message: str) -> None:
    """Log a warning, but not again when a command asks for the same weights several times."""
    if message not in _warned:
        _warned.add(message)
        logger.warning("%s", message)


def _best(folder: Path, steps: Collection[int]) -> int | None:
    """Return the step that the newest readable checkpoint names as the best."""
    for step in steps:
        try:
            trainer = _read_sealed(folder / f"step_{step:08d}", ())
        except CheckpointError:
            continue
        best = trainer.get("best")
        found = best.get("step") if isinstance(best, dict) else None
        passed = step != max(steps)  # one that cannot be read may have been better, and that before be deleted for it
        return found if isinstance(found, int) and (found in steps or not passed) else None
    return None
