from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models import small
from vlkit.errors import VlkitError
from vlkit.models.blip.dialog import BlipDialog
from vlkit.models.weights.load import load_weights

DIALOGS = [
    [
        ("how many shapes are there", "two", ["three", "two", "0"], 1),
        ("is there a red circle?", "yes", ["no", "yes there is", "it is red", "yes"], 3),
        ("what size is it?", "it is small", ["small", "it is small"], 1),
    ],
    [("what shape is above it?", "a star", ["a star", "a ring", "yes"], 0)],
    [
        ("is there a blue ring?", "no there is not", ["no there is not", "yes"], 0),
        ("what color is that one?", "green", ["it is green", "red", "green", "black"], 2),
    ],
]
CAPTIONS = ["some shapes on a background", "one star", "two shapes on a plain background"]


def rounds(dialog) -> list[dict]:
    keys = ("question", "answer", "answer_options", "gt_index")
    return [dict(zip(keys, turn), gt_relevance=None) for turn in dialog]


def make(width: int = 24, **options) -> BlipDialog:
    torch.manual_seed(0)
    given = {"max_words": 40, "max_answer_words": 5, **options}
    return BlipDialog(small.vit(embed_dim=width), small.med(initializer_range=0.4), "shapes", **given)


@pytest.fixture(scope="module", params=[24, 16], ids=["projected", "equal widths"])
def model(request) -> BlipDialog:
    return make(request.param).eval()


@pytest.fixture(scope="module")
def samples() -> dict:
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2
    return {"image": images, "text_input": CAPTIONS, "dialog": [rounds(dialog) for dialog in DIALOGS]}


def part(samples: dict, index) -> dict:
    index = list(index)
    lists = {key: [samples[key][i] for i in index] for key in ("text_input", "dialog")}
    return {"image": samples["image"][index], **lists}


def padded_logits(model: BlipDialog, image, captions, texts, owners):
    """ITM logits as anyone would write them: everything padded, keys and values copied for every text."""

    def pad(ids):
        longest = max(map(len, ids))
        mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in ids]).bool()
        return torch.tensor([each + [0] * (longest - len(each)) for each in ids]), mask

    def attention(block, x, source, mask):
        def heads(y):
            return y.unflatten(-1, (block.heads, -1)).transpose(1, 2)

        query, key, value = (
            heads(f(y)) for f, y in zip((block.self.query, block.self.key, block.self.value), (x, source, source))
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        weights = scores.masked_fill(~mask[:, None, None], -1e30).softmax(-1)
        return block.output.LayerNorm(block.output.dense((weights @ value).transpose(1, 2).flatten(2)) + x)

    def encode(ids, mask, source=None, source_mask=None):
        e = model.text_encoder.embeddings
        x = e.LayerNorm(e.word_embeddings(ids) + e.position_embeddings.weight[: ids.shape[1]])
        for layer in model.text_encoder.encoder.layer:
            x = attention(layer.attention, x, x, mask)
            if source is not None:
                x = attention(layer.crossattention, x, source, source_mask)
            x = layer.output.LayerNorm(layer.output.dense(F.gelu(layer.intermediate.dense(x))) + x)
        return x

    ids, mask = pad(model.tokenizer.encode(captions))
    tokens = model.visual_encoder(image)
    source = torch.cat([tokens, model.caption_proj(encode(ids, mask))], 1)
    source_mask = torch.cat([torch.ones(tokens.shape[:2]).bool(), mask], 1)
    ids, mask = pad(texts)
    return model.itm_head(encode(ids, mask, source[owners], source_mask[owners])[:, 0])


def written(model: BlipDialog, dialog, place: int, candidate: str) -> list[int]:
    """Token ids of a candidate of a round, by hand."""
    t = model.tokenizer
    words = "".join(f"{q.rstrip('?')}? {a} [SEP] " for q, a, _, _ in dialog[:place])
    text = f"{words}{dialog[place][0].rstrip('?')}? {candidate}"
    return [t.enc_id, *t.encode(text, special=False)[0], t.sep_id]


def test_scores_are_those_of_a_padded_model(model, samples):
    texts, owners = [], []
    for image, dialog in enumerate(DIALOGS):
        for place, turn in enumerate(dialog):
            texts += [written(model, dialog, place, candidate) for candidate in turn[2]]
            owners += [image] * len(turn[2])
    with torch.no_grad():
        logits = padded_logits(model, samples["image"], CAPTIONS, texts, owners)
    scores = model.score(samples)
    assert [[len(r) for r in dialog] for dialog in scores] == [[len(t[2]) for t in dialog] for dialog in DIALOGS]
    found = torch.cat([r for dialog in scores for r in dialog])
    assert found.std() > 0.01
    torch.testing.assert_close(found, logits[:, 1] - logits[:, 0], atol=2e-5, rtol=1e-4)


@settings(deadline=None, max_examples=10, derandomize=True)
@given(order=st.permutations(range(3)), count=st.integers(1, 3), bound=st.sampled_from([1, 60, 150, 10_000]))
def test_scores_of_a_batch_are_those_of_singles_whatever_fits_into_memory(model, samples, order, count, bound):
    joint = model.score(part(samples, order[:count]), tokens_at_once=bound)
    for i, scores in zip(order, joint):
        [alone] = model.score(part(samples, [i]))
        torch.testing.assert_close(scores, alone, atol=1e-5, rtol=1e-5)


def test_image_caption_and_history_all_matter(model, samples):
    def last(**changed):
        return model.score({**part(samples, [0]), **changed})[0][-1]

    before = last()
    dialog = [dict(turn) for turn in samples["dialog"][0]]
    dialog[0]["answer"] = "three"
    for changed in (
        {"image": samples["image"][1:2]},
        {"text_input": ["one star on a background"]},
        {"dialog": [dialog]},
        {"dialog": [dialog[::-1][1:] + samples["dialog"][0][-1:]]},
    ):
        assert not torch.allclose(last(**changed), before, atol=1e-4)


def test_loss_is_the_cross_entropy_of_answers_and_drawn_negatives(model, samples):
    inputs = model.training_inputs(samples)
    texts = [ids.tolist() for ids in inputs["dialog_texts"].ids.split(inputs["dialog_texts"].lengths)]
    assert inputs["labels"].tolist() == [1, 0] * 6
    assert inputs["image_index"].tolist() == [0] * 6 + [1] * 2 + [2] * 4
    pairs = iter(zip(texts[::2], texts[1::2]))
    for dialog in DIALOGS:
        for place, (_, answer, options, _) in enumerate(dialog):
            right, wrong = next(pairs)
            assert right == written(model, dialog, place, answer)
            assert wrong in [written(model, dialog, place, text) for text in options if text != answer]
    out = model(inputs)
    logits = padded_logits(model, samples["image"], CAPTIONS, texts, inputs["image_index"].tolist())
    torch.testing.assert_close(out.loss, F.cross_entropy(logits, inputs["labels"]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.itm_logits, logits, atol=2e-5, rtol=1e-4)
    out.loss.backward()
    assert all(
        p.grad is not None and p.grad.norm() > 0 for name, p in model.named_parameters() if "caption_proj" in name
    )
    model.zero_grad(set_to_none=True)


def test_negatives_are_drawn_among_all_others_and_never_repeat_the_answer(samples):
    model = make(num_negatives=2)
    dialog = [[{"question": "what color is it?", "answer_options": ["red", "red", "blue", "green"], "gt_index": 0}]]
    one = {**part(samples, [0]), "dialog": dialog}
    sep, seen = model.tokenizer.sep_id, set()
    for _ in range(20):
        inputs = model.training_inputs(one)
        ids = inputs["dialog_texts"].ids.split(inputs["dialog_texts"].lengths)
        answers = [model.tokenizer.decode(text[-2:-1]) for text in ids]
        assert answers[0] == "red"
        assert sorted(answers[1:]) == ["blue", "green"]
        assert all(text[-1] == sep for text in ids)
        seen.add(answers[1])
    assert seen == {"blue", "green"}
    fewer = {**one, "dialog": [[{"question": "what?", "answer_options": ["red", "blue"], "gt_index": 1}]]}
    assert model.training_inputs(fewer)["labels"].tolist() == [1, 0]


def test_a_step_trains_everything(samples):
    model = make()
    model(samples).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_rounds_without_candidates_are_history_alone(model, samples):
    dialog = [dict(turn) for turn in samples["dialog"][0]]
    for turn in dialog[:2]:
        turn["answer_options"] = turn["gt_index"] = None
    dialog[2]["answer"] = dialog[2]["gt_index"] = None  # as in a test set
    [scores] = model.score({**part(samples, [0]), "dialog": [dialog]})
    assert [len(r) for r in scores] == [0, 0, 2]
    torch.testing.assert_close(scores[2], model.score(part(samples, [0]))[0][2], atol=1e-5, rtol=1e-5)
    with pytest.raises(VlkitError, match="none of the 3 rounds has 'gt_index'"):
        model.training_inputs({**part(samples, [0]), "dialog": [dialog]})


def test_a_chat_scores_as_a_dialog_with_its_own_answers(model, samples):
    session = model.chat(samples["image"][0], CAPTIONS[0], answers=["yes", "no"])
    asked = []
    for question, options in (
        ("how many shapes are there?", ["two", "three", "0"]),
        ("what size is it", ["small", "large"]),
    ):
        ranked = session.ask(question, options)
        asked.append({"question": question, "answer": ranked[0].answer, "answer_options": options})
        [scores] = model.score({**part(samples, [0]), "dialog": [asked]})
        expected = dict(zip(options, scores[-1].sigmoid().tolist()))
        assert dict(ranked) == pytest.approx(expected, abs=1e-5)
        assert [each.score for each in ranked] == sorted((each.score for each in ranked), reverse=True)
    assert {each.answer for each in session.ask("is there a star?")} == {"yes", "no"}
    assert [q for q, _ in session.history] == ["how many shapes are there?", "what size is it", "is there a star?"]
    session.history[0] = ("how many shapes are there?", "0")
    corrected = session.ask("is there a ring?", ["yes", "no"])
    session.history[:] = []
    assert corrected != session.ask("is there a ring?", ["yes", "no"])


def test_a_chat_needs_candidates(model, samples):
    with pytest.raises(VlkitError, match="give candidates to ask"):
        model.chat(samples["image"][:1], "").ask("is there a star?")


@pytest.mark.parametrize("width", [16, 24])
def test_a_pre_trained_checkpoint_fills_it(width):
    torch.manual_seed(1)
    pretrained = small.pretrainer(embed_dim=width)
    model = make(width)
    report = load_weights(model, pretrained.state_dict())
    assert report.missing == ([] if width == 16 else ["caption_proj.weight", "caption_proj.bias"])
    assert report.unexpected == []
    theirs = pretrained.state_dict()
    own = [name for name in model.state_dict() if not name.startswith("caption_proj")]
    assert len(own) > 50
    assert all(torch.equal(model.state_dict()[name], theirs[name]) for name in own)


def test_samples_that_do_not_fit(model, samples):
    with pytest.raises(VlkitError, match="BlipDialog needs samples with 'dialog'; given: 'image', 'text_input'"):
        model({"image": samples["image"], "text_input": CAPTIONS})
    with pytest.raises(VlkitError, match="one dialog an image; given: 3 captions, 2 dialogs"):
        model.score({**samples, "dialog": samples["dialog"][:2]})
    with pytest.raises(VlkitError, match="one text an image; given: 2 images, 3 texts"):
        model({**samples, "image": samples["image"][:2]})
    wrong = {"question": "what?", "answer_options": ["yes", "no"], "gt_index": 2}
    with pytest.raises(VlkitError, match="gt_index 2, but 2 answer_options"):
        model.score({**part(samples, [0]), "dialog": [[wrong]]})
    with pytest.raises(VlkitError, match="a round of a dialog is 'what"):
        model.score({**part(samples, [0]), "dialog": [["what?"]]})
    with pytest.raises(VlkitError, match="num_negatives is 0"):
        make(num_negatives=0)


def test_learns_a_few_answers(samples):
    torch.manual_seed(0)
    med = small.med(initializer_range=0.1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = BlipDialog(small.vit(), med, "shapes", 40, 5, num_negatives=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = model(samples).loss.item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(samples).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 < first
    for dialog, scores in zip(DIALOGS, model.eval().score(samples)):
        assert [int(margins.argmax()) for margins in scores] == [turn[3] for turn in dialog]
