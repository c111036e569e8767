"""docs/datasets.md: its table is that of the cards, its configurations are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from vlkit.config.cards import dataset_card, dataset_splits, list_dataset_cards
from vlkit.config.parts import dataset_part

PAGE = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
PROCESSOR = {"name": "blip_image_eval", "image_size": 16}


def test_the_table_lists_every_card_and_split():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", PAGE, re.M)
    assert sorted(name for name, *_ in rows) == list_dataset_cards()
    for name, splits, texts, media in rows:
        assert splits.split(", ") == dataset_splits(name)
        files = dataset_card(name)["files"]
        by_hand = [path for path, entry in files.items() if "/annotations/" in path and "url" not in entry]
        assert ("by hand" in texts) == bool(by_hand), name
        assert ("downloaded" in texts) == any("url" in entry for entry in files.values()), name
        for path in re.findall(r"`([\w/]+)`", media):
            assert path in files


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_configuration(block):
    section = yaml.safe_load(block)["datasets"]
    entries = [*section.get("train", []), *section.get("eval", {}).values()]
    assert entries
    for entry in entries:
        training = entry in section.get("train", [])
        assert dataset_part({**entry, "image_processor": PROCESSOR}, "data", training=training).check() == []
