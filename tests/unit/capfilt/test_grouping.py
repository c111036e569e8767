"""A shard holds the same samples for CapFilt as for the dataset web_shards."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assets.tars import write_tar
from vlkit.capfilt.input_tar import read_tar
from vlkit.capfilt.inputs import InputOptions, Item
from vlkit.datasets.tar_index import scan

NAMES = st.builds(
    "{}{}.{}".format,
    st.sampled_from(["", "./", "x/", "x.y/"]),
    st.sampled_from(["a", "b", "a.b", "a.c", "a.b.c", "a.1", "1.5", "._a", ".h"]),
    st.sampled_from(["jpg", "JPG", "png", "txt", "TXT", "json", "seg.png", "gif", "npy", "jpg.gz"]),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(NAMES, min_size=1, max_size=12))
def test_keys_are_those_of_web_shards(names):
    with tempfile.TemporaryDirectory() as folder:
        file = write_tar(Path(folder, "0.tar"), [(name, b'{"caption": "x"}') for name in names])
        index = scan(file)
        items = [each for each in read_tar("0", file, InputOptions(path=str(file))) if isinstance(each, Item)]
    starts = [0, *index.ends]
    keys = [index.keys[start:end].tobytes().decode() for start, end in zip(starts, index.ends)]
    assert sorted(item.key for item in items) == sorted(keys)
