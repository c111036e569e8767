"""The datasets ``video_text`` and ``video_question``: video files with captions, or with questions and answers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from vlkit.datasets.annotated import AnnotatedDataset, as_paths
from vlkit.datasets.base import SPLITS, Sample, check_arguments
from vlkit.datasets.caption_index import CaptionTable, caption_columns, read_rows
from vlkit.datasets.columns import ColumnKeys, Key
from vlkit.datasets.media import FEW_VIDEOS, Media, evenly, pixel_limit
from vlkit.datasets.question_table import QuestionTable, question_columns, read_questions
from vlkit.datasets.texts import PackedStrings, Text, read_answer_list
from vlkit.errors import BadSample, DataError
from vlkit.processors.open_image import open_image
from vlkit.processors.video_decoding import sampling_problems
from vlkit.registry import DATASETS
from vlkit.registry.bounds import Column, FilledText, Frames, PositiveInt

SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov")


def find_video(root: str, name: str) -> str:
    """Return the file or the folder of frames called ``name`` in the folder ``root``: as written, with one of
    :data:`SUFFIXES` added, or with another one of them.

    Raises:
        BadSample: there is none.
    """
    path = os.path.join(root, name)
    stem, suffix = os.path.splitext(path)
    stems = [path, stem] if suffix.lower() in SUFFIXES else [path]
    for candidate in [path, *(each + end for each in stems for end in SUFFIXES), *stems[1:]]:
        if os.path.exists(candidate):
            return candidate
    raise BadSample(path, f"no such file, nor one that ends in {', '.join(SUFFIXES)}")


class _Videos(AnnotatedDataset):
    """Base of datasets of videos: annotation files whose rows name videos, and the decoding of these."""

    root_key = "video_root"
    noun = "videos"

    def __init__(
        self,
        path: FilledText | list[FilledText],
        video_root: str | None,
        split: str,
        frames: int,
        sampling: str,
        processors: tuple[Any, Any, Any],
        limit: int | None,
        columns: ColumnKeys,
    ):
        image_processor, self.video_processor, text_processor = processors
        others = sampling_problems(frames, sampling) + columns.problems()
        processor, paths = image_processor or self.video_processor, as_paths(path)
        check_arguments("videos", {"split": (split, SPLITS)}, limit, processor, paths, others)
        super().__init__(paths, video_root, split, image_processor, text_processor)
        self.frames, self.sampling = frames, sampling

    @property
    def names(self) -> PackedStrings:
        """Return the names of all videos."""
        raise NotImplementedError

    def _video_of(self, index: int) -> int:
        """Return the video of a sample."""
        return index

    def _clip(self, video: int, rng: np.random.Generator) -> Any:
        """Decode a video as [F, 3, S, S]."""
        path = find_video(self.root, self.names[video])
        if self.video_processor is not None:
            return self.video_processor(path, rng)
        from vlkit.processors.video import sample_frames, stack_frames

        return stack_frames(sample_frames(path, self.frames, self.sampling), self.image_processor, rng)

    def _exists(self, path: str) -> bool:
        try:
            return bool(find_video("", path))
        except BadSample:
            return False

    def problems(self, limit: int = 20_000) -> list[str]:
        videos = sorted({self._video_of(index) for index in evenly(len(self), limit)})
        return self._file_problems([self._path(self.names[video]) for video in videos])

    def media(self) -> Media:
        names = list(dict.fromkeys(self.names[self._video_of(index)] for index in range(len(self))))
        processor = self.video_processor or self.image_processor
        frames, sampling = getattr(processor, "frames", self.frames), getattr(processor, "sampling", self.sampling)
        limit = pixel_limit(processor)

        def decode(index: int) -> bool:
            from vlkit.processors.video import sample_frames

            try:
                path = find_video(self.root, names[index])
            except BadSample:
                return False
            decoded = sample_frames(path, frames, sampling)
            for frame in dict.fromkeys(frame for frame in decoded if isinstance(frame, str)):  # a folder of images
                open_image(frame, limit)
            return True

        return Media("video", len(names), decode, FEW_VIDEOS)

    def images(self) -> Iterable[tuple[str | int, str]]:
        for name in map(self.names.__getitem__, range(len(self.names))):
            yield name, self._path(name)

    def _settings(self) -> Sequence[Any]:
        return self.frames, self.sampling


@DATASETS.register("video_text")
class VideoText(_Videos):
    """Videos with captions, such as MSR-VTT's.

    In split "train" every pair of a video and a caption is a sample. In the others every video is one, with all
    its captions under ``references``; ``text_input`` is the first caption. ``video`` is [F, 3, S, S], ``image_id`` the
    video's name, ``sample_id`` is ``<annotation file>:<row>``.

    A row is ``{"video": "a.mp4", "caption": "text"}``, or has ``clip_name`` in place of ``video``; the caption may be a
    list. Rows are in a JSON list, in JSON lines, or in a CSV file with a header. A video is a file or a folder
    of images; its name may lack the extension or have another one.

    Args:
        path: annotation file, or several.
        video_root: folder that names of videos are relative to; None: that of the annotation file.
        split: "train", "val" or "test": how samples are made. It does not select rows.
        frames: number per video. Paper: 8.
        sampling: "even" or "original"; see :func:`~vlkit.processors.video_decoding.frame_indices`.
        video_key, caption_key: names of the columns; None: ``video``, ``caption`` or a common other name. Positions
            from 0 on for rows that are lists, and for CSV files without a header.
        video_pattern: makes the file name of a video from the value of its column: ``video{}.mp4``.
        image_processor: called for each frame with (image, generator).
        video_processor: called with (path, generator) in place of ``frames``, ``sampling`` and ``image_processor``.
        text_processor: called with ``text_input`` (not with references).
        limit: number of samples to use, the first ones; None: all.

    Raises:
        ConfigError: an argument is wrong, or there is no processor.
        DataError: the annotations cannot be read, or have no captions to train on.
    """

    def __init__(
        self,
        path: FilledText | list[FilledText],
        video_root: str | None = None,
        split: Literal["train", "val", "test"] = "train",
        frames: Frames = 8,
        sampling: Literal["even", "original"] = "even",
        video_key: str | Column | None = None,
        caption_key: str | Column | None = None,
        video_pattern: str | None = None,
        image_processor: Any = None,
        video_processor: Any = None,
        text_processor: Any = None,
        limit: PositiveInt | None = None,
    ):
        keys = {"video": video_key, "caption": caption_key}
        columns = caption_columns(split == "train", keys, video_pattern, "video")
        processors = (image_processor, video_processor, text_processor)
        super().__init__(path, video_root, split, frames, sampling, processors, limit, columns)
        rows = [read_rows(file, need_captions=self.training, columns=columns, media="video") for file in self.files]
        self.table = CaptionTable(self._sources(rows))
        size = len(self.table.captions if self.training else self.table.images)
        if size == 0:
            what = "no video has a caption to train on" if self.training else "no row can be used"
            raise DataError(f"{', '.join(map(str, self.files))}: {what}.")
        self._set_size(size, limit)

    @property
    def names(self) -> PackedStrings:
        return self.table.images

    def _video_of(self, index: int) -> int:
        return self.table.image(index, self.training)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        sample = self.table.sample(index, self.training, self.text_processor)
        sample["video"] = self._clip(self._video_of(index), rng)
        return sample

    def texts(self, limit: int = 20_000) -> list[Text]:
        return self.table.texts(evenly(len(self), limit), self.training, self.text_processor)


@DATASETS.register("video_question")
class VideoQuestion(_Videos):
    """Videos with questions and answers, such as MSRVTT-QA and MSVD-QA.

    A sample is a video, decoded once, with all its questions: ``video`` [F, 3, S, S], lists ``text_input`` (questions),
    ``answers``, ``weights``, ``question_id`` and, outside of split "train", ``references`` with one entry a question,
    each as in :class:`~vlkit.datasets.vqa.ImageQuestion`; ``image_id``, and ``sample_id`` of the first question.

    A row is ``{"question_id": 1, "question": "text", "answer": "text", "video": "a.mp4"}``; the answer may be a list,
    or missing outside of training. Files and videos are as for :class:`VideoText`.

    Args:
        path: annotation file, or several.
        video_root: folder that names of videos are relative to; None: that of the annotation file.
        split: "train", "val" or "test": how samples are made. It does not select rows.
        frames: number per video. Paper: 16.
        sampling: "even" or "original"; see :func:`~vlkit.processors.video_decoding.frame_indices`.
        video_key, question_key, answer_key, question_id_key: names of the columns, as for :class:`VideoText`.
        video_pattern: makes the file name of a video from the value of its column: ``video{}.mp4``.
        answer_list: file of the candidate answers of a model; see
            :func:`~vlkit.datasets.texts.read_answer_list`.
        image_processor: called for each frame with (image, generator).
        video_processor: called with (path, generator) in place of ``frames``, ``sampling`` and ``image_processor``.
        text_processor: called with each question.
        limit: number of videos to use, the first ones; None: all.

    Raises:
        ConfigError: an argument is wrong, or there is no processor.
        DataError: the annotations or the answers cannot be read.
    """

    def __init__(
        self,
        path: FilledText | list[FilledText],
        video_root: str | None = None,
        split: Literal["train", "val", "test"] = "train",
        frames: Frames = 16,
        sampling: Literal["even", "original"] = "even",
        video_key: str | Column | None = None,
        question_key: str | Column | None = None,
        answer_key: str | Column | None = None,
        question_id_key: str | Column | None = None,
        video_pattern: str | None = None,
        answer_list: str | None = None,
        image_processor: Any = None,
        video_processor: Any = None,
        text_processor: Any = None,
        limit: PositiveInt | None = None,
    ):
        keys: dict[str, Key | None] = {"video": video_key, "question": question_key, "answer": answer_key}
        columns = question_columns("video", split == "train", {**keys, "question_id": question_id_key}, video_pattern)
        processors = (image_processor, video_processor, text_processor)
        super().__init__(path, video_root, split, frames, sampling, processors, limit, columns)
        self.answer_list = read_answer_list(answer_list) if answer_list is not None else None
        rows = [read_questions(file, "auto", "video", self.training, columns=columns) for file in self.files]
        self.table = QuestionTable(self._sources(rows))
        self._by_video = np.argsort(self.table.name_of, kind="stable").astype(np.int32)
        self._ends = np.cumsum(np.bincount(self.table.name_of))
        self._set_size(len(self.names), limit)

    @property
    def names(self) -> PackedStrings:
        return self.table.names

    def questions_of(self, index: int) -> list[int]:
        """Return the positions of the questions of sample ``index`` in the files."""
        start = self._ends[index - 1] if index else 0
        return self._by_video[start : self._ends[index]].tolist()

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        asked = self._usable(index)
        several = [key for key in asked[0] if key not in ("image_id", "sample_id")]
        return {
            **asked[0],
            **{key: [each[key] for each in asked] for key in several},
            "video": self._clip(index, rng),
        }

    def _usable(self, index: int) -> list[Sample]:
        """Return the questions about a video that can be used.

        Raises:
            BadSample: there is none.
        """
        asked: list[Sample] = []
        bad: BadSample | None = None
        for question in self.questions_of(index):
            try:
                asked.append(self.table.sample(question, self.training, self.text_processor))
            except BadSample as error:  # reported by check as a text that the processor empties
                bad = error
        if bad is not None and not asked:
            raise bad
        return asked

    def texts(self, limit: int = 20_000) -> list[Text]:
        return self.table.texts(evenly(len(self.table), limit), self.text_processor)

    def problems(self, limit: int = 20_000) -> list[str]:
        return super().problems(limit) + self.table.problems(evenly(len(self.table), limit), self.training)
