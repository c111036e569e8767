"""Base class of datasets: length, samples that depend only on an index and a generator, checks of the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vlkit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from vlkit.datasets.media import Media, MediaCheck
    from vlkit.datasets.texts import Text

Sample = dict[str, Any]


class VLDataset:
    """A map-style dataset.

    A sample is a dict with ``image`` (float tensor [3, H, W], normalized), texts under ``text_input`` (and
    ``text_output``) as str, ``image_id`` (str or int, equal for samples of the same image) and ``sample_id`` (str,
    unique within the dataset). Evaluation samples have ``references`` (list of str) if there are several.

    Subclasses implement ``__len__`` and :meth:`sample`, and list the values of their argument ``split``, if they have
    one, in ``splits``. ``plain_images`` states that samples may hold the output of any ``image_processor``.
    ``bad_rows`` are the position and reason of rows of annotation files that give no sample. An experiment fills it;
    loaders list them with the samples that cannot be used.
    """

    splits: Sequence[str] = ()
    plain_images: bool = False
    bad_rows: Sequence[tuple[str, str]] = ()
    _media_check: MediaCheck | None = None

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} does not define __len__")

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return sample ``index``; all randomness (augmentation, choice of caption) comes from ``rng``.

        Args:
            index: 0 <= index < len(self).
            rng: seeded by the caller from (seed, dataset, epoch, index), so that a sample is the same in any process or
                worker.

        Raises:
            BadSample: this sample cannot be used. The loader skips it and records it.
        """
        raise TypeError(f"{type(self).__name__} does not define sample()")

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.sample(index, np.random.default_rng([index]))

    def problems(self, limit: int = 20_000) -> list[str]:
        """Check at most ``limit`` rows, evenly spread, without reading all data. Return a sentence per problem."""
        return []

    def images(self) -> Iterable[tuple[str | int, str]]:
        """Yield ``image_id`` and file of every image (or video) that are known without reading it; they show whether
        training data occur in an evaluation set. Empty if nothing is known."""
        return ()

    def media(self) -> Media | None:
        """Return the images (or videos) of the samples, to decode them before a run; None if they are generated or
        unknown."""
        return None

    def check_media(self, every: bool = False) -> MediaCheck | None:
        """Decode some or all of :meth:`media` once and cache the result; None if there are none."""
        from vlkit.datasets.media import check_media

        known = self._media_check
        if known is None or (every and known.decoded < known.count):
            media = self.media()
            known = self._media_check = None if media is None else check_media(media, every)
        return known

    def media_problems(self) -> list[str]:
        """Return a sentence for each decoded image that cannot be used; decode a few if none were."""
        found = self.check_media()
        return found.problems if found else []

    def texts(self, limit: int = 20_000) -> list[Text]:
        """Return the texts of at most ``limit`` samples, evenly spread; none if that needs images.

        They show whether a tokenizer fits, and which texts a processor empties.
        """
        return []

    def fingerprint(self) -> str:
        """Return a short text that changes with the data (file hashes, generator seeds); recorded with each run."""
        return f"{type(self).__name__}:{len(self)}"


NEIGHBORS, SPREAD = 20, 100


def substitutes(index: int, size: int, neighbors: int = NEIGHBORS, spread: int = SPREAD) -> Iterator[int]:
    """Yield samples to try until one can be used: ``index``, those after it, then some from the whole dataset.

    Unusable samples are often adjacent (a missing folder), and the rest of the data is good.

    Args:
        index: 0 <= index < size.
        size: of the dataset.
        neighbors: number of consecutive ones.
        spread: number of further ones, evenly spread.
    """
    row = min(neighbors, size)
    yield from ((index + shift) % size for shift in range(row))
    left = size - row
    number = min(spread, left)
    yield from ((index + row + (2 * place + 1) * left // (2 * number)) % size for place in range(number))


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Make a batch of samples: tensors and arrays of equal shape are stacked, other values become lists."""
    import torch

    batch: dict[str, Any] = {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        if isinstance(values[0], np.ndarray):
            values = [torch.from_numpy(value) for value in values]
        if torch.is_tensor(values[0]) and all(value.shape == values[0].shape for value in values):
            batch[key] = torch.stack(values)
        else:
            batch[key] = values
    return batch


SPLITS = ("train", "val", "test")


def check_arguments(
    dataset: str,
    choices: Mapping[str, tuple[str, Sequence[str]]],
    limit: int | None,
    image_processor: Any,
    paths: Sequence[Any] = ("",),
    others: Sequence[str] = (),
) -> None:
    """Check the arguments of a dataset's constructor and raise all problems together.

    Args:
        dataset: its name.
        choices: argument to the given value and the allowed values.
        limit: at least 1, or None.
        image_processor: must not be None.
        paths: different files, at least one.
        others: problems found elsewhere.

    Raises:
        ConfigError: an argument is wrong.
    """
    problems = []
    if not paths or len(set(map(str, paths))) < len(paths):
        problems.append(f"path: {paths} given; name one annotation file or several different ones.")
    for name, (given, allowed) in choices.items():
        if given not in allowed:
            problems.append(f"{name}: {given!r} given, {', '.join(allowed)} allowed.{did_you_mean(given, allowed)}")
    problems += others
    if limit is not None and limit < 1:
        problems.append(f"limit: {limit} given; it must be 1 or more (null: no limit).")
    if image_processor is None:
        problems.append(
            "image_processor: none is set. In a run the model's card gives one; else set it, for example "
            "image_processor: {name: blip_image_eval, image_size: 384}."
        )
    if problems:
        raise ConfigError([f"{dataset}: {problem}" for problem in problems])
