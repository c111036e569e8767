from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models import decoders
from vlkit.errors import VlkitError
from vlkit.models.attention import ImageKV, KVCache, moved_order
from vlkit.models.med import MedConfig, TextTransformer, share_parameters
from vlkit.models.packing import TextBatch

VOCAB = 11


@pytest.fixture(scope="module")
def model() -> TextTransformer:
    torch.manual_seed(0)
    # In double precision, differences are mistakes and not rounding.
    model = TextTransformer(decoders.config(VOCAB), decoders.IMAGE_WIDTH).double().eval()
    for name, parameter in model.named_parameters():  # biases and norms that matter
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
        if "LayerNorm.weight" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
    return model


def random_embeds(count: int) -> torch.Tensor:
    return torch.randn(count, 4, decoders.IMAGE_WIDTH, dtype=torch.double)


def assert_equal(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-9)


def naive_attention(module, x, source, bias):
    """``x`` [L, D] attends to ``source`` [S, Dv]; ``bias`` [L, S] is added to the scores."""
    width = x.shape[-1] // module.heads
    mixed = []
    for h in range(module.heads):
        part = slice(h * width, (h + 1) * width)
        query, key, value = module.self.query(x)[:, part], module.self.key(source)[:, part], module.self.value(source)
        weights = (query @ key.T / math.sqrt(width) + bias).softmax(-1)
        mixed.append(weights @ value[:, part])
    output = module.output
    return output.LayerNorm(output.dense(torch.cat(mixed, -1)) + x)


def naive_text(model, ids, image=None, image_mask=None, causal=False):
    """One text alone, without packing, groups, caches or shared keys."""
    length = len(ids)
    embeddings = model.embeddings
    words, places = embeddings.word_embeddings.weight[ids], embeddings.position_embeddings.weight[:length]
    x = embeddings.LayerNorm(words + places)
    order = torch.zeros(length, length, dtype=torch.double)
    if causal:
        order = order.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    for layer in model.encoder.layer:
        x = naive_attention(layer.attention, x, x, order)
        if image is not None:
            hidden = torch.zeros(length, len(image), dtype=torch.double)
            if image_mask is not None:
                hidden = hidden.masked_fill(~image_mask.bool(), -torch.inf)
            x = naive_attention(layer.crossattention, x, image, hidden)
        wide = F.gelu(layer.intermediate.dense(x))
        x = layer.output.LayerNorm(layer.output.dense(wide) + x)
    return x


def gradients(model, output):
    weights = torch.sin(torch.arange(output.numel(), dtype=torch.double)).view_as(output)
    parameters = list(model.parameters())
    return torch.autograd.grad((output * weights).sum(), parameters, materialize_grads=True, retain_graph=True)


def assert_gradients(mine, theirs):
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


lengths_and_images = st.integers(1, 4).flatmap(
    lambda images: st.tuples(
        st.just(images),
        st.lists(st.tuples(st.integers(1, 6), st.integers(0, images - 1)), min_size=1, max_size=7),
    )
)


@settings(deadline=None, max_examples=15)
@given(case=lengths_and_images, causal=st.booleans(), masked=st.booleans(), seed=st.integers(0, 999))
def test_packed_equals_one_text_at_a_time(model, case, causal, masked, seed):
    images, described = case
    torch.manual_seed(seed)
    texts = [torch.randint(1, VOCAB, (length,)).tolist() for length, _ in described]
    index = [image for _, image in described]
    embeds = random_embeds(images)
    mask = torch.rand(images, 4) < 0.6 if masked else None
    if mask is not None:
        mask[:, 0] = True
    expected = torch.cat(
        [naive_text(model, t, embeds[i], None if mask is None else mask[i], causal) for t, i in zip(texts, index)]
    )
    batch = TextBatch.from_lists(texts)
    got = model(batch, model.project_images(embeds, mask), index, causal=causal)
    assert_equal(got, expected)
    assert_gradients(gradients(model, got), gradients(model, expected))
    if not causal:
        first = model(batch, model.project_images(embeds, mask), index, first_only=True)
        assert_equal(first, expected[batch.first_rows()])
        assert_gradients(gradients(model, first), gradients(model, expected[batch.first_rows()]))


@settings(deadline=None, max_examples=20)
@given(case=lengths_and_images, layers=st.integers(1, 2), first_only=st.booleans(), seed=st.integers(0, 999))
def test_texts_begun_once_equal_texts_read_again(case, layers, first_only, seed):
    images, described = case
    torch.manual_seed(seed)
    config = MedConfig(vocab_size=VOCAB, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2)
    model = TextTransformer(config, encoder_width=6).eval()
    texts = TextBatch.from_lists([torch.randint(1, VOCAB, (length,)).tolist() for length, _ in described])
    chosen = torch.randint(0, len(texts), (5,)).numpy()
    index = [described[i][1] for i in chosen]
    with torch.no_grad():
        states = model.project_images(torch.randn(images, 4, 6))
        got = model(model.begin(texts).select(chosen), states, index, first_only=first_only)
        expected = model(texts.select(chosen), states, index, first_only=first_only)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=10)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), causal=st.booleans())
def test_texts_without_images(model, lengths, causal):
    texts = [torch.randint(1, VOCAB, (length,)).tolist() for length in lengths]
    expected = torch.cat([naive_text(model, text, causal=causal) for text in texts])
    with torch.no_grad():
        assert_equal(model(TextBatch.from_lists(texts), causal=causal), expected)


@pytest.mark.parametrize("index", [[2, 0, 2, 2, 0], [1, 1, 1, 1, 1], [0, 1, 2, 1, 0]])
def test_image_index_in_bf16(index):
    """One image with all texts, images with none, unsorted: within what bf16 holds."""
    torch.manual_seed(0)
    model = TextTransformer(decoders.config(VOCAB, initializer_range=0.1), decoders.IMAGE_WIDTH).eval()
    texts = TextBatch.from_lists([[1, 4, 2], [1, 2], [1, 5, 6, 7, 2], [1, 8, 2], [1, 9, 9, 2]])
    embeds = random_embeds(3).float()
    expected = model(texts, model.project_images(embeds), index)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(texts, model.project_images(embeds), index)
    torch.testing.assert_close(got.float(), expected, atol=0.05, rtol=0.02)


def test_texts_in_equal_groups_need_no_index(model):
    texts = TextBatch.from_lists([[1, 4, 2], [1, 2], [1, 5, 6, 2], [1, 8, 2]])
    states = model.project_images(random_embeds(2))
    assert torch.equal(model(texts, states), model(texts, states, [0, 0, 1, 1]))


@pytest.mark.parametrize("count", [1, 3])
def test_texts_that_fit_no_images(model, count):
    states = model.project_images(random_embeds(2))
    with pytest.raises(VlkitError, match=f"{count} texts were given for 2 images"):
        model(TextBatch.from_lists([[1, 2]] * count), states)


def test_padding_token_is_no_special_case(model):
    """Packing leaves out padding by length, not by id."""
    expected = naive_text(model, [1, 0, 3])
    assert_equal(model(TextBatch.from_lists([[1, 0, 3], [1]]))[:3], expected)


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(1, 4), min_size=1, max_size=5), rows=st.integers(1, 3), unused=st.booleans())
def test_decoding_with_a_cache_in_any_portions_equals_the_full_forward(cuts, rows, unused):
    decoder = decoders.decoder(VOCAB, seed=1).double()
    length = sum(cuts)
    ids = torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(length))
    embeds = decoders.image_embeds(rows + unused).double()
    index = np.arange(rows) if unused else None
    with torch.no_grad():
        states = decoder.bert.project_images(embeds)
        full = decoder(TextBatch.from_lists(ids.tolist()), states, index)
        full_logits = decoder.logits(full).unflatten(0, (rows, length))
        cache = KVCache(2, rows, length)
        begin = 0
        for cut in cuts:
            step = ids[:, begin : begin + cut]
            got = decoder.next_logits(step, states, cache, index, last_only=False).unflatten(0, (rows, cut))
            assert_equal(got, full_logits[:, begin : begin + cut])
            begin += cut
            assert cache.length == begin


def test_next_logits_of_the_last_token():
    decoder = decoders.decoder(VOCAB)
    ids = torch.tensor([[1, 4, 5], [1, 7, 8]])
    with torch.no_grad():
        states = decoder.bert.project_images(decoders.image_embeds(2))
        every = decoder.next_logits(ids, states, KVCache(2, 2, 3), last_only=False)
        last = decoder.next_logits(ids, states, KVCache(2, 2, 3))
    torch.testing.assert_close(last, every.unflatten(0, (2, 3))[:, -1])


@settings(deadline=None, max_examples=30)
@given(index=st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_cache_rows_follow_an_index(index):
    cache = KVCache(1, 4, 5)
    key = torch.arange(4.0)[:, None, None, None].expand(4, 2, 3, 2)
    cache.append(0, key, -key)
    cache.length = 3
    cache.reorder(torch.tensor(index))
    keys, values = cache.filled(0)
    assert keys[:, 0, 2, 1].tolist() == [float(i) for i in index]
    assert torch.equal(values, -keys)
    more = torch.full((len(index), 2, 1, 2), 9.0)
    keys, _ = cache.append(0, more, more)
    assert keys.shape == (len(index), 2, 4, 2)
    assert keys[:, 0, :, 0].tolist() == [[float(i)] * 3 + [9.0] for i in index]


def test_narrowing_leaves_the_callers_mask_as_it_is(model):
    mask = torch.tensor([[True, True, False, False], [True, False, True, False], [True, False, False, True]])
    before = mask.clone()
    narrowed = model.project_images(random_embeds(3), mask).narrow_([2])
    assert torch.equal(narrowed.mask, before[[2]])
    assert torch.equal(mask, before)


@settings(deadline=None, max_examples=50)
@given(data=st.data(), count=st.integers(1, 8), masked=st.booleans())
def test_narrowing_keeps_the_right_images(data, count, masked):
    keep = data.draw(st.sets(st.integers(0, count - 1), min_size=1).map(sorted))
    keys = torch.arange(float(count))[:, None, None, None].expand(count, 1, 2, 1).clone()
    mask = torch.arange(count)[:, None] == torch.arange(8) if masked else None
    narrow = ImageKV([(keys, -keys.clone())], mask).narrow_(keep)
    order = moved_order(keep, count)
    assert sorted(order) == keep
    assert narrow.count == len(keep)
    assert narrow.layers[0][0][:, 0, 0, 0].tolist() == [float(i) for i in order]
    assert narrow.layers[0][1].data_ptr() != narrow.layers[0][0].data_ptr()
    assert torch.equal(narrow.layers[0][1], -narrow.layers[0][0])
    if masked:
        assert narrow.mask.float().argmax(1).tolist() == order
    assert narrow.layers[0][0].data_ptr() == keys.data_ptr()  # no copy of what stays


def test_tied_transformers_share_all_but_self_attention():
    encoder, decoder = (TextTransformer(decoders.config(VOCAB), decoders.IMAGE_WIDTH) for _ in range(2))
    share_parameters(encoder, decoder)
    theirs = dict(decoder.named_parameters())
    for name, parameter in encoder.named_parameters():
        own = ".attention." in name
        assert (parameter is not theirs[name]) == own, name


def test_dropout_only_in_training(model):
    texts = TextBatch.from_lists([[1, 4, 5, 2]])
    states = model.project_images(random_embeds(1))
    assert torch.equal(model(texts, states), model(texts, states))
    model.train()
    try:
        assert not torch.equal(model(texts, states), model(texts, states))
    finally:
        model.eval()


def test_initial_weights():
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
    med_config = MedConfig(vocab_size=500, initializer_range=0.08, **sizes)
    model = TextTransformer(med_config, 64)
    assert model.embeddings.word_embeddings.weight.std().item() == pytest.approx(0.08, rel=0.05)
    assert model.encoder.layer[0].intermediate.dense.weight.std().item() == pytest.approx(0.08, rel=0.05)
    biases = [p for n, p in model.named_parameters() if n.endswith("bias")]
    assert biases
    assert not any(bias.any() for bias in biases)


def test_vocabulary_size_is_required():
    with pytest.raises(VlkitError, match="vocab_size"):
        TextTransformer(MedConfig(hidden_size=16, num_attention_heads=2))
