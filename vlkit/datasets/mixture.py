"""The order of training samples: a stream of keys that depends only on the seed.

Position p of the stream is a key (dataset, epoch of that dataset, index). It does not depend on the number of processes
or workers, so that a run may be resumed with other numbers and reads the same data.
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

    Datasets alternate so that after t positions each has had its share of t up to a few samples; within a dataset every
    epoch is a new permutation.

    Args:
        datasets: one or more, none of them empty.
        weights: share of the samples of each dataset, in any unit; None: its size, as in a concatenation.
        seed: of the order and of each sample's augmentation, 0 or more.

    Raises:
        DataError: there is no dataset, one is empty, or the weights are invalid.
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
        """Return the samples of one epoch: all datasets together."""
        return sum(self.sizes)

    def name(self, dataset: int) -> str:
        """Return the name of a dataset in messages: its class and its position in the list."""
        return f"{type(self.datasets[dataset]).__name__} (number {dataset + 1} of {len(self.datasets)})"

    def start(self) -> list[int]:
        """Return the counters at the start of the stream: samples taken from each dataset."""
        return [0] * len(self.datasets)

    def take(self, counts: list[int], number: int) -> list[Key]:
        """Return the next ``number`` keys after the position ``counts``, which is advanced in place."""
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
        """Make the ``image_id`` of a sample unique among datasets, which may use one id for different images.

        Equal ids mean one image. A single dataset keeps its ids.
        """
        if len(self.datasets) == 1 or "image_id" not in sample:
            return sample
        return {**sample, "image_id": f"{dataset}:{sample['image_id']!r}"}

    def rng(self, key: Key) -> np.random.Generator:
        """Return the generator of a sample's augmentation."""
        return np.random.default_rng([self.seed, *key])

    def fingerprints(self) -> list[str]:
        """Return the fingerprints of the datasets, for the record of a run."""
        return [dataset.fingerprint() for dataset in self.datasets]

    def check_counts(self, counts: Any) -> list[int]:
        """Check the counters of a checkpoint.

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
            # `size` as the index: no sample has this key, so no augmentation uses the same random numbers.
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
