"""Safetensors files: tensors that go by several names are stored once."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vlkit.errors import CheckpointError


def save_tensors(path: Path, tensors: Mapping[str, Tensor], aliases: bool = True) -> None:
    """Write tensors as safetensors.

    Args:
        path: of the file, which gets the permissions of any new file.
        tensors: a tensor that goes by several names is written once; overlapping views are written as copies.
        aliases: whether the other names of such a tensor are written to the header.
    """
    first: dict[int, str] = {}
    others: dict[str, str] = {}
    for name, tensor in tensors.items():
        kept = first.setdefault(id(tensor), name)
        if kept != name:
            others[name] = kept
    distinct: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name in first.values():
        tensor = tensors[name].detach().to("cpu").contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        distinct[name] = tensor.clone() if pointer in storages else tensor
        storages.add(pointer)
    # One key at most: the library writes several in any order, and equal runs must give equal files.
    metadata = {"aliases": json.dumps(others)} if others and aliases else {"format": "pt"}
    save_file(distinct, str(path), metadata=metadata)
    _obey_umask(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read what :func:`save_tensors` wrote, under all names. The tensors are mapped from the file.

    Raises:
        CheckpointError: the file is damaged or missing.
    """
    try:
        return read_tensors(path)
    except Exception as error:  # a damaged file raises whatever its reader stumbles over
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}.") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Do the work of :func:`load_tensors`, with the errors of the reader as they are."""
    with safe_open(str(path), framework="pt", device="cpu") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        aliases = alias_names(file.metadata(), tensors)
    return {**tensors, **{name: tensors[kept] for name, kept in aliases.items()}}


def alias_names(metadata: Mapping[str, str] | None, names: Mapping[str, object]) -> dict[str, str]:
    """Return the other names in the header of a file, each with the name under which its tensor is stored.

    Raises:
        ValueError: they are not names of tensors in the file.
    """
    aliases = json.loads((metadata or {}).get("aliases", "{}"))
    if not isinstance(aliases, dict):
        raise ValueError("its header holds no mapping under 'aliases'")
    for name, kept in aliases.items():
        if kept not in names:
            raise ValueError(f"its header says that {name} is {kept!r}, which is not in the file")
    return aliases


def non_finite(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names of tensors that hold NaN or infinity, each with a description of what it holds.

    One pass over each tensor, without memory of its size.
    """
    found: dict[str, str] = {}
    seen: dict[int, bool] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
            continue
        if id(tensor) not in seen:
            seen[id(tensor)] = _is_finite(tensor)
        if not seen[id(tensor)]:
            wrong = tensor.numel() - int(torch.isfinite(tensor.float()).sum())
            found[name] = f"{wrong:,} of {tensor.numel():,} values"
    return found


def damaged_values(values: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """Return what :func:`non_finite` finds in ``values``, without buffers that a new model fills so (a mask, say).

    Args:
        values: of a file, by name of the model.
        own: state of a new model, with its parameters as such; a buffer on the meta device excuses nothing.
    """
    found = non_finite(values)
    buffers = {name: own[name] for name in found if name in own and not isinstance(own[name], nn.Parameter)}
    meant = non_finite(buffers) if buffers else {}
    return {name: what for name, what in found.items() if name not in meant}


def describe_non_finite(found: Mapping[str, str]) -> str:
    """Return what :func:`non_finite` found as a list of at most three tensors."""
    listed = [f"{name} ({what})" for name, what in list(found.items())[:3]]
    return f"{', '.join(listed)}{f' and {len(found) - 3} more tensors' if len(found) > 3 else ''}"


def _is_finite(tensor: Tensor) -> bool:
    values = tensor.detach()
    if values.element_size() == 1:  # float8 has no comparisons
        values = values.float()
    low, high = torch.aminmax(values)  # both are NaN where a value is
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _obey_umask(path: Path) -> None:
    """Give a file the permissions that ``open`` would have given it: the library makes it private."""
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}.mode")
    handle = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):
            probe.unlink()
    path.chmod(mode)
