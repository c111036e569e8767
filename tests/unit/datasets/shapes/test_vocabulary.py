from __future__ import annotations

import re
from importlib.resources import files

import pytest

from tests.unit.datasets.shapes.worlds import scenes
from vlkit.datasets.shapes import captions, pairs, questions, videos
from vlkit.datasets.shapes.scene import stream

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]


@pytest.fixture(scope="module")
def vocabulary() -> list[str]:
    return files("vlkit.configs").joinpath("vocab/shapes.txt").read_text().split("\n")[:-1]


@pytest.fixture(scope="module")
def emitted() -> set[str]:
    texts: list[str] = [*questions.ANSWERS]
    for index, scene in enumerate(scenes(2500)):
        rng = stream(1, index)
        texts += [captions.caption(scene, rng), captions.swapped_caption(scene, rng)]
        texts += [captions.web_caption(scene, rng, 1.0)[0], pairs.make_statement(rng).sentence]
        texts += [q.question for q in questions.questions(scene, rng, 2)]
        dialog = questions.make_dialog(scene, rng, rounds=8, candidates=questions.OPTIONS)
        texts += [dialog.caption, *(r.question for r in dialog.rounds), *dialog.rounds[0].candidates]
        video = videos.make_video(rng, 4)
        texts += [*videos.video_captions(video, rng, 2), videos.ask_video(video, rng).question]
    return {word for text in texts for word in re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text)}


def test_special_tokens_come_first_and_nothing_twice(vocabulary):
    assert vocabulary[: len(SPECIAL)] == SPECIAL
    assert len(set(vocabulary)) == len(vocabulary) <= 300


def test_no_generator_emits_an_unknown_word(vocabulary, emitted):
    assert emitted - set(vocabulary) == set()


def test_no_word_is_there_for_nothing(vocabulary, emitted):
    assert set(vocabulary[len(SPECIAL) :]) - emitted == set()


def test_the_tokenizer_of_bert_reads_every_text_without_unknowns(vocabulary):
    from tokenizers.implementations import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer({word: i for i, word in enumerate(vocabulary)}, lowercase=True)
    for index, scene in enumerate(scenes(200)):
        text = captions.web_caption(scene, stream(2, index), 0.5)[0]
        encoded = tokenizer.encode(text)
        assert "[UNK]" not in encoded.tokens
        assert tokenizer.decode(encoded.ids).replace(" ", "") == text.replace(" ", "")
