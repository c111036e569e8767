"""Loaders: batches from datasets, in worker processes, for training (endless) and evaluation (one pass)."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from vlkit.datasets.base import NEIGHBORS, SPREAD, Sample, VLDataset, collate, substitutes
from vlkit.datasets.mixture import Key, Mixture
from vlkit.errors import BadSample, ConfigError, DataError

Batch = dict[str, Any]
BAD = "_bad"
"""Key of a batch with (source, reason) of the samples that could not be used."""
_ERROR = "_error"


class TrainLoader:
    """The endless stream of a mixture, divided into optimizer steps of micro-batches.

    A sample that cannot be used is replaced by the next one of its dataset (after 20 of these, by one elsewhere in it),
    and listed in the batch under ``_bad``; the first batch also lists the bad rows of the datasets. Step g holds
    positions g*B to (g+1)*B of the stream, ordered by micro-batch, then by process.

    Args:
        mixture: the stream.
        batch_size: B, samples of one optimizer step over all processes and micro-batches.
        grad_accum_steps: micro-batches per step.
        rank: of this process, 0 <= rank < world.
        world: number of processes.
        num_workers: worker processes; 0: read in this process.
        pin_memory: whether to use pinned memory, for fast copies to a GPU.

    Raises:
        ConfigError: the batch cannot be divided.
    """

    def __init__(
        self,
        mixture: Mixture,
        batch_size: int,
        grad_accum_steps: int = 1,
        rank: int = 0,
        world: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ):
        if batch_size < 1 or batch_size % (world * grad_accum_steps):
            raise ConfigError(
                f"run.batch_size is {batch_size}: samples of one optimizer step over all {world} process(es) "
                f"and {grad_accum_steps} micro-batch(es), so it must be a multiple of {world * grad_accum_steps}."
            )
        self.mixture, self.batch_size, self.grad_accum_steps = mixture, batch_size, grad_accum_steps
        self.rank, self.per_process = rank, batch_size // (world * grad_accum_steps)
        self.world, self.num_workers, self.pin_memory = world, num_workers, pin_memory
        self._fetch = _TrainFetch(mixture)
        self._counts = mixture.start()
        self._ahead: deque[list[int]] = deque()
        self._batches: Generator[Batch, None, None] | None = None

    def next_step(self) -> list[Batch]:
        """Return this process's micro-batches of the next optimizer step.

        Raises:
            DataError: samples cannot be read for another reason than bad data of their own.
        """
        if self._batches is None:
            self._batches = self._start()
        first = not any(self._counts)
        try:
            step = [_checked(next(self._batches)) for _ in range(self.grad_accum_steps)]
        except DataError:
            self.close()
            raise
        if first and self.rank == 0:
            step[0][BAD] = [*(row for dataset in self.mixture.datasets for row in dataset.bad_rows), *step[0][BAD]]
        self._counts = self._ahead.popleft()
        return step

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the stream after the returned steps, regardless of prefetched batches."""
        return {"counts": list(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a position.

        Raises:
            CheckpointError: the state belongs to another list of datasets.
        """
        self.close()
        self._counts = self.mixture.check_counts(state.get("counts"))

    def close(self) -> None:
        """Stop the workers."""
        if self._batches is not None:
            self._batches.close()
        self._batches = None
        self._ahead.clear()

    def _start(self) -> Generator[Batch, None, None]:
        return _guarded(_torch_loader(self._fetch, self._keys(), self.num_workers, self.pin_memory))

    def _keys(self) -> Iterator[list[Key]]:
        """Yield the keys of this process per micro-batch. The DataLoader prefetches them, in this process."""
        counts = list(self._counts)
        while True:
            keys = self.mixture.take(counts, self.batch_size)
            self._ahead.append(list(counts))
            for micro in range(self.grad_accum_steps):
                start = (micro * self.world + self.rank) * self.per_process
                yield keys[start : start + self.per_process]


class EvalLoader:
    """One pass over a dataset; process r of W reads the r-th of W equal parts, so that each sample is read once.

    Batches hold ``index``, the position of each sample in the dataset. Samples that cannot be used are skipped and
    listed in :attr:`bad`, after the bad rows of the dataset.

    Args:
        dataset: to read.
        batch_size: samples per batch and process.
        rank: of this process.
        world: number of processes.
        num_workers: worker processes; 0: read in this process.
        pin_memory: whether to use pinned memory, for fast copies to a GPU.
    """

    def __init__(
        self,
        dataset: VLDataset,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ):
        size = len(dataset)
        indices = range(rank * size // world, (rank + 1) * size // world)
        starts = range(0, len(indices), batch_size)
        self._keys = [list(indices[start : start + batch_size]) for start in starts]
        self._loader = _torch_loader(_EvalFetch(dataset), self._keys, num_workers, pin_memory)
        self._bad_rows = list(dataset.bad_rows) if rank == 0 else []
        self.bad: list[tuple[str, str]] = []

    def __len__(self) -> int:
        """Return the number of batches of this process."""
        return len(self._keys)

    def __iter__(self) -> Iterator[Batch]:
        self.bad = list(self._bad_rows)
        with contextlib.closing(_guarded(self._loader)) as batches:
            for found in batches:
                batch = _checked(found)
                self.bad += batch.pop(BAD)
                if batch:
                    yield batch


class _Fetch(Dataset):
    """Reads the samples of a batch, in a worker."""

    def __getitems__(self, keys: list[Any]) -> Batch:
        bad: list[tuple[str, str]] = []
        try:
            samples = [sample for key in keys if (sample := self._sample(key, bad)) is not None]
            return {**(_join(samples) if samples else {}), BAD: bad}
        except DataError as error:  # as data: torch would raise an error whose message is the worker's traceback
            return {_ERROR: (str(error), "".join(traceback.format_exception(error)))}

    def _sample(self, key: Any, bad: list[tuple[str, str]]) -> Sample | None:
        """Return a sample, or None; add source and reason of samples that cannot be used to ``bad``."""
        raise NotImplementedError


class _TrainFetch(_Fetch):
    """Fetches (dataset, epoch, index), with substitutes for samples that cannot be used."""

    def __init__(self, mixture: Mixture):
        self.mixture = mixture

    def _sample(self, key: Key, bad: list[tuple[str, str]]) -> Sample:
        which, epoch, index = key
        dataset, size = self.mixture.datasets[which], self.mixture.sizes[which]
        for place in substitutes(index, size):
            try:
                sample = _read(dataset, place, self.mixture.rng((which, epoch, place)), self.mixture.name(which))
                return self.mixture.identified(which, sample)
            except BadSample as error:
                bad.append((error.source, error.reason))
        last = "; ".join(f"{source}: {reason}" for source, reason in bad[-3:])
        raise DataError(
            f"dataset {self.mixture.name(which)}: {min(NEIGHBORS, size)} samples in a row from index {index} on, and "
            f"{min(SPREAD, max(0, size - NEIGHBORS))} others all over it, cannot be used. The last: {last}"
        )


class _EvalFetch(_Fetch):
    """Fetches indices, without those that cannot be used."""

    def __init__(self, dataset: VLDataset):
        self.dataset = dataset

    def _sample(self, key: int, bad: list[tuple[str, str]]) -> Sample | None:
        try:
            sample = _read(self.dataset, key, np.random.default_rng([key]), type(self.dataset).__name__)
        except BadSample as error:
            bad.append((error.source, error.reason))
            return None
        return {**sample, "index": key}


def _read(dataset: VLDataset, index: int, rng: np.random.Generator, name: str) -> Sample:
    try:
        return dataset.sample(index, rng)
    except BadSample:
        raise
    except Exception as error:
        raise DataError(
            f"dataset {name} fails at index {index}: {type(error).__name__}: {error}. "
            f"If only this sample is at fault, its dataset should raise BadSample, which skips it."
        ) from error


def _join(samples: list[Sample]) -> Batch:
    """Collate the keys that all samples have: the datasets of a mixture may have different ones."""
    common = [key for key in samples[0] if all(key in sample for sample in samples)]
    return collate([{key: sample[key] for key in common} for sample in samples])


def _checked(batch: Batch) -> Batch:
    if _ERROR in batch:
        message, trace = batch[_ERROR]
        raise DataError(message) from RuntimeError(trace)
    return batch


def _guarded(loader: DataLoader) -> Generator[Batch, None, None]:
    """Yield the batches; the death of a worker becomes an error with advice."""
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a data worker died ({error}). Usually memory ran out, or a native library crashed on a file: "
            "lower run.num_workers, or set it to 0 to see the error itself."
        ) from error


def _torch_loader(fetch: Dataset, keys: Any, num_workers: int, pin_memory: bool) -> DataLoader:
    return DataLoader(
        fetch,
        batch_sampler=keys,
        collate_fn=_identity,  # type: ignore[arg-type]  # torch has no type for a __getitems__ that gives a batch
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_main,
    )


def _identity(batch: Batch) -> Batch:
    return batch


def _leave_signals_to_main(worker: int) -> None:
    # Ctrl-C and schedulers signal a whole process group; the main process still needs the batches of its step. If
    # workers ignored the signals instead, nothing could end them.
    if hasattr(os, "setpgrp"):
        os.setpgrp()
