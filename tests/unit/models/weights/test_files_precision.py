"""Weights in fewer bits: what is stored, and what comes back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models.small import captioner
from vlkit.errors import CheckpointError, VlkitError
from vlkit.models.weights.files import restored, stored
from vlkit.models.weights.load import build_with_weights
from vlkit.runner.checkpoint import save_tensors


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 5), st.integers(1, 40), st.floats(1e-6, 1e4), st.integers(0, 2**31))
def test_whole_numbers_are_within_half_a_step_of_each_row(rows, width, size, seed):
    value = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * size
    value *= torch.logspace(-3, 0, rows)[:, None]  # rows of very different sizes
    small = stored({"a": value}, "int8")
    assert (small["a"].dtype, small["a.scale"].shape) == (torch.int8, (rows,))
    back = restored(small)
    assert back.keys() == {"a"}
    step = value.abs().amax(1, keepdim=True) / 127
    assert ((back["a"] - value).abs() <= step * 0.501).all()
    again = stored(back, "int8")
    assert torch.equal(again["a"], small["a"])  # a second time loses nothing more


def test_filters_vectors_zeros_and_whole_numbers():
    state = {
        "filter": torch.randn(3, 2, 4, 4),
        "bias": torch.randn(3),
        "token": torch.randn(1, 1, 3),
        "nothing": torch.zeros(2, 3),
        "ids": torch.arange(3),
        "scale": torch.randn(2),
    }
    small = stored(state, "int8")
    assert {n: t.dtype for n, t in small.items() if t.dtype != torch.float16} == {
        "filter": torch.int8,
        "filter.scale": torch.float32,
        "nothing": torch.int8,
        "nothing.scale": torch.float32,
        "ids": torch.int64,
    }
    back = restored(small)
    assert list(back) == list(state)
    torch.testing.assert_close(back["filter"], state["filter"], atol=0.02, rtol=0)
    assert torch.equal(back["nothing"], state["nothing"])
    assert torch.equal(back["ids"], state["ids"])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_a_model_comes_back_from_a_file(tmp_path, precision):
    """Tied tensors are written once and are tied again."""
    source = captioner()
    state = stored(source.state_dict(keep_vars=True), precision)
    save_tensors(tmp_path / "small.safetensors", state)
    model, report = build_with_weights(captioner, tmp_path / "small.safetensors")
    assert report.missing == report.unexpected == []
    words = model.text_decoder.bert.embeddings.word_embeddings.weight
    assert model.text_decoder.cls.predictions.decoder.weight is words
    for (name, one), other in zip(source.state_dict().items(), model.state_dict().values()):
        assert other.dtype == one.dtype
        torch.testing.assert_close(other, one, rtol=0.01, atol=0.01 * float(one.abs().max()), msg=name)


def test_what_is_refused():
    with pytest.raises(VlkitError, match=r"'fp61'.*Did you mean 'fp16'.*Allowed: fp32, fp16, bf16, int8"):
        stored({}, "fp61")
    with pytest.raises(VlkitError, match=r"big has values beyond what fp16 can hold\. Choose bf16 or fp32"):
        stored({"big": torch.tensor([1e6])}, "fp16")
    with pytest.raises(CheckpointError, match=r"a\.scale is missing"):
        restored({"a": torch.zeros(2, 2, dtype=torch.int8)})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_weights_that_are_not_finite_are_named_with_their_file(tmp_path, precision, value):
    """In int8 by a scale."""
    state = stored(captioner().state_dict(keep_vars=True), precision)
    name = "visual_encoder.blocks.0.mlp.fc1.weight"
    broken = dict(state)
    stored_under = name + ".scale" if precision == "int8" else name
    broken[stored_under] = state[stored_under].detach().clone()
    broken[stored_under][0] = value
    save_tensors(tmp_path / "w.safetensors", broken)
    with pytest.raises(CheckpointError, match=rf"w\.safetensors holds weights that are not finite: {name} \(\d+ of"):
        build_with_weights(captioner, tmp_path / "w.safetensors")
