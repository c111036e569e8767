from __future__ import annotations

import pytest
import torch

from tests.unit.models.small import captioner, vit
from vlkit.errors import VlkitError
from vlkit.models.blip.caption import BlipCaption
from vlkit.models.vit import TimmBackbone, VisionTransformer, VitConfig, build_image_encoder, resize_pos_embed


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("test_vit", 1 + 4), ("test_convnext", 1 + 1), ("test_resnet", 1 + 1), ("test_resnet.r160_in1k", 1 + 1)],
)
def test_any_timm_model_by_name(name, tokens):
    encoder = build_image_encoder(VitConfig(image_size=32, backbone=name)).eval()
    assert isinstance(encoder, TimmBackbone)
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        embeds = encoder(image)
        assert embeds.shape == (2, tokens, encoder.width)
        torch.testing.assert_close(encoder(image[1:]), embeds[1:], atol=1e-5, rtol=1e-4)
        features = encoder.body.forward_features(image)
    if features.ndim == 4:  # their mean stands in front, then they follow row by row
        torch.testing.assert_close(embeds[:, 0], features.mean((2, 3)))
        torch.testing.assert_close(embeds[:, 1:], features.flatten(2).transpose(1, 2))
    else:
        assert torch.equal(embeds, features)


def test_feature_maps_row_by_row():
    encoder = TimmBackbone("test_resnet", 64).eval()
    with torch.no_grad():
        image = torch.randn(1, 3, 64, 64)
        features = encoder.body.forward_features(image)
        assert features.shape[-2:] == (2, 2)
        assert torch.equal(encoder(image)[0, 1 + 1], features[0, :, 0, 1])  # second of the first row


def test_a_model_that_refuses_to_go_without_pooling():
    encoder = TimmBackbone("deit_tiny_distilled_patch16_224", 32)
    assert encoder(torch.randn(1, 3, 32, 32)).shape == (1, 2 + 4, encoder.width)


def test_a_captioner_on_a_timm_backbone():
    from tests.unit.models.small import med

    model = BlipCaption(VitConfig(image_size=32, backbone="test_convnext"), med(), tokenizer="shapes")
    loss = model({"image": torch.randn(2, 3, 32, 32), "text_input": ["a red circle"] * 2}).loss
    loss.backward()
    assert all(p.grad is not None for p in model.visual_encoder.body.stem.parameters())


def test_unknown_backbone_names_the_closest():
    with pytest.raises(VlkitError, match=r"'resnet10tt'.*Did you mean 'resnet10t'"):
        build_image_encoder(VitConfig(backbone="resnet10tt"))


@pytest.mark.parametrize("backbone", [None, "test_vit"])
def test_wrong_image_size_is_one_clear_error(backbone):
    encoder = build_image_encoder(vit(image_size=32, patch_size=16, backbone=backbone))
    with pytest.raises(VlkitError, match=r"images of \(48, 32\) pixels .* for \(32, 32\)"):
        encoder(torch.randn(1, 3, 48, 32))


@pytest.mark.parametrize("sizes", [{"image_size": 20}, {"embed_dim": 25}])
def test_sizes_that_do_not_divide(sizes):
    with pytest.raises(VlkitError, match="must divide"):
        build_image_encoder(vit(**sizes))


def test_tokens_of_the_vision_transformer():
    torch.manual_seed(0)
    encoder = build_image_encoder(vit()).eval()
    assert isinstance(encoder, VisionTransformer)
    image = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        embeds = encoder(image)
        assert embeds.shape == (3, 1 + 4, 24)
        torch.testing.assert_close(embeds.mean(-1), torch.zeros(3, 5), atol=1e-5, rtol=0)  # normalized
        torch.testing.assert_close(encoder(image[[2]]), embeds[[2]], atol=1e-5, rtol=1e-5)
        changed = image.clone()
        changed[0, :, :8, 8:] += 1  # one patch: all tokens of that image see it, no other image does
        moved = (encoder(changed) - embeds).abs().amax(-1)
    assert (moved[0] > 1e-4).all()
    assert float(moved[1:].max()) < 1e-5


@pytest.mark.parametrize(
    "sizes", [{"depth": 1}, {"depth": 3, "init_std": 0.2}, {"backbone": "test_vit", "image_size": 32}]
)
@pytest.mark.parametrize("grad", [True, False])
def test_the_first_token_alone(sizes, grad):
    torch.manual_seed(0)
    encoder = build_image_encoder(vit(**sizes)).eval()
    side = sizes.get("image_size", 16)
    image = torch.randn(3, 3, side, side)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(encoder(image, first_only=True), encoder(image)[:, :1], atol=1e-5, rtol=1e-5)


def test_attention_equals_timms_own():
    """Our attention module in the place of timm's changes no number."""
    from timm.layers import Attention

    torch.manual_seed(0)
    ours = build_image_encoder(vit()).blocks[0].attn
    theirs = Attention(24, num_heads=2, qkv_bias=True)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 24)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-5)


def test_the_whole_equals_timms_own():
    from timm.models.vision_transformer import VisionTransformer as Timms

    torch.manual_seed(0)
    ours = build_image_encoder(vit(depth=3, init_std=0.2))
    theirs = Timms(16, 8, embed_dim=24, depth=3, num_heads=2, num_classes=0, global_pool="", weight_init="skip")
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(ours(image), theirs(image), atol=1e-5, rtol=1e-5)


def test_stochastic_depth_leaves_out_whole_images():
    torch.manual_seed(0)
    path = build_image_encoder(vit(depth=2, drop_path_rate=0.4)).blocks[1].drop_path1
    x = torch.randn(4000, 3, 2)
    ratio = (path(x) / x).flatten(1)
    kept = ratio[:, 0] != 0
    assert float(kept.float().mean()) == pytest.approx(0.6, abs=0.03)
    torch.testing.assert_close(ratio, kept[:, None].expand(-1, 6) / 0.6)
    assert torch.equal(path.eval()(x), x)


def test_stochastic_depth_grows_with_the_blocks():
    encoder = build_image_encoder(vit(depth=3, drop_path_rate=0.2))
    rates = [block.drop_path1.rate for block in encoder.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_resizing_to_the_same_grid_changes_nothing():
    pos_embed = torch.randn(1, 1 + 9, 4)
    assert resize_pos_embed(pos_embed, 10) is pos_embed


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize(("old", "new"), [(2, 4), (3, 6), (4, 2), (6, 3)])
def test_resizing_maps_the_grid(prefix, old, new):
    """Row and column stay row and column, the tokens in front stay, and a constant stays constant."""
    axis = torch.linspace(-1, 1, old)
    grid = torch.stack([axis[:, None].expand(old, old), axis.expand(old, old), torch.ones(old, old)], -1)
    pos_embed = torch.cat([torch.full((1, prefix, 3), 9.0), grid.reshape(1, -1, 3)], 1)
    resized = resize_pos_embed(pos_embed, prefix + new * new, prefix)
    assert resized.shape == (1, prefix + new * new, 3)
    assert torch.equal(resized[:, :prefix], pos_embed[:, :prefix])
    row, column, constant = resized[0, prefix:].reshape(new, new, 3).unbind(-1)
    torch.testing.assert_close(constant, torch.ones(new, new))
    torch.testing.assert_close(row, column.T)
    assert (row - row[:, :1]).abs().max() < 1e-5  # the row alone decides it
    assert (row[1:, 0] > row[:-1, 0]).all()


def test_resizing_keeps_the_dtype():
    assert resize_pos_embed(torch.randn(1, 5, 4).bfloat16(), 17).dtype == torch.bfloat16


@pytest.mark.parametrize(("old", "new"), [(1 + 6, 1 + 9), (1 + 4, 1 + 8)])
def test_resizing_needs_squares(old, new):
    with pytest.raises(VlkitError, match="square"):
        resize_pos_embed(torch.randn(1, old, 4), new)


def test_width_reaches_the_text_side():
    model = captioner(embed_dim=8)
    assert model.image_width == 8
    assert model.text_decoder.bert.encoder.layer[0].crossattention.self.key.in_features == 8
