"""Captioning against the original: loss, gradients, and what every kind of decoding writes."""

import pytest
import torch

from tests.parity.golden import Case, check_gradients, check_logits, check_tokens, filled_state, manifest
from tests.parity.test_med import med_config
from tests.parity.test_pretrain import vit_config
from vlkit.models import generation
from vlkit.models.blip.caption import BlipCaption
from vlkit.models.generation import GenerationConfig
from vlkit.models.generation.sampling import nucleus
from vlkit.models.generation.steps import penalize_repetition
from vlkit.models.med import MedConfig
from vlkit.models.packing import TextBatch
from vlkit.models.vit import VitConfig

LENGTHS = ("num_beams", "max_length", "min_length")


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("caption")


def build(case: Case, prompt: str) -> BlipCaption:
    config = case.info["config"]
    model = BlipCaption(vit_config(config["vit"]), med_config(config["med"]), prompt=prompt).eval()
    report = model.load_state_dict(filled_state(case.info["model"]), strict=False)
    assert not report.unexpected_keys
    assert set(report.missing_keys) <= set(case.info["model"]["integer_buffers"])
    return model


@pytest.fixture(scope="module")
def model(case) -> BlipCaption:
    return build(case, case.info["config"]["prompt"])


@pytest.fixture(scope="module")
def samples(case) -> dict:
    texts = TextBatch.from_padded(case["input_ids"], case["attention_mask"])
    return {"image": case.input("input.caption.image"), "texts": texts.with_first(30522)}


def check_sequences(sequences: list[list[int]], expected: torch.Tensor) -> None:
    """Stored sequences are padded with 0 to the longest."""
    for mine, theirs in zip(sequences, expected.tolist(), strict=True):
        assert mine == theirs[: len(mine)]
        assert not any(theirs[len(mine) :])


def original_text(model: BlipCaption, ids: list[int]) -> str:
    """The original cuts the decoded text by the number of characters of the prompt, which loses a letter where the
    first generated token continues a word."""
    return model.tokenizer.decode(ids)[len(model.prompt) :]


def arguments(run: dict) -> dict:
    return {"num_beams": 3, "max_length": 30, "min_length": 10, **run["arguments"]}


def test_tokens(case, model):
    ids, mask = model.tokenize(case.info["texts"]).padded()
    expected = case["input_ids"].clone()
    expected[:, 0] = model.tokenizer.dec_id
    assert torch.equal(ids, expected)
    assert torch.equal(mask, case["attention_mask"])
    assert model.prompt_length == case.info["prompt_length"]


def test_loss_and_gradients(case, model, samples):
    model.zero_grad()
    loss = model(samples).loss
    case.expect("loss", loss)
    loss.backward()
    check_gradients(case, dict(model.named_parameters(remove_duplicate=False)))
    without = {n for n, p in model.named_parameters() if p.grad is None}
    assert without == set(case.info["parameters_without_gradient"])


def test_logits(case, model, samples):
    with torch.inference_mode():
        states = model.text_decoder.bert.project_images(model.image_embeds(samples))
        logits = model.text_decoder.logits(model.text_decoder(samples["texts"], states))
    mask = case["attention_mask"].bool()
    padded = logits.new_zeros((*mask.shape, logits.shape[-1]))
    padded[mask] = logits
    check_logits(case, "lm_logits", padded, mask)


def test_every_run(case, model, samples):
    for number, run in enumerate(case.info["runs"]):
        captions = model.caption(samples, GenerationConfig(**arguments(run)))
        ids = [group[0] for group in captions.sequences]
        check_sequences(ids, case[f"sequences_{number}"])
        assert [original_text(model, row) for row in ids] == run["captions"], run["arguments"]
        if f"scores_{number}" in case.arrays:
            case.expect(f"scores_{number}", torch.tensor([group[0] for group in captions.scores]))


def test_sampling_with_every_draw_the_likeliest(case, model, samples, monkeypatch):
    """The original ignores its own repetition_penalty there and uses 1.1, and cuts to 50 tokens before top-p."""
    run = case.info["sample_run"]["arguments"]
    config = GenerationConfig(**run, repetition_penalty=1.1, top_k=50)
    monkeypatch.setattr(generation, "draw_uniform", lambda seeds, n, c: torch.zeros(n, 1, c.max_length))
    captions = model.caption(samples, config)
    ids = [group[0] for group in captions.sequences]
    check_sequences(ids, case["sample_sequences"])
    assert [original_text(model, row) for row in ids] == case.info["sample_run"]["captions"]


def test_distributions_that_are_drawn_from(case, model, samples):
    run = case.info["sample_run"]["arguments"]
    config = GenerationConfig(**run, repetition_penalty=1.1, top_k=50)
    with torch.inference_mode():
        states = model.text_decoder.bert.project_images(model.image_embeds(samples))
        prompt = [model.tokenizer.dec_id, *model.tokenizer.encode(model.prompt)[0][1:-1]]
        for row, sequence in enumerate(case["sample_sequences"].tolist()):
            texts = TextBatch.from_lists([sequence])
            one = type(states)([(k[row : row + 1], v[row : row + 1]) for k, v in states.layers])
            logits = model.text_decoder.logits(model.text_decoder(texts, one))
            for draw in range(len(sequence) - len(prompt)):
                length = len(prompt) + draw
                if sequence[length] == 0:
                    break
                scores = penalize_repetition(logits[length - 1 : length], torch.tensor([sequence[:length]]), 1.1)
                if length < config.min_length:
                    scores[:, model.tokenizer.sep_id] = -torch.inf
                probs, ids = nucleus(scores, config)
                assert int((probs > 0).sum()) == case["sample_support"][row, draw]
                tolerance = case.tolerance("sample_maxprob")
                assert float(probs[0, 0]) == pytest.approx(float(case["sample_maxprob"][row, draw]), abs=tolerance)
                if draw == 0:
                    count = int((probs > 0).sum())
                    assert ids[0, :count].tolist() == case["sample_first_ids"][row, :count].tolist()
                    torch.testing.assert_close(
                        probs[0, :count], case["sample_first_probs"][row, :count], atol=1e-4, rtol=0
                    )


def test_empty_prompt(case, samples):
    model = build(case, "")
    captions = model.caption(samples, GenerationConfig(**case.said("noprompt_sequences", *LENGTHS)))
    check_sequences([group[0] for group in captions.sequences], case["noprompt_sequences"])
    case.expect("noprompt_scores", torch.tensor([group[0] for group in captions.scores]))
    assert [original_text(model, group[0]) for group in captions.sequences] == case.info["noprompt_captions"]
    with torch.inference_mode():
        case.expect("noprompt_loss", model(samples).loss)


@pytest.mark.slow
def test_base_size():
    case = Case("full_caption_base_384")
    model = BlipCaption(VitConfig(384), MedConfig()).eval()
    shapes = {name: entry[0] for name, entry in manifest(case.info["manifest"])["state_dict"].items()}
    report = model.load_state_dict(filled_state(case.info["model"], shapes), strict=False)
    assert not report.unexpected_keys
    assert set(report.missing_keys) <= set(case.info["model"]["integer_buffers"])
    samples = {"image": case.input("input.full_caption.image"), "text_input": case.info["texts"]}
    with torch.inference_mode():
        embeds = model.image_embeds(samples)
        check_tokens(case, "image_embeds", embeds)
        texts = model.tokenize(samples["text_input"])
        states = model.text_decoder.bert.project_images(embeds)
        logits = model.text_decoder.logits(model.text_decoder(texts, states))
        mask = case["attention_mask"].bool()
        padded = logits.new_zeros((*mask.shape, logits.shape[-1]))
        padded[mask] = logits
        check_logits(case, "lm_logits", padded, mask)
        case.expect("loss", model(samples).loss)
    captions = model.caption(samples, GenerationConfig(**case.said("sequences", *LENGTHS)))
    ids = [group[0] for group in captions.sequences]
    check_sequences(ids, case["sequences"])
    case.expect("scores", torch.tensor([group[0] for group in captions.scores]))
    assert [original_text(model, row) for row in ids] == case.info["captions"]
