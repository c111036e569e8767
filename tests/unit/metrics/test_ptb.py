"""The Python tokenizer against the Java one: stored pairs, and live where Java is installed."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.metrics.ptb import PUNCTUATION, ptb_tokenize, ptb_tokens

ASSETS = Path(__file__).parents[2] / "assets"
PAIRS = json.loads((ASSETS / "ptb_pairs.json").read_text(encoding="utf-8"))


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


@pytest.mark.parametrize(("letters", "step"), [("ab", 1), ("कख", 7)])
def test_every_code_point_between_two_letters_is_what_java_makes_of_it(letters: str, step: int):
    """The file holds the answers of the Java program for ranges of code points: "joined" (one word), "dropped" (two
    words), "token" (three tokens), else the tokens themselves; punctuation is dropped."""
    left, right = letters
    column = 2 if letters == "ab" else 3
    ranges = json.loads((ASSETS / "ptb_code_points.json").read_text(encoding="utf-8"))
    wrong = []
    for row in ranges:
        for character in map(chr, range(row[0], row[1] + 1, step if row[1] < 0x10000 else 64)):
            expected = {
                "joined": left + character.lower() + right,
                "dropped": f"{left} {right}",
                "token": f"{left} {character.lower()} {right}",
            }.get(row[column], row[column])
            found = ptb_tokenize([left + character + right])[0]
            if found != expected:
                wrong.append((hex(ord(character)), expected, found))
    assert not wrong, wrong[:10]


@pytest.mark.parametrize(
    "caption",
    [
        "एक आदमी कुत्ते के साथ पार्क में चल रहा है",  # Hindi: vowel signs and viramas continue a word
        "একটি ছোট মেয়ে লাল বল নিয়ে খেলছে",  # Bengali
        "ஒரு பெண் பூக்களை வைத்திருக்கிறாள்",  # Tamil
        "ผู้ชายกำลังขี่จักรยาน",  # Thai
    ],
)
def test_words_with_combining_marks_are_kept_whole(caption: str):
    assert ptb_tokenize([caption]) == [caption]


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
    """A rule that backtracks takes hours here; the limit of the suite ends it."""
    assert " " not in ptb_tokenize([text])[0][:1]


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
