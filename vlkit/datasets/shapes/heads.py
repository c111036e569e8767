"""Toy datasets for the other heads: questions, statements about pairs, dialogs, videos."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from vlkit.datasets.base import Sample
from vlkit.datasets.shapes.dataset import HEAD, SCENE, ShapesSeed, ShapesSide, ShapesSize, ToyDataset, within
from vlkit.datasets.shapes.pairs import Statement, make_statement
from vlkit.datasets.shapes.questions import ANSWERS, OPTIONS, Dialog, Question, make_dialog, questions
from vlkit.datasets.shapes.scene import Scene, sample_scene
from vlkit.datasets.shapes.videos import Video, ask_video, make_video, video_captions
from vlkit.processors.video_decoding import frame_indices
from vlkit.registry import DATASETS
from vlkit.registry.bounds import Frames, Range


@DATASETS.register("shapes_vqa")
class ShapesVQA(ToyDataset):
    """Questions about images.

    A sample holds ``image``, ``text_input`` (the question), ``answers`` (one), ``weights`` (1.0), ``kind`` of
    question, ``image_id``, ``sample_id`` and ``scene``. In training the question is sampled with the
    given generator.
    """

    answer_list = ANSWERS

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        scene = self.scene(index)
        asked = self.question(index) if not self.training else questions(scene, rng, 1)[0]
        return {
            "image": self._image(scene, rng),
            **self._question(asked),
            **self._ids(index),
            "scene": scene.to_dict(),
        }

    def question(self, index: int) -> Question:
        """Return the question about scene ``index`` in evaluation."""
        return questions(self.scene(index), self.stream(index, HEAD), 1)[0]


@DATASETS.register("shapes_nlvr")
class ShapesNLVR(ToyDataset):
    """Statements about pairs of images.

    A sample holds ``images`` [2, 3, H, W] (left, right), ``text_input`` (the statement), ``label`` (1: true,
    0: false), ``kind`` of statement, ``image_id``, ``sample_id`` and ``scenes`` (two).
    """

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        made = self.statement(index)
        return {
            "images": self._images((made.left, made.right), rng),
            "text_input": self._text(made.sentence),
            "label": int(made.label),
            "kind": made.kind,
            **self._ids(index),
            "scenes": [made.left.to_dict(), made.right.to_dict()],
        }

    def statement(self, index: int) -> Statement:
        """Return the pair and the sentence of sample ``index``."""
        return make_statement(self.stream(index, HEAD))

    def scene(self, index: int) -> Scene:
        """Return the left scene of the pair."""
        return self.statement(index).left


@DATASETS.register("shapes_dialog")
class ShapesDialog(ToyDataset):
    """Dialogs with candidate answers.

    A sample holds ``image``, ``text_input`` (the caption), ``dialog`` (per round a dict of ``question``,
    ``answer``, ``answer_options``, ``gt_index`` and ``gt_relevance``), ``image_id``, ``sample_id`` and ``scene``.

    Args:
        split: "train", "val" or "test".
        size: number of dialogs.
        seed: of the data, below 2**32.
        image_size: side of the images, pixels, at least 16.
        rounds: questions per dialog, at least 1.
        candidates: answers to choose from, 2 to 44.
        image_processor: called with (uint8 array [H, W, 3], generator); None scales to [-1, 1], float32 [3, H, W].
        text_processor: called with the caption, the questions and the answers.

    Raises:
        DataError: an argument is out of its range.
    """

    def __init__(
        self,
        split: str = "train",
        size: ShapesSize = 20000,
        seed: ShapesSeed = 0,
        image_size: ShapesSide = 48,
        rounds: Annotated[int, Range(1, 1_000)] = 5,
        candidates: Annotated[int, Range(2, OPTIONS)] = 20,
        image_processor: Any = None,
        text_processor: Any = None,
    ):
        super().__init__(split, size, seed, image_size, image_processor, text_processor)
        within("rounds", rounds, 1)
        within("candidates", candidates, 2, OPTIONS)
        self.rounds, self.candidates = rounds, candidates

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        scene, dialog = self.scene(index), self.dialog(index)
        rounds = [
            {
                "question": self._text(r.question),
                "answer": self._text(r.answer),
                "answer_options": [self._text(text) for text in r.candidates],
                "gt_index": r.gt_index,
                "gt_relevance": list(r.relevance),
            }
            for r in dialog.rounds
        ]
        return {
            "image": self._image(scene, rng),
            "text_input": self._text(dialog.caption),
            "dialog": rounds,
            **self._ids(index),
            "scene": scene.to_dict(),
        }

    def scene(self, index: int) -> Scene:
        """Return the scene of dialog ``index``: two or three objects, since one gives few questions."""
        stream = self.stream(index, SCENE)
        return sample_scene(stream, int(stream.integers(2, 4)))

    def dialog(self, index: int) -> Dialog:
        """Return the dialog about scene ``index``."""
        return make_dialog(self.scene(index), self.stream(index, HEAD), self.rounds, self.candidates)


@DATASETS.register("shapes_video")
class ShapesVideo(ToyDataset):
    """Short videos with captions.

    A sample holds ``video`` [F, 3, H, W], ``text_input`` (a caption), ``references`` (captions, the text among them),
    ``image_id`` and ``sample_id``.

    Args:
        split: "train", "val" or "test".
        size: number of videos.
        seed: of the data, below 2**32.
        image_size: side of the frames, pixels, at least 16.
        length: frames that a video has, at least 3.
        frames: frames in a sample, evenly spread over the video, at least 1.
        references: captions per video, 1 to 8.
        image_processor: called per frame with (uint8 array [H, W, 3], generator); None scales to [-1, 1], float32.
        text_processor: called with each text that a model reads (not with references).

    Raises:
        DataError: an argument is out of its range.
    """

    def __init__(
        self,
        split: str = "val",
        size: ShapesSize = 500,
        seed: ShapesSeed = 0,
        image_size: ShapesSide = 48,
        length: Annotated[int, Range(3, 10_000)] = 8,
        frames: Frames = 4,
        references: Annotated[int, Range(1, 8)] = 3,
        image_processor: Any = None,
        text_processor: Any = None,
    ):
        super().__init__(split, size, seed, image_size, image_processor, text_processor)
        within("length", length, 3)
        within("frames", frames, 1)
        within("references", references, 1, 8)
        self.length, self.frames, self.references = length, frames, references

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        video, captions, _ = self._made(index)
        return {**self._shown(video, index, rng), "text_input": self._text(captions[0]), "references": captions}

    def video(self, index: int) -> Video:
        """Return the video of sample ``index``."""
        return self._made(index)[0]

    def scene(self, index: int) -> Scene:
        """Return the first frame."""
        return self.video(index).frames[0]

    def _made(self, index: int) -> tuple[Video, list[str], Question]:
        stream = self.stream(index, HEAD)
        video = make_video(stream, self.length)
        return video, video_captions(video, stream, self.references), ask_video(video, stream)

    def _shown(self, video: Video, index: int, rng: np.random.Generator) -> Sample:
        scenes = [video.frames[i] for i in frame_indices(self.length, self.frames)]
        return {"video": self._images(scenes, rng), **self._ids(index)}


@DATASETS.register("shapes_video_vqa")
class ShapesVideoVQA(ShapesVideo):
    """The same videos, each with a question that only some frames answer.

    A sample holds ``video``, ``text_input`` (the question), ``answers`` (one), ``weights`` (1.0), ``kind`` of question,
    ``image_id`` and ``sample_id``. Arguments are those of :class:`ShapesVideo`.
    """

    answer_list = ANSWERS

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        video, _, asked = self._made(index)
        return {**self._shown(video, index, rng), **self._question(asked)}
