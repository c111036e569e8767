"""Features of the texts of a set, encoded in shares by several processes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models import small
from tests.unit.models.blip.test_text_prefix import works
from tests.unit.tasks.shares import evaluate_in_shares
from vlkit.models.blip import text_prefix
from vlkit.models.blip.pretrain import BlipPretrain
from vlkit.tasks.retrieval import text_feats


@pytest.fixture(scope="module")
def model() -> BlipPretrain:
    torch.manual_seed(0)
    return BlipPretrain(small.vit(), small.med(initializer_range=0.15), "shapes", embed_dim=12, queue_size=8).eval()


@settings(deadline=None, max_examples=15)
@given(work=works(), count=st.integers(1, 4))
def test_text_features_in_any_order_and_share(model, work, count):
    texts, _, tokens, _ = work
    with torch.inference_mode():
        expected = torch.cat([model.text_feats(model.tokenize([text])) for text in texts])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_prefix, "_CPU_TOKENS", tokens)
        for found in evaluate_in_shares(lambda rank, lent: text_feats(model, texts, lent), count):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_shares_of_texts_have_as_many_tokens(model):
    """However long texts are spread: here, all long ones come first."""
    texts = ["a" + " star" * words for words in range(20, 0, -1)]
    shares: dict[int, int] = {}

    def work(rank, lent):
        class Watched:
            tokenize = staticmethod(model.tokenize)

            @staticmethod
            def text_feats_in_passes(packed):
                shares[rank] = shares.get(rank, 0) + sum(packed.lengths)
                return model.text_feats_in_passes(packed)

        return text_feats(Watched, texts, lent)

    evaluate_in_shares(work, 2)
    assert sum(shares.values()) == sum(model.tokenize(texts).lengths)
    assert abs(shares[0] - shares[1]) <= 10
