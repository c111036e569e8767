from __future__ import annotations

import pytest
import torch

from tests.unit.models import small
from vlkit.errors import ConfigError, VlkitError
from vlkit.models.blip.base import BlipBase
from vlkit.models.med import Layer, MedConfig
from vlkit.models.packing import TextBatch
from vlkit.processors.tokenizer import build_tokenizer


def base(tokenizer: str = "shapes", max_words: int = 20, **med) -> BlipBase:
    return BlipBase(small.vit(), small.med(**med), tokenizer, max_words)


def test_vocabulary_follows_the_tokenizer():
    size = len(build_tokenizer("shapes"))
    assert base().med_config.vocab_size == size
    assert base(vocab_size=size + 5).med_config.vocab_size == size + 5
    with pytest.raises(VlkitError, match=f"vocab_size is 9, but the tokenizer 'shapes' has {size} tokens"):
        base(vocab_size=9)


def test_the_given_configuration_is_not_changed():
    config = MedConfig(hidden_size=16, num_attention_heads=2)
    BlipBase(small.vit(), config, "shapes", 20)
    assert config.vocab_size is None


def test_texts_longer_than_there_are_positions():
    with pytest.raises(VlkitError, match=r"max_words is 41, but med\.max_position_embeddings is 40"):
        base(max_words=41)


def test_an_unknown_tokenizer_is_named():
    with pytest.raises(ConfigError, match="Did you mean 'shapes'"):
        base("shape")


def test_texts_are_cut():
    texts = base(max_words=5).tokenize(["a red circle", "a red circle and a small blue square"])
    tokenizer = build_tokenizer("shapes")
    assert texts.lengths == (5, 5)
    assert texts.ids[-1] == tokenizer.sep_id
    assert texts.ids[0] == tokenizer.cls_id


def test_samples_bring_strings_or_tokens():
    model = base()
    texts = model.texts_of({"text_input": ["a red circle", "a square"]})
    assert isinstance(texts, TextBatch)
    assert model.texts_of({"texts": texts, "text_input": ["unread"]}) is texts
    assert model.texts_of({"text_input": "a red circle"}).lengths == texts.lengths[:1]


@pytest.mark.parametrize("key", ["image", "text_input"])
def test_a_missing_key_is_one_clear_error(key):
    model = base()
    read = {"image": model.image_embeds, "text_input": model.texts_of}[key]
    with pytest.raises(VlkitError, match=rf"BlipBase needs samples with '{key}'; given: 'picture'\."):
        read({"picture": torch.zeros(1)})
    with pytest.raises(VlkitError, match="given: nothing"):
        read({})


def test_blocks_for_activation_checkpointing_leave_out_momentum_encoders():
    model = small.pretrainer()
    blocks = model.checkpoint_blocks()
    # 2 blocks of the image encoder, 2 layers of the text encoder, 2 of the decoder.
    assert len(blocks) == len({id(block) for block in blocks}) == 6
    assert sum(isinstance(block, Layer) for block in blocks) == 4
    kept = {id(p) for p in [*model.visual_encoder_m.parameters(), *model.text_encoder_m.parameters()]}
    assert not any(id(p) in kept for block in blocks for p in block.parameters())
