"""The dataset ``web_shards``: images with captions in webdataset shards, as img2dataset writes them."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from vlkit.datasets.annotated import as_paths
from vlkit.datasets.annotation_files import short_names
from vlkit.datasets.base import SPLITS, Sample, VLDataset, check_arguments
from vlkit.datasets.caption_index import listed_captions
from vlkit.datasets.columns import CAPTION, ColumnKeys
from vlkit.datasets.faults import listed, short
from vlkit.datasets.media import Media, evenly, pixel_limit, sample_name
from vlkit.datasets.shard_files import check_found, escaped, expand
from vlkit.datasets.tar_index import TarIndex, index_of
from vlkit.datasets.texts import Text, draw_caption, texts_of, valid_text
from vlkit.errors import BadSample, DataError
from vlkit.io.json import parse_json
from vlkit.io.text import TextError, decode
from vlkit.processors.open_image import open_image
from vlkit.registry import DATASETS
from vlkit.registry.bounds import FilledText, PositiveInt


class ShardTexts:
    """Reads the captions of a sample from its text file and its JSON.

    Args:
        keys: of the column ``caption``.
        shard: named in errors about all samples.
    """

    def __init__(self, keys: ColumnKeys, shard: Path):
        self.caption_key, self._columns = keys.keys["caption"], keys.of(shard)
        self._finished = False

    @staticmethod
    def keys(caption_key: str | None) -> ColumnKeys:
        """Return the columns of the JSON."""
        return ColumnKeys([CAPTION], ["caption"], {"caption": caption_key})

    def captions(self, text: bytes, data: bytes, name: str, need: bool) -> list[str]:
        """Return the captions of a sample without blank and repeated ones.

        Args:
            text: content of its text file; empty if it has none.
            data: content of its JSON; empty if it has none.
            name: of the sample.
            need: whether the JSON must have a caption.

        Raises:
            BadSample: its text or its JSON cannot be read, or lacks a caption that is needed.
            DataError: two keys of the JSON could be the caption; a BadSample after :meth:`finish`.
        """
        own = [] if self.caption_key is not None else list(filter(None, [_decoded(text, name)]))
        if not data:
            return own
        try:
            given = self._given(data, name, need)
        except DataError:  # next to a text file, a JSON may hold anything
            if own:
                return own
            raise
        if own and not isinstance(given, list):
            return own
        plain = map(valid_text, given if isinstance(given, list) else [given])
        return list(dict.fromkeys(filter(None, [*own, *(each.strip() for each in plain)])))

    def finish(self) -> None:
        """Call after some samples.

        Raises:
            DataError: no JSON had the key that was set.
        """
        self._finished = True
        self._columns.finish()

    def _given(self, data: bytes, name: str, need: bool) -> str | list[str]:
        """Return the caption of a JSON, or a list of several; "" if it has none and needs none."""
        try:
            fields = parse_json(data, name)
        except TextError as error:
            raise BadSample(name, f"its JSON cannot be read ({error.reason.rstrip('.')})") from error
        try:
            found = self._columns.fields(fields) if isinstance(fields, dict) else f"it is a {type(fields).__name__}"
        except DataError as error:
            if not self._finished:
                raise
            raise BadSample(name, f"its JSON is ambiguous: {str(error).rstrip('.')}") from error
        if isinstance(found, str):
            if need:
                raise BadSample(name, f"its JSON has no caption: {found.rstrip('.')}")
            return ""
        texts = [each for each in listed_captions(found["caption"]) if each is not None]
        if not all(isinstance(each, str) for each in texts):
            what = f"{found.shown('caption')} is {short(found['caption'])}"
            raise BadSample(name, f"{what} in its JSON, neither a text nor a list of texts")
        return texts if isinstance(found["caption"], list) else "".join(texts)


def _decoded(text: bytes, name: str) -> str:
    try:
        return decode(text, name).strip()
    except TextError as error:
        raise BadSample(name, f"its text cannot be read: {error.reason.rstrip('.')}") from error


logger = logging.getLogger(__name__)
_TRIED, _READ = 8, 200  # samples whose texts are read to find faults: when the dataset is opened, and by a check


@DATASETS.register("web_shards")
class WebShards(VLDataset):
    """Images with captions in webdataset shards: tar files with ``<key>.jpg`` (jpeg, png, webp) and ``<key>.txt`` or
    ``<key>.json`` (``{"caption": text}`` or a list of texts) for each sample. If there are both, the text file
    has precedence unless it is blank, and the other texts of a list in the JSON are further captions. A key may hold
    dots: the part after the last one is the suffix, in upper or lower case.

    Samples are read by random access, so that their order depends on the run's seed as for any other dataset, and a run
    can be resumed. The positions of samples are read from the headers of a shard once and cached. A sample takes about
    60 bytes of memory, which worker processes share.

    Every image is one sample. In split "train" its text is one of its captions, sampled if there are several; in the
    other splits all are under ``references``. ``image_id`` is ``<path of the shard>:<key>``,
    ``sample_id`` is ``<name of the shard>:<key>``.

    Args:
        path: a shard, a pattern (``cc3m/{00000..00331}.tar``, ``cc3m/*.tar``), a folder of ``*.tar`` (of an output of
            ``vlkit capfilt``: ``OUT/kept``), or several of these.
        split: "train", "val" or "test": how samples are made. It does not select shards.
        image_key: suffix of the images, if samples have several (``png``, ``rgb.jpg``); None: any of jpg, jpeg, png
            and webp.
        caption_key: key of the caption in the JSON, which is then the only source; None: ``caption`` or another
            common name (``captions``, ``text``, ``title``, ...).
        image_processor: called with (encoded image as bytes, generator).
        text_processor: called with ``text_input`` (not with references).
        limit: number of samples to use, the first ones; None: all.

    Raises:
        ConfigError: an argument is wrong, or there is no image processor.
        DataError: a shard cannot be read, or none has a sample.
    """

    plain_images = True

    def __init__(
        self,
        path: FilledText | list[FilledText],
        split: Literal["train", "val", "test"] = "train",
        image_key: str | None = None,
        caption_key: str | None = None,
        image_processor: Any = None,
        text_processor: Any = None,
        limit: PositiveInt | None = None,
    ):
        keys = ShardTexts.keys(caption_key)
        others = keys.problems() + ["image_key: '' given; a suffix such as png is needed."] * (image_key == "")
        check_arguments("web_shards", {"split": (split, SPLITS)}, limit, image_processor, others=others)
        self.split, self.image_processor, self.text_processor = split, image_processor, text_processor
        self.shards = find_shards(as_paths(path))
        self._names = short_names(self.shards)
        indices = _indices(self.shards, None if image_key is None else image_key.lstrip("."))
        self._problems = [f"{shard}: {text}." for shard, index in zip(self.shards, indices) for text in index.problems]
        for problem in self._problems:
            logger.warning("%s", problem)
        unread = _unread(indices)
        self._first = np.cumsum([0, *(len(index.rows) for index in indices)])  # sample that each shard starts with
        self._rows = np.concatenate([index.rows for index in indices])
        self._keys = np.concatenate([index.keys for index in indices])
        bytes_before = np.cumsum([0, *(len(index.keys) for index in indices)])
        ends = [index.ends + before for index, before in zip(indices, bytes_before)]
        self._ends = np.concatenate([[0], *ends]).astype(np.int64)
        if not len(self._rows):
            holds = f" Its members are {unread}." if unread else ""
            said = f" ({' '.join(self._problems[:3])})" if self._problems else ""
            raise DataError(
                f"{self.shards[0]}{' and others' * (len(self.shards) > 1)}: no sample has an image.{holds}{said}"
            )
        if unread:
            logger.warning("%s: members that are not read: %s", self.shards[0].parent, unread)
        self._size = len(self._rows) if limit is None else min(limit, len(self._rows))
        self.caption_key, self._texts = caption_key, ShardTexts(keys, self.shards[0])
        self._check_captions()

    def __len__(self) -> int:
        return self._size

    @property
    def training(self) -> bool:
        """Whether captions are sampled."""
        return self.split == "train"

    def place(self, index: int) -> tuple[Path, str]:
        """Return shard and key of sample ``index``."""
        shard, key = self._place(index)
        return self.shards[shard], key

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        shard, key = self._place(index)
        name = self._name(index)
        image, text, data = self._read(index, "image", "text", "json")
        captions = self._texts.captions(text, data, name, self.training)
        sample = draw_caption(captions, name, self.training, self.text_processor, rng)
        sample["image_id"] = f"{self.shards[shard]}:{key}"
        with sample_name(name):
            sample["image"] = self.image_processor(image, rng)
        return sample

    def problems(self, limit: int = 20_000) -> list[str]:
        """Return sentences about parts of shards that cannot be read, and samples without a caption."""
        found, chosen = list(self._problems), evenly(len(self), limit)
        blank = (self._rows["text_size"] <= 0) & (self._rows["json_size"] <= 0)
        without = [self._name(index) for index in chosen if blank[index]]
        if without:
            found.append(f"{len(without)} of the {len(chosen)} samples checked have no caption ({listed(without)}).")
        faults = []
        for index in [index for index in evenly(len(self), _READ) if not blank[index]]:
            try:
                if not self._captions(index) and self.training:
                    faults.append((self._name(index), "it has no caption"))
            except BadSample as error:
                faults.append((self._name(index), error.reason))
        if faults:
            names, why = listed([name for name, _ in faults]), faults[0][1]
            found.append(f"{len(faults)} of {min(_READ, len(self))} samples have texts of no use ({names}): {why}.")
        return found + self.media_problems()

    def media(self) -> Media:
        limit = pixel_limit(self.image_processor)

        def decode(index: int) -> bool:
            with sample_name(self._name(index)):
                open_image(self._read(index, "image")[0], limit)
            return True

        return Media("image", len(self), decode)

    def texts(self, limit: int = 20_000) -> list[Text]:
        found: list[tuple[str, str]] = []
        for index in evenly(len(self), min(limit, _READ)):
            with contextlib.suppress(BadSample):  # reported by problems()
                found += [(self._name(index), text) for text in self._captions(index)]
        return texts_of(found, self.text_processor)

    def images(self) -> Iterator[tuple[str | int, str]]:
        for index in range(len(self)):
            shard, key = self.place(index)
            yield f"{shard}:{key}", f"{shard}/{key}"

    def fingerprint(self) -> str:
        """Return split, number of samples, and a hash of names, sizes and indices of the shards, not of pixels."""
        found = hashlib.sha256(self._rows.tobytes() + self._keys.tobytes())
        for shard in self.shards:
            found.update(f"{shard.name} {shard.stat().st_size}\n".encode())
        return f"{type(self).__name__}:{self.split}:{len(self)}:{found.hexdigest()}"

    def _place(self, index: int) -> tuple[int, str]:
        shard = int(np.searchsorted(self._first, index, side="right")) - 1
        key = self._keys[self._ends[index] : self._ends[index + 1]].tobytes()
        return shard, escaped(key.decode("utf-8", "surrogateescape"))

    def _name(self, index: int) -> str:
        shard, key = self._place(index)
        return f"{self._names[shard]}:{key}"

    def _read(self, index: int, *parts: str) -> list[bytes]:
        """Return the bytes of "image", "text" or "json" of a sample; empty if it has none."""
        row = self._rows[index]
        try:
            with open(self.place(index)[0], "rb") as file:
                return [_part(file, row[part], row[f"{part}_size"]) for part in parts]
        except OSError as error:
            raise BadSample(self._name(index), f"the shard cannot be read ({error.strerror})") from error

    def _captions(self, index: int) -> list[str]:
        text, data = self._read(index, "text", "json")
        return self._texts.captions(text, data, self._name(index), self.training)

    def _check_captions(self) -> None:
        """Read some captions, so that a wrong ``caption_key`` is an error at once."""
        if self.caption_key is not None and (self._rows["json"] < 0).all():
            raise DataError(f"{self.shards[0]}: caption_key is {self.caption_key!r}, and no sample has a JSON.")
        for index in evenly(len(self), _TRIED):
            with contextlib.suppress(BadSample):
                self._captions(index)
        self._texts.finish()


def _part(file: IO[bytes], place: int, size: int) -> bytes:
    if place < 0:
        return b""
    file.seek(int(place))
    return file.read(int(size))


def find_shards(paths: list[str]) -> list[Path]:
    """Return the files that paths, patterns and folders name, in order.

    Raises:
        DataError: there is none, or one is named twice.
    """
    return check_found(paths, [shard for path in paths for shard in expand(os.fspath(path))])


def _indices(shards: list[Path], image_key: str | None) -> list[TarIndex]:
    """Return the index of each shard. The processes of a run start at different shards, so that they share the work."""
    world, rank = (int(os.environ.get(name) or default) for name, default in (("WORLD_SIZE", "1"), ("RANK", "0")))
    first = len(shards) * rank // max(world, 1) % len(shards)
    found = {shard: index_of(shard, image_key) for shard in shards[first:] + shards[:first]}
    return [found[shard] for shard in shards]


def _unread(indices: list[TarIndex]) -> str:
    """Return the members that are not part of a sample: ".npy (30), .seg.png (30)"."""
    counts: Counter[str] = Counter()
    for index in indices:
        counts.update(index.unread)
    return ", ".join(f"{suffix} ({count})" for suffix, count in counts.most_common(10))
