"""The Python tokenizer against the Java one: stored pairs, and live where Java is installed."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.metrics.ptb import ptb_tokenize, ptb_tokens
from vlkit.metrics.ptb_tables import PUNCTUATION

PAIRS = json.loads((Path(__file__).parents[2] / "assets" / "ptb_pairs.json").read_text(encoding="utf-8"))


def test_stored_answers_of_the_java_tokenizer():
    wrong = [
        (text, tokens, ours) for (text, tokens), ours in zip(PAIRS, ptb_tokenize(t for t, _ in PAIRS)) if tokens != ours
    ]
    assert len(PAIRS) > 300
    assert not wrong


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man's dog isn't here.", "a man 's dog is n't here"),
        ("They cannot, GONNA!", "they can not gon na"),
        ("the U.S. flag, e.g. Mr. X", "the u.s. flag e.g. mr. x"),
        ("(a) dog [b]", "-lrb- a -rrb- dog -lsb- b -rsb-"),
        ("wow! wow!! wow...", "wow wow !! wow"),
        ("a 5 1/2 ft board", "a 5\u00a01/2 ft board"),
        ("No. 5 and no. five", "no. 5 and no five"),
        ("a man,red-haired, sits", "a man,red-haired sits"),
        ("‘90s’ “style” it’s", "90s style it 's"),
        ("soft\u00adhyphen 😀 £5", "softhyphen # 5"),
        ("two\nlines\r\n", "two lines"),
        ("", ""),
    ],
)
def test_rules(caption: str, tokens: str):
    assert ptb_tokenize([caption]) == [tokens]


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=200)
def test_any_text_gives_lower_case_tokens_without_space_or_punctuation(text: str):
    tokens = ptb_tokens(text)
    assert all(token and " " not in token and "\n" not in token for token in tokens)
    kept = ptb_tokenize([text])[0]
    assert kept == kept.lower()
    assert not PUNCTUATION & set(kept.split(" "))


@given(st.lists(st.from_regex(r"[b-hj-km-z]{2,8}", fullmatch=True), min_size=1, max_size=8))
@settings(deadline=None, max_examples=50)
def test_plain_words_are_kept(words: list[str]):
    special = {"gonna", "gotta", "lemme", "gimme", "wanna", "cannot"}
    words = [word for word in words if word not in special]
    assert ptb_tokenize([" ".join(words) + " ."]) == [" ".join(words)]


@pytest.mark.parametrize(
    "text", ["a," * 3000, "a-" * 3000, "a." * 3000, "'" * 3000, "1 " * 3000, "<a " * 3000, "@" * 3000]
)
def test_long_odd_text_takes_no_age(text: str):
    start = time.process_time()
    ptb_tokenize([text])
    assert time.process_time() - start < 10


def _generated(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    words = sorted({word for text, _ in PAIRS for word in text.split()})
    ends = ["", "", "", ".", ",", "'s", "n't", "!", "...", "-", "/", '"', ")", " .", "’s", "%"]
    return [" ".join(rng.choice(words) + rng.choice(ends) for _ in range(rng.randint(1, 10))) for _ in range(count)]


@pytest.mark.skipif(
    not (shutil.which("java") and importlib.util.find_spec("pycocoevalcap")), reason="needs java and pycocoevalcap"
)
def test_live_java_agrees(tmp_path: Path):
    folder = Path(importlib.util.find_spec("pycocoevalcap").submodule_search_locations[0]) / "tokenizer"  # type: ignore
    captions = _generated(3000, seed=7)
    # A neutral line between two captions: Java looks across the end of a line.
    (tmp_path / "captions.txt").write_text("".join(f"{caption}\nzz\n" for caption in captions), encoding="utf-8")
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(folder / "stanford-corenlp-3.4.1.jar")]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", str(tmp_path / "captions.txt")]
    answer = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode().split("\n")
    java = [" ".join(t for t in line.rstrip().split(" ") if t not in PUNCTUATION) for line in answer[::2]]
    wrong = [(c, j, p) for c, j, p in zip(captions, java, ptb_tokenize(captions)) if j.rstrip() != p]
    assert len(wrong) <= len(captions) // 1000, wrong[:5]
