"""The text transformer in its three readings against the original."""

import pytest
import torch

from tests.parity.golden import Case, check_logits, filled_state
from vlkit.models.attention import KVCache
from vlkit.models.losses import lm_loss, lm_targets, sum_by_text
from vlkit.models.med import MedConfig, TextDecoder, TextTransformer
from vlkit.models.packing import TextBatch

ENC, DEC = 30523, 30522


def med_config(info: dict) -> MedConfig:
    names = MedConfig.__dataclass_fields__
    return MedConfig(**{name: info[name] for name in names if name in info})


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("med")


@pytest.fixture(scope="module")
def encoder(case) -> TextTransformer:
    model = TextTransformer(med_config(case.info["config"]["med"]), case.info["config"]["encoder_width"]).eval()
    assert not model.load_state_dict(filled_state(case.info["model"]), strict=False).unexpected_keys
    return model


@pytest.fixture(scope="module")
def decoder(case) -> TextDecoder:
    model = TextDecoder(med_config(case.info["config"]["med"]), case.info["config"]["encoder_width"]).eval()
    assert not model.load_state_dict(filled_state(case.info["lm_model"]), strict=False).unexpected_keys
    return model


def packed(case: Case, first: int | None = None) -> TextBatch:
    texts = TextBatch.from_padded(case["input_ids"], case["attention_mask"])
    return texts if first is None else texts.with_first(first)


def unpack(case: Case, hidden: torch.Tensor) -> torch.Tensor:
    """[T, ...] -> the stored array's padded shape, zeros elsewhere."""
    mask = case["attention_mask"].bool()
    padded = hidden.new_zeros((*mask.shape, *hidden.shape[1:]))
    padded[mask] = hidden
    return padded


def expect_hidden(case: Case, key: str, hidden: torch.Tensor) -> None:
    case.expect(key, unpack(case, hidden), case["attention_mask"])


def images(case: Case, model: TextTransformer):
    return model.project_images(case.input("input.med.encoder"), case["encoder_attention_mask"])


def test_text_encoder(case, encoder):
    expect_hidden(case, "text_hidden", encoder(packed(case)))


def test_image_grounded_encoder(case, encoder):
    expect_hidden(case, "multimodal_hidden", encoder(packed(case, ENC), images(case, encoder)))


def test_image_grounded_decoder(case, encoder):
    expect_hidden(case, "decoder_hidden", encoder(packed(case, DEC), images(case, encoder), causal=True))


def test_causal_without_image(case, encoder):
    expect_hidden(case, "decoder_text_hidden", encoder(packed(case, DEC), causal=True))


def test_language_model_logits_and_losses(case, decoder):
    texts = packed(case, DEC)
    hidden = decoder(texts, images(case, decoder.bert))
    check_logits(case, "lm_logits", unpack(case, decoder.logits(hidden)), case["attention_mask"])
    rows, targets = lm_targets(texts)
    logits = decoder.logits(hidden[rows])
    case.expect("lm_loss_mean", lm_loss(logits, targets))
    case.expect("lm_loss_none", sum_by_text(lm_loss(logits, targets, reduction="none"), texts, rows))


def test_decoding_with_a_cache(case, decoder):
    row = case.info["cached_row"]
    ids = case["input_ids"][row : row + 1].clone()
    ids[:, 0] = DEC
    states = decoder.bert.project_images(
        case.input("input.med.encoder")[row : row + 1], case["encoder_attention_mask"][row : row + 1]
    )
    cache = KVCache(decoder.bert.config.num_hidden_layers, 1, ids.shape[1])
    with torch.inference_mode():
        steps = [decoder.next_logits(ids[:, :3], states, cache, last_only=False)]
        steps += [decoder.next_logits(ids[:, i : i + 1], states, cache) for i in range(3, ids.shape[1])]
    check_logits(case, "lm_cached_logits", torch.cat(steps)[None])
    case.expect("cache_key_layer0", cache.filled(0)[0])
