from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.assets.waiting import LONG
from tests.unit.processors.clips import number, write_clip, write_sound
from vlkit.errors import BadSample, MissingDependency
from vlkit.processors import video_reader
from vlkit.processors.video_reader import VideoReader, read_video

pytest.importorskip("av")

SHARED = Path(__file__).parents[4] / "shared" / "data" / "overreported_frames.mp4"
real_start = video_reader._start


@pytest.fixture
def reader():
    reader = VideoReader()
    yield reader
    reader.close()


def only(monkeypatch, *names):
    """Only these decoders are installed."""
    find = video_reader.importlib.util.find_spec
    monkeypatch.setattr(video_reader.importlib.util, "find_spec", lambda name: find(name) if name in names else None)


def stuck(monkeypatch, code="import time; time.sleep(1000)", times=1):
    """The first decoding processes run ``code``."""
    started = []

    def start():
        if len(started) >= times:
            started.append(real_start())
        else:
            command = [sys.executable, "-c", code]
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return started[-1]

    monkeypatch.setattr(video_reader, "_start", start)
    return started


@pytest.mark.parametrize("installed", [("decord", "av"), ("av",)])
def test_frames_by_number(tmp_path, reader, monkeypatch, installed):
    only(monkeypatch, *installed)
    path = write_clip(tmp_path / "a.mp4", 20)
    assert [number(f) for f in reader.read(path, 5)] == [2, 6, 10, 14, 18]
    assert [number(f) for f in reader.read(path, 3, "original")] == [0, 6, 12]
    assert [number(f) for f in reader.read(path, 24)][:4] == [0, 1, 2, 2]
    assert reader.read(path, 1, size=32)[0].shape == (32, 32, 3)


@pytest.mark.skipif(not SHARED.is_file(), reason="the file is not here")
@pytest.mark.parametrize("frames", [1, 8, 64, 221])
def test_a_file_that_claims_more_frames_than_it_holds(frames):
    reader = VideoReader({"decord": 2})
    found = reader.read(SHARED, frames)
    assert len(found) == frames
    # It holds 90 different frames, of which the true middles are chosen.
    import av

    with av.open(str(SHARED)) as container:
        true = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(true) == 90
    for i, frame in enumerate(found):
        assert (frame == true[(2 * i + 1) * 90 // (2 * frames)]).all()
    reader.close()


def test_a_decoder_that_hangs_is_ended_and_not_asked_again(tmp_path, monkeypatch):
    only(monkeypatch, "decord", "av")
    started = stuck(monkeypatch)
    reader = VideoReader({"decord": 0.3})
    path = write_clip(tmp_path / "a.mp4", 8)
    assert [number(f) for f in reader.read(path, 4)] == [1, 3, 5, 7]
    assert started[0].returncode == -signal.SIGKILL
    assert [number(f) for f in reader.read(path, 2)] == [2, 6]
    assert len(started) == 2
    assert os.path.abspath(path) in reader._hung
    reader.close()


def test_without_another_decoder_it_is_a_bad_sample(tmp_path, monkeypatch):
    only(monkeypatch, "decord")
    stuck(monkeypatch, times=9)
    reader = VideoReader({"decord": 0.2})
    path = write_clip(tmp_path / "a.mp4", 8)
    for said in ("decord: not finished after 0.2 s", "decord did not finish before"):
        with pytest.raises(BadSample, match=rf"{said} \(pip install 'vlkit\[video\]' reads more files\)") as caught:
            reader.read(path, 4)
    assert pickle.loads(pickle.dumps(caught.value)).source == str(path)
    reader.close()


def test_a_decoder_that_crashes(tmp_path, monkeypatch):
    only(monkeypatch, "av")
    stuck(monkeypatch, "import os; input(); os.abort()")
    reader = VideoReader()
    path = write_clip(tmp_path / "a.mp4", 8)
    with pytest.raises(BadSample, match="av: the decoding process ended with code -6"):
        reader.read(path, 4)
    assert [number(f) for f in reader.read(path, 1)] == [4]
    reader.close()


def test_an_interrupted_reply_is_not_taken_for_the_next(tmp_path, reader, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", 8)
    assert len(reader.read(path, 2)) == 2
    real = video_reader.json.loads

    def interrupted(text):
        real(text)
        raise KeyboardInterrupt

    monkeypatch.setattr(video_reader.json, "loads", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reader.read(path, 8)
    monkeypatch.setattr(video_reader.json, "loads", real)
    assert [number(f) for f in reader.read(path, 2)] == [2, 6]


def damaged(folder: Path, kind: str) -> Path:
    path = folder / f"{kind.replace(' ', '_')}.mp4"
    if kind == "sound only":
        return write_sound(path)
    if kind == "no frames":
        return write_empty(path)
    whole = write_clip(path, 12).read_bytes()
    path.write_bytes({"cut off": whole[: len(whole) // 2], "not a video": b"no video " * 50, "empty": b""}[kind])
    return path


def write_empty(path: Path) -> Path:
    """A video stream of which no frame was written."""
    import av

    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.open()
        container.start_encoding()
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sound only", "no video stream"),
        ("no frames", "End of file"),
        ("cut off", "Invalid data"),
        ("not a video", "Invalid data"),
        ("empty", r"the file is empty \(0 bytes\)"),
    ],
)
def test_unusable_files_are_bad_samples(tmp_path, reader, kind, message):
    path = damaged(tmp_path, kind)
    with pytest.raises(BadSample, match=message) as caught:
        reader.read(path, 4)
    assert caught.value.source == str(path)
    # The process stays alive.
    assert len(reader.read(write_clip(tmp_path / "good.mp4", 8), 2)) == 2


def test_a_stream_that_is_cut_off_gives_the_frames_it_has(tmp_path, reader):
    path = write_clip(tmp_path / "a.ts", 30, "mpeg2video", options={"g": "5"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    shown = [number(f) for f in reader.read(path, 4)]
    assert shown == sorted(shown)
    assert 10 <= shown[-1] < 25


def test_missing_files_and_decoders(tmp_path, reader, monkeypatch):
    with pytest.raises(BadSample, match="no such file"):
        reader.read(tmp_path / "none.mp4", 2)
    only(monkeypatch)
    with pytest.raises(MissingDependency, match=r"Reading video files needs the package 'av': pip install 'vlkit\[vi"):
        reader.read(write_clip(tmp_path / "a.mp4", 3), 2)


def test_each_process_has_its_own_decoder(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 8)
    assert [number(f) for f in read_video(path, 2)] == [2, 6]
    code = (
        "import os, sys; from vlkit.processors.video_reader import read_video, _readers\n"
        "read_video(sys.argv[1], 1); mine = _readers[os.getpid()]._process.pid\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    frames = read_video(sys.argv[1], 3)\n"
        "    os._exit(0 if len(frames) == 3 and _readers[os.getpid()]._process.pid != mine else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert len(read_video(sys.argv[1], 2)) == 2\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], timeout=LONG, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_decoding_process_loads_no_torch():
    code = "import sys, vlkit.processors.video_decoding; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=LONG).returncode == 0


def test_frames_that_fill_the_memory_are_refused(tmp_path):
    large = write_clip(tmp_path / "large.mp4", 16, size=(1200, 1600))
    small = write_clip(tmp_path / "small.mp4", 16)
    reader = VideoReader(memory=60_000_000)
    try:
        assert len(reader.read(small, 2)) == 2
        with pytest.raises(BadSample, match=r"cannot be decoded|ended with code"):
            reader.read(large, 16)
        assert len(reader.read(small, 2)) == 2
    finally:
        reader.close()


def test_what_is_no_regular_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
    reader = VideoReader()
    for name, reason in [
        ("pipe.mp4", "a named pipe, not a video file"),
        ("gone.mp4", r"a link to nowhere.mp4, which does not exist"),
        ("/dev/zero", "a device, not a video file"),
        (".", "a folder"),
        ("x" * 300, "cannot be read"),
        ("missing.mp4", "no such file"),
    ]:
        with pytest.raises(BadSample, match=reason):
            reader.read(tmp_path / name, 1)
