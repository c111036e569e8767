"""Read checkpoint files and folders, ours and foreign, as tensors by name. Nothing in a file is executed.

Files that are passed around may hold weights in fewer bits: half precision, or int8 with a scale for each row. An int8
tensor ``name`` has a partner ``name.scale`` with one factor for each index of its first dimension; the value is their
product. Only matrices and filters are stored so: vectors stay in half precision.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlkit.errors import CheckpointError, VlkitError, did_you_mean
from vlkit.io.checkpoint_files import MODEL, choose, is_checkpoint, verify_weights
from vlkit.io.fetch import local_path
from vlkit.io.tensor_files import read_tensors

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_HALF = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float16}
_SCALE = ".scale"
_LARGEST = 127
_FOREIGN = ("pytorch_model.bin",)
_WRAPPERS = ("model", "state_dict")
_AGAIN = "Download or copy it again"
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run `git lfs pull`"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"<", "a web page, probably the server's error message; download the file again"),
    (b"{", "JSON text, no weights; give the weights file"),
)


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in a file or folder to the CPU, mapped from the file where its format allows.

    Mapped tensors are valid only until the file is overwritten: copy what is kept.

    Args:
        path: a file of ``torch.save`` (a state dict, or one under ``model`` or ``state_dict``), a safetensors
            file, a checkpoint folder of vlkit, a folder of the Hugging Face hub, or a run's output folder
            (its best checkpoint, or else its newest).

    Raises:
        CheckpointError: no such file, damaged (a file of a checkpoint folder is compared with its checksum), of
            another kind, or holding objects that only code could restore.
    """
    file = weights_file(path)
    verify_weights(file)
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}.") from error
    if not head:
        raise CheckpointError(f"{file} is empty. {_AGAIN}.")
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        return _unwrap(_load_torch(file, mapped=head[:2] == b"PK"), file)
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return _load_safetensors(file)
    for start, what in _OTHERS:
        if head.lstrip().startswith(start):
            raise CheckpointError(f"{file} is no checkpoint but {what}.")
    raise CheckpointError(
        f"{file} ({size:,} bytes) is no checkpoint: neither a file of torch.save nor safetensors. "
        f"Give the .pth, .bin or .safetensors file of the weights."
    )


def weights_file(path: str | Path) -> Path:
    """Find the file that :func:`read_checkpoint` reads for ``path``.

    Raises:
        CheckpointError: there is none.
    """
    path = local_path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        if "://" in str(path) or re.match(r"https?:/", str(path)):
            raise CheckpointError(f"{path} is an address: download it first and give the file's path.")
        if os.path.lexists(path):
            raise CheckpointError(f"checkpoint {path} is neither a file nor a folder, or a link to nothing.")
        siblings = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise CheckpointError(f"checkpoint {path} does not exist.{did_you_mean(path.name, siblings)}")
    if is_checkpoint(path):
        verify_weights(path / MODEL)
        return path / MODEL
    for name in (MODEL, *_FOREIGN):
        if (path / name).is_file():
            return path / name
    return _of_run(path) / MODEL


def _of_run(folder: Path) -> Path:
    """Find the best checkpoint of a run's output folder, else its newest."""
    inside = folder / "checkpoints"
    try:
        found = choose(inside if inside.is_dir() else folder)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error} Restore one of them from a copy, or give other weights.") from error
    if found is None:
        raise CheckpointError(
            f"{folder}: no weights are in it. Give a weights file, a checkpoint folder (with {MODEL}), or the output "
            f"folder of a run that has written a checkpoint."
        )
    return found


def _load_torch(file: Path, mapped: bool) -> Any:
    try:
        with warnings.catch_warnings():  # of pickles that it then refuses
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged file raises whatever its reader stumbles over
        reason = str(error).partition("\n")[0] or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            if "GLOBAL" in str(error) or "nsupported" in str(error):
                raise _refusal(file, str(error)) from error
            reason = "its pickle cannot be parsed"
        raise _damaged(file, reason) from error


def _refusal(file: Path, reason: str) -> CheckpointError:
    name = re.search(r"GLOBAL ([\w.]+)", reason)
    what = f"besides tensors it holds the Python object {name[1]}" if name else "it is a pickle of another kind"
    return CheckpointError(
        f"{file} was refused: {what}, and restoring it could run code. Nothing was executed. If you trust its "
        f"source, save its state dict alone as safetensors, elsewhere."
    )


def _damaged(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{file} ({file.stat().st_size:,} bytes) is damaged or cut short: {reason.rstrip('. ')}. {_AGAIN}."
    )


def _load_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        tensors = read_tensors(file)
    except Exception as error:  # a damaged file raises whatever its reader stumbles over
        raise _damaged(file, str(error)) from error
    return _unwrap(restored(tensors), file)


def _unwrap(data: Any, file: Path) -> dict[str, Tensor]:
    """Return the state dict in what was saved, without the prefix of DistributedDataParallel."""
    for key in _WRAPPERS:
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    entries = data if isinstance(data, Mapping) else {}
    tensors = {str(name): value for name, value in entries.items() if isinstance(value, Tensor)}
    if not tensors:
        held = ", ".join(map(repr, list(entries)[:8])) or f"a {type(data).__name__}"
        raise CheckpointError(
            f"{file} holds no weights: found {held}; a state dict is needed, alone or under "
            f"{' or '.join(map(repr, _WRAPPERS))}."
        )
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def check_precision(precision: str) -> None:
    """Raise for a name that is not one of :data:`PRECISIONS`.

    Raises:
        VlkitError: no such precision.
    """
    if precision not in PRECISIONS:
        hint = did_you_mean(precision, PRECISIONS)
        raise VlkitError(f"no precision is named {precision!r}.{hint} Allowed: {', '.join(PRECISIONS)}.")


def stored(state: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """Convert ``state`` to a precision; names that share a tensor still do.

    Args:
        state: tensors by name; integers stay as they are.
        precision: one of :data:`PRECISIONS`.

    Raises:
        VlkitError: no such precision, or a value lies outside of it.
    """
    check_precision(precision)
    kept: dict[int, tuple[Tensor, ...]] = {}
    smaller: dict[str, Tensor] = {}
    for name, value in state.items():
        if id(value) not in kept:
            as_whole = precision == "int8" and _has_rows(value)
            kept[id(value)] = _whole(value) if as_whole else (_half(name, value, precision),)
        smaller.update(zip((name, name + _SCALE), kept[id(value)]))
    return smaller


def restored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert int8 tensors that :func:`stored` wrote to float32; others stay as they are.

    Raises:
        CheckpointError: a scale is missing.
    """
    made: dict[int, Tensor] = {}
    full: dict[str, Tensor] = {}
    for name, value in state.items():
        if value.dtype != torch.int8:
            full[name] = value
            continue
        if name + _SCALE not in state:
            raise CheckpointError(f"{name} is stored as whole numbers, but {name + _SCALE} is missing.")
        if id(value) not in made:
            made[id(value)] = value.float() * state[name + _SCALE].float().view(-1, *[1] * (value.ndim - 1))
        full[name] = made[id(value)]
    return {name: value for name, value in full.items() if not _is_scale(name, state)}


def _has_rows(value: Tensor) -> bool:
    return value.is_floating_point() and value.ndim >= 2 and len(value) > 1


def _half(name: str, value: Tensor, precision: str) -> Tensor:
    if not value.is_floating_point():
        return value
    smaller = value.to(_HALF[precision])
    if not torch.equal(smaller.isfinite(), value.isfinite()):
        raise VlkitError(f"{name} has values beyond what {precision} can hold. Choose bf16 or fp32.")
    return smaller


def _whole(value: Tensor) -> tuple[Tensor, Tensor]:
    rows = value.detach().float()
    largest = rows.abs().flatten(1).amax(1)
    scale = torch.where(largest > 0, largest / _LARGEST, 1.0)
    return (rows / scale.view(-1, *[1] * (rows.ndim - 1))).round().to(torch.int8), scale


def _is_scale(name: str, state: Mapping[str, Tensor]) -> bool:
    whole = state.get(name.removesuffix(_SCALE))
    return name.endswith(_SCALE) and whole is not None and whole.dtype == torch.int8
