"""The random exchange of the two images of a pair against the original."""

import json

import numpy as np
import torch

from tests.parity.golden import GOLDEN_DIR, Case
from vlkit.datasets.nlvr import ImagePair
from vlkit.processors.text import BlipCaption

WORDS = 40  # of the original's pre_caption


def test_both_outcomes_of_the_exchange(tmp_path):
    info = Case("datasets").info["nlvr"]
    file = tmp_path / "train.json"
    file.write_text(json.dumps(info["annotations"]))
    opened: list[str] = []

    def read(path: str, rng: np.random.Generator) -> torch.Tensor:
        opened.append(path)
        return torch.zeros(3, 2, 2)

    data = ImagePair(
        str(file),
        image_root=str(GOLDEN_DIR),
        swap="original",
        image_processor=read,
        text_processor=BlipCaption(max_words=WORDS),
    )
    assert len(data) == len(info["outcomes"]) == len(info["annotations"])
    for index, (row, outcomes) in enumerate(zip(info["annotations"], info["outcomes"])):
        expected = {(o["images_swapped"], o["sentence"], o["label"]) for o in outcomes}
        found = set()
        for seed in range(20):
            opened.clear()
            sample = data.sample(index, np.random.default_rng(seed))
            names = [path.removeprefix(f"{GOLDEN_DIR}/") for path in opened]
            assert names in (row["images"], row["images"][::-1])
            found.add((names != row["images"], sample["text_input"], sample["label"]))
        assert found == expected
