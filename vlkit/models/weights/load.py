"""Load weights into models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from vlkit.errors import CheckpointError
from vlkit.io.cache import mismatch
from vlkit.io.checkpoint_files import is_checkpoint, verify
from vlkit.io.fetch import fetch
from vlkit.io.files import sha256
from vlkit.models.weights.files import read_checkpoint, weights_file
from vlkit.models.weights.match import LoadReport, fit_tensors
from vlkit.models.weights.names import Adapter

# Functions that set initial values.
_OF_VALUES = (Tensor.normal_, Tensor.uniform_, functional.normalize)


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    adapter: str | Adapter | None = None,
    sha256: str | None = None,
    strict: bool = True,
) -> LoadReport:
    """Fill ``model`` from a checkpoint; parameters keep their identity, type and device.

    Position embeddings of another grid are resized, queues of another size stay as they are, names that share a
    tensor fill each other, and a momentum encoder that the file lacks starts as its encoder.

    Args:
        model: to fill.
        source: what :func:`read_checkpoint` takes, or tensors by name.
        adapter: name of an entry of :data:`~vlkit.models.weights.names.ADAPTERS`, or an adapter; None: detected by the
            names.
        sha256: expected checksum of the file, in hexadecimal.
        strict: raise unless every name and shape is accounted for. Otherwise what fits is loaded.

    Raises:
        CheckpointError: the file cannot be read, is of another model, or holds NaN or infinity.
    """
    state, label = _open(source, sha256)
    report = _load(model, state, label, adapter, strict)
    report.log()
    return report


def build_with_weights(
    build: Callable[[], nn.Module],
    source: str | Path | Mapping[str, Tensor],
    adapter: str | Adapter | None = None,
    sha256: str | None = None,
) -> tuple[nn.Module, LoadReport]:
    """Build a model with weights; random initialization is skipped where the file holds all of them.

    Args:
        build: makes the model on the CPU.
        source, adapter, sha256: as for :func:`load_weights`.

    Raises:
        CheckpointError: as :func:`load_weights`.
    """
    state, label = _open(source, sha256)
    model = _on_meta(build)
    report = None
    with contextlib.suppress(CheckpointError):  # raised again below, unless values of a new model excuse it
        report = _load(model, state, label, adapter, strict=True) if model is not None else None
    if model is None or report is None or _holds_meta(model):
        model = build()
        report = _load(model, state, label, adapter, strict=True)
    report.log()
    return model, report


def _open(source: str | Path | Mapping[str, Tensor], sha256: str | None) -> tuple[dict[str, Tensor], str]:
    if isinstance(source, Mapping):
        return dict(source), "the given tensors"
    if sha256 is not None and (problem := mismatch(weights_file(source), {"sha256": sha256.lower()})):
        raise CheckpointError(f"{source}: {problem}. Is it the right file, and complete?")
    return read_checkpoint(source), str(source)


def fit_weights(
    model: nn.Module, source: str | Path | Mapping[str, Tensor], adapter: str | Adapter | None = None
) -> tuple[dict[str, Tensor], LoadReport]:
    """Return what a checkpoint provides for each name of ``model``, which may be on the meta device and is not changed.

    Args:
        model, source, adapter: as for :func:`load_weights`.

    Raises:
        CheckpointError: as :func:`load_weights`, when strict.
    """
    return fit_tensors(model, *_open(source, None), adapter, strict=True)


def _load(
    model: nn.Module, state: Mapping[str, Tensor], label: str, adapter: str | Adapter | None, strict: bool
) -> LoadReport:
    values, report = fit_tensors(model, state, label, adapter, strict)
    _fill(model, model.state_dict(keep_vars=True), values)
    return report


@torch.no_grad()
def _fill(model: nn.Module, own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy ``values`` into the model: memory mapped from a file would break when the file is overwritten."""
    made: dict[int, Tensor] = {}
    for name, value in values.items():
        target = own[name]
        if not target.is_meta:
            target.copy_(value)
        elif id(target) not in made:
            fresh = torch.empty(target.shape, dtype=target.dtype).copy_(value)
            is_parameter = isinstance(target, nn.Parameter)
            made[id(target)] = nn.Parameter(fresh, target.requires_grad) if is_parameter else fresh
    for module in model.modules() if made else ():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if id(tensor) in made:  # in every place that shares it, so that ties stay
                    store[name] = made[id(tensor)]  # type: ignore[assignment]


class _NoInitialization(TorchFunctionMode):
    """Skip functions that draw initial values: the meta device has none, and torch would import its compiler for it,
    which takes seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__ or func in _OF_VALUES:
            return args[0] if args else next(value for value in given.values() if isinstance(value, Tensor))
        return (torch.empty if func is torch.randn else func)(*args, **given)


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module | None:
    """Build the model with shapes and no values; None when its constructor needs values."""
    try:
        with torch.device("meta"), _NoInitialization():
            return build()
    except (RuntimeError, NotImplementedError):
        return None


def _holds_meta(model: nn.Module) -> bool:
    """Return whether a parameter, a buffer or a plain attribute has no value yet."""
    held = [t for m in model.modules() for t in (*m._parameters.values(), *m._buffers.values(), *vars(m).values())]
    return any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in held)


@dataclass(frozen=True)
class InitialWeights:
    """Weights that are loaded into a new model.

    Args:
        source: path, address or card, as it was given.
        file: returns the local file; downloads it first if necessary.
        adapter: naming scheme of the tensors; None: detected.
    """

    source: str
    file: Callable[[], Path]
    adapter: str | None = None

    def build(self, make: Callable[[], nn.Module]) -> nn.Module:
        """Build a model on the CPU with these weights.

        Args:
            make: returns the model.

        Raises:
            CheckpointError: the weights cannot be read, or are of another model.
        """
        return build_with_weights(make, self.file(), self.adapter)[0]

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file."""
        return sha256(self.file())

    def facts(self) -> dict[str, Any]:
        """Return the entry for the record of a run."""
        return {"source": self.source, "file": str(self.file()), "sha256": self.fingerprint()}

    def step(self) -> int:
        """Return the optimizer step of a checkpoint of vlkit; 0 for other files."""
        folder = self.file().parent
        return verify(folder, [], ["step"])["step"] if is_checkpoint(folder) else 0


def from_path(source: str | Path) -> InitialWeights:
    """Find weights in a file, a checkpoint folder or the folder of a run (its best, else newest checkpoint), or at an
    address.

    Raises:
        VlkitError: there are none.
    """
    text = str(source)
    local = text.startswith(("package:", "file:"))  # addresses of files and of folders
    file = fetch(text) if "://" in text and not local else weights_file(text)
    return InitialWeights(text, lambda: file)


def from_run(folder: Path) -> InitialWeights | None:
    """Find the best (else newest) weights of the run in ``folder``; None: it has written none."""
    if not any((folder / "checkpoints").glob("step_*")):
        return None
    return from_path(folder)
