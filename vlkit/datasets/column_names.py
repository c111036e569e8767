"""The columns that datasets read, their common other names, and rows by these names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Key = str | int
"""Of a column: its name, or its position from 0 on."""


@dataclass(frozen=True)
class Column:
    """A column that a dataset reads.

    Args:
        name: what the dataset calls it.
        others: other names that are found automatically. Case, spaces, hyphens and underscores do not count.
        setting: the argument that sets its key; "": ``<name>_key``.
        also: further names of the dataset's own, which count after ``name`` and before ``others``.
    """

    name: str
    others: tuple[str, ...] = ()
    setting: str = ""
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "setting", self.setting or f"{self.name}_key")


_FILES = ("file_name", "file_path", "file", "path")
_IMAGES = (
    "image_path image_file image_name image_file_name image_file_path img img_path img_file img_name picture photo"
)
IMAGE = Column("image", (*_IMAGES.split(), *_FILES))
_CAPTIONS = "captions text texts title sentence sentences description comment alt alt_text caption_text"
CAPTION = Column("caption", tuple(_CAPTIONS.split()))
IMAGE_ID = Column("image_id", ("coco_id",), also=("img_id",))  # img_id: the rows of nocaps
QUESTION = Column("question", ("questions", "question_text", "query"))
ANSWER = Column("answer", ("answers", "answer_text", "multiple_choice_answer"))
QUESTION_ID = Column("question_id", ("qid",))
SENTENCE = Column("sentence", ("text", "caption", "statement"))
LABEL = Column("label", ("target", "answer"))
VIDEO = Column("video", ("video_name", "video_path", "video_file", "video_id", "clip", *_FILES), also=("clip_name",))
IMAGES = Column("images", ("image_pair",), "image_key")
LEFT = Column("image0", ("left", "left_image", "image_left", "img0"), "image_key")
RIGHT = Column("image1", ("right", "right_image", "image_right", "img1"), "image_key")


class Fields(dict[str, Any]):
    """A row by the dataset's own names; other keys of the row are kept.

    Args:
        values: of the row.
        labels: own name to the key in the file.
        in_splits: whether the file holds several splits, of which a dataset reads its own.
    """

    __slots__ = ("_labels", "in_splits")

    def __init__(
        self, values: Mapping[str, Any], labels: Mapping[str, Key] = MappingProxyType({}), in_splits: bool = False
    ):
        super().__init__(values)
        self._labels, self.in_splits = labels, in_splits

    def label(self, name: str) -> str:
        """What the file calls the column ``name``."""
        key = self._labels.get(name, name)
        return f"position {key}" if isinstance(key, int) else key

    def shown(self, name: str) -> str:
        """:meth:`label` in quotes, for messages."""
        return repr(self.label(name))
