from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models import small
from vlkit.errors import VlkitError
from vlkit.models.blip.vqa import BlipVqa
from vlkit.models.generation import GenerationConfig
from vlkit.models.losses import lm_loss, lm_targets
from vlkit.models.packing import TextBatch
from vlkit.models.weights.load import load_weights

QUESTIONS = [
    "what color is the circle?",
    "is there a big star?",
    "how many red shapes are there?",
    "what shape is left of the small blue square?",
    "is the star red?",
    "what size is the cross?",
]
LIST = ["yes", "no", "red", "red circle", "red circle and blue star", "blue", "small", "circle", "2", "red circle", ""]


@pytest.fixture(scope="module")
def model() -> BlipVqa:
    """Random weights large enough that answers to different questions differ."""
    torch.manual_seed(0)
    model = BlipVqa(small.vit(), small.med(initializer_range=0.4), tokenizer="shapes").eval()
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[model.tokenizer.sep_id] = 3.0
    return model


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 3


def some(images: torch.Tensor, index) -> dict:
    return {"image": images[list(index)], "text_input": [QUESTIONS[i] for i in index]}


def answer_loss(model: BlipVqa, sample: dict, answer: str) -> torch.Tensor:
    """Label-smoothed loss of an answer to one question, summed over tokens, straight from the decoder."""
    ids = [model.tokenizer.dec_id, *model.tokenizer.encode(answer)[0][1:]]
    texts = TextBatch.from_lists([ids])
    rows, targets = lm_targets(texts)
    hidden = model.text_decoder(texts, model.read_questions(sample))
    return lm_loss(model.text_decoder.logits(hidden[rows]), targets, model.label_smoothing, reduction="none").sum()


def test_first_tokens(model):
    questions, answers = model.tokenize(["is it red?"]), model.tokenize_answers(["red circle"])
    assert questions.ids[0] == model.tokenizer.enc_id
    assert answers.ids[0] == model.tokenizer.dec_id
    assert answers.ids[1:].tolist() == model.tokenizer.encode("red circle")[0][1:]
    assert model.tokenize(["a " * 60]).lengths == (model.max_words,)


def test_the_loss_weighs_answers_and_is_a_mean_over_questions(model, images):
    samples = some(images, (0, 1))
    samples |= {"answers": [["red", "blue"], ["yes"]], "weights": [[0.7, 0.2], [1.0]]}
    with torch.no_grad():
        out = model(samples)
        losses = [answer_loss(model, some(images, [q]), a) for q, a in ((0, "red"), (0, "blue"), (1, "yes"))]
    torch.testing.assert_close(out.answer_losses, torch.stack(losses))
    torch.testing.assert_close(out.loss, (0.7 * losses[0] + 0.2 * losses[1] + losses[2]) / 2)
    assert out.loss is out.loss_vqa


def test_flat_answers_as_in_lavis(model, images):
    nested = some(images, (0, 1, 2)) | {"answers": [["red", "blue"], ["yes"], ["2"]], "weights": [[0.7, 0.3], [1], [1]]}
    flat = some(images, (0, 1, 2)) | {
        "answer": ["red", "blue", "yes", "2"],
        "weight": torch.tensor([0.7, 0.3, 1, 1]),
        "n_answers": torch.tensor([2, 1, 1]),
    }
    with torch.no_grad():
        expected = model(nested).loss
        torch.testing.assert_close(model(flat).loss, expected)
        torch.testing.assert_close(model({**flat, "targets": model.targets_of(nested)}).loss, expected)


def test_answers_without_weights_share_one(model, images):
    samples = some(images, (0, 1)) | {"answers": [["red", "blue", "small"], ["yes"]]}
    assert model.targets_of(samples).weights.tolist() == pytest.approx([1 / 3] * 3 + [1.0])


def test_a_question_without_an_answer_adds_nothing(model, images):
    with torch.no_grad():
        one = model(some(images, [0]) | {"answers": [["red"]]}).loss
        two = model(some(images, [0, 1]) | {"answers": [["red"], []]}).loss
    torch.testing.assert_close(two, one / 2)


def test_cut_by_first_token_then_order_by_loss(model, images):
    samples = some(images, (0, 1, 2))
    with torch.no_grad():
        questions = model.read_questions(samples)
        start = TextBatch.from_lists([[model.tokenizer.dec_id]] * 3)
        first = model.text_decoder.logits(model.text_decoder(start, questions)).softmax(-1)
        answers = model.rank(samples, LIST, 4)
        for q in range(3):
            begins = [first[q, model.tokenizer.encode(text)[0][1]].item() for text in LIST]
            kept = sorted(range(len(LIST)), key=lambda i: -begins[i])[:4]
            losses = {i: answer_loss(model, some(images, [q]), LIST[i]).item() for i in kept}
            best = sorted(kept, key=losses.__getitem__)
            assert answers.texts[q] == [LIST[i] for i in best]
            assert answers.scores[q] == pytest.approx([-losses[i] for i in best], abs=1e-4)


def test_all_answers_of_a_list(model, images):
    answers = model.rank(some(images, [3]), LIST, 1000)
    assert sorted(answers.texts[0]) == sorted(LIST)
    assert answers.scores[0] == sorted(answers.scores[0], reverse=True)


@settings(deadline=None, max_examples=10, derandomize=True)
@given(order=st.permutations(range(6)), size=st.integers(1, 6), k=st.integers(1, len(LIST)))
def test_ranked_in_a_batch_as_one_at_a_time(model, images, order, size, k):
    index = order[:size]
    joint = model.rank(some(images, index), LIST, k)
    for place, i in enumerate(index):
        alone = model.rank(some(images, [i]), LIST, k)
        assert joint.texts[place] == alone.texts[0]
        assert joint.scores[place] == pytest.approx(alone.scores[0], abs=1e-4)


def test_generated_in_a_batch_as_one_at_a_time(model, images):
    config = GenerationConfig(max_length=8, min_length=3, num_beams=2, num_return_sequences=2)
    joint = model.generate(some(images, range(6)), config)
    assert len({texts[0] for texts in joint.texts}) >= 3
    for i in range(6):
        alone = model.generate(some(images, [i]), config)
        assert joint.texts[i] == alone.texts[0]
        assert joint.scores[i] == pytest.approx(alone.scores[0], abs=1e-4)


def test_padding_is_seen_only_when_asked_for(model, images):
    """Questions of one length have no padding; else its states are added, and those of the question stay."""
    with torch.no_grad():
        one, padded = (model.read_questions(some(images, [3]), attend_to_padding=seen) for seen in (False, True))
        torch.testing.assert_close(one.layers, padded.layers)
        mixed = model.read_questions(some(images, [1, 3]), attend_to_padding=True)
        masked = model.read_questions(some(images, [1, 3]))
    assert padded.mask is None
    assert mixed.mask is None
    length = int(masked.mask[0].sum())
    for (key, _), (expected, _) in zip(mixed.layers, masked.layers):
        assert key.shape == expected.shape
        torch.testing.assert_close(key[0, :, :length], expected[0, :, :length], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(key[1], expected[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("seen", [False, True])
def test_several_questions_an_image(model, images, seen):
    """The image is read once; the order of questions is free."""
    index = np.array([1, 0, 0, 1])
    asked = {"image": images[:2], "text_input": QUESTIONS[:4], "image_index": index}
    repeated = {"image": images[index], "text_input": QUESTIONS[:4]}
    with torch.no_grad():
        found, expected = (model.read_questions(each, attend_to_padding=seen) for each in (asked, repeated))
    torch.testing.assert_close(found.layers, expected.layers, atol=1e-5, rtol=1e-4)


def test_predict_answers_as_in_lavis(model, images):
    samples = some(images, (0, 1, 2))
    ranked = model.predict_answers(samples, answer_list=LIST, num_ans_candidates=5)
    assert ranked == [texts[0] for texts in model.rank(samples, LIST, 5).texts]
    written = model.predict_answers(samples, inference_method="generate", num_beams=2, max_len=7, min_len=2)
    config = GenerationConfig(max_length=7, min_length=2, num_beams=2)
    assert written == [texts[0] for texts in model.generate(samples, config).texts]
    single = {"image": images[:1], "text_input": QUESTIONS[0]}
    assert model.predict_answers(single, answer_list=LIST, num_ans_candidates=5) == ranked[:1]
    assert model.predict_answers(samples) == model.predict_answers(samples, inference_method="generate")


def test_the_tree_of_a_list_is_kept(model, images, monkeypatch):
    model.rank(some(images, [0]), LIST, 2)
    calls = []
    monkeypatch.setattr(BlipVqa, "tokenize_answers", lambda self, texts: calls.append(texts))
    model.rank(some(images, [1]), list(LIST), 2)
    assert not calls


def test_videos_are_read_as_images_of_many_tokens(model, images):
    video = {"video": images[:4].unflatten(0, (2, 2)), "text_input": QUESTIONS[:2]}
    answers = model.rank(video, LIST, 3)
    still = model.rank(some(images, (0, 2)) | {"text_input": QUESTIONS[:2]}, LIST, 3)
    assert answers.scores != still.scores
    assert [len(texts) for texts in answers.texts] == [3, 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, s: m.predict_answers(s, inference_method="rank"), "chooses from answer_list, and none is given"),
        (
            lambda m, s: m.predict_answers(s, inference_method="range"),
            "must be 'rank' or 'generate'. Did you mean 'rank'",
        ),
        (lambda m, s: m.rank(s, []), "answer_list is empty; give at least one text"),
        (lambda m, s: m.rank(s, LIST, 0), "num_ans_candidates is 0; it must be a whole number, at least 1"),
        (lambda m, s: m(s), "BlipVqa needs samples with 'answers'"),
        (lambda m, s: m({**s, "answers": [["a"]]}), "answers to 1 questions, and 2 questions"),
        (lambda m, s: m({**s, "answers": [[], []]}), "at least one answer"),
        (lambda m, s: m({**s, "answers": [["a"], ["b"]], "weights": [[1.0], []]}), "2 answers, 1 weights"),
        (lambda m, s: m({**s, "answer": ["a"], "weight": [1.0]}), "'n_answers'"),
    ],
)
def test_mistakes(model, images, call, message):
    with pytest.raises(VlkitError, match=message):
        call(model, some(images, (0, 1)))


def test_overfits_a_few_questions(images):
    torch.manual_seed(0)
    model = BlipVqa(small.vit(), small.med(initializer_range=0.1), "shapes", label_smoothing=0.0)
    samples = some(images, range(4)) | {"answers": [["red"], ["no"], ["2"], ["blue star"]], "weights": [[1.0]] * 4}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for dropout in (m for m in model.modules() if isinstance(m, torch.nn.Dropout)):
        dropout.p = 0.0
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(samples).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 < 3 < losses[0]
    model.eval()
    expected = ["red", "no", "2", "blue star"]
    assert model.predict_answers(samples, answer_list=["blue star", "yes", *expected, "cross"]) == expected
    assert model.predict_answers(samples, inference_method="generate") == expected


def test_rank_does_not_change_the_samples(model, images):
    samples = some(images, (0, 1))
    before = {**samples, "image": samples["image"].clone()}
    model.rank(samples, LIST, 3)
    assert list(samples) == list(before)
    assert torch.equal(samples["image"], before["image"])
    assert np.all([a == b for a, b in zip(samples["text_input"], before["text_input"])])


def test_starts_from_a_pre_trained_model_of_another_image_width():
    """What of its decoder reads images does not fit, and stays as it was; the rest is taken, as in the original."""
    trained = small.pretrainer().state_dict()
    model = BlipVqa(small.vit(), small.med(), tokenizer="shapes")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_weights(model, trained)
    kept = {name for name in report.missing if not name.endswith("position_ids")}
    cross = "text_decoder.bert.encoder.layer.{}.crossattention.self.{}.weight"
    assert kept == {cross.format(layer, part) for layer in range(2) for part in ("key", "value")}
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name] if name in kept else trained[name]), name
