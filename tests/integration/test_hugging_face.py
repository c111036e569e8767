"""Each BLIP class of transformers: the same numbers after conversion in both directions, through files too."""

from __future__ import annotations

import json

import pytest
import torch

from tests.unit.models.small import med, pretrainer, vit
from vlkit.cli import main
from vlkit.config.cards import list_cards, model_card
from vlkit.config.parts import model_part
from vlkit.config.yamlfile import dump_yaml
from vlkit.errors import CheckpointError, VlkitError
from vlkit.jobs.convert import convert, hugging_face_config
from vlkit.models.blip.caption import BlipCaption
from vlkit.models.blip.image_text_matching import BlipImageTextMatching
from vlkit.models.blip.retrieval import BlipRetrieval
from vlkit.models.blip.vqa import BlipVqa
from vlkit.models.packing import TextBatch
from vlkit.models.weights.files import PRECISIONS, read_checkpoint
from vlkit.models.weights.load import build_with_weights, load_weights
from vlkit.models.weights.names import HUGGING_FACE_CLASSES, to_hugging_face

SMALL = {
    "blip_caption": lambda: BlipCaption(vit(), med(), tokenizer="shapes"),
    "blip_vqa": lambda: BlipVqa(vit(embed_dim=16), med(), tokenizer="shapes"),
    # The class of transformers reads [CLS] where training put [ENC].
    "blip_image_text_matching": lambda: BlipImageTextMatching(vit(), med(), "shapes", 12, first_token="cls"),
}
HUB_CARDS = [(name, kind) for name, kinds in list_cards().items() for kind in kinds if kind.startswith("hf_")]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def twin_of(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """A randomly filled model of transformers of the same sizes."""
    import transformers

    config = transformers.BlipConfig(**hugging_face_config(model, name))
    return scrambled(getattr(transformers, HUGGING_FACE_CLASSES[name][0])(config).eval())


@torch.no_grad()
def scrambled(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough to matter for every output."""
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    return model


@torch.no_grad()
def our_logits(model: torch.nn.Module, image: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Over the vocabulary for ``ids`` [3, L], after the question ``ids`` for VQA; of the matching head and the
    similarities for retrieval."""
    texts = TextBatch.from_padded(ids, torch.ones_like(ids))
    if isinstance(model, BlipImageTextMatching):
        samples = {"image": image, "texts": texts}
        return torch.cat([model(samples), model(samples, match_head="itc")], 1)
    if isinstance(model, BlipVqa):
        states = model.read_questions({"image": image, "texts": texts})
    else:
        states = model.text_decoder.bert.project_images(model.visual_encoder(image))
    return model.text_decoder.logits(model.text_decoder(texts, states)).unflatten(0, ids.shape)


@torch.no_grad()
def their_logits(model: torch.nn.Module, image: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    kind = type(model).__name__
    if kind == "BlipForConditionalGeneration":
        return model(pixel_values=image, input_ids=ids).logits
    if kind == "BlipForImageTextRetrieval":
        heads = (model(pixel_values=image, input_ids=ids, use_itm_head=head).itm_score for head in (True, False))
        return torch.cat(list(heads), 1)
    tokens = model.vision_model(pixel_values=image).last_hidden_state
    question = model.text_encoder(input_ids=ids, encoder_hidden_states=tokens).last_hidden_state
    return model.text_decoder(input_ids=ids, encoder_hidden_states=question).logits


def check_same(ours: torch.nn.Module, theirs: torch.nn.Module, image_size: int = 16) -> None:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(3, 3, image_size, image_size, generator=generator)
    ids = torch.randint(5, 90, (3, 7), generator=generator)
    ids[:, 0] = ours.tokenizer.cls_id
    expected = their_logits(theirs, image, ids)
    assert expected.std() > 0.05
    torch.testing.assert_close(our_logits(ours.eval(), image, ids), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_from_hugging_face(name):
    model = SMALL[name]()
    twin = twin_of(model, name)
    report = load_weights(model, twin.state_dict())
    assert not report.missing
    check_same(model, twin)


@pytest.mark.parametrize("name", SMALL)
def test_to_hugging_face(name):
    model = scrambled(SMALL[name]().eval())
    twin = twin_of(model, name)
    twin.load_state_dict(to_hugging_face(model.state_dict(), name), strict=True)
    check_same(model, twin)


@pytest.mark.parametrize(("name", "kind"), HUB_CARDS)
def test_names_and_shapes_at_true_size(name, kind):
    import transformers

    with torch.device("meta"):
        model = model_part({"name": name, "type": kind}).build()
        config = transformers.BlipConfig(**hugging_face_config(model, name))
        twin = getattr(transformers, HUGGING_FACE_CLASSES[name][0])(config)
    ours = {n: t.shape for n, t in to_hugging_face(model.state_dict(), name).items()}
    assert ours == {n: t.shape for n, t in twin.state_dict().items()}
    assert model_card(name, kind)["weights"]["format"] == "hf"


def run_folder(folder, name: str, model: torch.nn.Module):
    """As much of a run's output as a conversion reads."""
    folder.mkdir()
    torch.save({"model": model.state_dict()}, folder / "pytorch_model.bin")
    (folder / "config.yaml").write_text(dump_yaml({"model": {"name": name, "type": "tiny"}}))
    return folder


@pytest.mark.parametrize("name", SMALL)
def test_there_and_back_through_files(tmp_path, name, capsys):
    """A run's output becomes a folder that from_pretrained loads, and that becomes a file of the original's kind."""
    import transformers

    first_token = {"first_token": "cls"} if name == "blip_image_text_matching" else {}
    part = model_part({"name": name, "type": "tiny", **first_token})
    model = scrambled(part.build().eval())
    source, there, back = run_folder(tmp_path / "run", name, model), tmp_path / "there", tmp_path / "back.pth"
    assert main(["convert", str(source), str(there), "--to", "hf"]) == 0
    assert f"written: {there}" in capsys.readouterr().out
    assert sorted(file.name for file in there.iterdir()) == ["config.json", "model.safetensors"]
    twin, loading = getattr(transformers, HUGGING_FACE_CLASSES[name][0]).from_pretrained(
        there, output_loading_info=True
    )
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    check_same(model, twin.eval(), 48)

    assert main(["convert", str(there), str(back), "--to", "blip", "--model", f"{name}/tiny"]) == 0
    found = torch.load(back, weights_only=True)["model"]
    assert list(found) == list(model.state_dict())
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())
    again, report = build_with_weights(part.build, back)
    assert not report.missing
    check_same(again, twin, 48)


def test_a_retrieval_checkpoint_becomes_the_matching_class(tmp_path):
    source = scrambled(BlipRetrieval(vit(), med(), "shapes", 12, 8))
    torch.save({"model": source.state_dict(), "epoch": 3}, tmp_path / "r.pth")
    model, report = build_with_weights(SMALL["blip_image_text_matching"], tmp_path / "r.pth")
    assert {"image_queue", "text_encoder_m.embeddings.position_ids", "temp"} <= set(report.ignored)
    twin = twin_of(model, "blip_image_text_matching")
    twin.load_state_dict(to_hugging_face(source.state_dict(), "blip_image_text_matching"), strict=True)
    check_same(model, twin)


def test_released_sizes_need_no_card(tmp_path, monkeypatch):
    """A captioner of true size whose tensors are one number each; the gigabyte is not written."""
    import transformers

    from vlkit.jobs import convert as conversion

    written = {}
    monkeypatch.setattr(conversion, "save_tensors", lambda path, tensors, aliases: written.update(tensors))

    with torch.device("meta"):
        shapes = model_part({"name": "blip_caption", "type": "base_coco"}).build().state_dict()
    state = {n: torch.zeros((), dtype=t.dtype).expand(t.shape) for n, t in shapes.items()}
    torch.save({"model": state}, tmp_path / "model_base_caption.pth")
    report = convert(tmp_path / "model_base_caption.pth", tmp_path / "there", "hf")
    assert report.loaded == len(state)
    assert written.keys() == to_hugging_face(state, "blip_caption").keys()
    config = json.loads((tmp_path / "there" / "config.json").read_text())
    found = transformers.BlipConfig(**config)
    assert found.vision_config.num_attention_heads == found.text_config.num_attention_heads == 12
    assert (found.vision_config.image_size, found.text_config.vocab_size) == (384, 30524)
    assert (found.text_config.bos_token_id, found.text_config.sep_token_id) == (30522, 102)


def test_safetensors_of_ours_name_shared_tensors_once(tmp_path):
    model = scrambled(pretrainer())
    torch.save(model.state_dict(), tmp_path / "w.pth")
    card = tmp_path / "small"
    card.mkdir()
    (card / "config.yaml").write_text(
        dump_yaml(
            {
                "model": {
                    "name": "blip_pretrain",
                    "vit": {"image_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
                    "med": {
                        **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
                        **{"intermediate_size": 20, "max_position_embeddings": 40},
                    },
                    **{"tokenizer": "shapes", "embed_dim": 12, "queue_size": 8},
                }
            }
        )
    )
    (tmp_path / "w.pth").rename(card / "pytorch_model.bin")
    convert(card, tmp_path / "w.safetensors", "lavis")
    found = read_checkpoint(tmp_path / "w.safetensors")
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
    parameters = sum(p.numel() for p in model.parameters()) * 4
    assert (tmp_path / "w.safetensors").stat().st_size < 1.2 * parameters


@pytest.fixture
def small_file(tmp_path):
    torch.save(pretrainer().state_dict(), tmp_path / "small.pth")
    return tmp_path / "small.pth"


@pytest.mark.parametrize(
    ("target", "arguments", "reported"),
    [
        ("there", ["--to", "hf"], "transformers has no class for 'blip_pretrain'"),
        ("there", ["--to", "hf", "--model", "blip_caption"], "Say which model it is, as --model NAME/TYPE"),
        ("there", ["--to", "hf", "--model", "blip_caption/tiny"], "does not fit BlipCaption: "),
        ("there", ["--to", "hf", "--model", "blip_caption/tinny"], "no card of model 'blip_caption' is named 'tinny'"),
        ("there.h5", ["--to", "blip"], "its name must end in .pth or "),
        (".", ["--to", "hf"], "exists already"),
        ("there.pth", ["--to", "vlkit"], "its name must end in .safetensors."),
        ("there.pth", ["--to", "blip", "--precision", "int8"], "weights in int8 are read by vlkit alone"),
        ("there", ["--to", "onnx"], "invalid choice: 'onnx'"),
    ],
)
def test_mistakes_are_one_message_and_leave_nothing(small_file, capsys, target, arguments, reported):
    folder = small_file.parent
    assert main(["convert", str(small_file), str(folder / target), *arguments]) == 2
    assert reported in capsys.readouterr().err
    assert [file.name for file in folder.iterdir()] == ["small.pth"]


def test_a_file_that_lacks_a_head_is_not_converted(tmp_path):
    state = model_part({"name": "blip_pretrain", "type": "tiny"}).build().state_dict()
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"is not all of a blip_nlvr: \d+ tensors are missing"):
        convert(tmp_path / "w.pth", tmp_path / "out.pth", "blip", "blip_nlvr/tiny")
    with pytest.raises(VlkitError, match="blip, lavis, hf, vlkit; given: 'tf'"):
        convert(tmp_path / "w.pth", tmp_path / "out.pth", "tf")
    assert not (tmp_path / "out.pth").exists()


def test_other_image_encoders_stay_here():
    part = model_part({"name": "blip_caption", "type": "tiny", "vit": {"backbone": "resnet18"}})
    with pytest.raises(VlkitError, match="timm's resnet18"):
        hugging_face_config(part.build(), "blip_caption")


def test_answering_with_a_wider_image_encoder_stays_here():
    model = BlipVqa(vit(embed_dim=32), med(), tokenizer="shapes")
    with pytest.raises(VlkitError, match=r"needs images and texts of one width.* here they are 32 and 16"):
        hugging_face_config(model, "blip_vqa")


def test_the_command_offers_what_there_is():
    from vlkit.cli import convert as command
    from vlkit.jobs.convert import FORMATS

    assert command.FORMATS == FORMATS
    assert command.PRECISIONS == PRECISIONS


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_small_file_for_vlkit(tmp_path, precision):
    """Without momentum encoders and queues; every head that could read the whole one reads it."""
    model = model_part({"name": "blip_retrieval", "type": "tiny"}).build()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    small = tmp_path / "small.safetensors"
    arguments = ["--to", "vlkit", "--precision", precision, "--model", "blip_retrieval/tiny"]
    assert main(["convert", str(tmp_path / "w.pth"), str(small), *arguments]) == 0
    numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert small.stat().st_size < numbers * {"fp32": 4, "int8": 1}.get(precision, 2) * 1.15
    atol = {"fp32": 0, "fp16": 1e-3, "bf16": 4e-3, "int8": 4e-3}[precision]
    for name in ("blip_retrieval", "blip_image_text_matching"):
        loaded, _ = build_with_weights(model_part({"name": name, "type": "tiny"}).build, small)
        for key, value in loaded.state_dict().items():
            if not key.startswith(("image_queue", "text_queue", "idx_queue", "ptr_queue")):
                expected = model.state_dict()[key.replace("_m.", ".", 1)]
                torch.testing.assert_close(value, expected, atol=atol * float(expected.abs().max()), rtol=0, msg=key)
                assert value.dtype == expected.dtype


def test_half_precision_for_transformers(tmp_path):
    model = model_part({"name": "blip_caption", "type": "tiny"}).build()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    convert(tmp_path / "w.pth", tmp_path / "there", "hf", "blip_caption/tiny", precision="fp16")
    assert json.loads((tmp_path / "there" / "config.json").read_text())["dtype"] == "float16"
    stored = read_checkpoint(tmp_path / "there")
    assert {value.dtype for value in stored.values()} == {torch.float16}
