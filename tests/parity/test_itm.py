"""Image-text matching against the original: both heads, with [CLS] as its class and with [ENC] as its training."""

import pytest
import torch

from tests.parity.golden import Case, check_tokens, filled_state, manifest
from tests.parity.test_med import med_config
from tests.parity.test_pretrain import vit_config
from vlkit.models.blip.image_text_matching import BlipImageTextMatching
from vlkit.models.med import MedConfig
from vlkit.models.packing import Segments, TextBatch
from vlkit.models.vit import VitConfig


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("itm")


def load(model: BlipImageTextMatching, case: Case, shapes: dict) -> BlipImageTextMatching:
    report = model.eval().load_state_dict(filled_state(case.info["model"], shapes), strict=False)
    assert not report.unexpected_keys
    assert set(report.missing_keys) <= set(case.info["model"]["integer_buffers"])
    return model


def build(case: Case, first_token: str) -> BlipImageTextMatching:
    config = case.info["config"]
    model = BlipImageTextMatching(
        vit_config(config["vit"]),
        med_config(config["med"]),
        embed_dim=config["embed_dim"],
        max_words=case["input_ids"].shape[1],
        first_token=first_token,
    )
    return load(model, case, case.info["model"]["state_dict"])


def samples(case: Case, image: str) -> dict:
    return {"image": case.input(image), "text_input": case.info["texts"]}


def test_tokens(case):
    ids, mask = build(case, "cls").tokenize(case.info["texts"]).padded()
    width = ids.shape[1]
    assert torch.equal(ids, case["input_ids"][:, :width])
    assert torch.equal(mask, case["attention_mask"][:, :width])


@pytest.mark.parametrize(("first_token", "expected"), [("cls", "itm"), ("enc", "itm_enc")])
def test_matching(case, first_token, expected):
    with torch.no_grad():
        case.expect(expected, build(case, first_token)(samples(case, "input.itm.image"), match_head="itm"))


def test_similarity(case):
    with torch.no_grad():
        case.expect("itc", build(case, "enc")(samples(case, "input.itm.image"), match_head="itc"))


def test_every_pair(case):
    """``score`` gives the probabilities of the logits on its diagonal, and the similarities."""
    model = build(case, "enc")
    given = samples(case, "input.itm.image")
    probability = case["itm_enc"].softmax(1)[:, 1]
    torch.testing.assert_close(model.score(given).diagonal(), probability, atol=case.tolerance("itm_enc"), rtol=1e-5)
    case.expect("itc", model.score(given, "itc"))


@pytest.mark.slow
def test_base_size(monkeypatch):
    case = Case("full_itm_base_384")
    shapes = {name: entry[0] for name, entry in manifest(case.info["manifest"])["state_dict"].items()}
    given = samples(case, "input.full_caption.image")
    words = case["input_ids"].shape[1]
    model = BlipImageTextMatching(VitConfig(given["image"].shape[-1]), MedConfig(), max_words=words, first_token="cls")
    load(model, case, shapes)
    with torch.no_grad():
        states = model.text_encoder.project_images(model.image_embeds(given))
        case.expect("itm", model.match(model.tokenize(case.info["texts"]), states))
        case.expect("itc", model(given, match_head="itc"))
        # The summaries include what the original computes at padded places, which attend to real tokens.
        mask = case["attention_mask"].bool()
        monkeypatch.setattr(Segments, "key_mask", lambda segments: mask[:, None, None])
        texts = TextBatch(case["input_ids"].flatten(), (words,) * len(mask))
        for name, seen in (("text_hidden", None), ("multimodal_hidden", states)):
            check_tokens(case, name, model.text_encoder(texts, seen).unflatten(0, mask.shape))
