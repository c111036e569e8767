"""Foreign names, and what a file seems to be; numbers are compared in tests/integration/test_hugging_face.py."""

import pytest
import torch

from tests.unit.models.small import captioner
from vlkit.errors import CheckpointError, VlkitError
from vlkit.models.weights.names import describe, find_adapter, from_hugging_face, to_hugging_face


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
