from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models import small
from vlkit.errors import VlkitError
from vlkit.models.blip.caption import BlipCaption
from vlkit.models.generation import GenerationConfig
from vlkit.models.losses import lm_targets

TEXTS = [
    "a red circle",
    "a small blue square above a green star",
    "two shapes",
    "a big yellow triangle left of a red square",
    "a circle",
    "the square is red",
    "a star and a circle",
    "blue",
]


@pytest.fixture(scope="module")
def model() -> BlipCaption:
    """Random weights large enough that captions of different images differ."""
    torch.manual_seed(0)
    model = BlipCaption(small.vit(), small.med(initializer_range=0.4), tokenizer="shapes").eval()
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[model.tokenizer.sep_id] = 3.0
    return model


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 3


def test_the_prompt_is_put_in_front_once(model):
    expected = [model.tokenizer.dec_id, *model.tokenizer.encode("a picture of a red circle")[0][1:]]
    for text in (
        "a red circle",
        "a picture of a red circle",
        "A picture of a red circle",
        " a picture of a red circle",
    ):
        assert model.tokenize([text]).ids.tolist() == expected, text
    assert model.prompt_length == 4
    assert model.tokenize(["a picture of"]).lengths == (5,)


def test_a_word_that_only_begins_like_the_prompt(model):
    """ "a picture often" lacks the prompt "a picture of"."""
    ids = model.tokenize(["a picture often shows"]).ids.tolist()
    assert ids == [model.tokenizer.dec_id, *model.tokenizer.encode("a picture of a picture often shows")[0][1:]]


def test_without_a_prompt():
    model = BlipCaption(small.vit(), small.med(), tokenizer="shapes", prompt="")
    assert model.prompt_length == 1
    texts = model.tokenize(["a circle"])
    assert texts.ids.tolist() == [model.tokenizer.dec_id, *model.tokenizer.encode("a circle")[0][1:]]
    assert model.target_count(texts) == 3


def test_the_loss_does_not_cover_the_prompt(model, images):
    samples = {"image": images[:2], "text_input": TEXTS[:2]}
    texts = model.tokenize(TEXTS[:2])
    with torch.no_grad():
        loss = model(samples).loss
        rows, targets = lm_targets(texts, model.prompt_length)
        assert model.target_count(texts) == len(rows)
        states = model.text_decoder.bert.project_images(model.image_embeds(samples))
        log_probs = model.text_decoder.logits(model.text_decoder(texts, states))[rows].log_softmax(-1)
    behind_prompt = [ids[3:] for ids in model.tokenizer.encode([model.prompt + t for t in TEXTS[:2]])]
    assert targets.tolist() == [token for ids in behind_prompt for token in ids[1:]]
    chosen = log_probs.gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(loss, -(0.9 * chosen + 0.1 * log_probs.mean(1)).mean())


@settings(deadline=None, max_examples=8, derandomize=True)
@given(order=st.permutations(range(8)))
def test_logits_of_a_batch_are_those_of_singles(model, images, order):
    with torch.no_grad():

        def logits(index):
            texts = model.tokenize([TEXTS[i] for i in index])
            states = model.text_decoder.bert.project_images(model.image_embeds({"image": images[list(index)]}))
            return model.text_decoder.logits(model.text_decoder(texts, states)).split(texts.lengths)

        for row, i in zip(logits(order), order):
            torch.testing.assert_close(row, logits([i])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        GenerationConfig(max_length=14, min_length=6),
        GenerationConfig(max_length=14, min_length=6, num_beams=1),
        GenerationConfig(max_length=14, min_length=6, sample=True),
    ],
    ids=["beam", "greedy", "nucleus"],
)
def test_captions_of_a_batch_are_those_of_singles(model, images, config):
    seeds = torch.arange(8)
    joint = model.caption({"image": images}, config, seeds)
    assert len({texts[0] for texts in joint.texts}) >= 4
    for order in (torch.arange(8), torch.tensor([5, 0, 7, 2, 1, 6, 3, 4])):
        shuffled = model.caption({"image": images[order]}, config, seeds[order])
        for place, i in enumerate(order.tolist()):
            alone = model.caption({"image": images[[i]]}, config, seeds[[i]])
            assert joint.sequences[i] == shuffled.sequences[place] == alone.sequences[0]
            assert joint.texts[i] == alone.texts[0]
            assert joint.scores[i] == pytest.approx(alone.scores[0], abs=1e-4)


def test_texts_are_the_sequences_behind_the_prompt(model, images):
    captions = model.caption({"image": images[:3]}, GenerationConfig(max_length=12, min_length=6))
    prompt = [model.tokenizer.dec_id, *model.tokenizer.encode("a picture of")[0][1:-1]]
    for [text], [sequence], [score] in zip(captions.texts, captions.sequences, captions.scores):
        assert sequence[:4] == prompt
        assert text == model.tokenizer.decode(sequence[4:]).removeprefix("##").strip()
        assert "picture of" not in text or "picture of" in model.tokenizer.decode(sequence[4:])
        assert score < 0


def test_generate_is_a_flat_list_as_in_lavis(model, images):
    samples = {"image": images[:2]}
    flat = model.generate(samples, max_length=12, min_length=6, num_captions=2)
    config = GenerationConfig(max_length=12, min_length=6, num_beams=3, num_return_sequences=2)
    assert flat == [text for texts in model.caption(samples, config).texts for text in texts]
    assert len(flat) == 4
    assert model.generate(samples, max_length=12, min_length=6) == flat[::2]
    assert len(model.generate(samples, num_beams=1, num_captions=3, max_length=12, min_length=6)) == 6


def test_generate_with_nucleus_sampling(model, images):
    def run(seed):
        torch.manual_seed(seed)
        return model.generate({"image": images[:2]}, True, max_length=12, min_length=6, num_captions=3, top_p=0.95)

    assert len(run(0)) == 6
    assert run(0) == run(0) != run(1)


def test_decoding_leaves_the_model_and_the_samples_alone(model, images):
    samples, before = {"image": images.clone()}, {k: v.clone() for k, v in model.state_dict().items()}
    first = model.caption(samples)
    assert model.caption(samples) == first
    assert list(samples) == ["image"]
    assert torch.equal(samples["image"], images)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_missing_keys(model, images):
    with pytest.raises(VlkitError, match="BlipCaption needs samples with 'image'; given: 'text_input'"):
        model({"text_input": ["a circle"]})
    with pytest.raises(VlkitError, match="BlipCaption needs samples with 'text_input'; given: 'image'"):
        model({"image": images})
    with pytest.raises(VlkitError, match="needs samples with 'image'; given: nothing"):
        model.generate({})


def test_numbers_of_images_and_texts_that_do_not_fit(model, images):
    with pytest.raises(VlkitError, match="one text an image; given: 2 images, 3 texts"):
        model({"image": images[:2], "text_input": TEXTS[:3]})


def test_overfits_a_few_captions(images):
    torch.manual_seed(0)
    model = BlipCaption(small.vit(), small.med(initializer_range=0.1), "shapes", label_smoothing=0.0)
    for dropout in (m for m in model.modules() if isinstance(m, torch.nn.Dropout)):
        dropout.p = 0.0
    samples = {"image": images[:4], "text_input": TEXTS[:4]}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(samples).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 < 2 < losses[0]
    captions = model.eval().generate(samples, num_beams=2, max_length=16, min_length=4)
    assert captions == TEXTS[:4]
