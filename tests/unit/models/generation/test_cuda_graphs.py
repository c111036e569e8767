"""Decoding in fixed shapes equals decoding step by step. Everything but the capture as a CUDA graph runs here."""

from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from tests.unit.models import decoders
from tests.unit.models.decoders import BOS, EOS
from vlkit.models.attention import ImageKV
from vlkit.models.generation import Generated, GenerationConfig, cuda_graphs, generate, use_cuda_graphs
from vlkit.models.generation.cuda_graphs import is_suitable
from vlkit.models.med import TextDecoder

VOCAB = 2600  # large enough that the best few are searched in parts, and the head of a distribution is not all


def both(model: TextDecoder, embeds, prompt, config: GenerationConfig, mask=None) -> tuple[Generated, Generated]:
    """What decoding step by step and decoding in fixed shapes give."""

    def states() -> ImageKV:
        with torch.no_grad():
            return model.bert.project_images(embeds, mask)

    seeds = torch.arange(len(embeds)) * 7
    plain = generate(model, states(), prompt, EOS, config, seeds)
    use_cuda_graphs(model)
    with mock.patch.object(cuda_graphs, "pays", return_value=True):
        found = generate(model, states(), prompt, EOS, config, seeds)
    use_cuda_graphs(model, False)
    return plain, found


def assert_equal(plain: Generated, static: Generated) -> None:
    assert static.sequences == plain.sequences
    for mine, other in zip(static.scores, plain.scores):
        assert mine == pytest.approx(other, abs=1e-4)


def prompts(count: int, length: int, shared: bool) -> torch.Tensor:
    rows = [[BOS, *((3 + i * j) % VOCAB for j in range(1, length))] for i in range(1 if shared else count)]
    return torch.tensor(rows)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 7),
    beams=st.integers(2, 5),
    groups=st.sampled_from([1, 1, 2, 3]),
    prompt_length=st.integers(1, 3),
    shared=st.booleans(),
    min_length=st.integers(0, 8),
    more=st.integers(1, 9),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    length_penalty=st.sampled_from([0.0, 1.0, 2.0]),
    eos_bias=st.sampled_from([0.0, 6.0, 9.0]),
    masked=st.booleans(),
)
def test_beam_search_in_fixed_shapes(
    seed,
    count,
    beams,
    groups,
    prompt_length,
    shared,
    min_length,
    more,
    repetition_penalty,
    length_penalty,
    eos_bias,
    masked,
):
    model = decoders.decoder(VOCAB, seed, eos_bias)
    max_length = prompt_length + more
    config = GenerationConfig(
        num_beams=beams * groups,
        num_beam_groups=groups,
        diversity_penalty=1.0 if groups > 1 else 0.0,
        num_return_sequences=beams,
        min_length=min(min_length, max_length),
        max_length=max_length,
        repetition_penalty=repetition_penalty,
        length_penalty=length_penalty,
    )
    mask = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) < 0.6 if masked else None
    if mask is not None:
        mask[:, 0] = True
    embeds = decoders.image_embeds(count, seed, tokens=4)
    assert_equal(*both(model, embeds, prompts(count, prompt_length, shared), config, mask))


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 7),
    samples=st.integers(1, 4),
    greedy=st.booleans(),
    top_p=st.sampled_from([0.3, 0.9, 1.0]),
    top_k=st.sampled_from([0, 5]),
    temperature=st.sampled_from([0.7, 3.0]),
    min_length=st.integers(0, 8),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    eos_bias=st.sampled_from([0.0, 6.0, 9.0]),
)
def test_sampling_in_fixed_shapes(
    seed, count, samples, greedy, top_p, top_k, temperature, min_length, repetition_penalty, eos_bias
):
    model = decoders.decoder(VOCAB, seed, eos_bias)
    how = {"num_beams": 1} if greedy else {"sample": True, "num_return_sequences": samples}
    config = GenerationConfig(
        top_p=top_p,
        top_k=top_k,
        temperature=temperature,
        min_length=min_length,
        max_length=9,
        repetition_penalty=repetition_penalty,
        **how,
    )
    assert_equal(*both(model, decoders.image_embeds(count, seed), prompts(count, 2, False), config))


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """Buckets of the steps that are taken."""
    taken = []
    step = cuda_graphs.GraphBatch.step

    def noted(self, decoder):
        taken.append(self.bucket)
        step(self, decoder)

    monkeypatch.setattr(cuda_graphs.GraphBatch, "step", noted)
    return taken


def test_batches_are_decoded_in_buckets(steps):
    model = decoders.decoder(VOCAB, 5, 8.0)
    config = GenerationConfig(num_beams=2, max_length=20, min_length=0)
    for count, bucket in ((1, 1), (2, 2), (3, 4), (5, 8), (8, 8)):
        steps.clear()
        assert_equal(*both(model, decoders.image_embeds(count, 5), prompts(count, 1, True), config))
        assert set(steps) == {bucket}


def test_decoding_ends_when_all_images_are_finished(steps, monkeypatch):
    model, embeds = decoders.decoder(VOCAB, 5, 11.0), decoders.image_embeds(3, 5)
    calls = []
    forward = TextDecoder.next_logits
    monkeypatch.setattr(TextDecoder, "next_logits", lambda *given: calls.append(0) or forward(*given))
    config = GenerationConfig(num_beams=2, max_length=20, min_length=0)
    generate(model, decoders.states(model, embeds), prompts(3, 1, True), EOS, config)
    needed = len(calls)  # tokens that were chosen
    assert needed < 10
    both(model, embeds, prompts(3, 1, True), config)
    assert len(steps) == needed


@pytest.mark.parametrize("mask", [False, True], ids=["all_seen", "masked"])
def test_buffers_serve_the_next_batches(mask):
    """Smaller ones, larger ones, and ones after the weights have changed."""
    model = decoders.decoder(VOCAB, 1, 7.0)
    config = GenerationConfig(num_beams=3, max_length=8, min_length=2)
    for number, count in enumerate([5, 2, 6, 3]):
        tokens = 3 + number if mask else 3
        embeds = decoders.image_embeds(count, number, tokens)
        seen = torch.arange(tokens) < torch.tensor([2 + i % 2 for i in range(count)])[:, None] if mask else None
        assert_equal(*both(model, embeds, prompts(count, 1, True), config, seen))
        with torch.no_grad():
            model.cls.predictions.bias.add_(torch.randn(VOCAB))
    assert [each.bucket for each in model.graph_buffers.values()] == [8, 4]


@pytest.mark.parametrize("masked", [False, True], ids=["all_seen", "masked"])
def test_what_is_not_a_number_stays_in_its_batch(masked):
    """Buffers are used again: an image that gives NaN must not spoil the place of another."""
    model = decoders.decoder(VOCAB, 2, 6.0)
    config = GenerationConfig(num_beams=2, max_length=8, min_length=3)
    for number, tokens in enumerate([9 if masked else 3, 3]):
        embeds = decoders.image_embeds(3, number, tokens)
        if number == 0:
            embeds[1] = torch.nan
        seen = torch.ones(3, tokens, dtype=torch.bool) if masked else None
        plain, static = both(model, embeds, prompts(3, 1, True), config, seen)
    assert_equal(plain, static)


def test_training_gives_buffers_up():
    model, embeds = decoders.decoder(VOCAB, 1), decoders.image_embeds(2)
    whole = torch.nn.Sequential(model)
    config = GenerationConfig(num_beams=2, max_length=4, min_length=0)
    assert_equal(*both(model, embeds, prompts(2, 1, True), config))
    whole.eval()
    assert model.graph_buffers
    whole.train()
    assert not model.graph_buffers
    whole.train()
    whole.eval()
    assert_equal(*both(model, embeds, prompts(2, 1, True), config))


def test_few_kinds_of_batches_are_kept_and_none_in_copies():
    model, embeds = decoders.decoder(VOCAB, 1), decoders.image_embeds(1)
    for beams in (2, 3, 4, 3):
        both(model, embeds, prompts(1, 1, True), GenerationConfig(num_beams=beams, max_length=4, min_length=0))
    assert [batch.rows for batch in model.graph_buffers.values()] == [4, 3]
    assert not copy.deepcopy(model).graph_buffers
    assert len(model.graph_buffers) == 2


def test_inside_and_outside_of_inference_mode():
    """Buffers that were made within are written outside, and the other way round."""
    model, embeds = decoders.decoder(VOCAB, 2, 6.0), decoders.image_embeds(2)
    config = GenerationConfig(num_beams=2, max_length=6, min_length=0)
    with torch.inference_mode():
        first = both(model, embeds, prompts(2, 1, True), config)
    second = both(model, embeds, prompts(2, 1, True), config)
    assert_equal(*first)
    assert_equal(*second)


def test_weights_that_move_need_new_steps():
    model, embeds = decoders.decoder(VOCAB, 2, 6.0), decoders.image_embeds(2)
    config = GenerationConfig(num_beams=2, max_length=6, min_length=0)

    def steps():
        assert_equal(*both(model, embeds, prompts(2, 1, True), config))
        return list(model.graph_buffers.values())[-1].captured

    first = steps()
    assert steps() is first
    bias = model.cls.predictions.transform.dense.bias
    bias.data = bias.data.clone()
    assert steps() is not first


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(dtype):
    model, embeds = decoders.decoder(VOCAB, 2, 6.0).to(dtype), decoders.image_embeds(3).to(dtype)
    config = GenerationConfig(sample=True, max_length=8, min_length=0, top_p=0.5)
    plain, static = both(model, embeds, prompts(3, 1, True), config)
    if dtype == torch.float64:
        assert_equal(plain, static)
    for texts, scores in zip(static.sequences, static.scores):
        assert texts[0][0] == BOS
        assert scores[0] < 0


def test_under_autocast():
    model, embeds = decoders.decoder(VOCAB, 2, 6.0), decoders.image_embeds(3)
    config = GenerationConfig(num_beams=1, max_length=8, min_length=0)
    with torch.autocast("cpu", torch.bfloat16):
        plain, static = both(model, embeds, prompts(3, 1, True), config)
    for mine, other in zip(static.scores, plain.scores):
        assert mine == pytest.approx(other, abs=0.3)


def test_what_is_decoded_step_by_step():
    model, prompt = decoders.decoder(VOCAB), prompts(2, 4, False)
    config, many = GenerationConfig(num_beams=3), GenerationConfig(num_beams=40)
    assert is_suitable(model, prompt, config)
    assert not is_suitable(model, prompt, many)  # too many texts to attend to all of them
    assert not is_suitable(model, prompt.repeat(200, 1), config)  # too many images to hold twice
    assert not is_suitable(model.train(), prompt, config)  # dropout

    class Sharded(torch.nn.Parameter):
        pass

    model.eval().cls.predictions.bias.__class__ = Sharded
    assert not is_suitable(model, prompt, config)


def test_graphs_are_used_on_cuda_where_they_are_wanted(steps):
    model, config = decoders.decoder(VOCAB), GenerationConfig(max_length=8, min_length=0)
    on_cuda = mock.Mock(is_cuda=True, shape=(2, 4))
    assert cuda_graphs.pays(model, on_cuda, config)
    assert not cuda_graphs.pays(model, prompts(2, 4, False), config)  # on a CPU
    for wanted in (False, True, False):
        steps.clear()
        use_cuda_graphs(torch.nn.Sequential(model), wanted)
        with mock.patch.object(cuda_graphs, "pays", return_value=True):
            generate(model, decoders.states(model, decoders.image_embeds(2)), prompts(2, 1, True), EOS, config)
        assert bool(steps) == wanted


class Recording(TorchDispatchMode):
    """Notes every kernel that is called, and on which tensors."""

    # What asks the device, or takes numbers from the host.
    forbidden = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "unique", "equal")

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in self.forbidden, func
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        """Call the same kernels on the same tensors; Python's part is not run again."""
        made: dict[int, torch.Tensor] = {}
        for func, args, kwargs, out in self.calls:
            args, kwargs = tree_map_only(torch.Tensor, lambda x: made.get(id(x), x), (args, kwargs))
            again = func(*args, **kwargs)
            for was, now in zip(tree_leaves(out), tree_leaves(again)):
                made[id(was)] = now


class Recorded:
    """Stands in for CapturedStep: what a CUDA graph would do, and be unable to do."""

    def __init__(self, device):
        self.calls, self.graph, self.replays = 0, None, 0

    def run(self, step):
        self.calls += 1
        if self.calls == 1:
            step()
        elif self.graph is not None:
            self.graph.replay()
            self.replays += 1
        else:
            with Recording() as self.graph:
                step()


@pytest.mark.parametrize(
    "how",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7, "repetition_penalty": 1.3},
        {"num_beams": 1},
        {"sample": True, "num_return_sequences": 2, "repetition_penalty": 1.3},
        {"sample": True, "top_k": 20},
    ],
    ids=["beams", "groups", "greedy", "nucleus", "top_k"],
)
def test_steps_can_be_captured_and_replayed(how, monkeypatch):
    """Also for later batches, of other images, prompts and sizes, and with weights that changed in place."""
    monkeypatch.setattr(cuda_graphs, "CapturedStep", Recorded)
    model = decoders.decoder(VOCAB, 3, 7.0)
    config = GenerationConfig(max_length=14, min_length=5, **how)
    for number, count in enumerate([6, 7, 5]):
        embeds = decoders.image_embeds(count, number)
        prompt = torch.tensor([[BOS, 3 + number + i] for i in range(count)])
        assert_equal(*both(model, embeds, prompt, config))
        with torch.no_grad():
            model.cls.predictions.bias[3:].add_(torch.randn(VOCAB - 3) * 0.1)
    (kept,) = model.graph_buffers.values()
    assert kept.captured.replays > 15
