from __future__ import annotations

import hashlib
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vlkit
from vlkit.errors import ConfigError, DataError
from vlkit.processors.tokenizer import build_tokenizer

VOCABULARIES = Path(vlkit.__file__).parent / "configs" / "vocab"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


@pytest.fixture(scope="module")
def bert():
    return build_tokenizer()


def vocabulary(folder: Path, *tokens: str) -> Path:
    file = folder / "vocab.txt"
    file.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return file


def test_the_bundled_vocabulary_is_googles():
    digest = hashlib.sha256((VOCABULARIES / "bert-base-uncased.txt").read_bytes()).hexdigest()
    assert digest == "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
    notice = (VOCABULARIES / "LICENSE-bert-base-uncased.txt").read_text()
    assert "Google AI Language Team" in notice
    assert "http://www.apache.org/licenses/LICENSE-2.0" in notice


def test_ids_of_bert(bert):
    assert len(bert) == 30524
    assert (bert.pad_id, bert.unk_id, bert.cls_id, bert.sep_id, bert.mask_id) == (0, 100, 101, 102, 103)
    assert (bert.dec_id, bert.enc_id) == (30522, 30523)
    assert bert.spec == "bert-base-uncased"


def test_encode_truncates_as_bert_does(bert):
    assert bert.encode("A dog.") == [[101, 1037, 3899, 1012, 102]]
    assert bert.encode(["A dog.", ""], max_length=4) == [[101, 1037, 3899, 102], [101, 102]]
    assert bert.encode("a dog.", max_length=2) == [[101, 102]]
    assert bert.encode("a dog.", special=False) == [[1037, 3899, 1012]]
    assert bert.encode("a dog.", max_length=2, special=False) == [[1037, 3899]]
    assert bert.encode([]) == []
    assert len(bert.encode("dog " * 600)[0]) == 512


def test_batch_pads_on_the_right(bert):
    ids, mask = bert.batch(["a dog", "", "a red dog"])
    assert ids.dtype == mask.dtype == torch.int64
    assert ids.tolist() == [[101, 1037, 3899, 102, 0], [101, 102, 0, 0, 0], [101, 1037, 2417, 3899, 102]]
    assert mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    ids, mask = bert.batch("a dog", pad_to=7)
    assert ids.shape == (1, 7)
    assert mask.sum() == 4
    assert bert.batch(["a red dog"], max_length=3, pad_to=2)[0].tolist() == [[101, 1037, 102]]
    assert bert.batch([])[0].shape == (0, 0)


def test_decode_sets_english_tight(bert):
    for text in ("it's a dog, isn't it? i'm sure!", "they've gone. we're here"):
        assert bert.decode(bert.encode(text)[0]) == text
    assert bert.batch_decode(bert.batch(["a playing dog.", "x"])[0]) == ["a playing dog.", "x"]
    assert bert.decode([]) == ""
    assert bert.decode(torch.tensor([30522, 1037, 3899, 102, 0, 0])) == "a dog"


def test_decode_can_show_special_tokens(bert):
    piece = bert.encode("captions", special=False)[0]  # capt ##ions
    ids = [bert.dec_id, *piece, bert.sep_id]
    assert bert.decode(ids, skip_special_tokens=False) == "[DEC] captions [SEP]"
    # A piece right after [DEC] begins a stretch: there is nothing to join it to.
    assert bert.decode([bert.dec_id, piece[1]], skip_special_tokens=False) == "[DEC] ##ions"
    assert bert.decode([99_999], skip_special_tokens=False) == "[UNK]"


def test_what_is_not_text_is_named(bert):
    for texts, message in (
        (["a", None], r"text 1 of 2 is None \(NoneType\)"),
        ([3], r"text 0 of 1 is 3 \(int\)"),
        ([["a"]], r"text 0 of 1 is \['a'\] \(list\)"),
    ):
        with pytest.raises(DataError, match=message):
            bert.batch(texts)
    with pytest.raises(ConfigError, match="max_length: 1"):
        bert.encode("a", max_length=1)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=40), max_size=4), st.integers(2, 12))
def test_any_text_gives_ids_in_range(texts, length):
    bert = build_tokenizer()
    rows = bert.encode(texts, max_length=length)
    assert len(rows) == len(texts)
    for row in rows:
        assert row[0] == bert.cls_id
        assert row[-1] == bert.sep_id
        assert len(row) <= length
        assert all(0 <= i < len(bert) for i in row)
    ids, mask = bert.batch(texts, max_length=length)
    assert [i[m.bool()].tolist() for i, m in zip(ids, mask)] == rows


def test_built_once_and_cheap_to_pickle(bert):
    assert build_tokenizer("bert-base-uncased") is build_tokenizer("bert-base-uncased")
    data = pickle.dumps(bert)
    assert len(data) < 200
    assert pickle.loads(data).encode("a dog") == bert.encode("a dog")


def test_a_vocabulary_of_ones_own(tmp_path):
    file = vocabulary(tmp_path, *SPECIAL, "red", "dog", "##s", ".")
    tokenizer = build_tokenizer(str(file))
    assert (len(tokenizer), tokenizer.dec_id, tokenizer.enc_id, tokenizer.mask_id) == (10, 8, 9, None)
    ids = tokenizer.encode("Red DOGS blue.")[0]
    assert tokenizer.tokens(ids) == ["[CLS]", "red", "dog", "##s", "[UNK]", ".", "[SEP]"]
    assert tokenizer.decode(ids) == "red dogs."
    assert tokenizer.spec == str(file)


def test_special_tokens_of_the_file_keep_their_ids(tmp_path):
    tokenizer = build_tokenizer(vocabulary(tmp_path, "[ENC]", *SPECIAL, "[DEC]", "dog"))
    assert (len(tokenizer), tokenizer.enc_id, tokenizer.dec_id) == (7, 0, 5)
    assert tokenizer.encode("[DEC] dog", special=False) == [[5, 6]]


def test_the_vocabulary_of_shapes():
    tokenizer = build_tokenizer("shapes")
    words = (VOCABULARIES / "shapes.txt").read_text().split("\n")[:-1]
    plain = [word for word in words if not word.startswith("[")]
    assert tokenizer.tokens(tokenizer.encode(" ".join(plain), special=False)[0]) == plain
    assert tokenizer.decode(tokenizer.encode("red square")[0]) == "red square"


def test_a_tokenizer_json(tmp_path, bert):
    file = tmp_path / "tokenizer.json"
    bert._backend.save(str(file))
    tokenizer = build_tokenizer(str(file))
    text = "It's a [DEC] naïve dog's life."
    assert tokenizer.encode(text) == bert.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)[0]) == bert.decode(bert.encode(text)[0])
    assert len(tokenizer) == len(bert)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["dog", "[PAD]", "[UNK]"], r"lacks \[CLS\], \[SEP\]"),
        ([*SPECIAL, "dog", "cat", "dog"], r"line 7: 'dog' stands on line 5 already"),
        ([], r"lacks"),
    ],
)
def test_damaged_vocabularies(tmp_path, tokens, message):
    file = vocabulary(tmp_path, *tokens)
    with pytest.raises(ConfigError, match=message) as caught:
        build_tokenizer(str(file))
    assert str(file) in str(caught.value)


def test_other_wrong_specs(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'bert-base-uncased'"):
        build_tokenizer("bert-base-uncase")
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{}")
    with pytest.raises(ConfigError, match=r"is not a tokenizer\.json"):
        build_tokenizer(str(broken))
    binary = tmp_path / "vocab.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        build_tokenizer(str(binary))


def test_nothing_is_fetched(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    build_tokenizer.cache_clear()
    assert build_tokenizer().encode("dog") == [[101, 3899, 102]]
    with pytest.raises(ConfigError, match="no such file"):
        build_tokenizer("bert-large-cased")


def test_importing_loads_neither_torch_nor_transformers():
    code = (
        "import sys, vlkit.processors.tokenizer as t; t.build_tokenizer().decode([101]); "
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
