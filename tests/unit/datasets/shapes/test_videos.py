from __future__ import annotations

import numpy as np
import pytest

from vlkit.datasets.shapes.checker import parse
from vlkit.datasets.shapes.scene import RADIUS, stream
from vlkit.datasets.shapes.videos import ask_video, make_video, video_captions


@pytest.mark.parametrize("frames", [3, 4, 8, 30])
def test_no_frame_shows_all_and_four_frames_do(frames):
    for index in range(60):
        video = make_video(stream(1, index), frames)
        assert len(video.frames) == frames
        looks = [{(o.color, o.shape) for o in frame.objects} for frame in video.frames]
        everything = {(o.color, o.shape) for o in video.objects}
        assert len(everything) == 3
        assert all(1 <= len(look) <= 2 for look in looks)
        four = np.linspace(0, frames - 1, 4).round().astype(int)
        assert set().union(*(looks[t] for t in four)) == everything


def test_objects_move_without_touching_each_other():
    moved = 0.0
    for index in range(60):
        video = make_video(stream(2, index), 8)
        for frame in video.frames:
            for i, a in enumerate(frame.objects):
                assert RADIUS[a.size] < a.x < 1 - RADIUS[a.size]
                for b in frame.objects[:i]:
                    assert np.hypot(a.x - b.x, a.y - b.y) > RADIUS[a.size] + RADIUS[b.size]
        first, second = (frame.objects[0] for frame in video.frames[:2])
        moved += np.hypot(first.x - second.x, first.y - second.y)
    assert moved / 60 > 0.02


def test_captions_name_all_objects_in_order_when_they_say_so():
    for index in range(100):
        video = make_video(stream(3, index))
        captions = video_captions(video, stream(4, index), 4)
        assert len(set(captions)) == 4
        order = [(o.color, o.shape) for o in video.objects]
        for text in captions:
            said = [(m.color, m.shape) for m in parse(text).mentions]
            assert sorted(said) == sorted(order)
            if "then" in text:
                assert said == order


def test_questions_are_answered_by_the_whole_video():
    kinds = set()
    for index in range(300):
        video = make_video(stream(5, index))
        made = ask_video(video, stream(6, index))
        kinds.add(made.kind)
        words = made.question.rstrip("?").split()
        looks = [{o.color, o.shape} for o in video.objects]
        if made.kind == "exist":
            assert made.answer == ("yes" if set(words[-2:]) in looks else "no")
        elif made.kind in ("color", "shape"):
            named = words[4]
            (other,) = [look - {named} for look in looks if named in look]
            assert other == {made.answer}
        else:
            assert made.answer == "3"
    assert {"exist", "color", "shape"} <= kinds


def test_two_frames_are_too_few():
    with pytest.raises(ValueError, match="at least 3"):
        make_video(stream(0), 2)
