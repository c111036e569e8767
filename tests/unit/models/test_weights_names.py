"""Foreign names: numbers equal those of the class of transformers in both directions."""

import pytest
import torch

from tests.unit.models.small import captioner, pretrainer
from vlkit.errors import CheckpointError, VlkitError
from vlkit.models.blip.caption import BlipCaption
from vlkit.models.weights import load_weights
from vlkit.models.weights_names import describe, find_adapter, from_hugging_face, to_hugging_face


def hugging_face_twin(model: BlipCaption) -> torch.nn.Module:
    """A randomly filled BlipForConditionalGeneration of the same sizes."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    vit, med = model.vit_config, model.med_config
    config = BlipConfig(
        vision_config={
            "hidden_size": vit.embed_dim,
            "num_hidden_layers": vit.depth,
            "num_attention_heads": vit.num_heads,
            "intermediate_size": int(vit.embed_dim * vit.mlp_ratio),
            "image_size": vit.image_size,
            "patch_size": vit.patch_size,
            "layer_norm_eps": 1e-6,
        },
        text_config={
            "vocab_size": med.vocab_size,
            "hidden_size": med.hidden_size,
            "encoder_hidden_size": vit.embed_dim,
            "num_hidden_layers": med.num_hidden_layers,
            "num_attention_heads": med.num_attention_heads,
            "intermediate_size": med.intermediate_size,
            "max_position_embeddings": med.max_position_embeddings,
            "bos_token_id": 1,
            "sep_token_id": 2,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
    )
    twin = BlipForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.normal_(std=0.3)
    return twin


def logits_of(model: BlipCaption, image: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    from vlkit.models.packing import TextBatch

    states = model.text_decoder.bert.project_images(model.visual_encoder(image))
    hidden = model.text_decoder(TextBatch.from_padded(ids, torch.ones_like(ids)), states)
    return model.text_decoder.logits(hidden).unflatten(0, ids.shape)


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, 3, 16, 16, generator=generator), torch.randint(5, 90, (3, 7), generator=generator)


@torch.no_grad()
def test_from_hugging_face(inputs):
    model = captioner().eval()
    twin = hugging_face_twin(model)
    report = load_weights(model, twin.state_dict())
    assert not report.missing
    expected = twin(pixel_values=inputs[0], input_ids=inputs[1]).logits
    torch.testing.assert_close(logits_of(model, *inputs), expected, atol=1e-4, rtol=1e-5)
    assert expected.std() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("build", [captioner, pretrainer])
def test_to_hugging_face(inputs, build):
    model = build().eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    twin = hugging_face_twin(model)
    twin.load_state_dict(to_hugging_face(model.state_dict(), "blip_caption"), strict=True)
    expected = twin(pixel_values=inputs[0], input_ids=inputs[1]).logits
    torch.testing.assert_close(logits_of(model, *inputs), expected, atol=1e-4, rtol=1e-5)


def test_there_and_back_is_the_same():
    state = captioner().state_dict()
    back = from_hugging_face(to_hugging_face(state, "blip_caption"))
    assert back.keys() == {name for name in state if not name.endswith("position_ids")}
    assert all(value is state[name] for name, value in back.items())


def test_layers_with_two_digits():
    name = "visual_encoder.blocks.23.attn.proj.weight"
    there = to_hugging_face({name: torch.zeros(1), "text_decoder.x": torch.zeros(1)}, "blip_caption")
    assert "vision_model.encoder.layers.23.self_attn.projection.weight" in there


def test_what_cannot_go_to_hugging_face():
    with pytest.raises(VlkitError, match=r"'blip_captions'. Did you mean 'blip_caption'"):
        to_hugging_face({}, "blip_captions")
    state = {"visual_encoder.x": torch.zeros(1), "text_encoder.x": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"a BLIP feature extractor cannot .*Generation: it has no text_decoder."):
        to_hugging_face(state, "blip_caption")


def test_unknown_adapter():
    with pytest.raises(VlkitError, match=r"'pretrian'. Did you mean 'pretrain'"):
        find_adapter("pretrian", [])


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["visual_encoder.a", "text_decoder.a"], "a BLIP captioner"),
        (["vision_model.a", "text_decoder.a"], "no BLIP model"),
        (["vision_model.post_layernorm.a", "text_decoder.a"], "a BLIP captioner under Hugging Face names"),
        (["visual_encoder.a", "text_encoder.a", "text_decoder.a"], "a BLIP VQA model"),
        (["visual_encoder.a", "text_encoder.a", "cls_head.0.a"], "a BLIP NLVR2 model"),
        (["visual_encoder.a", "text_encoder.a", "itm_head.a"], "a BLIP image-text matching model"),
        (["visual_encoder.a", "itm_head.a", "image_queue"], "a BLIP retrieval model"),
        (["visual_encoder.a", "itm_head.a", "image_queue", "text_decoder.a"], "a BLIP pre-training model"),
        (["Qformer.a", "visual_encoder.a"], "a BLIP-2 model"),
        (["conv1.weight", "layer1.0.a", "layer4.0.a"], "a ResNet"),
        (["something"], "no BLIP model"),
    ],
)
def test_description_by_names(names, kind):
    assert describe(dict.fromkeys(names, (1,))) == kind


def test_description_by_widths():
    shapes = {name: tuple(value.shape) for name, value in captioner().state_dict().items()}
    assert describe(shapes) == "a BLIP captioner with a ViT of width 24/8 at 16 pixels"
    shapes["visual_encoder.pos_embed"] = (1, 577, 1024)
    shapes["visual_encoder.patch_embed.proj.weight"] = (1024, 3, 16, 16)
    assert describe(shapes) == "a BLIP captioner with ViT-L/16 at 384 pixels"
