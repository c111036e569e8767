"""The order of training samples: a stream of keys that depends on the seed alone.

Position p of the stream is a key (dataset, epoch of that dataset, index). Neither the number of processes nor
that of workers enters, so that a run may be continued on another number of either and sees the same data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from vlkit.datasets.base import Sample, VLDataset
from vlkit.errors import CheckpointError, DataError

Key = tuple[int, int, int]


class Mixture:
    """Several datasets as one endless stream.

    Datasets take turns so that after t positions each has had its share of t to within a few samples; inside
    a dataset every epoch is a new permutation.

    Args:
        datasets: one or more, none of them empty.
        weights: share of the samples that comes from each dataset, in any unit; None: its size, as if the
            datasets were joined end to end.
        seed: of the order and of each sample's augmentation, 0 or more.

    Raises:
        DataError: no dataset, an empty one, or weights that do not fit.
    """

    def __init__(self, datasets: Sequence[VLDataset], weights: Sequence[float | None] | None = None, seed: int = 0):
        self.datasets, self.seed = list(datasets), seed
        self.sizes = [len(dataset) for dataset in self.datasets]
        if not self.datasets:
            raise DataError("there is no training dataset: name at least one under 'datasets.train'.")
        for position, size in enumerate(self.sizes):
            if size == 0:
                raise DataError(f"training dataset {self.name(position)} is empty.")
        self.shares = _integer_shares(self.sizes, weights)
        self._permutations: dict[int, tuple[int, np.ndarray]] = {}

    def __len__(self) -> int:
        """Samples of one epoch: all datasets together."""
        return sum(self.sizes)

    def name(self, dataset: int) -> str:
        """How messages call a dataset: its class and its place in the list."""
        return f"{type(self.datasets[dataset]).__name__} (number {dataset + 1} of {len(self.datasets)})"

    def start(self) -> list[int]:
        """The counters of an unread stream: samples taken from each dataset."""
        return [0] * len(self.datasets)

    def take(self, counts: list[int], number: int) -> list[Key]:
        """The next ``number`` keys. ``counts`` says where the stream is, and is moved on in place."""
        keys = []
        position, total = sum(counts), sum(self.shares)
        for _ in range(number):
            position += 1
            # The dataset that lags most behind its share; integers, so that no rounding enters the order.
            lags = [share * position - count * total for share, count in zip(self.shares, counts)]
            chosen = lags.index(max(lags))
            epoch, place = divmod(counts[chosen], self.sizes[chosen])
            keys.append((chosen, epoch, int(self._permutation(chosen, epoch)[place])))
            counts[chosen] += 1
        return keys

    def identified(self, dataset: int, sample: Sample) -> Sample:
        """A sample of ``dataset`` whose ``image_id`` no sample of another one has: equal ids mean one image, and two
        datasets may give the same id to different ones. A dataset that is alone keeps its ids."""
        if len(self.datasets) == 1 or "image_id" not in sample:
            return sample
        return {**sample, "image_id": f"{dataset}:{sample['image_id']!r}"}

    def rng(self, key: Key) -> np.random.Generator:
        """The generator of one sample's augmentation."""
        return np.random.default_rng([self.seed, *key])

    def fingerprints(self) -> list[str]:
        """What the data were, for the record of a run."""
        return [dataset.fingerprint() for dataset in self.datasets]

    def check_counts(self, counts: Any) -> list[int]:
        """Counters read from a checkpoint.

        Raises:
            CheckpointError: they belong to another number of datasets.
        """
        if not isinstance(counts, list) or len(counts) != len(self.datasets):
            raise CheckpointError(
                "the checkpoint was written with another list of training datasets: its counters are "
                f"{counts!r}, this run has {len(self.datasets)} dataset(s). Start a new run with another "
                "output_dir."
            )
        return [int(count) for count in counts]

    def _permutation(self, dataset: int, epoch: int) -> np.ndarray:
        known = self._permutations.get(dataset)
        if known is None or known[0] != epoch:
            size = self.sizes[dataset]
            # `size` in place of an index: no sample has this key, so no augmentation shares these numbers.
            order = self.rng((dataset, epoch, size)).permutation(size)
            known = self._permutations[dataset] = (epoch, order)
        return known[1]


def _integer_shares(sizes: Sequence[int], weights: Sequence[float | None] | None) -> list[int]:
    if weights is None or all(weight is None for weight in weights):
        return list(sizes)
    if len(weights) != len(sizes):
        raise DataError(f"{len(weights)} weights are given for {len(sizes)} training datasets; give one for each.")
    fractions = []
    for weight in weights:
        if weight is None or not math.isfinite(weight) or weight <= 0:
            raise DataError(
                f"training dataset weights are {list(weights)}: each must be a number above 0 (leave a "
                "dataset out instead of giving it 0), or none may be given, which weighs by size."
            )
        fractions.append(Fraction(weight).limit_denominator(1_000_000) or Fraction(weight))
    denominator = math.lcm(*(fraction.denominator for fraction in fractions))
    return [int(fraction * denominator) for fraction in fractions]
