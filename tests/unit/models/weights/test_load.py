"""Checkpoints into models: what is taken, resized, ignored or refused, and that ties survive."""

import hashlib
import math

import pytest
import torch
from torch import nn

from tests.unit.models.small import captioner, med, pretrainer, vit
from vlkit.errors import CheckpointError
from vlkit.models.blip.base import BlipBase
from vlkit.models.blip.caption import BlipCaption
from vlkit.models.blip.dialog import BlipDialog
from vlkit.models.blip.feature_extractor import BlipFeatureExtractor
from vlkit.models.blip.image_text_matching import BlipImageTextMatching
from vlkit.models.blip.nlvr import BlipNlvr
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.models.blip.retrieval import BlipRetrieval
from vlkit.models.blip.vqa import BlipVqa
from vlkit.models.vit import resize_pos_embed
from vlkit.models.weights.load import build_with_weights, load_weights
from vlkit.models.weights.names import Adapter


def scrambled(model: nn.Module) -> nn.Module:
    """Other values everywhere, as training would leave them."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def equal(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def text_decoder_without(state: dict, *suffixes: str) -> dict:
    return {name: value for name, value in state.items() if not name.endswith(suffixes)}


@pytest.mark.parametrize("build", [captioner, pretrainer])
def test_the_same_class_from_a_file(tmp_path, build):
    source, model = scrambled(build()), build()
    torch.save({"model": source.state_dict(), "epoch": 1}, tmp_path / "w.pth")
    report = load_weights(model, tmp_path / "w.pth")
    assert equal(model, source)
    assert report.loaded == len(source.state_dict())
    assert not (report.missing + report.unexpected + report.resized + report.ignored + report.filled)
    assert report.summary() == f"{tmp_path / 'w.pth'}: {report.loaded} tensors loaded"


def test_parameters_stay_the_same_objects():
    model = captioner()
    before = {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()}
    load_weights(model, scrambled(captioner()).state_dict())
    assert before == {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()}


def test_overwriting_the_file_afterwards_changes_nothing(tmp_path):
    source, path = scrambled(captioner()), tmp_path / "w.pth"
    torch.save(source.state_dict(), path)
    model, _ = build_with_weights(captioner, path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert equal(model, source)


def test_half_precision_files_keep_the_precision_of_the_model():
    source = scrambled(captioner())
    halves = {n: v.half() for n, v in source.state_dict().items() if v.is_floating_point()}
    model, _ = build_with_weights(captioner, halves)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.visual_encoder.cls_token, source.visual_encoder.cls_token.half().float())


@pytest.mark.parametrize("build", [captioner, pretrainer])
def test_tied_names_are_filled_from_their_partner_and_stay_tied(build):
    source = scrambled(build())
    state = text_decoder_without(source.state_dict(), "predictions.decoder.weight", "predictions.bias", "position_ids")
    state = {name: value for name, value in state.items() if not name.startswith("text_encoder.embeddings.")}
    for model in (build(), build_with_weights(build, state)[0]):
        report = load_weights(model, state)
        assert not report.missing
        assert equal(model, source)
        predictions = model.text_decoder.cls.predictions
        assert predictions.decoder.weight is model.text_decoder.bert.embeddings.word_embeddings.weight
        assert predictions.decoder.bias is predictions.bias
        assert len(list(model.parameters())) == len(list(source.parameters()))
        assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in source.parameters()]


def test_tied_names_that_differ_in_the_file_are_refused():
    state = captioner().state_dict()
    state["text_decoder.cls.predictions.decoder.weight"] = state["text_decoder.cls.predictions.decoder.weight"] + 1
    with pytest.raises(CheckpointError, match=r"word_embeddings.weight and .*decoder.weight differ"):
        load_weights(captioner(), state)


def test_nothing_random_is_drawn_where_the_file_has_everything():
    state = scrambled(pretrainer()).state_dict()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model, report = build_with_weights(pretrainer, state)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not report.missing


class Scaled(BlipBase):
    """Keeps a tensor that is neither parameter nor buffer."""

    def __init__(self):
        super().__init__(vit(), med(), "shapes", 20)
        self.scale = torch.tensor(2.0)


class Counted(BlipBase):
    """Reads a value while it is made."""

    def __init__(self):
        super().__init__(vit(), med(), "shapes", 20)
        self.rate = torch.linspace(0, 1, 3)[1].item()


@pytest.mark.parametrize(("build", "name", "value"), [(Scaled, "scale", 2.0), (Counted, "rate", 0.5)])
def test_constructors_that_need_values(build, name, value):
    source = scrambled(build())
    model, _ = build_with_weights(build, source.state_dict())
    assert equal(model, source)
    assert float(getattr(model, name)) == value


class Masked(nn.Module):
    """With a mask among its buffers."""

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("mask", torch.full((2, 2), -math.inf).triu(1))
        self.register_buffer("rate", torch.tensor(rate))


def test_a_mask_among_the_buffers_is_no_damage():
    model, _ = build_with_weights(Masked, Masked().state_dict())
    assert model.mask[0, 1] == -math.inf
    load_weights(model, Masked().state_dict())
    with pytest.raises(CheckpointError, match=r"not finite: rate \(1 of 1"):
        build_with_weights(Masked, Masked(math.nan).state_dict())


def test_position_embeddings_are_resized():
    source = scrambled(pretrainer())
    model, report = build_with_weights(lambda: pretrainer(image_size=32), source.state_dict())
    expected = resize_pos_embed(source.visual_encoder.pos_embed, 17)
    assert torch.equal(model.visual_encoder.pos_embed, expected)
    assert report.resized == ["visual_encoder.pos_embed", "visual_encoder_m.pos_embed"]
    assert not report.missing


def test_queues_of_another_size_stay_fresh():
    source = scrambled(pretrainer(queue_size=8))
    model, report = build_with_weights(lambda: pretrainer(queue_size=16), source.state_dict())
    assert report.missing == ["image_queue", "text_queue"]
    torch.testing.assert_close(model.image_queue.norm(dim=0), torch.ones(16))
    assert torch.equal(model.temp, source.temp)
    assert "2 missing (image_queue, text_queue)" in report.summary()


def test_pretrained_into_captioner_takes_the_decoder():
    source = scrambled(pretrainer())
    model, report = build_with_weights(captioner, source.state_dict())
    assert equal(model.text_decoder, source.text_decoder)
    assert equal(model.visual_encoder, source.visual_encoder)
    assert not report.unexpected
    assert not report.missing
    assert {name.partition(".")[0] for name in report.ignored} == {
        *("text_encoder", "text_encoder_m", "visual_encoder_m", "vision_proj", "vision_proj_m", "text_proj"),
        *("text_proj_m", "itm_head", "temp", "image_queue", "text_queue", "queue_ptr"),
    }


def test_a_pointer_beyond_a_shorter_queue_starts_inside_it():
    source = scrambled(pretrainer(queue_size=8))
    source.queue_ptr[0] = 7
    model, _ = build_with_weights(lambda: pretrainer(queue_size=4), source.state_dict())
    assert model.queue_ptr.tolist() == [3]
    model, _ = build_with_weights(lambda: pretrainer(queue_size=8), source.state_dict())
    assert model.queue_ptr.tolist() == [7]


def judge() -> BlipNlvr:
    return BlipNlvr(vit(), med(), tokenizer="shapes", merge_from=1)


def test_pretrained_into_nlvr_starts_both_cross_attentions_alike(caplog):
    source = scrambled(pretrainer())
    model, report = build_with_weights(judge, source.state_dict())
    for mine, theirs in zip(model.text_encoder.encoder.layer, source.text_encoder.encoder.layer):
        mine, theirs = mine.crossattention, theirs.crossattention
        assert equal(mine.self0, theirs.self)
        assert equal(mine.self1, theirs.self)
        assert equal(mine.output.dense0, theirs.output.dense)
        assert equal(mine.output.dense1, theirs.output.dense)
        assert equal(mine.output.LayerNorm, theirs.output.LayerNorm)
    assert mine.self0.key.weight.data_ptr() != mine.self1.key.weight.data_ptr()
    fresh = {"cls_head.0", "cls_head.2", "text_encoder.encoder.layer.1.crossattention.output.merge_layer"}
    assert {name.rpartition(".")[0] for name in report.missing} == fresh
    assert "What is missing is initialized at random: train it first" in caplog.text


@pytest.mark.parametrize(
    ("build", "fresh"),
    [
        (lambda: BlipVqa(vit(embed_dim=16), med(), "shapes"), set()),
        (lambda: BlipFeatureExtractor(vit(embed_dim=16), med(), "shapes", 12), set()),
        (lambda: BlipFeatureExtractor(vit(embed_dim=16), med(), "shapes", None), set()),
        (lambda: BlipImageTextMatching(vit(embed_dim=16), med(), "shapes", 12), set()),
        (lambda: BlipRetrieval(vit(embed_dim=16), med(), "shapes", 12, 8), {"idx_queue", "ptr_queue"}),
        (lambda: BlipDialog(vit(embed_dim=16), med(), "shapes", 40, 10, 20), set()),
    ],
    ids=["vqa", "features", "features without projections", "matching", "retrieval", "dialog"],
)
def test_pretrained_into_other_heads(build, fresh):
    source = scrambled(pretrainer(embed_dim=16)).state_dict()
    model, report = build_with_weights(build, source)
    assert set(report.missing) == fresh
    assert not report.unexpected + report.resized + report.filled
    for name, value in model.state_dict().items():
        assert name in fresh or torch.equal(value, source[name]), name
    assert {name.partition(".")[0] for name in report.ignored}.isdisjoint(
        name.partition(".")[0] for name in model.state_dict()
    )


def test_dialogs_about_wider_image_tokens_add_a_projection():
    source = scrambled(pretrainer())
    _, report = build_with_weights(lambda: BlipDialog(vit(), med(), "shapes", 40, 10, 20), source.state_dict())
    assert report.missing == ["caption_proj.weight", "caption_proj.bias"]


def test_matching_weights_start_a_retrieval_model():
    source = scrambled(BlipImageTextMatching(vit(), med(), "shapes", 12))
    model, report = build_with_weights(lambda: BlipRetrieval(vit(), med(), "shapes", 12, 8), source.state_dict())
    assert set(report.missing) == {"temp", "image_queue", "text_queue", "idx_queue", "ptr_queue"}
    assert equal(model.text_encoder_m, source.text_encoder)
    assert torch.equal(model.itm_head.weight, source.itm_head.weight)
    assert model.temp.item() == pytest.approx(0.07)


def test_an_nlvr_file_must_have_its_own_head():
    state = {name: value for name, value in judge().state_dict().items() if not name.startswith("cls_head.0.")}
    with pytest.raises(CheckpointError, match=r"missing in it \(cls_head.0.weight, cls_head.0.bias\)"):
        load_weights(judge(), state)


def test_layers_that_the_model_lacks_are_not_ignored():
    """A whole module may be left out, a part of one not."""
    state = pretrainer().state_dict()
    with pytest.raises(CheckpointError, match=r"not the model's \(text_encoder.encoder.layer.1"):
        build_with_weights(lambda: BlipPretrain(vit(), med(num_hidden_layers=1), "shapes", 12, 8), state)


def test_missing_momentum_encoders_start_as_their_encoders():
    source = scrambled(pretrainer())
    state = {n: v for n, v in source.state_dict().items() if not n.partition(".")[0].endswith("_m")}
    model, report = build_with_weights(pretrainer, state)
    assert equal(model.text_encoder_m, source.text_encoder)
    assert equal(model.visual_encoder_m, source.visual_encoder)
    assert not any(p.requires_grad for p in model.visual_encoder_m.parameters())
    assert "visual_encoder_m.cls_token" in report.filled


def test_missing_and_unexpected_names_are_refused_unless_expected():
    state = captioner().state_dict()
    del state["visual_encoder.norm.weight"]
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        load_weights(captioner(), state)
    assert "tensors are missing in it (visual_encoder.norm.weight)" in str(error.value)
    assert "1 tensors in it are not the model's (extra.weight)" in str(error.value)
    report = load_weights(captioner(), state, Adapter(ignored=("extra.",), fresh=("visual_encoder.norm.",)))
    assert (report.ignored, report.missing) == (["extra.weight"], ["visual_encoder.norm.weight"])
    report = load_weights(captioner(), state, strict=False)
    assert (report.unexpected, report.missing) == (["extra.weight"], ["visual_encoder.norm.weight"])


def vqa_state() -> dict:
    state = pretrainer().state_dict()
    return {n: v for n, v in state.items() if n.partition(".")[0] in ("visual_encoder", "text_encoder", "text_decoder")}


@pytest.mark.parametrize(
    ("state", "reported"),
    [
        (vqa_state, ["tensors in it are not the model's", "looks like a BLIP VQA model"]),
        (lambda: captioner(embed_dim=32).state_dict(), ["another shape", "a ViT of width 32/8 at 16 pixels"]),
        (lambda: captioner(depth=3).state_dict(), ["not the model's (visual_encoder.blocks.2.norm1.weight"]),
        (lambda: {"fc.weight": torch.zeros(2)}, ["missing in it", "looks like no BLIP model"]),
        (lambda: {n: v for n, v in pretrainer().state_dict().items() if "decoder" not in n}, ["a BLIP retrieval"]),
    ],
    ids=["vqa", "wider", "deeper", "foreign", "retrieval"],
)
def test_checkpoints_of_another_model(state, reported):
    model = captioner()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for load in (lambda s: load_weights(model, s), lambda s: build_with_weights(captioner, s)):
        with pytest.raises(CheckpointError) as error:
            load(state())
        message = str(error.value)
        assert all(part in message for part in reported), message
        assert "this model is a BLIP captioner with a ViT of width 24/8 at 16 pixels" in message
        assert len(message) < 1200
        assert "\n" not in message
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_files_of_which_nothing_fits_are_refused_even_if_not_strict():
    with pytest.raises(CheckpointError, match="no BLIP model"):
        load_weights(captioner(), {"fc.weight": torch.zeros(2)}, strict=False)


def test_whole_numbers_are_no_weights():
    state = captioner().state_dict()
    state["visual_encoder.cls_token"] = state["visual_encoder.cls_token"].to(torch.int8)
    with pytest.raises(CheckpointError, match=r"cls_token is \[1, 1, 24\] int8 there and .* float32 here"):
        load_weights(captioner(), state)


def test_checksum(tmp_path):
    torch.save(captioner().state_dict(), tmp_path / "w.pth")
    right = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    assert load_weights(captioner(), tmp_path / "w.pth", sha256=right.upper()).loaded
    with pytest.raises(CheckpointError, match=f"the sha256 is {right}, but {'0' * 64} is expected"):
        load_weights(captioner(), tmp_path / "w.pth", sha256="0" * 64)


def test_prompt_and_captions_follow_the_weights(tmp_path):
    """A loaded model does what the saved one did."""
    source = scrambled(captioner()).eval()
    torch.save({"model": source.state_dict()}, tmp_path / "w.pth")
    model, _ = build_with_weights(captioner, tmp_path / "w.pth")
    assert isinstance(model, BlipCaption)
    samples = {"image": torch.randn(2, 3, 16, 16)}
    assert model.eval().generate(samples, max_length=12) == source.generate(samples, max_length=12)
