"""The datasets of videos: samples, names of files, and what they say about wrong data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.processors.clips import level, number, write_clip
from vlkit.config.build import check
from vlkit.datasets import video as module
from vlkit.datasets.faults import collect_faults
from vlkit.datasets.loading import EvalLoader
from vlkit.datasets.video import VideoQuestion, VideoText, find_video
from vlkit.errors import BadSample, ConfigError, DataError
from vlkit.jobs.checks import text_problems
from vlkit.processors.image import BlipImageEval, BlipImageTrain
from vlkit.processors.text import BlipQuestion
from vlkit.processors.video import BlipVideoEval
from vlkit.registry import DATASETS

PLAIN = BlipImageEval(image_size=8, mean=0, std=1)

CAPTIONS = [
    {"video": "video1.mp4", "caption": "a dot goes"},
    {"video": "video0.mp4", "caption": "it is gray"},
    {"video": "video1.mp4", "caption": "gray gets lighter"},
]
QUESTIONS = [
    {"question_id": 7, "question": "what goes?", "answer": "dot", "video": "video1.mp4"},
    {"question_id": 8, "question": "what is gray?", "answer": "all", "video": "video0.mp4"},
    {"question_id": 9, "question": "what gets lighter?", "answer": "gray", "video": "video1.mp4"},
]


def frames_folder(folder: Path, count: int, start: int = 0) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        gray = np.full((10, 12, 3), level(start + i), np.uint8)
        Image.fromarray(gray).save(folder / f"{i}.png")


@pytest.fixture
def folder(tmp_path):
    """Two videos, as folders of frames."""
    frames_folder(tmp_path / "video0", 8)
    frames_folder(tmp_path / "video1", 8, start=10)
    return tmp_path


def rows(folder: Path, entries, name: str = "rows.json") -> str:
    text = json.dumps(entries) if name.endswith(".json") else "\n".join(map(json.dumps, entries))
    (folder / name).write_text(text)
    return str(folder / name)


def shown(video: torch.Tensor) -> list[int]:
    return [number(frame.numpy() * 255) for frame in video]


def test_captions_of_a_video_are_joined(folder):
    data = VideoText(rows(folder, CAPTIONS), split="test", frames=2, image_processor=PLAIN, text_processor=str.upper)
    assert len(data) == 2
    first, second = data
    assert first["references"] == ["a dot goes", "gray gets lighter"]
    assert (first["text_input"], first["image_id"], first["sample_id"]) == ("A DOT GOES", "video1.mp4", "rows.json:1")
    assert shown(first["video"]) == [12, 16]
    assert second["references"] == ["it is gray"]
    assert shown(second["video"]) == [2, 6]


def test_in_training_every_caption_is_a_sample(folder):
    data = VideoText(rows(folder, CAPTIONS), frames=2, image_processor=BlipImageTrain(image_size=8))
    assert [(sample["text_input"], sample["image_id"]) for sample in data] == [
        ("a dot goes", "video1.mp4"),
        ("it is gray", "video0.mp4"),
        ("gray gets lighter", "video1.mp4"),
    ]
    assert data[2]["sample_id"] == "rows.json:3"
    assert data[2]["video"].shape == (2, 3, 8, 8)
    assert "references" not in data[2]


def test_rows_of_msrvtt(folder):
    entries = [{"clip_name": "video1", "caption": "a dot goes"}, {"clip_name": "video0", "caption": "it is gray"}]
    data = VideoText(rows(folder, entries, "test.jsonl"), split="test", frames=1, image_processor=PLAIN)
    assert [(sample["image_id"], shown(sample["video"])) for sample in data] == [("video1", [14]), ("video0", [4])]


def test_questions_of_a_video_are_one_sample(folder, monkeypatch):
    opened = []
    monkeypatch.setattr(module, "find_video", lambda root, name: opened.append(name) or find_video(root, name))
    file = rows(folder, QUESTIONS)
    (folder / "labels.json").write_text(json.dumps({"gray": 1, "dot": 0}))
    data = VideoQuestion(file, split="test", frames=4, answer_list=str(folder / "labels.json"), image_processor=PLAIN)
    assert data.answer_list == ["dot", "gray"]
    first, second = data
    assert opened == ["video1.mp4", "video0.mp4"]
    assert first["text_input"] == ["what goes?", "what gets lighter?"]
    assert first["answers"] == first["references"] == [["dot"], ["gray"]]
    assert first["weights"] == [[1.0], [1.0]]
    assert first["question_id"] == [7, 9]
    assert shown(first["video"]) == [11, 13, 15, 17]
    assert second["question_id"] == [8]
    (batch,) = EvalLoader(data, 2)
    assert batch["video"].shape == (2, 4, 3, 8, 8)
    assert batch["text_input"] == [first["text_input"], second["text_input"]]


def test_a_bad_question_leaves_the_others_of_its_video(folder):
    more = [{"question": text, "answer": "x", "video": "video1.mp4"} for text in ("***", " ")]
    more += [{"question": "why?", "answer": [" "], "video": "video1.mp4"}]
    file = rows(folder, [*QUESTIONS, *more])
    with collect_faults() as bad:
        data = VideoQuestion(file, frames=2, image_processor=PLAIN, text_processor=BlipQuestion())
    assert bad == [(f"{file}:5", "'question' is empty."), (f"{file}:6", "it has no answer.")]
    assert data[0]["text_input"] == ["what goes?", "what gets lighter?"]
    assert text_problems(data)[0].startswith("1 of 8 texts checked are empty after text_processor (rows.json:4)")
    with collect_faults():
        data = VideoQuestion(rows(folder, more), frames=2, image_processor=PLAIN, text_processor=BlipQuestion())
    with pytest.raises(BadSample, match=r"rows.json:1: the text processor leaves nothing of the question '\*\*\*'"):
        data[0]


def test_sampling_and_a_processor_of_videos(folder):
    file = rows(folder, CAPTIONS)
    original = VideoText(file, split="val", frames=3, sampling="original", image_processor=PLAIN)
    assert shown(original[1]["video"]) == [0, 2, 4]
    whole = VideoText(file, split="val", video_processor=BlipVideoEval(frames=5, image_size=4, mean=0, std=1))
    assert shown(whole[1]["video"]) == [0, 2, 4, 5, 7]
    assert whole[1]["video"].shape == (5, 3, 4, 4)


@pytest.mark.parametrize("workers", [0, 1])
def test_files_and_bad_files_among_them(tmp_path, workers):
    pytest.importorskip("av")
    write_clip(tmp_path / "video1.mp4", 8)
    (tmp_path / "video0.mp4").write_bytes(b"no video" * 9)
    data = VideoText(rows(tmp_path, CAPTIONS), split="test", frames=2, image_processor=PLAIN)
    loader = EvalLoader(data, 2, num_workers=workers)
    (batch,) = loader
    assert batch["image_id"] == ["video1.mp4"]
    assert shown(batch["video"][0]) == [2, 6]
    ((source, reason),) = loader.bad
    assert source == str(tmp_path / "video0.mp4")
    assert "cannot be decoded" in reason
    (problem,) = data.problems()
    assert "video0.mp4 cannot be used: cannot be decoded" in problem


@pytest.mark.parametrize(
    ("there", "asked"),
    [("a.mp4", "a.mp4"), ("a.webm", "a"), ("a.avi", "a.mp4"), ("a", "a.mp4"), ("v1.2_c.mkv", "v1.2_c")],
)
def test_a_video_is_found_by_its_stem(tmp_path, there, asked):
    (tmp_path / there).write_bytes(b"x")
    assert find_video(str(tmp_path), asked) == str(tmp_path / there)
    with pytest.raises(BadSample, match=r"other\.mp4: no such file, nor one that ends in \.mp4, \.avi"):
        find_video(str(tmp_path), "other.mp4")


def test_missing_videos_are_a_problem(folder):
    entries = [*CAPTIONS, {"video": "video2.mp4", "caption": "gone"}]
    data = VideoText(rows(folder, entries), split="test", image_processor=PLAIN)
    (problem,) = data.problems()
    assert problem.startswith(f"1 of the 3 videos checked do not exist: {folder}/video2.mp4. The folder")
    assert f"video_root, which is {folder}" in problem
    with pytest.raises(BadSample, match="no such file"):
        data[2]


def test_what_is_known_of_all_videos(folder):
    data = VideoText(rows(folder, CAPTIONS), split="test", image_processor=PLAIN)
    assert list(data.images()) == [(name, str(folder / name)) for name in ("video1.mp4", "video0.mp4")]


def test_fingerprint_follows_frames_and_file(folder):
    def print_of(**arguments):
        return VideoText(rows(folder, CAPTIONS), split="test", image_processor=PLAIN, **arguments).fingerprint()

    assert print_of() == print_of()
    assert len({print_of(), print_of(frames=4), print_of(sampling="original"), print_of(limit=1)}) == 4


@pytest.mark.parametrize(
    ("kind", "entries", "message"),
    [
        (VideoText, [{"vido": "a.mp4", "caption": "x"}], r"no key 'video', only 'vido', 'caption'\. Did you mean 'vid"),
        (VideoText, [{"video": "a.mp4", "captoin": "x"}], "row 1: no key 'caption'"),
        (VideoText, [{"video": 7, "caption": "x"}], r"'video' is 7 \(int\), not a file name"),
        (VideoText, [{"clip_name": "", "caption": "x"}], "'clip_name' is ''"),
        (VideoText, [{"video": "a", "caption": [1]}], "neither a text nor a list of texts"),
        (VideoText, ["a.mp4"], "row 1: 'a.mp4' .* is not a mapping"),
        (VideoText, [], "holds no rows. A row needs 'video' or 'clip_name'"),
        (VideoText, [{"video": "a", "caption": []}], "no video has a caption to train on"),
        (VideoQuestion, [{"video": "a", "answer": "x"}], "no key 'question'"),
        (VideoQuestion, [{"video": "a", "question": "x"}], "no key 'answer'"),
    ],
)
def test_wrong_rows(tmp_path, kind, entries, message):
    with pytest.raises(DataError, match=message):
        kind(rows(tmp_path, entries), image_processor=PLAIN)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_processor": None}, "image_processor: none is set"),
        ({"split": "tset"}, "split: 'tset' given, train, val, test allowed. Did you mean 'test'"),
        ({"frames": 0}, "frames: 0 given"),
        ({"sampling": "evenly"}, "Did you mean 'even'"),
        ({"limit": 0}, "limit: 0 given"),
        ({"path": []}, "name one annotation file"),
    ],
)
@pytest.mark.parametrize("kind", [VideoText, VideoQuestion])
def test_wrong_arguments(folder, kind, arguments, message):
    given = {"path": rows(folder, []), "image_processor": PLAIN, **arguments}
    with pytest.raises(ConfigError, match=message):
        kind(**given)


def test_a_root_that_is_not_there(folder):
    with pytest.raises(DataError, match=r"video_root: .*nowhere is not a folder"):
        VideoText(rows(folder, CAPTIONS), str(folder / "nowhere"), image_processor=PLAIN)


def test_both_are_registered():
    for name in ("video_text", "video_question"):
        assert check(DATASETS, {"name": name, "path": "a.json", "video_root": "b", "frames": 4}, "dataset") == []
