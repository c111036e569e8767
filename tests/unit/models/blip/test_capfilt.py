"""Annotation of many images at once against the two models asked one image and one text at a time."""

from __future__ import annotations

import copy
from itertools import chain

import numpy as np
import pytest
import torch

from tests.unit.models import small
from vlkit.errors import VlkitError
from vlkit.models.blip.capfilt import BlipCapFilt, ScoredText
from vlkit.models.blip.caption import BlipCaption
from vlkit.models.blip.image_text_matching import BlipImageTextMatching
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.models.blip.retrieval import BlipRetrieval
from vlkit.models.generation import GenerationConfig
from vlkit.processors.image import BlipImageEval

WEB = ["a red circle", None, "buy now a small blue square above a green star", "", "two shapes", "   "]
SEEDS = torch.tensor([5, 2**62 + 1, 7, 8, 9, 10])
LENGTH = {"max_length": 14, "min_length": 6}
NUCLEUS = [GenerationConfig(sample=True, num_return_sequences=n, **LENGTH) for n in (1, 2, 3)]
CONFIGS = [
    *NUCLEUS,
    GenerationConfig(num_beams=1, **LENGTH),
    GenerationConfig(num_beams=3, num_return_sequences=2, **LENGTH),
    GenerationConfig(num_beams=4, num_beam_groups=2, diversity_penalty=1.0, num_return_sequences=4, **LENGTH),
]
NAMES = ["nucleus 1", "nucleus 2", "nucleus 3", "greedy", "beam", "diverse beam"]


def decides(model):
    """Texts of different lengths, and searches that rounding does not turn."""
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[model.tokenizer.sep_id] = 2.5
    return model.eval()


def captioner(seed: int = 0) -> BlipCaption:
    torch.manual_seed(seed)
    return decides(BlipCaption(small.vit(), small.med(initializer_range=0.4), tokenizer="shapes"))


def judge(seed: int = 1, **vit) -> BlipImageTextMatching:
    torch.manual_seed(seed)
    med = small.med(initializer_range=0.3)
    return BlipImageTextMatching(small.vit(**vit), med, tokenizer="shapes", embed_dim=12).eval()


def pretrainer(seed: int = 2, **settings) -> BlipPretrain:
    torch.manual_seed(seed)
    med = small.med(initializer_range=0.4)
    return decides(BlipPretrain(small.vit(), med, "shapes", embed_dim=12, queue_size=8, **settings))


def with_encoder_of(model, other):
    model.visual_encoder.load_state_dict(other.visual_encoder.state_dict())
    return model


def images(count: int = 6, side: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 3


@torch.inference_mode()
def one_by_one(model: BlipCapFilt, image, web, config, seeds, filter_image=None) -> list[list[ScoredText]]:
    """What the two models say by themselves, of each image alone and of each text alone."""
    found = []
    for i, own in enumerate(web):
        drawn = model.captioner.caption({"image": image[i : i + 1]}, config, seeds[i : i + 1])
        rows = [(own, "web", None)] if own and own.strip() else []
        rows += [(text, "synthetic", score) for text, score in zip(drawn.texts[0], drawn.scores[0])]
        judged = image if filter_image is None else filter_image
        embeds = model.filter.image_embeds({"image": judged[i : i + 1]})
        states = model.filter.text_encoder.project_images(embeds)
        scored = []
        for text, source, log_prob in rows:
            itm, itc = 0.0, None
            if text:
                tokens = model.filter.tokenize([text])
                itm = model.filter.match(tokens, states).softmax(-1)[0, 1].item()
                itc = (model.filter.image_feats(embeds) @ model.filter.text_feats(tokens).T).item()
            scored.append(ScoredText(text, source, itm, itc, log_prob))
        found.append(scored)
    return found


def assert_same(found: list[list[ScoredText]], expected: list[list[ScoredText]]) -> None:
    assert [[(row.text, row.source) for row in rows] for rows in found] == [
        [(row.text, row.source) for row in rows] for rows in expected
    ]
    for mine, theirs in zip(chain(*found), chain(*expected)):
        assert mine.itm == pytest.approx(theirs.itm, abs=1e-5)
        for name in ("itc", "log_prob"):
            one, other = getattr(mine, name), getattr(theirs, name)
            assert one == (other if other is None else pytest.approx(other, abs=1e-4))


PAIRS = {
    "two encoders": lambda: BlipCapFilt(captioner(), judge()),
    "equal encoders": lambda: BlipCapFilt(captioner(), with_encoder_of(judge(), captioner())),
    "one model": lambda: BlipCapFilt(pretrainer()),
    "one model that shares all": lambda: BlipCapFilt(pretrainer(share="all")),
    "one model that shares nothing": lambda: BlipCapFilt(pretrainer(share="none")),
    "retrieval": lambda: BlipCapFilt(
        pretrainer(), BlipRetrieval(small.vit(), small.med(), "shapes", embed_dim=12, queue_size=8)
    ),
}


@pytest.fixture(scope="module", params=PAIRS)
def pair(request) -> BlipCapFilt:
    torch.manual_seed(3)
    return PAIRS[request.param]().eval()


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_texts_and_scores_are_those_of_the_models_alone(pair, config):
    found = pair.annotate({"image": images()}, WEB, config, SEEDS)
    assert_same(found, one_by_one(pair, images(), WEB, config, SEEDS))
    assert len({row.text for rows in found for row in rows}) > 4


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 7])
def test_scores_do_not_depend_on_how_many_pairs_go_through_at_once(at_once):
    model = BlipCapFilt(captioner(), judge()).eval()
    expected = model.annotate({"image": images()}, WEB, NUCLEUS[2], SEEDS)
    model.pairs_at_once = at_once
    counts, match = [], model.filter.match
    model.filter.match = lambda texts, *rest: counts.append(len(texts)) or match(texts, *rest)
    assert_same(model.annotate({"image": images()}, WEB, NUCLEUS[2], SEEDS), expected)
    assert max(counts) <= max(at_once, 4)
    assert len(counts) > 1


def test_the_order_of_a_batch_does_not_matter():
    model, order = BlipCapFilt(captioner(), judge()).eval(), [3, 0, 5, 1, 4, 2]
    expected = model.annotate({"image": images()}, WEB, NUCLEUS[1], SEEDS)
    found = model.annotate({"image": images()[order]}, [WEB[i] for i in order], NUCLEUS[1], SEEDS[order])
    assert_same(found, [expected[i] for i in order])


def test_a_filter_that_reads_other_pixels():
    model = BlipCapFilt(captioner(), judge(image_size=24)).eval()
    given = {"image": images(3), "filter_image": images(3, 24)}
    found = model.annotate(given, WEB[:3], NUCLEUS[1], SEEDS[:3])
    assert_same(found, one_by_one(model, images(3), WEB[:3], NUCLEUS[1], SEEDS[:3], images(3, 24)))
    with pytest.raises(VlkitError, match="16"):
        model.annotate({"image": images(3)}, WEB[:3], NUCLEUS[1], SEEDS[:3])


def counted(model: BlipCapFilt, config=NUCLEUS[0]) -> dict[str, int]:
    """Images that went through the encoders and through the projections of either model."""
    counts = {"encoded": 0, "projected": 0}
    watched = {id(model.captioner.visual_encoder): model.captioner.visual_encoder}
    watched[id(model.filter.visual_encoder)] = model.filter.visual_encoder

    def encoded(_, given):
        counts["encoded"] += len(given[0])

    def projected(_, given):
        counts["projected"] += len(given[0])

    handles = [encoder.register_forward_pre_hook(encoded) for encoder in watched.values()]
    keys = {
        id(text.encoder.layer[0].crossattention.self.key): text.encoder.layer[0].crossattention.self.key
        for text in (model.captioner.text_decoder.bert, model.filter.text_encoder)
    }
    handles += [key.register_forward_pre_hook(projected) for key in keys.values()]
    model.annotate({"image": images()}, WEB, config, SEEDS)
    for handle in handles:
        handle.remove()
    return counts


def test_what_is_shared_is_computed_once():
    assert counted(BlipCapFilt(captioner(), judge()).eval()) == {"encoded": 12, "projected": 12}
    equal = BlipCapFilt(captioner(), with_encoder_of(judge(), captioner())).eval()
    assert counted(equal) == {"encoded": 6, "projected": 12}
    assert counted(BlipCapFilt(pretrainer()).eval()) == {"encoded": 6, "projected": 6}
    assert counted(BlipCapFilt(pretrainer(share="none")).eval()) == {"encoded": 6, "projected": 12}


def test_encoders_that_training_has_parted_are_no_longer_one():
    model = BlipCapFilt(captioner(), with_encoder_of(judge(), captioner())).eval()
    assert model.one_encoder
    model.train()
    with torch.no_grad():
        model.filter.visual_encoder.cls_token.add_(1)
    assert not model.eval().one_encoder


def test_encoders_of_other_sizes_are_two():
    # The same tensors under another number of heads give other tokens.
    other = with_encoder_of(judge(num_heads=4), captioner())
    assert not BlipCapFilt(captioner(), other).one_encoder
    assert not BlipCapFilt(captioner(), judge(mlp_ratio=3.0)).one_encoder


def test_equal_texts_of_an_image_are_scored_once_and_have_one_score():
    model = BlipCapFilt(captioner(), judge()).eval()
    config = GenerationConfig(num_beams=1, **LENGTH)
    greedy = [texts[0] for texts in model.captioner.caption({"image": images()}, config).texts]
    seen, match = [], model.filter.match
    model.filter.match = lambda texts, *rest: seen.append(len(texts)) or match(texts, *rest)
    found = model.annotate({"image": images()}, greedy, config)
    assert seen == [6]
    for text, rows in zip(greedy, found):
        assert [(row.text, row.source) for row in rows] == [(text, "web"), (text, "synthetic")]
        assert (rows[0].itm, rows[0].itc) == (rows[1].itm, rows[1].itc)


def test_an_empty_synthetic_text_is_not_scored():
    silent = captioner()
    with torch.no_grad():
        silent.text_decoder.cls.predictions.bias[silent.tokenizer.sep_id] = 1e4
    model = BlipCapFilt(silent, judge()).eval()
    config = GenerationConfig(sample=True, num_return_sequences=2, max_length=8, min_length=1)
    found = model.annotate({"image": images(2)}, ["a red circle", None], config, SEEDS[:2])
    assert [[row.text for row in rows] for rows in found] == [["a red circle", "", ""], ["", ""]]
    assert 0 < found[0][0].itm < 1
    assert all((row.itm, row.itc) == (0.0, None) for rows in found for row in rows if not row.text)


def test_a_filter_without_projections_gives_no_similarity():
    filter_ = judge()
    filter_.vision_proj = None
    found = BlipCapFilt(captioner(), filter_).eval().annotate({"image": images(2)}, WEB[:2], NUCLEUS[0], SEEDS[:2])
    assert all(row.itc is None and 0 < row.itm < 1 for rows in found for row in rows)


def test_models_that_cannot_do_it_are_named():
    with pytest.raises(VlkitError, match=r"BlipImageTextMatching cannot be the captioner: it has no text_decoder"):
        BlipCapFilt(judge(), judge())
    with pytest.raises(VlkitError, match=r"BlipCaption cannot be the filter: it has no text_encoder .*blip_retrieval"):
        BlipCapFilt(captioner())
    with pytest.raises(VlkitError, match=r"pairs_at_once is 0"):
        BlipCapFilt(captioner(), judge(), pairs_at_once=0)
    with pytest.raises(VlkitError, match=r"2 for 3 images"):
        BlipCapFilt(captioner(), judge()).annotate({"image": images(3)}, ["a", "b"])


def test_copies_of_one_model_are_found_to_see_alike():
    model = BlipCapFilt(pretrainer(), copy.deepcopy(pretrainer())).eval()
    assert model.one_encoder
    assert_same(
        model.annotate({"image": images()}, WEB, NUCLEUS[1], SEEDS),
        BlipCapFilt(pretrainer()).eval().annotate({"image": images()}, WEB, NUCLEUS[1], SEEDS),
    )


@pytest.mark.parametrize("name", ["two encoders", "one model"])
def test_bf16_autocast_changes_scores_a_little(name):
    model = PAIRS[name]().eval()
    given = ({"image": images()}, WEB, GenerationConfig(num_beams=1, max_length=6, min_length=5), SEEDS)
    exact = model.annotate(*given)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.annotate(*given)
    for rows, others in zip(found, exact):
        assert rows[0].itm == pytest.approx(others[0].itm, abs=0.05)
        assert rows[0].itc == pytest.approx(others[0].itc, abs=0.05)


def test_pictures_are_read_by_each_model_with_its_own_processor():
    model = BlipCapFilt(captioner(), judge()).eval()
    for part in (model.captioner, model.filter):
        part.use_processor(BlipImageEval(16, mean=0.5, std=0.5))
    pictures = [np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8) for seed in range(len(WEB))]
    tensors = torch.stack([BlipImageEval(16, mean=0.5, std=0.5)(picture) for picture in pictures])
    expected = model.annotate({"image": tensors}, WEB, NUCLEUS[1], SEEDS)
    assert_same(model.annotate({"image": pictures}, WEB, NUCLEUS[1], SEEDS), expected)
    with pytest.raises(VlkitError, match=r"BlipCapFilt knows no sample key 'filter_img'\. Did you mean 'filter_image'"):
        model.annotate({"image": tensors, "filter_img": tensors}, WEB, NUCLEUS[1], SEEDS)
    with pytest.raises(VlkitError, match=r"annotate\(\) takes no argument 'seed'\. Did you mean 'seeds'"):
        model.annotate({"image": tensors}, WEB, NUCLEUS[1], seed=SEEDS)


@pytest.mark.parametrize("given", ["2", None, 2.5, [1]])
def test_pairs_at_once_must_be_a_number(given):
    with pytest.raises(VlkitError, match=r"pairs_at_once is .* it must be a whole number, at least 1"):
        BlipCapFilt(captioner(), judge(), pairs_at_once=given)
