"""The public functions, as LAVIS's users call them."""

import re
import socket
import urllib.request

import pytest
import torch
from PIL import Image

import vlkit
from tests.parity.golden import ASSETS
from vlkit.api import _device, build_model
from vlkit.config import cards
from vlkit.config.parts import model_part
from vlkit.config.yamlfile import dump_yaml
from vlkit.errors import CheckpointError, ConfigError, VlkitError
from vlkit.io.cache import cached_path
from vlkit.models.blip.caption import BlipCaption
from vlkit.runner.checkpoint import Checkpoints

PHOTOGRAPH = ASSETS / "open" / "image_1_chelsea.png"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def tiny(name: str = "blip_caption", seed: int = 1) -> torch.nn.Module:
    torch.manual_seed(seed)
    return model_part({"name": name, "type": "tiny"}).build().eval()


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_checkpoint_opens_no_socket_and_captions_a_picture(tmp_path, no_network):
    source, path = tiny(), tmp_path / "weights.pth"
    torch.save({"model": source.state_dict()}, path)
    model, images, texts = vlkit.load_model_and_preprocess("blip_caption", "tiny", checkpoint=path)
    assert equal(model, source)
    assert not model.training
    image = images["eval"](Image.open(PHOTOGRAPH).convert("RGB")).unsqueeze(0)
    assert model.generate({"image": image}, max_length=12) == source.generate({"image": image}, max_length=12)
    assert texts["eval"]("A cat!") == "a cat"


def test_training_mode_and_devices(tmp_path):
    torch.save(tiny().state_dict(), tmp_path / "w.pth")
    assert vlkit.load_model("blip_caption", "tiny", is_eval=False, checkpoint=tmp_path / "w.pth").training
    model = vlkit.load_model("blip_caption", "tiny", device=torch.device("cpu"), checkpoint=str(tmp_path / "w.pth"))
    assert model.device == torch.device("cpu")
    with pytest.raises(VlkitError, match=r"device 'gpu' cannot be used .*Give 'cpu'"):
        vlkit.load_model("blip_caption", "tiny", device="gpu")


def test_the_device_is_chosen_and_wrong_ones_are_refused(monkeypatch):
    assert vlkit.load_model("blip_caption", "tiny", device="auto").device.type in ("cpu", "cuda", "mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert _device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _device("auto") == torch.device("cuda")
    for given in (None, 3.5, "", "meta", ["cpu"], "CPU", "cuda:99", "hpu"):
        with pytest.raises(VlkitError, match=r"cannot be used .* Give 'cpu', 'cuda', 'cuda:N', 'mps' or 'auto'\."):
            _device(given)
    with pytest.raises(VlkitError, match="Did you mean 'cpu'"):
        _device("CPU")


WRONG = [
    (lambda: vlkit.load_model("blip_caption"), "blip_caption has no type None. Known: base_coco"),
    (lambda: vlkit.load_model(5, "tiny"), "the name of a model is a string, such as 'blip_caption'; given: 5"),
    (lambda: vlkit.load_model("blip_caption", ["tiny"]), "has no type ['tiny']"),
    (lambda: vlkit.load_model("blip_caption", "tiny", is_eval="False"), "is_eval is 'False'; it must be True or False"),
    (lambda: vlkit.load_model("blip_caption", "tiny", allow_urls="yes"), "allow_urls is 'yes'; it must be True or"),
    (lambda: vlkit.load_model("blip_caption", "tiny", checkpoint=5), "checkpoint is of the type int; give the path"),
    (lambda: vlkit.load_model("blip_caption", "tiny", checkpoint={"model": 1}), "checkpoint is of the type dict"),
    (lambda: vlkit.load_model("blip_caption", "tiny", checkpoint=""), "checkpoint is empty; give the path"),
    (
        lambda: vlkit.load_model("blip_caption", "tiny", devcie="cpu"),
        "takes no argument 'devcie'. Did you mean 'device'",
    ),
    (lambda: vlkit.load_model_and_preprocess("blip_caption", "tiny", is_evl=True), "Did you mean 'is_eval'"),
    (lambda: vlkit.load_preprocess("blip_captoin", "tiny"), "Did you mean 'blip_caption'"),
    (lambda: vlkit.load_preprocess("blip_caption", model_typ="tiny"), "Did you mean 'model_type'"),
    (lambda: vlkit.load_processor(None), "the name of a processor is a string"),
    (lambda: vlkit.load_processor("blip_image_eval", cfg="x"), "cfg must be a mapping such as {'image_size': 384}"),
    (lambda: vlkit.load_processor("blip_image_evl"), "Closest: blip_image_eval"),
    (lambda: vlkit.load_dataset(None), "the name of a dataset is a string"),
    (lambda: vlkit.load_dataset("shapes", 5), "split of 'shapes' is 5; it must be a string"),
    (lambda: vlkit.load_dataset("shapes", "vla"), "Did you mean 'val'"),
    (lambda: vlkit.load_dataset("shapes", "val", vis_path=5), "vis_path is of the type int"),
    (
        lambda: vlkit.load_dataset("shapes", "val", image_processor="blip_image_eval"),
        "image_processor is of the type str",
    ),
    (lambda: vlkit.load_dataset("coco_caption", "val", cfg_path="x"), "unknown key 'cfg_path'"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_wrong_arguments_are_one_clear_error(call, message):
    with pytest.raises(VlkitError, match=re.escape(message)):
        call()


def test_pictures_at_addresses(monkeypatch, no_network):
    fetched = []
    monkeypatch.setattr("vlkit.api.fetch_image", lambda url: fetched.append(url) or PHOTOGRAPH.read_bytes())
    name, kind, address = "blip_caption", "tiny", "https://host/cat.png"
    torch.manual_seed(0)
    model, images, _ = vlkit.load_model_and_preprocess(name, kind, allow_urls=True)
    expected = model.generate({"image": images["eval"](PHOTOGRAPH)}, max_length=12)
    assert model.generate({"image": [address, PHOTOGRAPH]}, max_length=12) == expected * 2
    assert fetched == [address]
    with pytest.raises(VlkitError, match="allow_urls=True"):
        vlkit.load_model(name, kind).generate({"image": address})
    monkeypatch.undo()
    monkeypatch.setenv("VLKIT_OFFLINE", "1")
    with pytest.raises(VlkitError, match=r"VLKIT_OFFLINE .* is set"):
        vlkit.load_model(name, kind, allow_urls=True).generate({"image": address})


def test_cards_without_weights_give_a_random_model(caplog):
    model = vlkit.load_model("blip_caption", "tiny")
    assert isinstance(model, BlipCaption)
    assert "blip_caption/tiny: no weights" in caplog.text


def test_output_folder_of_a_run_brings_its_own_sizes(tmp_path, no_network):
    mapping = {"name": "blip_caption", "type": "tiny", "vit": {"depth": 1}, "prompt": "a picture"}
    source = model_part(mapping).build()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    names, parameters = zip(*source.named_parameters())
    optimizer = torch.optim.SGD([{"params": parameters, "names": names}], lr=0.1)
    checkpoints.save(source, optimizer, {"step": 7, "best": {"step": None}})
    (tmp_path / "config.yaml").write_text(dump_yaml({"model": mapping, "run": {}}))
    model = vlkit.load_model("blip_caption", "tiny", checkpoint=tmp_path)
    assert equal(model, source)
    assert model.prompt == "a picture"
    _, images, _ = vlkit.load_model_and_preprocess("blip_caption", "tiny")
    pixels = images["eval"](PHOTOGRAPH)
    assert model.generate({"image": PHOTOGRAPH}, max_length=12) == model.generate({"image": pixels}, max_length=12)
    with pytest.raises(CheckpointError, match="does not fit BlipCaption"):  # the folder alone says nothing of sizes
        vlkit.load_model("blip_caption", "tiny", checkpoint=tmp_path / "checkpoints")


def test_a_model_reads_pictures_at_its_own_size():
    mapping = {"name": "blip_caption", "type": "tiny", "vit": {"image_size": 32}}
    model = model_part(mapping).build().eval()
    assert model.pictures.images(PHOTOGRAPH).shape == (1, 3, 32, 32)
    assert len(model.generate({"image": PHOTOGRAPH}, max_length=12)) == 1


def test_captioner_from_a_pretraining_run(tmp_path):
    source = tiny("blip_pretrain")
    torch.save({"model": source.state_dict()}, tmp_path / "w.pth")
    model = vlkit.load_model("blip_caption", "tiny", checkpoint=tmp_path / "w.pth")
    assert equal(model.text_decoder, source.text_decoder)


def test_wrong_names():
    with pytest.raises(ConfigError, match=r"no model .* 'blip_captoin'. Did you mean 'blip_caption'"):
        vlkit.load_model("blip_captoin", "tiny")
    with pytest.raises(ConfigError, match=r"blip_caption has no type 'bas_coco'. Did you mean 'base_coco'"):
        vlkit.load_model_and_preprocess("blip_caption", "bas_coco")
    with pytest.raises(CheckpointError, match="does not exist"):
        vlkit.load_model("blip_caption", "tiny", checkpoint="nowhere.pth")
    with pytest.raises(VlkitError, match=r"no dataset is named 'shape'. Closest: shapes"):
        vlkit.load_dataset("shape")
    with pytest.raises(ConfigError, match=r"shapes.sise: unknown key 'sise'. Did you mean 'size'"):
        vlkit.load_dataset("shapes", "val", sise=3)
    with pytest.raises(ConfigError, match="takes no 'sound_processor'"):
        vlkit.load_dataset("shapes", sound_processor=abs)


@pytest.fixture
def card_with_weights(tmp_path, monkeypatch):
    """A card blip_caption/small with a URL, in an empty cache without network."""
    text = (cards.CONFIGS / "models" / "_tiny.yaml").read_text()
    card = tmp_path / "configs" / "models" / "blip_caption" / "small.yaml"
    card.parent.mkdir(parents=True)
    card.write_text(f"{text}\nweights: {{url: 'http://weights.invalid/blip/small.pth', format: blip}}\n")
    monkeypatch.setattr(cards, "CONFIGS", tmp_path / "configs")
    monkeypatch.setenv("VLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VLKIT_OFFLINE", "1")
    return cached_path("http://weights.invalid/blip/small.pth")


def test_weights_of_a_card_come_from_the_cache(card_with_weights, no_network):
    with pytest.raises(VlkitError) as error:
        vlkit.load_model("blip_caption", "small")
    assert f"put it at {card_with_weights}" in str(error.value)
    source = model_part({"name": "blip_caption", "type": "small"}).build()
    card_with_weights.parent.mkdir(parents=True)
    torch.save({"model": source.state_dict()}, card_with_weights)
    assert equal(vlkit.load_model("blip_caption", "small"), source)


def test_weights_of_a_card_can_be_left_out(card_with_weights, no_network):
    part = model_part({"name": "blip_caption", "type": "small"})
    assert isinstance(build_model(part, pretrained=False), BlipCaption)


def test_datasets_with_splits_and_processors():
    image, text = vlkit.load_preprocess("blip_caption", "tiny")
    splits = vlkit.load_dataset("shapes", size=3, image_processor=image["eval"], text_processor=text["eval"])
    assert list(splits) == ["train", "val", "test"]
    one = vlkit.load_dataset("shapes", "val", size=3, image_processor={"name": "blip_image_eval", "image_size": 32})
    assert one[0]["image"].shape == (3, 32, 32)
    assert splits["val"][0]["image"].shape == (3, 48, 48)
    assert splits["val"][0]["text_input"] == text["eval"](one[0]["text_input"])


def test_lists():
    models = dict(vlkit.list_models())
    assert {"base_coco", "large_coco"} <= set(models["blip_caption"])
    assert "base" in models["blip_pretrain"]
    assert "shapes" in vlkit.list_datasets()
    assert "blip_image_eval" in vlkit.list_processors()
    assert {"pretrain", "captioning"} <= set(vlkit.list_tasks())
    assert list(vlkit.model_zoo) == vlkit.list_models()
    assert len(vlkit.model_zoo) == sum(len(types) for types in models.values())
    assert re.search("blip_caption +base_coco, hf_base", str(vlkit.model_zoo))


@pytest.mark.slow
def test_a_base_checkpoint_captions_a_photograph(tmp_path, no_network):
    """The size of the released captioner, in the original's wrapping; random weights stand in for the released."""
    torch.manual_seed(0)
    source = model_part({"name": "blip_caption", "type": "base_coco"}).build().eval()
    path = tmp_path / "model_base_caption_capfilt_large.pth"
    torch.save({"model": source.state_dict(), "optimizer": {}, "config": {}, "epoch": 4}, path)
    try:
        model, images, _ = vlkit.load_model_and_preprocess("blip_caption", "base_coco", checkpoint=path)
    finally:
        path.unlink()
    image = images["eval"](Image.open(PHOTOGRAPH).convert("RGB")).unsqueeze(0)
    assert image.shape == (1, 3, 384, 384)
    captions = model.generate({"image": image}, num_beams=3, max_length=20, min_length=5)
    assert captions == source.generate({"image": image}, num_beams=3, max_length=20, min_length=5)
    assert len(captions) == 1
    assert captions[0]


@pytest.mark.parametrize("load", [vlkit.load_model, vlkit.load_model_and_preprocess])
def test_weights_that_are_not_finite_are_named(tmp_path, load):
    model = tiny()
    model.text_decoder.bert.encoder.layer[0].output.dense.bias.data[3] = float("nan")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth holds .* not finite: text_decoder\.\S+dense\.bias \(1 of"):
        load("blip_caption", "tiny", checkpoint=tmp_path / "w.pth")
