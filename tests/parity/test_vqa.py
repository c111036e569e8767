"""Question answering against the original: loss, gradients, generated and ranked answers."""

import pytest
import torch

from tests.parity.golden import Case, check_gradients, filled_state, manifest
from tests.parity.test_caption import check_sequences
from tests.parity.test_med import med_config
from tests.parity.test_pretrain import vit_config
from vlkit.models.blip.caption import decode_captions
from vlkit.models.blip.vqa import BlipVqa
from vlkit.models.generation import GenerationConfig
from vlkit.models.med import MedConfig
from vlkit.models.packing import TextBatch
from vlkit.models.vit import VitConfig

LENGTHS = ("num_beams", "max_length", "min_length")


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("vqa")


@pytest.fixture(scope="module")
def model(case) -> BlipVqa:
    config = case.info["config"]
    model = BlipVqa(vit_config(config["vit"]), med_config(config["med"])).eval()
    load(model, case, filled_state(case.info["model"]))
    return model


def load(model: BlipVqa, case: Case, state: dict) -> None:
    report = model.load_state_dict(state, strict=False)
    assert not report.unexpected_keys
    assert set(report.missing_keys) <= set(case.info["model"]["integer_buffers"])


@pytest.fixture(scope="module")
def samples(case) -> dict:
    return {
        "image": case.input("input.vqa.image"),
        "text_input": case.info["questions"],
        "answer": case.info["answers"],
        "weight": case["weights"],
        "n_answers": case.info["n"],
    }


def test_tokens(case, model):
    """The first ids aside: whether they are stored before or after [ENC] and [DEC] take their places."""
    read, said = model.tokenize, model.tokenize_answers
    for name, texts in {"question": read(case.info["questions"]), "answer": said(case.info["answers"])}.items():
        check_ids(case, name, texts)
        assert set(texts.ids[texts.first_rows()].tolist()) == {30523 if name == "question" else 30522}
    check_ids(case, "candidate", said(case.info["candidates"]))


def check_ids(case: Case, name: str, texts: TextBatch) -> None:
    ids, mask = texts.padded()
    assert torch.equal(mask, case[f"{name}_mask"])
    assert torch.equal(ids[:, 1:], case[f"{name}_ids"][:, 1:])


def test_loss_and_gradients(case, model, samples):
    model.zero_grad()
    out = model(samples)
    case.expect("answer_losses", out.answer_losses)
    case.expect("loss", out.loss)
    out.loss.backward()
    check_gradients(case, dict(model.named_parameters(remove_duplicate=False)))
    without = {n for n, p in model.named_parameters() if p.grad is None}
    assert without == set(case.info["parameters_without_gradient"])


def generate(model: BlipVqa, samples: dict, arguments: dict) -> tuple[list[list[int]], list[float]]:
    with torch.inference_mode():
        states = model.read_questions(samples, attend_to_padding=True)
        found = decode_captions(model.text_decoder, states, model.tokenizer, "", GenerationConfig(**arguments))
    return [group[0] for group in found.sequences], [group[0] for group in found.scores]


def test_generated_as_the_original_with_padding_seen(case, model, samples):
    arguments = case.said("generate_ids", *LENGTHS)
    ids, scores = generate(model, samples, arguments)
    check_sequences(ids, case["generate_ids"])
    case.expect("generate_scores", torch.tensor(scores))
    assert [model.tokenizer.decode(row) for row in ids] == case.info["generated"]
    asked = {"num_beams": arguments["num_beams"], "max_len": arguments["max_length"]}
    answers = model.predict_answers(
        samples, inference_method="generate", min_len=arguments["min_length"], attend_to_padding=True, **asked
    )
    assert answers == [text.removeprefix("##").strip() for text in case.info["generated"]]


def test_generated_does_not_depend_on_the_batch(case, model, samples):
    config = GenerationConfig(**case.said("generate_ids", *LENGTHS))
    expected = [text.removeprefix("##").strip() for text in case.info["generated_one_question_at_a_time"]]
    assert [texts[0] for texts in model.generate(samples, config).texts] == expected


def test_ranked(case, model, samples):
    """Among answers that begin alike the original's cut and order are arbitrary, so those may be exchanged."""
    candidates = case.info["candidates"]
    tree = model._answer_tree(tuple(candidates))
    with torch.inference_mode():
        questions = model.read_questions(samples)
    for name, ranked in case.info["ranked"].items():
        chosen = case[f"rank_topk_ids_{name}"]
        k = chosen.shape[1]
        with torch.inference_mode():
            kept = torch.from_numpy(model._likeliest(tree, questions, k))
            losses = tree.losses(model.text_decoder, questions, chosen.numpy(), model.label_smoothing)
        assert torch.equal(torch.from_numpy(tree.first)[kept], torch.from_numpy(tree.first)[chosen])
        case.expect(f"rank_log_probs_{name}", -losses)
        assert torch.equal(chosen.gather(1, losses.argmin(1, keepdim=True))[:, 0], case[f"rank_ids_{name}"])
        answers = model.rank(samples, candidates, k)
        predicted = model.predict_answers(samples, num_ans_candidates=k, answer_list=candidates)
        for row in range(len(chosen)):
            if set(kept[row].tolist()) == set(chosen[row].tolist()):
                assert predicted[row] == answers.texts[row][0] == ranked[row]
                expected = (-losses[row]).sort(descending=True).values
                torch.testing.assert_close(torch.tensor(answers.scores[row]), expected)


@pytest.mark.slow
def test_base_size():
    case = Case("full_vqa_base_480")
    shapes = {name: entry[0] for name, entry in manifest(case.info["manifest"])["state_dict"].items()}
    model = BlipVqa(VitConfig(480), MedConfig()).eval()
    load(model, case, filled_state(case.info["model"], shapes))
    info = case.info
    samples = {
        "image": case.input("input.full_vqa.image"),
        "text_input": info["questions"],
        "answer": info["answers"],
        "weight": torch.tensor(info["weights"]),
        "n_answers": info["n"],
    }
    with torch.inference_mode():
        case.expect("loss", model(samples).loss)
    arguments = {"num_beams": 3, "max_length": 10, "min_length": 1, **case.said("generate_ids", *LENGTHS)}
    ids, scores = generate(model, samples, arguments)
    check_sequences(ids, case["generate_ids"])
    case.expect("generate_scores", torch.tensor(scores))
    assert [model.tokenizer.decode(row) for row in ids] == info["generated"]
