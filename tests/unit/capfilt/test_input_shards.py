"""What paths mean, and what the shards of an input are called."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assets.tars import write_tar
from vlkit.capfilt.input_shards import find_inputs
from vlkit.capfilt.inputs import InputOptions, InputShard, shard_names
from vlkit.config.build import build
from vlkit.datasets.web_shards import find_shards
from vlkit.errors import ConfigError, DataError, VlkitError


@pytest.fixture
def folder(tmp_path):
    for name in ("a/00000", "a/00001", "b/00001", "b/00002", "b/x{1,2}"):
        write_tar(tmp_path / f"{name}.tar", [])
    (tmp_path / "a" / "00000_stats.json").write_text("{}")
    return tmp_path


def names(folder, *paths: str) -> list[str]:
    chosen = [str(folder / path) if "://" not in path else path for path in paths]
    return [shard.name for shard in find_inputs(InputOptions(chosen if len(chosen) > 1 else chosen[0]))]


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["a"], ["00000", "00001"]),
        (["a/00000.tar"], ["00000"]),
        (["a/{00000..00001}.tar"], ["00000", "00001"]),
        (["b/0*.tar"], ["00001", "00002"]),
        (["{a,b}/*0.tar"], None),
        (["?/00001.tar"], ["00000-00001", "00001-00001"]),
        (["b/x{1,2}.tar"], ["x_1_2_"]),
        (["a", "b/00002.tar"], ["00000", "00001", "00002"]),
        (["b/00002.tar", "a"], ["00002", "00000", "00001"]),
        (["a", "b/0*.tar"], ["00000-00000", "00001-00001", "00002-00001", "00003-00002"]),
    ],
)
def test_paths(folder, paths, found):
    if found is None:
        with pytest.raises(DataError, match="no file is called like that"):
            names(folder, *paths)
    else:
        assert names(folder, *paths) == found


def test_shards_know_their_path(folder):
    path = str(folder / "a" / "00000.tar")
    assert find_inputs(InputOptions(path)) == [InputShard("00000", "tar", path)]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["c"], "neither a shard|do not exist"),
        (["a/7.tar"], "do not exist"),
        (["a/{00000..00003}.tar"], r"00002\.tar, .*00003\.tar\. Correct"),
        (["a", "a/00000.tar"], "a file twice"),
        (["a/*.parquet"], "no file is called like that"),
        (["a/00000_stats.json"], "holds no rows"),
        (["."], r"holds no \*\.tar"),
        (["notes.txt"], "neither a shard"),
        (["memory://nobody_put_anything_here/0.tar"], "no such file"),
        (["memory://nobody_put_anything_here/"], "no \\*.tar"),
        (["nonsense://a/0.tar"], "nonsense"),
    ],
)
def test_paths_that_mean_nothing(folder, paths, message):
    (folder / "notes.txt").write_text("")
    (folder / "a" / "00000_stats.json").write_text("")
    with pytest.raises(VlkitError, match=message):
        names(folder, *paths)


def test_the_output_of_a_job_is_not_its_kept_shards(folder):
    (folder / "capfilt.json").write_text("{}")
    for find in (lambda: find_inputs(InputOptions(str(folder))), lambda: find_shards([str(folder)])):
        with pytest.raises(DataError, match=f"what that kept is in {folder / 'kept'}"):
            find()


def test_addresses(tmp_path):
    import fsspec

    for name in ("00000", "00001", "00010"):
        with fsspec.open(f"memory://finding/cc/{name}.tar", "wb") as file:
            file.write(b"")
    assert names(tmp_path, "memory://finding/cc") == ["00000", "00001", "00010"]
    assert names(tmp_path, "memory://finding/cc/0000*.tar") == ["00000", "00001"]
    assert names(tmp_path, "memory://finding/cc/{00000..00001}.tar") == ["00000", "00001"]
    (shard,) = find_inputs(InputOptions("memory://finding/cc/00010.tar"))
    assert shard.path == "memory://finding/cc/00010.tar"


@given(st.lists(st.text(), max_size=8))
@settings(deadline=None)
def test_names_are_safe_and_unique(stems):
    found = shard_names(stems)
    assert len(found) == len(stems)
    assert len({name.lower() for name in found}) == len(found)
    for name in found:
        assert name.isascii()
        assert name.replace("-", "").replace("_", "").replace(".", "").isalnum() or set(name) <= set("_-.0123456789")
        assert not name.startswith((".", "-"))
        assert len(name) <= 110


def test_options_are_built_from_a_config():
    found = build(InputOptions, {"path": "a.tar", "max_pixels": "30M", "max_image_bytes": 5})
    assert (found.max_pixels, found.max_image_bytes, found.max_text_bytes) == (30_000_000, 5, 1_000_000)
    with pytest.raises(ConfigError, match="max_image_bytes: 0 given"):
        build(InputOptions, {"path": "a.tar", "max_image_bytes": 0})
