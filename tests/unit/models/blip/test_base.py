from __future__ import annotations

import pytest
import torch

from tests.unit.models import small
from vlkit.errors import ConfigError, VlkitError
from vlkit.models.blip.base import BlipBase, frames_of, pooled_feats
from vlkit.models.med import MedConfig
from vlkit.models.packing import TextBatch
from vlkit.models.text_layers import Layer
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


@pytest.mark.parametrize(("videos", "frames"), [(3, 2), (2, 40), (1, 1)])
def test_tokens_of_a_video_are_those_of_its_frames_in_order(videos, frames):
    model = base().eval()
    video = torch.randn(videos, frames, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = model.image_embeds({"video": video})
        alone = [torch.cat([model.image_embeds({"image": frame[None]})[0] for frame in clip]) for clip in video]
    assert tokens.shape == (videos, frames * 5, 24)
    torch.testing.assert_close(tokens, torch.stack(alone))
    assert frames_of({"video": video}) == frames
    assert frames_of({"image": video[:, 0]}) == 1


@pytest.mark.parametrize("video", [torch.zeros(3, 16, 16), torch.zeros(2, 2, 1, 16, 16), torch.zeros(1, 2, 3, 4, 5, 6)])
def test_tensors_of_videos_have_frames_and_three_channels(video):
    with pytest.raises(VlkitError, match=r"video is a tensor \[.*\] of float32; give .* \[F, 3, S, S\]"):
        base().image_embeds({"video": video})


def test_a_video_without_a_batch_is_a_batch_of_one():
    model, video = base().eval(), torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model.image_embeds({"video": video}), model.image_embeds({"video": video[None]}))
    torch.testing.assert_close(model.image_embeds({"video": [video]}), model.image_embeds({"video": video[None]}))


def test_feature_of_a_video_is_the_mean_of_its_frames_projections():
    projection = torch.nn.Linear(2, 2)
    with torch.no_grad():
        projection.weight.copy_(torch.eye(2))
        projection.bias.zero_()
        # Two frames of two tokens; only the first of each counts: (1, 0) and (5, 8), whose mean is (3, 4).
        tokens = torch.tensor([[[1.0, 0.0], [9.0, 9.0], [5.0, 8.0], [7.0, 7.0]]])
        torch.testing.assert_close(pooled_feats(projection, tokens, frames=2), torch.tensor([[0.6, 0.8]]))
        torch.testing.assert_close(pooled_feats(projection, tokens), torch.tensor([[1.0, 0.0]]))


def test_blocks_for_activation_checkpointing_leave_out_momentum_encoders():
    model = small.pretrainer()
    blocks = model.checkpoint_blocks()
    # 2 blocks of the image encoder, 2 layers of the text encoder, 2 of the decoder.
    assert len(blocks) == len({id(block) for block in blocks}) == 6
    assert sum(isinstance(block, Layer) for block in blocks) == 4
    kept = {id(p) for p in [*model.visual_encoder_m.parameters(), *model.text_encoder_m.parameters()]}
    assert not any(id(p) in kept for block in blocks for p in block.parameters())
