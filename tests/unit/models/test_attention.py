from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.models import attention
from vlkit.models.attention import attend, merge_heads, split_heads

LIMITS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def naive(query, key, value, mask=None, causal=False):
    """The textbook in double precision, one query after the other over the keys that it sees."""
    query, key, value = query.double(), key.double(), value.double()
    queries, keys = query.shape[2], key.shape[2]
    outputs = []
    for i in range(queries):
        last = keys - queries + i + 1 if causal else keys
        scores = torch.einsum("nhd,nhsd->nhs", query[:, :, i], key[:, :, :last]) / math.sqrt(query.shape[-1])
        weights = scores.exp() if mask is None else scores.exp() * mask[:, :, 0]
        weights = weights / weights.sum(-1, keepdim=True)
        outputs.append(torch.einsum("nhs,nhsd->nhd", weights, value[:, :, :last]))
    return torch.stack(outputs, 2)


def tensors(n=2, queries=4, keys=5, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return [torch.randn(n, 2, length, 3).to(dtype) for length in (queries, keys, keys)]


def random_mask(n: int, keys: int) -> torch.Tensor:
    mask = torch.rand(n, 1, 1, keys) < 0.6
    mask[..., 0] = True
    return mask


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 3),
    queries=st.one_of(st.integers(1, 20), st.integers(30, 70)),
    more=st.integers(0, 6),
    kind=st.sampled_from(["all", "mask", "causal"]),
    dtype=st.sampled_from(list(LIMITS)),
    grad=st.booleans(),
    part=st.sampled_from([1, 4000, 2**22]),
)
def test_every_path_is_softmax_attention(seed, n, queries, more, kind, dtype, grad, part):
    query, key, value = tensors(n, queries, queries + more, dtype, seed)
    mask = random_mask(n, queries + more) if kind == "mask" else None
    with torch.set_grad_enabled(grad), mock.patch.object(attention, "_PART_BYTES", part):
        got = attend(query, key, value, mask, causal=kind == "causal")
    expected = naive(query, key, value, mask, kind == "causal")
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, atol=LIMITS[dtype], rtol=LIMITS[dtype])


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("kind", ["all", "mask", "causal", "causal behind a cache"])
def test_all_ways_agree(dtype, kind, monkeypatch):
    query, key, value = tensors(queries=3, keys=5 if "cache" in kind else 3, dtype=dtype)
    mask = random_mask(2, key.shape[2]) if kind == "mask" else None
    results = []
    for way in ("plain", "parts", "fused"):
        monkeypatch.setattr(attention, "_fastest", lambda *_, way=way: way)
        results.append(attend(query, key, value, mask, causal=kind.startswith("causal")))
    for other in results[1:]:
        torch.testing.assert_close(results[0], other, atol=LIMITS[dtype], rtol=LIMITS[dtype])


def test_plain_and_fused_have_equal_gradients(monkeypatch):
    gradients = []
    for way in ("plain", "fused"):
        monkeypatch.setattr(attention, "_fastest", lambda *_, way=way: way)
        inputs = [x.requires_grad_() for x in tensors(queries=6, keys=6)]
        output = attend(*inputs, causal=True)
        gradients.append(torch.autograd.grad((output * torch.arange(3.0)).sum(), inputs))
    for mine, theirs in zip(*gradients):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.fixture
def kernel_calls(monkeypatch) -> list[int]:
    """Numbers of queries that the fused kernel was called with."""
    calls: list[int] = []
    fused = F.scaled_dot_product_attention

    def counted(query, *args, **kwargs):
        calls.append(query.shape[-2])
        return fused(query, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    return calls


@pytest.mark.parametrize("queries", [1, 16, 17, 40])
def test_bf16_training_on_a_cpu_does_without_the_fused_kernel(kernel_calls, queries):
    inputs = [x.requires_grad_() for x in tensors(queries=queries, keys=queries, dtype=torch.bfloat16)]
    attend(*inputs).sum().backward()
    assert inputs[0].grad is not None
    assert kernel_calls == []


def test_where_the_fused_kernel_is_used(kernel_calls):
    attend(*(x.requires_grad_() for x in tensors(queries=4)))  # training in fp32
    with torch.no_grad():
        attend(*tensors(queries=40))  # many queries of an evaluation
        attend(*tensors(queries=40, dtype=torch.bfloat16))
        attend(*tensors(queries=16))  # few, as when decoding
        attend(*tensors(queries=1, dtype=torch.bfloat16))
    assert kernel_calls == [4, 40]


def test_a_whole_model_trained_in_bf16_on_a_cpu_never_calls_the_fused_kernel(kernel_calls):
    from tests.unit.models.small import captioner

    model = captioner()
    samples = {"image": torch.randn(2, 3, 16, 16), "text_input": ["a red circle", "a big blue square"]}
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(samples).loss
    loss.backward()
    assert kernel_calls == []
    model(samples).loss.backward()
    assert kernel_calls


@pytest.mark.parametrize("way", ["plain", "fused"])
def test_dropout_drops_weights_and_keeps_their_mean(way, monkeypatch):
    monkeypatch.setattr(attention, "_fastest", lambda *_: way)
    query = key = torch.zeros(1, 1, 4, 2)
    torch.manual_seed(0)
    outputs = torch.stack([attend(query, key, torch.ones(1, 1, 4, 2), dropout=0.25) for _ in range(500)])
    # Four equal weights, each 0 or 1/3: multiples of a third, mean 1.
    assert float((outputs * 3 - (outputs * 3).round()).abs().max()) < 1e-5
    assert len(outputs.unique()) > 2
    assert float(outputs.mean()) == pytest.approx(1, abs=0.03)


def test_heads_split_and_merge():
    x = torch.arange(24.0).reshape(1, 2, 12)
    heads = split_heads(x, 3)
    assert heads[0, 1].tolist() == [[4.0, 5.0, 6.0, 7.0], [16.0, 17.0, 18.0, 19.0]]
    assert heads.data_ptr() == x.data_ptr()
    assert torch.equal(merge_heads(heads), x)
