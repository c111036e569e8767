from __future__ import annotations

import io
import json

import numpy as np
import pytest

from tests.unit.processors.clips import number, turn, write_clip
from vlkit.processors import video_decoding
from vlkit.processors.video_decoding import Doubtful, decode_with_av, decode_with_decord, serve

pytest.importorskip("av")


def decoders():
    return [decode_with_av, pytest.param(decode_with_decord, marks=pytest.mark.skipif(not has_decord(), reason="none"))]


def has_decord() -> bool:
    try:
        import decord  # noqa: F401
    except ImportError:
        return False
    return True


def numbers(decode, path, frames, sampling="even", size=None):
    doubt = (True,) if decode is decode_with_decord else ()
    count, found = decode(str(path), frames, sampling, size, *doubt)
    assert all(number(pixels) == i for i, pixels in found.items())
    return count, sorted(found)


UNEVEN = np.cumsum(np.random.default_rng(0).integers(1, 40, 30)).tolist()


@pytest.mark.parametrize("decode", decoders())
@pytest.mark.parametrize(
    ("name", "codec", "times", "options"),
    [
        ("plain.mp4", "mpeg4", None, {}),
        ("plain.avi", "mpeg4", None, {}),
        ("groups.mp4", "libx264", None, {"g": "6", "bf": "2"}),
        ("uneven.mp4", "libx264", UNEVEN, {"g": "7"}),
        ("uneven.mkv", "libx264", UNEVEN, {}),
        ("vp9.webm", "libvpx-vp9", None, {}),
    ],
)
def test_the_frames_are_those_asked_for(tmp_path, decode, name, codec, times, options):
    path = write_clip(tmp_path / name, 30, codec, times, options)
    assert numbers(decode, path, 4) == (30, [3, 11, 18, 26])
    assert numbers(decode, path, 4, "original") == (30, [0, 7, 14, 21])
    assert numbers(decode, path, 30) == (30, list(range(30)))


def test_frames_that_are_stored_out_of_order(tmp_path):  # decord is two frames off here
    for name in ("a.avi", "a.mp4"):
        path = write_clip(tmp_path / name, 30, "mpeg4", options={"bf": "2"})
        assert numbers(decode_with_av, path, 4) == (30, [3, 11, 18, 26])


def test_av1(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 10, "libsvtav1")
    assert numbers(decode_with_av, path, 2) == (10, [2, 7])


@pytest.mark.parametrize("decode", decoders())
def test_the_decoder_scales(tmp_path, decode):
    path = write_clip(tmp_path / "a.mp4", 5)
    doubt = (True,) if decode is decode_with_decord else ()
    _, found = decode(str(path), 1, "even", 32, *doubt)
    assert found[2].shape == (32, 32, 3)
    assert number(found[2]) == 2


def test_rotated_videos_are_shown_upright(tmp_path):
    path = turn(write_clip(tmp_path / "a.mp4", 4))
    _, found = decode_with_av(str(path), 4, "even", None)
    assert found[0].shape == (64, 48, 3)
    assert found[0][:8, -8:].min() > 200  # the dot was in the upper left corner
    assert found[0][:8, :8].max() < 50


def test_a_damaged_part_does_not_spoil_the_rest(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 30, "libx264", options={"g": "5"})
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    half = (data.index(b"moov") - start) // 2
    for i in range(start + half, start + half + half // 4, 11):
        data[i] ^= 255
    path.write_bytes(data)
    count, found = decode_with_av(str(path), 6, "even", None)
    assert 10 <= count <= 30
    assert len(found) == 6
    shown = [number(pixels) for _, pixels in sorted(found.items())]
    assert shown[0] <= 5
    assert shown[-1] >= 24


@pytest.mark.skipif(not has_decord(), reason="no decord")
def test_repeated_last_frames_are_doubted(tmp_path):
    times = [0, 4, 8, 12]
    path = write_clip(tmp_path / "a.mkv", 4, "libx264", times, {"crf": "0"})
    assert numbers(decode_with_decord, path, 4) == (4, [0, 1, 2, 3])
    still = tmp_path / "still.mkv"
    import av

    with av.open(str(still), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(6):
            gray = np.full((48, 64, 3), 80, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(Doubtful, match="may hold fewer than it claims"):
        decode_with_decord(str(still), 2, "even", None, True)
    assert decode_with_decord(str(still), 2, "even", None, False)[0] == 6


def test_requests_are_answered_one_after_the_other(tmp_path, monkeypatch):
    timers = []
    monkeypatch.setattr(video_decoding, "_die_after", timers.append)
    limits = []
    monkeypatch.setattr(video_decoding, "_limit_memory", limits.append)  # it would hold for all tests of this process
    path = write_clip(tmp_path / "a.mp4", 6)
    ask = {"decoder": "av", "frames": 3, "sampling": "even", "size": None, "limit": 5}
    lines = [json.dumps({**ask, "path": str(each)}).encode() + b"\n" for each in (path, tmp_path / "none.mp4")]
    replies = io.BytesIO()
    serve(io.BytesIO(b"".join(lines)), replies)
    replies.seek(0)
    header = json.loads(replies.readline())
    assert header == {"order": [0, 1, 2], "shapes": [[48, 64, 3]] * 3}
    shown = [np.frombuffer(replies.read(48 * 64 * 3), np.uint8) for _ in range(3)]
    assert [number(pixels) for pixels in shown] == [1, 3, 5]
    assert "No such file" in json.loads(replies.readline())["error"]
    assert timers == [5, 0, 5, 0]
    assert limits == [json.loads(lines[0])]
