"""Arguments of Python calls that are wrong are one clear error, in every head; nothing is ignored."""

from __future__ import annotations

import copy
import inspect
import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.integration.heads import ANSWERS, CALLS, GREEDY, HEADS, QUESTION, ROUNDS, assert_equal, loaded, texts
from vlkit import load_dataset
from vlkit.errors import VlkitError
from vlkit.models.blip.capfilt import BlipCapFilt
from vlkit.models.generation import GenerationConfig

CAPTIONS = {"num_beams": 1, "max_length": 12}


def image(head: str, count: int = 2) -> torch.Tensor:
    size = loaded(head)[0].vit_config.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5))


def methods(head: str) -> list[str]:
    """Names of the public calls in the table."""
    return sorted({call.partition(",")[0] for call in CALLS[head]} - {"image_embeds"})


@pytest.mark.parametrize("head", HEADS)
def test_unknown_arguments_are_named_with_close_ones(head):
    model, _ = loaded(head)
    for name in methods(head):
        method = getattr(model, name)
        known = list(inspect.signature(method).parameters)[-1]
        given = {"generation": "num_beam"}.get(known, f"{known}x")
        with pytest.raises(VlkitError, match=rf"{name}\(\) takes no argument '{given}'\. Did you mean '") as error:
            method({"image": image(head)}, **{given: 1})
        assert "It takes " in str(error.value)


@pytest.mark.parametrize("head", HEADS)
def test_unknown_sample_keys_are_named_with_close_ones(head):
    model, _ = loaded(head)
    pictures = {key: image(head) for key in model.picture_groups[0]}
    samples = {**pictures, "text_input": texts(2), "texts_input": texts(2)}
    with pytest.raises(VlkitError, match=r"knows no sample key 'texts_input'\. Did you mean 'text_input'") as error:
        model.batches(samples)
    assert type(model).__name__ in str(error.value)
    with pytest.raises(VlkitError, match=r"knows no sample key 'prompt'\. It reads image"):
        model.batches({**pictures, "prompt": "a photo of"})
    other = "image0" if "image" in pictures else "video"
    with pytest.raises(VlkitError, match=rf"reads pictures from 'image0?' or .*, not from '{other}'"):
        model.batches({**pictures, other: image(head)})
    for given in (None, image(head), [image(head)], "a.png"):
        with pytest.raises(VlkitError, match=r"samples must be a mapping such as \{'image"):
            model.batches(given)


def test_a_misspelled_picture_is_named():
    model, _ = loaded("blip_caption")
    with pytest.raises(VlkitError, match=r"needs samples with 'image'; given: 'img'\. Did you mean 'image' by 'img'"):
        model.generate({"img": image("blip_caption")})
    with pytest.raises(VlkitError, match="was given 'image' and 'video'; give one of them"):
        model.generate({"image": image("blip_caption"), "video": image("blip_caption")})


def test_a_batch_of_a_dataset_is_a_sample():
    for head, name in (("blip_caption", "shapes"), ("blip_vqa", "shapes_vqa"), ("blip_nlvr", "shapes_nlvr")):
        model, processor = loaded(head)
        dataset = load_dataset(name, "val", size=3, image_processor=processor)
        samples = [{**dataset[i], "index": i} for i in range(3)]
        batch = {key: [sample[key] for sample in samples] for key in samples[0]}
        if head == "blip_nlvr":
            assert len(model.predict(batch)["predictions"]) == 3
        elif head == "blip_vqa":
            assert len(model.predict_answers(batch, answer_list=ANSWERS)) == 3
        else:
            assert len(model.generate(batch, **CAPTIONS)) == 3


NUMBERS = [
    ({"num_beams": 0}, "num_beams is 0; it must be a whole number, at least 1"),
    ({"num_beams": "3"}, "num_beams is '3'; it must be a whole number"),
    ({"use_nucleus_sampling": True, "num_beams": -1}, "num_beams is -1"),
    ({"num_captions": 0}, "num_captions is 0; it must be a whole number, at least 1"),
    ({"max_length": 5, "min_length": 6}, "min_length 6 is above max_length 5"),
    ({"max_length": 0}, "max_length is 0; it must be at least 1"),
    ({"max_length": 1000}, "max_length is 1000; this model reads at most 64 tokens"),
    ({"max_length": 4, "min_length": 1}, "the prompt has 4 tokens and max_length is 4"),
    ({"min_length": -1}, "min_length is -1; it must be at least 0"),
    ({"top_p": 2}, "top_p is 2; it must be above 0 and at most 1"),
    ({"top_p": float("nan")}, "top_p is nan"),
    ({"temperature": -1.0}, "temperature is -1.0; it must be at least"),
    ({"temperature": float("nan")}, "temperature is nan"),
    ({"repetition_penalty": float("inf")}, "repetition_penalty is inf"),
    ({"use_nucleus_sampling": "no"}, "use_nucleus_sampling is 'no'; it must be True or False"),
    ({"batch_size": 0}, "batch_size is 0; it must be a whole number, at least 1"),
    ({"batch_size": 2.0}, "batch_size is 2.0; it must be a whole number"),
]


@pytest.mark.parametrize(("given", "message"), NUMBERS)
def test_numbers_without_sense_in_generate(given, message):
    with pytest.raises(VlkitError, match=re.escape(message)):
        loaded("blip_caption")[0].generate({"image": image("blip_caption")}, **given)


PREDICTIONS = [
    ({"num_beams": 0}, "num_beams is 0"),
    ({"max_len": 1}, "max_len is 1; it must be a whole number, at least 2"),
    ({"max_len": 3, "min_len": 4}, "min_len is 4; it must be a whole number, from 0 to 3"),
    ({"num_ans_candidates": 0, "answer_list": ANSWERS}, "num_ans_candidates is 0"),
    ({"answer_list": []}, "answer_list is empty; give at least one text"),
    ({"answer_list": ["red", None]}, "answer_list[1] is None (NoneType); it must be a string"),
    ({"answer_list": {"red": 1}}, "answer_list is {'red': 1} (dict); give a string, or a list of strings"),
    ({"answer_list": ANSWERS, "top_p": 0.5}, "top_p is for inference_method 'generate'"),
    ({"inference_method": "Rank"}, "inference_method is 'Rank'; it must be 'rank' or 'generate'. Did you mean 'rank'?"),
    ({"answer_lst": ANSWERS}, "predict_answers() takes no argument 'answer_lst'. Did you mean 'answer_list'?"),
    ({"max_length": 5}, "takes no argument 'max_length'. Did you mean 'max_len'"),
    ({"batch_size": -1}, "batch_size is -1"),
    ({"attend_to_padding": np.array([1, 0])}, "attend_to_padding is array([1, 0]); it must be True or False"),
    ({"inference_method": np.array(["rank", "rank"])}, "it must be 'rank' or 'generate'"),
]


@pytest.mark.parametrize(("given", "message"), PREDICTIONS)
def test_wrong_arguments_of_predict_answers(given, message):
    samples = {"image": image("blip_vqa"), "text_input": QUESTION}
    with pytest.raises(VlkitError, match=re.escape(message)):
        loaded("blip_vqa")[0].predict_answers(samples, **given)


@pytest.mark.parametrize("given", ["black", ["black"], ("black",), np.array(["black"])])
def test_one_answer_is_a_list_of_one(given):
    model, samples = loaded("blip_vqa")[0], {"image": image("blip_vqa"), "text_input": QUESTION}
    assert model.predict_answers(samples, answer_list=given) == ["black", "black"]
    assert model.rank(samples, given).texts == [["black"], ["black"]]


def test_a_string_is_one_text_wherever_lists_are_meant():
    vqa, dialog, x = loaded("blip_vqa")[0], loaded("blip_dialog")[0], image("blip_vqa", 1)
    questions = {"image": x, "text_input": QUESTION}
    assert_equal(vqa({**questions, "answers": ["red"]}), vqa({**questions, "answers": [["red"]]}))
    flat = {"weight": [1.0], "n_answers": [1]}
    assert_equal(vqa({**questions, "answer": "red", **flat}), vqa({**questions, "answer": ["red"], **flat}))
    session = dialog.chat(x, "a circle", "yes")
    assert [each.answer for each in session.ask(QUESTION)] == ["yes"]
    assert [each.answer for each in session.ask(QUESTION, "black")] == ["black"]
    rounds = [[{"question": QUESTION, "answer_options": "yes"}]]
    assert len(dialog.score({"image": x, "text_input": "a circle", "dialog": rounds})[0][0]) == 1
    for head in HEADS:
        model = loaded(head)[0]
        assert model.tokenize("a red circle").lengths == model.tokenize(["a red circle"]).lengths
    features = loaded("blip_feature_extractor")[0]
    assert_equal(features.embed_texts("a red circle"), features.embed_texts(["a red circle"]))


def test_a_string_is_asked_of_all_images():
    model, x = loaded("blip_vqa")[0], image("blip_vqa", 3)
    one = model.rank({"image": x, "text_input": QUESTION}, ANSWERS)
    assert_equal(one, model.rank({"image": x, "text_input": [QUESTION] * 3}, ANSWERS))
    with pytest.raises(VlkitError, match="needs one text an image; given: 3 images, 1 texts"):
        model.rank({"image": x, "text_input": [QUESTION]}, ANSWERS)


@pytest.mark.parametrize("head", [head for head in HEADS if head != "blip_feature_extractor"])
def test_numbers_of_images_and_texts_must_agree(head):
    model = loaded(head)[0]
    pictures = {key: image(head) for key in model.picture_groups[0]}
    samples = {**pictures, "text_input": texts(3), "label": [1, 0], "answers": ["red"] * 3, "dialog": [ROUNDS] * 3}
    with pytest.raises(VlkitError, match="given: 2 images, 3 texts"):
        model({**samples, "image_id": [1, 2]})


TEXTS = [
    (None, "text_input is None (NoneType); give a string, or a list of strings"),
    ([], "text_input is empty; give at least one text"),
    ([1, 2], "text_input[0] is 1 (int); it must be a string"),
    (["a", None], "text_input[1] is None (NoneType); it must be a string"),
    (b"what", "text_input is 4 bytes; decode them"),
    (["a", "\ud800"], "it holds half a character"),
]


@pytest.mark.parametrize(("given", "message"), TEXTS)
@pytest.mark.parametrize("head", HEADS)
def test_what_is_no_text(head, given, message):
    model = loaded(head)[0]
    pictures = {key: image(head) for key in model.picture_groups[0]}
    with pytest.raises(VlkitError, match=re.escape(message)):
        model.batches({**pictures, "text_input": given}, texts="paired")


LABELS = [
    ("blip_nlvr", {"label": [1, 2]}, "label must be 0 or 1 for each of 2 pairs; given: [1, 2]"),
    ("blip_nlvr", {"label": [1]}, "label must be 0 or 1 for each of 2 pairs"),
    ("blip_nlvr", {"label": [0.5, 1]}, "label must be 0 or 1"),
    ("blip_nlvr", {"label": ["1", "0"]}, "label[0] is '1'; it must be a finite number"),
    ("blip_vqa", {"answers": [["a"], ["b"]], "weights": ["x", "y"]}, "weights[0] is 'x'"),
    ("blip_vqa", {"answers": [["a"], ["b"]], "weights": [[float("nan")], [1]]}, "weights[0] is nan"),
    ("blip_vqa", {"answers": [1, 2]}, "answers[0][0] is 1 (int); it must be a string"),
    ("blip_vqa", {"answer": ["a", "b"], "weight": [1.0, 1.0], "n_answers": [3, -1]}, "n_answers[1] is -1"),
    ("blip_dialog", {"dialog": "abc"}, "dialog is 'abc'; give a list of rounds for each image"),
    ("blip_dialog", {"dialog": [None, None]}, "dialog[0] is None; give a list of rounds"),
    ("blip_dialog", {"dialog": [ROUNDS, "ab"]}, "dialog[1] is 'ab'; give a list of rounds"),
    ("blip_dialog", {"dialog": [ROUNDS]}, "needs one dialog an image; given: 2 captions, 1 dialogs"),
    (
        "blip_dialog",
        {"dialog": [[{"question": "q", "answer_options": ["a"], "gt_index": "0"}]] * 2},
        "has gt_index '0'",
    ),
    ("blip_retrieval", {"image_id": "ab"}, "needs one image_id an image; given: 2 images, 1 ids"),
    ("blip_retrieval", {"image_id": None}, "image_id is None"),
]


@pytest.mark.parametrize(("head", "given", "message"), LABELS)
def test_wrong_labels(head, given, message):
    model = loaded(head)[0]
    pictures = {key: image(head) for key in model.picture_groups[0]}
    with pytest.raises(VlkitError, match=re.escape(message)):
        model({**pictures, "text_input": texts(2), **given})


def test_other_wrong_arguments():
    captioner, matcher = loaded("blip_caption")[0], loaded("blip_image_text_matching")[0]
    features, dialog, vqa = (loaded(f"blip_{name}")[0] for name in ("feature_extractor", "dialog", "vqa"))
    x, sampled = image("blip_vqa"), GenerationConfig(sample=True, num_beams=1)
    both = {"image": x, "text_input": "a"}
    cases = [
        (lambda: captioner.caption({"image": x}, {"num_beams": 3}), "config must be a GenerationConfig or None"),
        (
            lambda: captioner.caption({"image": x}, sampled, seeds=[1]),
            "seeds must be one whole number of 64 bits an im",
        ),
        (lambda: captioner.caption({"image": x}, sampled, seeds="ab"), "seeds[0] is 'ab'; it must be a whole number"),
        (lambda: matcher(both, match_head="itx"), "match_head is 'itx'; it must be 'itm' or 'itc'. Did you mean"),
        (lambda: matcher.score(both, pairs_at_once=0), "pairs_at_once is 0; it must be a whole number, at least 1"),
        (lambda: features.extract_features(both, mode="img"), "mode is 'img'; it must be"),
        (lambda: features.embed_texts("a", batch_size=0), "batch_size is 0"),
        (
            lambda: vqa.rank({"video": [("a", "b")], "text_input": "a"}, ANSWERS),
            "video[0] is a tuple: 2 in one; each item of a list must be one picture or video",
        ),
        (lambda: features.embed_images(x, batch_size=0), "batch_size is 0"),
        (lambda: features.embed_images(x, project="no"), "project is 'no'; it must be True or False"),
        (lambda: dialog.chat(x, "a"), "a dialog is about one image; given: 2"),
        (lambda: dialog.chat(x[0], None), "caption is None; it must be a string, which may be empty"),
        (lambda: dialog.chat(x[0], "a", []), "answers is empty"),
        (lambda: dialog.chat(x[0], "a").ask("why?"), "there is no answer to choose from"),
        (lambda: dialog.chat(x[0], "a", ["b"]).ask(5), "question is 5; it must be a string"),
        (lambda: dialog.score({**both, "dialog": [ROUNDS] * 2}, tokens_at_once=0), "tokens_at_once is 0"),
        (
            lambda: vqa.rank({**both, "image_index": [0]}, ANSWERS[:1]) and vqa.rank({**both, "image_index": [2]}, "a"),
            "image_index must name an image, 0 to 1, for each of 1 texts; given: [2]",
        ),
        (lambda: loaded("blip_pretrain")[0](both, alpha=1.5), "alpha is 1.5; it must be a number from 0 to 1"),
        (lambda: loaded("blip_pretrain")[0](both, update=np.ones(2)), "update is array([1., 1.]); it must be True or"),
        (lambda: loaded("blip_retrieval")[0].compute_sim_matrix(None), "data_loader is None; give a loader"),
        (lambda: loaded("blip_retrieval")[0](both, update=np.ones(2)), "update is array([1., 1.]); it must be True or"),
    ]
    for call, message in cases:
        with pytest.raises(VlkitError, match=re.escape(message)):
            call()


@pytest.mark.parametrize("given", [None, 5, torch.zeros(3), b"ab"])
@pytest.mark.parametrize("head", HEADS)
def test_samples_that_are_no_mapping(head, given):
    with pytest.raises(VlkitError, match="samples must be a mapping such as"):
        loaded(head)[0](given)


@pytest.mark.parametrize("label", [2**63, -(2**70), Fraction(1, 2), float("nan"), "a"])
@pytest.mark.parametrize("method", ["forward", "predict"])
def test_labels_of_pairs(method, label):
    x = image("blip_nlvr")
    samples = {"images": torch.stack([x, x], 1), "text_input": ["a", "b"], "label": [label, 0]}
    with pytest.raises(VlkitError, match=r"^label"):
        getattr(loaded("blip_nlvr")[0], method)(samples)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head", HEADS)
def test_half_models_take_float_images(head, kind):
    model = copy.deepcopy(loaded(head)[0]).to(kind)
    for name, call in CALLS[head].items():
        if name != "image_embeds":
            call(model, image(head), 2)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("head", HEADS)
def test_models_take_images_of_other_float_types(head, kind):
    call = next(iter(CALLS[head].values()))
    given = image(head).to(kind)
    assert_equal(call(loaded(head)[0], given, 2), call(loaded(head)[0], given.float(), 2), 1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        call(loaded(head)[0], given, 2)


def test_candidate_answers_may_be_an_array():
    dialog, x = loaded("blip_dialog")[0], image("blip_dialog", 1)
    rounds = [{**ROUNDS[0], "answer_options": np.array(ANSWERS)}]
    expected = dialog.score({"image": x, "text_input": "a", "dialog": [ROUNDS]})
    assert_equal(dialog.score({"image": x, "text_input": "a", "dialog": [rounds]}), expected)


WEB = [
    (None, "web is None (NoneType); give a string, or a list of strings"),
    (5, "web[0][0] is 5 (int); it must be a string"),
    ({"a", "b"}, "(set); give a string, or a list of strings"),
    ([1, None], "web[0][0] is 1 (int); it must be a string"),
    ([["a"], [2]], "web[1][0] is 2 (int); it must be a string"),
    ([{"a"}, None], "web[0] is {'a'} (set)"),
    ([b"a", None], "web[0] is 1 bytes; decode them"),
]


@pytest.mark.parametrize(("web", "message"), WEB)
def test_wrong_texts_of_the_web(web, message):
    model = BlipCapFilt(loaded("blip_caption")[0], loaded("blip_image_text_matching")[0])
    with pytest.raises(VlkitError, match=re.escape(message)):
        model.annotate({"image": image("blip_caption")}, web, GREEDY)
