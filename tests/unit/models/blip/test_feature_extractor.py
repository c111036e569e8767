from __future__ import annotations

import pytest
import torch

from tests.unit.models import small
from vlkit.errors import VlkitError
from vlkit.models.blip.feature_extractor import BlipFeatureExtractor

TEXTS = ["a red circle", "a small blue square above a green star", "two shapes"]


def build(**settings) -> BlipFeatureExtractor:
    torch.manual_seed(0)
    given = {"tokenizer": "shapes", "embed_dim": 12, **settings}
    return BlipFeatureExtractor(small.vit(), small.med(initializer_range=0.15), **given).eval()


def samples(count: int = 3) -> dict:
    image = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return {"image": image[:count], "text_input": TEXTS[:count]}


@pytest.fixture(scope="module")
def model() -> BlipFeatureExtractor:
    return build()


def test_image_mode(model):
    found = model.extract_features({"image": samples()["image"]}, mode="image")
    torch.testing.assert_close(found.image_embeds, model.image_embeds(samples()).detach(), atol=1e-5, rtol=1e-5)
    assert found.image_embeds_proj.shape == (3, 5, 12)
    torch.testing.assert_close(found.image_embeds_proj.norm(dim=-1), torch.ones(3, 5))
    torch.testing.assert_close(found.image_embeds_proj[:, 0], model.embed_images(samples()["image"]))
    assert found.text_embeds is found.text_embeds_proj is found.multimodal_embeds is found.text_mask is None
    assert not found.image_embeds.requires_grad


def test_text_mode_pads_behind_the_texts(model):
    found = model.extract_features({"text_input": TEXTS}, mode="text")
    lengths = model.tokenize(TEXTS).lengths
    assert found.text_mask.sum(1).tolist() == list(lengths)
    assert found.text_embeds.shape == (3, max(lengths), 16)
    assert found.image_embeds is found.multimodal_embeds is None
    for i, text in enumerate(TEXTS):
        alone = model.extract_features({"text_input": text}, mode="text")
        n = lengths[i]
        torch.testing.assert_close(found.text_embeds[i, :n], alone.text_embeds[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.text_embeds_proj[i, :n], alone.text_embeds_proj[0], atol=1e-5, rtol=1e-4)
        assert not found.text_embeds[i, n:].any()
        assert not found.text_embeds_proj[i, n:].any()
    torch.testing.assert_close(found.text_embeds_proj[:, 0], model.embed_texts(TEXTS), atol=1e-5, rtol=1e-4)


def test_multimodal_mode_is_the_default_and_sees_the_image(model):
    found = model.extract_features(samples())
    assert found.text_embeds is found.image_embeds_proj is None
    torch.testing.assert_close(found.image_embeds, model.image_embeds(samples()).detach(), atol=1e-5, rtol=1e-5)
    for i, text in enumerate(TEXTS):
        one = model.extract_features({"image": samples()["image"][[i]], "text_input": [text]})
        n = one.multimodal_embeds.shape[1]
        torch.testing.assert_close(found.multimodal_embeds[i, :n], one.multimodal_embeds[0], atol=1e-5, rtol=1e-4)
        assert not found.multimodal_embeds[i, n:].any()
    other = model.extract_features({"image": samples()["image"].flip(0), "text_input": TEXTS})
    assert not torch.allclose(other.multimodal_embeds[0], found.multimodal_embeds[0], atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_vectors_do_not_depend_on_the_batch(model, batch_size):
    image = samples()["image"]
    torch.testing.assert_close(model.embed_images(image, batch_size=batch_size), model.embed_images(image))
    torch.testing.assert_close(
        model.embed_texts(TEXTS, batch_size=batch_size), model.embed_texts(TEXTS), atol=1e-5, rtol=1e-4
    )
    assert model.embed_texts(TEXTS).shape == (3, 12)
    torch.testing.assert_close(model.embed_images(image).norm(dim=1), torch.ones(3))


def test_pooled_vectors_are_what_cls_holds(model):
    image = samples()["image"]
    first = model.image_embeds(samples())[:, 0].detach()
    torch.testing.assert_close(model.embed_images(image, project=False), first, atol=1e-5, rtol=1e-5)
    embeds = model.extract_features({"text_input": TEXTS}, mode="text").text_embeds
    torch.testing.assert_close(model.embed_texts(TEXTS, project=False), embeds[:, 0], atol=1e-5, rtol=1e-4)
    assert model.embed_texts(TEXTS[0], project=False).shape == (1, 16)


def test_videos(model):
    video = torch.randn(2, 3, 3, 16, 16)
    frames = model.embed_images(video.flatten(0, 1), project=False).unflatten(0, (2, 3))
    torch.testing.assert_close(model.embed_images(video, project=False), frames.mean(1))
    assert model.embed_images(video, batch_size=1).shape == (2, 12)
    assert model.extract_features({"video": video, "text_input": TEXTS[:2]}).image_embeds.shape == (2, 15, 24)


def test_without_projections():
    model = build(embed_dim=None)
    assert not [name for name in model.state_dict() if "proj." in name and "encoder" not in name]
    assert model.extract_features(samples(), mode="image").image_embeds_proj is None
    found = model.extract_features(samples(), mode="text")
    assert found.text_embeds_proj is None
    assert found.text_embeds is not None
    assert model.embed_texts(TEXTS, project=False).shape == (3, 16)
    for call in (lambda: model.embed_images(samples()["image"]), lambda: model.embed_texts(TEXTS)):
        with pytest.raises(VlkitError, match="has no projections"):
            call()


def test_long_texts_are_cut_where_the_positions_end_or_where_asked(model):
    long = " ".join(["red"] * 100)
    positions = model.med_config.max_position_embeddings
    assert model.extract_features({"text_input": long}, mode="text").text_embeds.shape[1] == positions
    assert build(max_words=7).extract_features({"text_input": long}, mode="text").text_embeds.shape[1] == 7


def test_a_mode_that_there_is_not(model):
    with pytest.raises(VlkitError, match=r"mode is 'images'; it must be 'multimodal' or 'image' or 'text'.*image"):
        model.extract_features(samples(), mode="images")


def test_features_can_be_trained():
    model = build().train()
    found = [model(samples(), mode) for mode in ("image", "text", "multimodal")]
    loss = found[0].image_embeds_proj.sum() + found[1].text_embeds_proj.sum() + found[2].multimodal_embeds.sum()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
