"""The dataset ``image_text``: image files with captions from an annotation file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from vlkit.datasets.annotated import AnnotatedDataset, as_paths
from vlkit.datasets.annotation_files import FORMATS
from vlkit.datasets.base import SPLITS, Sample, check_arguments
from vlkit.datasets.caption_index import CaptionTable, caption_columns, read_rows
from vlkit.datasets.columns import Key
from vlkit.datasets.faults import few
from vlkit.datasets.media import evenly
from vlkit.datasets.texts import Text
from vlkit.errors import DataError
from vlkit.registry import DATASETS
from vlkit.registry.bounds import Column, FilledText, PositiveInt


@DATASETS.register("image_text")
class ImageText(AnnotatedDataset):
    """Images with captions: your own files, COCO's, or those of the paper (Karpathy's split).

    In split "train" every pair of an image and a caption is a sample. In the other splits every image is one, with all
    its captions under ``references``; ``text_input`` is the first caption, or empty if there is none.
    ``image_id`` is that of the row, else the image's name; ``sample_id`` is ``<annotation file>:<row>``. A row's
    ``domain`` (in nocaps) is kept.

    A row is ``{"image": "a.jpg", "caption": "text"}``; the caption may be a list of texts, and an ``image_id``
    may be given. Rows are in a JSON list, in JSON lines, or in a CSV file with a header (columns separated by
    commas or TABs). A txt file holds ``name<TAB>caption`` in each line. A COCO file holds
    ``images`` and ``annotations``; a file of Karpathy's splits (``dataset_coco.json``) holds ``images`` with their
    ``sentences``. Common other names of columns (``file_name``, ``filepath``, ``text``, ``title``, ...) are found.

    Args:
        path: annotation file, or several, or a folder that holds one file ``captions.json`` (jsonl, csv, tsv, txt) or,
            as Hugging Face's imagefolder, ``metadata.jsonl`` (csv) with ``file_name``, there or in the folder of the
            split (``train``, ``validation``, ``test``).
        image_root: folder that names of images are relative to; None: that of the annotation file.
        split: "train", "val" or "test": how samples are made. It selects rows only in files with several splits (see
            ``part``).
        format: of the annotation files; "auto": by extension and content.
        part: value or values of ``split`` of the rows to read; None: all rows, or in Karpathy's files those of
            ``split``: "train" includes ``restval``.
        image_key, caption_key, image_id_key: names of the columns; None: ``image``, ``caption``, ``image_id`` or a
            common other name. Positions from 0 on for rows that are lists, and for CSV files without a header.
        image_pattern: makes the file name of an image from the value of its column: ``images/{}.jpg``,
            ``COCO_val2014_{:012d}.jpg``.
        image_ids: "rows": those of the rows; "coco": the numbers at the end of COCO's file names.
        image_processor: called with (path, generator).
        text_processor: called with ``text_input`` (not with references).
        limit: number of samples to use, the first ones; None: all.

    Raises:
        ConfigError: an argument is wrong, or there is no image processor.
        DataError: the annotations cannot be read, or have no captions to train on.
    """

    plain_images = True

    def __init__(
        self,
        path: FilledText | list[FilledText],
        image_root: str | None = None,
        split: Literal["train", "val", "test"] = "train",
        format: Literal["auto", "json", "jsonl", "csv", "txt", "coco", "karpathy"] = "auto",
        part: str | list[str] | None = None,
        image_key: str | Column | None = None,
        caption_key: str | Column | None = None,
        image_id_key: str | Column | None = None,
        image_pattern: str | None = None,
        image_ids: Literal["rows", "coco"] = "rows",
        image_processor: Any = None,
        text_processor: Any = None,
        limit: PositiveInt | None = None,
    ):
        paths, parts = as_paths(path), [part] if isinstance(part, str) else part or []
        choices = {"split": (split, SPLITS), "format": (format, FORMATS), "image_ids": (image_ids, ("rows", "coco"))}
        keys: dict[str, Key | None] = {"image": image_key, "caption": caption_key, "image_id": image_id_key}
        columns = caption_columns(split == "train", keys, image_pattern)
        check_arguments("image_text", choices, limit, image_processor, paths, columns.problems())
        super().__init__(paths, image_root, split, image_processor, text_processor)
        rows = [read_rows(file, format, self.training, image_ids, columns, split, parts) for file in self.files]
        self.table = CaptionTable(self._sources(rows))
        size = len(self.table.captions if self.training else self.table.images)
        if size == 0:
            files = ", ".join(map(str, self.files))
            if not self.training:
                raise DataError(f"{files}: no row can be used.")
            raise DataError(f"{files}: no image has a caption to train on. Add captions, or set split: val or test.")
        self._set_size(size, limit)

    def image_path(self, index: int) -> str:
        """Return the image file of sample ``index``."""
        return self._path(self.table.images[self._image_of(index)])

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        sample = self.table.sample(index, self.training, self.text_processor)
        sample["image"] = self.image_processor(self.image_path(index), rng)
        return sample

    def problems(self, limit: int = 20_000) -> list[str]:
        chosen = evenly(len(self), limit)
        images = sorted({self._image_of(index) for index in chosen})
        found = self._file_problems([self._path(self.table.images[image]) for image in images])
        return found + self._caption_problems(chosen)

    def texts(self, limit: int = 20_000) -> list[Text]:
        return self.table.texts(evenly(len(self), limit), self.training, self.text_processor)

    def images(self) -> Iterator[tuple[str | int, str]]:
        used = np.unique(self.table.image_of[: len(self)]) if self.training else range(len(self))
        for image in map(int, used):
            yield self.table.image_id(image), self._path(self.table.images[image])

    def _caption_problems(self, chosen: list[int]) -> list[str]:
        """Return captions and ids that harm training or scores."""
        table, found = self.table, []
        if self.training:
            empty = [table.caption_place(i) for i in chosen if not table.captions[i].strip()]
            without = [table.image_place(int(image)) for image in np.flatnonzero(table.counts == 0)]
            if without:
                found.append(f"{few('image', without)} without a caption, so not trained on.")
        else:
            blank = [i for i in chosen if any(not caption.strip() for caption in table.captions_of(i))]
            empty = [table.image_place(i) for i in blank]
        if empty:
            found.append(f"{few('sample', empty)} with an empty caption. Fill it or delete it.")
        if table.conflicts:
            found.append(
                f"{table.conflict_count} image ids do not tell images apart ({'; '.join(table.conflicts)}): samples "
                "count as one image where their ids are equal. Correct the ids, or leave image_id out of the file."
            )
        return found

    def _image_of(self, index: int) -> int:
        return self.table.image(index, self.training)
