"""Datasets over the same world for the other heads: questions, statements over pairs, dialogs, videos."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from vlkit.datasets.base import Sample
from vlkit.datasets.shapes.dataset import HEAD, SCENE, ShapesSeed, ShapesSide, World, WorldSize, within
from vlkit.datasets.shapes.dialogs import OPTIONS, Dialog, make_dialog
from vlkit.datasets.shapes.pairs import Statement, make_statement
from vlkit.datasets.shapes.questions import ANSWERS, Question, questions
from vlkit.datasets.shapes.scene import Scene, sample_scene
from vlkit.datasets.shapes.videos import Video, ask_video, make_video, video_captions
from vlkit.processors.video_sampling import frame_indices
from vlkit.registry import DATASETS
from vlkit.registry.bounds import Frames, Range


@DATASETS.register("shapes_vqa")
class ShapesVQA(World):
    """Questions about images.

    A sample holds ``image``, ``text_input`` (the question), ``answers`` (one), ``weights`` (1.0), ``kind`` of
    question, ``image_id``, ``sample_id`` and ``scene``. In training the generator chooses among the questions
    of a scene.
    """

    answer_list = ANSWERS

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        scene = self.scene(index)
        asked = self.question(index) if not self.training else questions(scene, rng, 1)[0]
        identity = self._identity(index)
        return {
            "image": self._image(scene, rng),
            "text_input": self._text(asked.question),
            "answers": [asked.answer],
            "weights": [1.0],
            "kind": asked.kind,
            "image_id": identity,
            "sample_id": identity,
            "scene": scene.to_dict(),
        }

    def question(self, index: int) -> Question:
        """The question that goes with scene ``index`` in evaluation."""
        return questions(self.scene(index), self.stream(index, HEAD), 1)[0]


@DATASETS.register("shapes_nlvr")
class ShapesNLVR(World):
    """Statements about pairs of images.

    A sample holds ``images`` [2, 3, H, W] (left, right), ``text_input`` (the statement), ``label`` (1: true,
    0: false), ``kind`` of statement, ``image_id``, ``sample_id`` and ``scenes`` (two).
    """

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        made = self.statement(index)
        identity = self._identity(index)
        return {
            "images": self._images((made.left, made.right), rng),
            "text_input": self._text(made.sentence),
            "label": int(made.label),
            "kind": made.kind,
            "image_id": identity,
            "sample_id": identity,
            "scenes": [made.left.to_dict(), made.right.to_dict()],
        }

    def statement(self, index: int) -> Statement:
        """The pair and the sentence of ``index``."""
        return make_statement(self.stream(index, HEAD))

    def scene(self, index: int) -> Scene:
        """The left scene of the pair."""
        return self.statement(index).left


@DATASETS.register("shapes_dialog")
class ShapesDialog(World):
    """Dialogs with candidate answers.

    A sample holds ``image``, ``text_input`` (the caption), ``dialog`` (per round a dict of ``question``,
    ``answer``, ``answer_options``, ``gt_index`` and ``gt_relevance``), ``image_id``, ``sample_id`` and ``scene``.

    Args:
        split: "train", "val" or "test".
        size: number of dialogs.
        seed: of the world, below 2**32.
        image_size: side of the images, pixels, at least 16.
        rounds: questions per dialog, at least 1.
        candidates: answers to choose from, 2 to 44.
        image_processor: called with (uint8 array [H, W, 3], generator); None scales to [-1, 1], float32 [3, H, W].
        text_processor: called with the caption, the questions and the answers.

    Raises:
        DataError: an argument outside that.
    """

    def __init__(
        self,
        split: str = "train",
        size: WorldSize = 20000,
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
        scene = self.scene(index)
        dialog = self.dialog(index)
        identity = self._identity(index)
        return {
            "image": self._image(scene, rng),
            "text_input": self._text(dialog.caption),
            "dialog": [
                {
                    "question": self._text(r.question),
                    "answer": self._text(r.answer),
                    "answer_options": [self._text(text) for text in r.candidates],
                    "gt_index": r.gt_index,
                    "gt_relevance": list(r.relevance),
                }
                for r in dialog.rounds
            ],
            "image_id": identity,
            "sample_id": identity,
            "scene": scene.to_dict(),
        }

    def scene(self, index: int) -> Scene:
        """The scene that dialog ``index`` is about: two or three objects, since of one there is little to ask."""
        stream = self.stream(index, SCENE)
        return sample_scene(stream, int(stream.integers(2, 4)))

    def dialog(self, index: int) -> Dialog:
        """The dialog about scene ``index``."""
        return make_dialog(self.scene(index), self.stream(index, HEAD), self.rounds, self.candidates)


@DATASETS.register("shapes_video")
class ShapesVideo(World):
    """Short videos with captions.

    A sample holds ``video`` [F, 3, H, W], ``text_input`` (a caption), ``references`` (captions, the text among them),
    ``image_id`` and ``sample_id``.

    Args:
        split: "train", "val" or "test".
        size: number of videos.
        seed: of the world, below 2**32.
        image_size: side of the frames, pixels, at least 16.
        length: frames that a video has, at least 3.
        frames: frames that are looked at, evenly over the video, at least 1.
        references: captions per video, 1 to 8.
        image_processor: called per frame with (uint8 array [H, W, 3], generator); None scales to [-1, 1], float32.
        text_processor: called with each text that a model reads (not with references).

    Raises:
        DataError: an argument outside that.
    """

    def __init__(
        self,
        split: str = "val",
        size: WorldSize = 500,
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
        """The video of ``index``."""
        return self._made(index)[0]

    def scene(self, index: int) -> Scene:
        """The first frame."""
        return self.video(index).frames[0]

    def _made(self, index: int) -> tuple[Video, list[str], Question]:
        stream = self.stream(index, HEAD)
        video = make_video(stream, self.length)
        return video, video_captions(video, stream, self.references), ask_video(video, stream)

    def _shown(self, video: Video, index: int, rng: np.random.Generator) -> Sample:
        scenes = [video.frames[i] for i in frame_indices(self.length, self.frames)]
        identity = self._identity(index)
        return {"video": self._images(scenes, rng), "image_id": identity, "sample_id": identity}


@DATASETS.register("shapes_video_vqa")
class ShapesVideoVQA(ShapesVideo):
    """The same videos, each with a question that has an answer in some frames only.

    A sample holds ``video``, ``text_input`` (the question), ``answers`` (one), ``weights`` (1.0), ``kind`` of question,
    ``image_id`` and ``sample_id``. Arguments are those of :class:`ShapesVideo`.
    """

    answer_list = ANSWERS

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        video, _, asked = self._made(index)
        return {
            **self._shown(video, index, rng),
            "text_input": self._text(asked.question),
            "answers": [asked.answer],
            "weights": [1.0],
            "kind": asked.kind,
        }
