from __future__ import annotations

import hashlib
import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.unit.models import small
from vlkit.errors import VlkitError
from vlkit.models.blip.retrieval import BlipRetrieval, _most_similar, image_numbers

TEXTS = ["a red circle", "a small blue square above a green star", "two shapes", "a big yellow triangle"]
IDS = ["train/7", "train/7", "other/7", 3]


def build(seed: int = 0, **settings) -> BlipRetrieval:
    """Without dropout, so that losses can be compared."""
    torch.manual_seed(seed)
    med = small.med(initializer_range=0.15, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    given = {"tokenizer": "shapes", "embed_dim": 12, "queue_size": 8, **settings}
    model = BlipRetrieval(small.vit(), med, **given)
    model.draw_negative = lambda weights: weights.argmax(1)
    return model


def samples(ids: list = IDS) -> dict:
    image = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return {"image": image[: len(ids)], "text_input": TEXTS[: len(ids)], "image_id": ids}


@pytest.mark.parametrize("ids", [IDS, ["a"], ["a", "a"]])
def test_every_trained_parameter_gets_a_gradient_and_no_momentum_encoder_does(ids):
    model = build()
    out = model(samples(ids), alpha=0.4)
    assert torch.isfinite(out.loss)
    out.loss.backward()
    for name, parameter in model.named_parameters():
        slow = name.split(".")[0].endswith("_m")
        assert parameter.requires_grad != slow, name
        assert (parameter.grad is None) == slow, name


def test_losses_by_hand():
    """Targets spread over the same image, in the batch and in the queue; negatives are of other images."""
    model = build().eval()
    model.idx_queue[0, :3] = image_numbers(["train/7", "x", 3])
    queues = model.image_queue.clone(), model.text_queue.clone()
    with torch.no_grad():
        out = model(samples(), alpha=0.0, update=False)
        embeds, texts = model.image_embeds(samples()), model.tokenize(TEXTS)
        image_feats, text_feats = model.image_feats(embeds), model.text_feats(texts)
        i2t = image_feats @ torch.cat([text_feats.T, queues[1]], 1) / model.temp
        t2i = text_feats @ torch.cat([image_feats.T, queues[0]], 1) / model.temp
        matches = [[0, 1, 4], [0, 1, 4], [2], [3, 6]]
        contrast = -sum(s.log_softmax(1)[i, own].mean() for s in (i2t, t2i) for i, own in enumerate(matches)) / 8
        torch.testing.assert_close(out.loss_itc, contrast)
        same = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).bool()
        negative_image = (text_feats @ image_feats.T).masked_fill(same, -torch.inf).argmax(1).tolist()
        negative_text = (image_feats @ text_feats.T).masked_fill(same, -torch.inf).argmax(1).tolist()
        pairs = [*zip(range(4), range(4)), *zip(negative_image, range(4)), *zip(range(4), negative_text)]
        logits = torch.cat(
            [model.match(texts.select([t]), model.text_encoder.project_images(embeds[[i]])) for i, t in pairs]
        )
        torch.testing.assert_close(out.itm_logits, logits, atol=1e-5, rtol=1e-4)
        labels = torch.tensor([1] * 4 + [0] * 8)
        torch.testing.assert_close(out.loss_itm, nn.functional.cross_entropy(logits, labels), atol=1e-5, rtol=1e-4)


def test_all_queues_move_by_the_batch():
    model = build(queue_size=6)
    model(samples())
    assert model.ptr_queue.tolist() == [4]
    assert model.idx_queue[0].tolist() == [*image_numbers(IDS).tolist(), -100, -100]
    with torch.no_grad():
        feats = model._momentum_feats(samples()["image"], model.tokenize(TEXTS))
    torch.testing.assert_close(model.image_queue[:, :4], feats.image.T)
    torch.testing.assert_close(model.text_queue[:, :4], feats.text.T)
    out = model(samples([1, 2, 5, 6]))
    assert model.idx_queue[0].tolist() == [5, 6, *image_numbers(IDS[2:]).tolist(), 1, 2]
    assert out.queue_age == 6 / 4


def test_a_queue_that_is_no_multiple_of_the_batch_or_smaller_or_none():
    for size in (0, 1, 3, 5):
        model = build(queue_size=size)
        for _ in range(3):
            assert torch.isfinite(model(samples()).loss)
        assert model.ptr_queue.item() == (12 % size if size else 0)


@pytest.mark.parametrize("all_rank", [True, False])
def test_a_batch_of_one_image_teaches_contrast_alone(caplog, all_rank):
    model = build(negative_all_rank=all_rank)
    with caplog.at_level(logging.WARNING):
        outs = [model(samples(["a", "a", "a"])) for _ in range(2)]
    assert [record.message for record in caplog.records] == [
        "all images of a batch have one image_id: there are no negatives, so loss_itm is 0."
    ]
    assert outs[0].loss_itm.item() == 0
    assert outs[0].itm_logits.shape == (3, 2)
    assert outs[0].loss.item() == outs[0].loss_itc.item() > 0


def test_negatives_are_never_of_the_same_image():
    model = build()
    seen = []
    model.draw_negative = lambda weights: seen.append(weights) or weights.argmax(1)
    model(samples())
    for weights in seen:
        assert (weights[:2, :2] == 0).all()
        assert (weights.diagonal() == 0).all()
        assert (weights[0, 2:] > 0).all()
    assert len(seen) == 2


def test_one_process_minds_neither_gather_nor_all_rank():
    outs = [build(gather=g, negative_all_rank=n)(samples(), alpha=0.4) for g in (True, False) for n in (True, False)]
    assert len({out.loss.item() for out in outs}) == 1


def test_captions_of_one_image_pull_together():
    """With equal ids the two images' features are trained towards both texts."""

    def itc(ids):
        return build()(samples(ids)).loss_itc.item()

    assert itc(["a", "a", "b", "c"]) != pytest.approx(itc(["a", "d", "b", "c"]), rel=1e-4)
    assert itc(["a", "a", "b", "c"]) == pytest.approx(itc([5, 5, 9, "a"]))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=4) | st.integers(0, 2**63 - 1), max_size=8))
def test_numbers_are_equal_where_ids_are(ids):
    numbers = image_numbers(ids)
    assert numbers.dtype == torch.long
    assert (numbers >= 0).all()
    for i, one in enumerate(ids):
        for j, other in enumerate(ids):
            assert (numbers[i] == numbers[j]) == (one == other)


def test_numbers_of_texts_are_the_same_in_every_run():
    expected = int.from_bytes(hashlib.blake2b(b"coco/17", digest_size=8).digest(), "big") >> 1
    assert image_numbers(["coco/17"]).tolist() == [expected]
    assert image_numbers(torch.tensor([4, 5])).tolist() == [4, 5]
    assert image_numbers([17]).tolist() == [17] != image_numbers(["17"]).tolist()


@pytest.mark.parametrize("bad", [-1, 2**63, 1.5, None])
def test_ids_that_are_none(bad):
    with pytest.raises(VlkitError, match="texts or whole numbers from 0; given"):
        image_numbers([3, bad])


def test_samples_that_do_not_fit():
    model = build()
    with pytest.raises(VlkitError, match="needs samples with 'image_id'"):
        model({"image": samples()["image"], "text_input": TEXTS})
    with pytest.raises(VlkitError, match="one image_id an image; given: 4 images, 3 ids"):
        model({**samples(), "image_id": IDS[:3]})
    with pytest.raises(VlkitError, match="one text an image; given: 4 images, 3 texts"):
        model({**samples(), "text_input": TEXTS[:3]})
    assert model.ptr_queue.item() == 0


def test_videos_have_the_mean_feature_of_their_frames():
    model = build().eval()
    video = torch.randn(2, 3, 3, 16, 16)
    with torch.no_grad():
        embeds = model.image_embeds({"video": video})
        feats = model.image_feats(embeds, frames=3)
        cls = model.visual_encoder(video.flatten(0, 1))[:, 0].unflatten(0, (2, 3))
        torch.testing.assert_close(feats, nn.functional.normalize(model.vision_proj(cls).mean(1), dim=-1))
        logits = model.match(model.tokenize(TEXTS), model.text_encoder.project_images(embeds), [0, 1, 1, 1])
    assert logits.shape == (4, 2)


def test_bf16_autocast_on_a_cpu():
    model, exact = build(), build()(samples(), alpha=0.4)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(samples(), alpha=0.4)
    assert out.loss_itc.item() == pytest.approx(exact.loss_itc.item(), abs=2e-2)
    assert out.loss_itm.item() == pytest.approx(exact.loss_itm.item(), abs=2e-2)
    assert out.loss.dtype == torch.float32
    out.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_overfits_four_pairs():
    model = build()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    given = samples([0, 1, 2, 3])
    first = last = model(given)
    for _ in range(40):
        optimizer.zero_grad()
        last = model(given)
        last.loss.backward()
        optimizer.step()
    assert last.loss_itc < first.loss_itc - 0.5
    assert last.loss_itm < 0.65 * first.loss_itm


ZERO = np.array(3)
LOADERS = [
    (ZERO, "data_loader is array(3); give a loader"),
    (torch.tensor(3), "data_loader is tensor(3); give a loader"),
    ([ZERO], "samples must be a mapping"),
    ([], "data_loader gives no batches"),
    ([{"image": ZERO, "references": [["a"]]}], "image is an array []"),
    ([{"video": torch.tensor(3.0), "references": [["a"]]}], "video is a tensor []"),
    ([{"image": torch.zeros(2, 3, 16, 16), "references": ZERO}], "references[0] is 3"),
    ([{"image": torch.zeros(2, 3, 16, 16), "references": np.array("a")}], "each of 2 images; given: 1"),
    ([{"image": torch.zeros(2, 3, 16, 16), "text_input": "a"}], "each of 2 images; given: 1"),
    ([{"image": torch.zeros(2, 3, 16, 16)}], "needs samples with 'text_input'"),
]


@pytest.mark.parametrize(("loader", "message"), LOADERS)
def test_loaders_that_cannot_be_scored(loader, message):
    with pytest.raises(VlkitError, match=re.escape(message)):
        build().eval().compute_sim_matrix(loader)


def test_texts_of_a_dataset_that_are_none():
    class Loader(list):
        dataset = SimpleNamespace(text=ZERO)

    with pytest.raises(VlkitError, match=re.escape("data_loader.dataset.text[0] is 3")):
        build().eval().compute_sim_matrix(Loader([{"image": torch.zeros(2, 3, 16, 16)}]))


@pytest.mark.parametrize("k", [1, 7, 40, 90])
def test_of_equal_similarities_the_first_are_candidates(k):
    similarity = np.random.default_rng(0).integers(0, 5, (50, 40)).astype(np.float32)
    sorted_first = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(np.sort(_most_similar(similarity, k), 1), np.sort(sorted_first, 1))
