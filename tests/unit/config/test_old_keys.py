"""Keys that were removed: an error in files that people write, dropped from records."""

from __future__ import annotations

from vlkit.config.convert import arguments
from vlkit.config.old_keys import tree_with_current_keys, with_current_keys
from vlkit.config.signature import signature
from vlkit.config.yamlfile import parse_yaml
from vlkit.tasks.retrieval import Retrieval


def test_a_removed_key_in_a_file_says_what_replaces_it():
    problems: list[tuple[str, str]] = []
    arguments(signature(Retrieval), {"image_tokens": "disk"}, "task", problems)
    assert [path for path, _ in problems] == ["task.image_tokens"]
    assert "the key 'image_tokens' was removed: image tokens stay in memory up to image_tokens_gib" in problems[0][1]


def test_records_lose_removed_keys_of_the_component_that_had_them():
    task = {"name": "retrieval", "image_tokens": "disk", "rerank_top_k": 4}
    assert with_current_keys({"task": task})["task"] == {"name": "retrieval", "rerank_top_k": 4}
    other = {"name": "other", "image_tokens": "disk"}
    assert with_current_keys({"task": other})["task"] == other


def test_parsed_records_lose_them_too():
    root = tree_with_current_keys(parse_yaml("task: {name: retrieval, image_tokens: disk}", "config.yaml"))
    assert list(root.value["task"].value) == ["name"]
