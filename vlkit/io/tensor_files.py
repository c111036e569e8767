"""Tensors in safetensors files, checks of their values, and temporary files for tensors that exceed a memory limit."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vlkit.errors import CheckpointError, VlkitError


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


class _FileSlice(NamedTuple):
    """Position of a tensor in the temporary file."""

    offset: int
    dtype: torch.dtype
    shape: torch.Size

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize


class TensorSpool:
    """Store batches of rows with their indices and iterate over them in the order in which they were added.

    Use as a context manager. The temporary file has no name on POSIX systems, so it disappears with the process.

    Args:
        device: device of the tensors that iteration yields.
        memory_limit: bytes kept in memory; further tensors are written to the file.
        folder: directory of the file; None: the system's temporary directory.
        what: what the tensors are, for messages.
        hint: how to avoid the file, appended to the message of a failed write.

    Attributes:
        in_memory: bytes kept in memory.
    """

    def __init__(
        self,
        device: torch.device,
        memory_limit: int,
        folder: Path | None = None,
        what: str = "tensors",
        hint: str = "",
    ):
        self.device, self.memory_limit, self.what, self.hint = device, memory_limit, what, hint
        self.folder = folder or Path(tempfile.gettempdir())
        self.in_memory = 0
        self._batches: list[tuple[list[int], Tensor | _FileSlice]] = []
        self._file: IO[bytes] | None = None

    def __enter__(self) -> TensorSpool:
        return self

    def __exit__(self, *error: Any) -> None:
        self._batches.clear()
        self.in_memory = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, index: Sequence[int], rows: Tensor) -> None:
        """Store ``rows`` [b, ...] under the indices ``index`` [b].

        Raises:
            VlkitError: the file cannot be written.
        """
        if self.in_memory + rows.nbytes <= self.memory_limit:
            self.in_memory += rows.nbytes
            self._batches.append((list(index), rows.cpu()))
        else:
            self._batches.append((list(index), self._write(rows)))

    def __iter__(self) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Yield (index, rows) of each batch; the next batch is read from the file in a thread meanwhile.

        Raises:
            VlkitError: the file was truncated.
        """
        with ThreadPoolExecutor(1) as reader:
            ahead: Future[Tensor] | None = None
            for number, (index, stored) in enumerate(self._batches):
                rows = ahead.result() if ahead else self._read(stored)
                following = self._batches[number + 1 : number + 2]
                ahead = reader.submit(self._read, following[0][1]) if following else None
                yield index, rows.to(self.device, non_blocking=True)

    def _write(self, rows: Tensor) -> _FileSlice:
        with self._explain_disk_error():
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  # closed by __exit__
            stored = _FileSlice(self._file.seek(0, 2), rows.dtype, rows.shape)
            # As bytes, since NumPy has no bfloat16.
            self._file.write(rows.contiguous().cpu().view(torch.uint8).numpy().data)
        return stored

    def _read(self, stored: Tensor | _FileSlice) -> Tensor:
        if isinstance(stored, Tensor):
            return stored
        assert self._file is not None
        # Pinned memory can be copied to a GPU while that computes.
        data = torch.empty(stored.nbytes, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        self._file.seek(stored.offset)
        if self._file.readinto(data.numpy()) != stored.nbytes:  # type: ignore[attr-defined]
            raise VlkitError(f"{self.what} stored in a temporary file in {self.folder} are no longer complete.")
        return data.view(stored.dtype).reshape(stored.shape)

    @contextlib.contextmanager
    def _explain_disk_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VlkitError(
                f"{self.what} cannot be kept on disk in {self.folder}: {error}. Free disk space there{self.hint}."
            ) from error
