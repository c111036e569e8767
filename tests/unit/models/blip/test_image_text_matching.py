from __future__ import annotations

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from tests.unit.models import small
from vlkit.errors import VlkitError
from vlkit.models.blip.image_text_matching import BlipImageTextMatching

TEXTS = ["a red circle", "a small blue square above a green star", "two shapes"]


def build(**settings) -> BlipImageTextMatching:
    torch.manual_seed(0)
    given = {"tokenizer": "shapes", "embed_dim": 12, **settings}
    return BlipImageTextMatching(small.vit(), small.med(initializer_range=0.15), **given).eval()


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> BlipImageTextMatching:
    return build()


def pair(model: BlipImageTextMatching, image: torch.Tensor, text: str) -> torch.Tensor:
    return model({"image": image[None], "text_input": [text]}).softmax(-1)[0, 1]


@torch.no_grad()
def test_scores_of_every_pair_are_those_of_single_pairs(model):
    given = {"image": images(2), "text_input": TEXTS}
    expected = torch.stack([torch.stack([pair(model, image, text) for text in TEXTS]) for image in given["image"]])
    for at_once in (1, 2, 3, 4, 100):
        torch.testing.assert_close(model.score(given, pairs_at_once=at_once), expected, atol=1e-5, rtol=1e-4)


@settings(deadline=None, max_examples=20)
@drawn(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=8),
    count=st.integers(1, 3),
    at_once=st.integers(1, 30),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_scores_of_texts_of_any_lengths(lengths, count, at_once, dtype):
    """Equal ones and an empty one among them."""
    model, texts = build().to(dtype), [" ".join(["red star"] * length) for length in lengths]
    given = {"image": images(count).to(dtype), "text_input": texts}
    with torch.no_grad():
        expected = torch.stack([torch.stack([pair(model, image, text) for text in texts]) for image in given["image"]])
    found = model.score(given, pairs_at_once=at_once)
    torch.testing.assert_close(found, expected.float(), atol={torch.float32: 1e-5}.get(dtype, 2e-2), rtol=1e-4)


def test_similarities_of_every_pair(model):
    given = {"image": images(2), "text_input": TEXTS}
    with torch.no_grad():
        itc = model(given, match_head="itc")
        image_feats = model.image_feats(model.image_embeds(given))
        expected = image_feats @ model.text_feats(model.tokenize(TEXTS)).T
    torch.testing.assert_close(itc, expected)
    torch.testing.assert_close(model.score(given, "itc"), expected)
    assert itc.shape == (2, 3)
    assert itc.abs().max() <= 1 + 1e-6


def test_one_image_with_many_texts(model):
    with torch.no_grad():
        logits = model({"image": images(1), "text_input": TEXTS}, match_head="itm")
    assert logits.shape == (3, 2)
    torch.testing.assert_close(
        logits.softmax(-1)[:, 1], model.score({"image": images(1), "text_input": TEXTS})[0], atol=1e-5, rtol=1e-4
    )


def test_one_text_alone(model):
    given = {"image": images(1), "text_input": TEXTS[0]}
    assert model.score(given).shape == (1, 1)


def test_keys_and_values_are_made_once_for_an_image(model, monkeypatch):
    counts = []
    project = model.text_encoder.project_images
    monkeypatch.setattr(model.text_encoder, "project_images", lambda x: counts.append(len(x)) or project(x))
    model.score({"image": images(3), "text_input": TEXTS * 4}, pairs_at_once=24)
    assert sum(counts) == 3


def test_the_first_token_is_enc_unless_the_originals_is_asked_for(model):
    given = {"image": images(), "text_input": TEXTS}
    original = build(first_token="cls")
    original.load_state_dict(model.state_dict())
    with torch.no_grad():
        states = model.text_encoder.project_images(model.image_embeds(given))
        tokens = model.tokenize(TEXTS)
        for one, first in ((model, model.tokenizer.enc_id), (original, model.tokenizer.cls_id)):
            hidden = model.text_encoder(tokens.with_first(first), states, first_only=True)
            torch.testing.assert_close(one(given), model.itm_head(hidden))
        assert not torch.allclose(model(given), original(given), atol=1e-3)


def test_videos(model):
    video = torch.randn(2, 3, 3, 16, 16)
    given = {"video": video, "text_input": TEXTS[:2]}
    with torch.no_grad():
        assert model(given).shape == (2, 2)
        torch.testing.assert_close(model.score(given).diagonal(), model(given).softmax(-1)[:, 1], atol=1e-5, rtol=1e-4)
        feats = model.image_feats(model.image_embeds(given), 3)
        torch.testing.assert_close(model.score(given, "itc"), feats @ model.text_feats(model.tokenize(TEXTS[:2])).T)


def test_heads_and_tokens_that_there_are_not(model):
    with pytest.raises(VlkitError, match=r"match_head is 'itx'; it must be 'itm' or 'itc'"):
        model({"image": images(), "text_input": TEXTS}, match_head="itx")
    with pytest.raises(VlkitError, match="match_head is 'ITM'"):
        model.score({"image": images(), "text_input": TEXTS}, match_head="ITM")
    with pytest.raises(VlkitError, match="first_token is 'dec'; it must be 'enc' or 'cls'"):
        build(first_token="dec")
    with pytest.raises(VlkitError, match="given: 3 images, 2 texts"):
        model({"image": images(), "text_input": TEXTS[:2]})


def test_both_heads_can_be_trained():
    model = build().train()
    given = {"image": images(), "text_input": TEXTS}
    (model(given).sum() + model(given, match_head="itc").sum()).backward()
    assert all(p.grad is not None for p in model.parameters())
