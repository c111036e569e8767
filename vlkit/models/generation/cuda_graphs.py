"""Decode with CUDA graphs: steps of fixed shapes, each of which the host starts by one call.

All texts of an image write into one row of places, K at each step, and a mask tells which places a text sees: those of
its own past. So no keys and values are copied when beams part and end, and the prompt is stored once per image.
The buffers are sized for a bucket of images, kept for the next batches and given up when the decoder trains.

Everything but the capture runs on any device, with the results of decoding step by step.

Shapes: ``A`` images of a bucket, ``K`` open texts of each, ``C`` places of an image (those of the prompt, then K for
each step), ``P`` image tokens, ``H`` heads, ``d`` width of a head, ``V`` vocabulary.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from vlkit.contracts import GenerationConfig
from vlkit.models.attention import ImageKV, KVCache
from vlkit.models.generation.steps import Generated, Method, State
from vlkit.models.med import TextDecoder
from vlkit.models.packing import MaskedSegments

logger = logging.getLogger(__name__)

# Places that an image's texts may have: with more, attention to all of them costs more than copying rows.
_MOST_PLACES = 1024
# Attention kernels want rows of masks to begin at multiples of this.
_ALIGNMENT = 8
# Image tokens are padded to multiples of this where a mask hides padding.
_TOKENS = 64
# Larger batches keep a device busy without graphs, and their images' keys and values are too large to store twice.
_MOST_IMAGES = 256
# Kinds of batches whose buffers a decoder keeps.
_KEPT = 2
# Libraries set up workspaces when they are first called, which a capture must not see.
_WARM_UPS = 2

_lock = threading.Lock()


def pays(decoder: TextDecoder, prompt: Tensor, config: GenerationConfig) -> bool:
    """Return whether a batch with ``prompt`` [B, t] is decoded faster with graphs: on CUDA, in fixed shapes."""
    return prompt.is_cuda and is_suitable(decoder, prompt, config)


def is_suitable(decoder: TextDecoder, prompt: Tensor, config: GenerationConfig) -> bool:
    """Return whether fixed shapes are possible and pay: plain weights, no dropout, and not too many texts."""
    images, length = prompt.shape
    places = GraphKVCache.places(config.rows, length, config.max_length)
    if images > _MOST_IMAGES or places > _MOST_PLACES or decoder.training:
        return False
    return all(type(weight) is nn.Parameter for weight in decoder.parameters())


def decode(decoder: TextDecoder, images: ImageKV, prompt: Tensor, method: Method[Any]) -> Generated:
    """Decode with tensors of fixed shapes; the arguments are those of
    :func:`~vlkit.models.generation.steps.decode_steps`.

    Args:
        decoder: in eval mode; see :func:`is_suitable`.
        images: keys and values; left as they are.
        prompt: [B, t].
        method: how texts are extended; without ``host_sync``.
    """
    # Batches share buffers, so they take turns.
    with _lock, _without_cast_cache(prompt.device):
        state, length = method.start(prompt), prompt.shape[1]
        cache = KVCache(len(images.layers), len(prompt), length)
        logits = decoder.next_logits(prompt, images, cache)
        kept = decoder.graph_buffers
        kind = _kind(decoder, images, prompt, method)
        batch = kept.pop(kind, None)
        if batch is None:
            with torch.inference_mode(False):  # tensors of inference mode cannot be written outside of it
                batch = GraphBatch(_bucket(len(prompt)), images, logits, state, cache, method)
        kept[kind] = batch
        for oldest in list(kept)[:-_KEPT]:
            del kept[oldest]
        batch.load(images, logits, state, cache)
        return batch.run(decoder, len(prompt))


def _bucket(images: int) -> int:
    """Return the smallest power of two that is not below ``images``."""
    return 1 << (images - 1).bit_length()


def _kind(decoder: TextDecoder, images: ImageKV, prompt: Tensor, method: Method[Any]) -> Hashable:
    """Return what batches that share buffers and graphs have in common."""
    key = images.layers[0][0]
    tokens = key.shape[2] if images.mask is None else -(-key.shape[2] // _TOKENS)
    device = prompt.device
    cast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    settings = (type(method), method.eos, *dataclasses.astuple(method.config))
    shapes = (_bucket(len(prompt)), prompt.shape[1], tokens, images.mask is None)
    # A graph reads weights where they were.
    weights = tuple(weight.data_ptr() for weight in decoder.parameters())
    return (settings, shapes, key.dtype, device, cast, weights)


def _without_cast_cache(device: torch.device) -> AbstractContextManager[object]:
    """Keep autocast without its cache of cast weights: a graph would read what the cache has freed."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, torch.get_autocast_dtype(device.type), cache_enabled=False)


@dataclass
class GraphKVCache:
    """Keys and values of the texts of A images.

    Args:
        store: [layers, 2, A, H, C, d].
        visible: [A, K, C] bool, the places that each open text sees.
        prompt_length: tokens of the prompt.
        cells: [K] int64, the places that the next tokens are written to.
    """

    store: Tensor
    visible: Tensor
    prompt_length: int
    cells: Tensor

    @staticmethod
    def places(rows: int, prompt_length: int, max_length: int) -> int:
        """Return C for ``rows`` open texts an image."""
        count = prompt_length + rows * (max_length - prompt_length)
        return -(-count // _ALIGNMENT) * _ALIGNMENT

    def begin(self, prompt: KVCache) -> None:
        """Copy the keys and values of the first images' prompts; all other places are hidden."""
        # Masks hide numbers, but not a NaN of the batch before.
        self.store[:, :, : prompt.rows, :, self.prompt_length :] = 0.0
        for layer, mine in enumerate(self.store):
            for target, source in zip(mine, prompt.filled(layer)):
                target[: prompt.rows, :, : self.prompt_length].copy_(source)
        self.visible.zero_()
        self.visible[:, :, : self.prompt_length] = True

    def follow(self, parents: Tensor, position: Tensor) -> None:
        """Let texts see what ``parents`` [A, K] see, and their own next tokens at ``position`` [1]."""
        rows = parents.shape[1]
        own = torch.arange(rows, device=parents.device)
        torch.add(self.prompt_length + rows * (position - self.prompt_length), own, out=self.cells)
        seen = self.visible.gather(1, parents[..., None].expand_as(self.visible))
        itself = (own == own[:, None]).expand(len(parents), -1, -1)
        self.visible.copy_(seen.index_copy_(2, self.cells, itself))

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write [A, H, K, d] to the current places; returns all places [A, H, C, d]."""
        keys, values = self.store[layer]
        keys.index_copy_(2, self.cells, key.to(keys.dtype))
        values.index_copy_(2, self.cells, value.to(values.dtype))
        return keys, values


class GraphBatch:
    """Buffers of one kind of batch, and the captured step that reads and writes them.

    Args:
        bucket: A, most images.
        images: keys and values of a batch, for their shapes.
        logits: of the prompts of a batch.
        state: of a batch.
        prompt: cache of the prompts.
        method: how texts are extended. The graph reads its tensors, so it is kept.
    """

    def __init__(
        self, bucket: int, images: ImageKV, logits: Tensor, state: State, prompt: KVCache, method: Method[Any]
    ):
        key, batch = images.layers[0][0], images.count
        self.bucket, self.method, self.rows = bucket, method, method.config.rows
        layers, tokens = len(images.layers), key.shape[2]
        self.mask = None
        if images.mask is not None:
            tokens = -(-tokens // _TOKENS) * _TOKENS
            self.mask = key.new_zeros((bucket, tokens), dtype=torch.bool)
        self.images = key.new_zeros((layers, 2, bucket, key.shape[1], tokens, key.shape[3]))
        own, _ = prompt.filled(0)
        places = GraphKVCache.places(self.rows, prompt.length, method.config.max_length)
        self.cache = GraphKVCache(
            own.new_zeros((layers, 2, bucket, own.shape[1], places, own.shape[3])),
            torch.zeros((bucket, self.rows, places), dtype=torch.bool, device=key.device),
            prompt.length,
            torch.zeros(self.rows, dtype=torch.long, device=key.device),
        )
        self.logits = logits.new_zeros((bucket * self.rows, logits.shape[1]))
        self.state = type(state)(*(x.new_zeros((bucket * (len(x) // batch), *x.shape[1:])) for x in state.tensors()))
        self.length = torch.zeros(1, dtype=torch.long, device=key.device)
        self.captured = CapturedStep(key.device)

    def load(self, images: ImageKV, logits: Tensor, state: State, prompt: KVCache) -> None:
        """Copy the start of a batch into the buffers."""
        tokens = images.layers[0][0].shape[2]
        for mine, layer in zip(self.images, images.layers):
            for target, source in zip(mine, layer):
                target[: images.count, :, :tokens].copy_(source)
        if self.mask is not None and images.mask is not None:
            self.mask.zero_()[: images.count, :tokens] = images.mask
            self.images[:, :, : images.count, :, tokens:] = 0.0  # a mask does not hide a NaN of the batch before
        self.cache.begin(prompt)
        self.logits[: images.count * self.rows] = logits.repeat_interleave(self.rows, 0)
        for target, source in zip(self.state.tensors(), state.tensors()):
            target[: len(source)].copy_(source)
        self.length.fill_(prompt.length)

    def run(self, decoder: TextDecoder, count: int) -> Generated:
        """Decode the first ``count`` images."""
        method = self.method
        for length in range(self.cache.prompt_length + 1, method.config.max_length):
            self.captured.run(lambda: self.step(decoder))
            # Waits for the device, so only where texts can have ended.
            if length > method.config.min_length and bool(method.finished(self.state)[:count].all()):
                break
        # The last token, which no step reads; finished images stay as they are.
        state, _ = method.advance(self.state, self.logits, self.length)
        state = method.finish(state, self.length + 1)
        first = torch.arange(count, device=self.length.device)
        return method.results(state.select(first, self.bucket))

    def step(self, decoder: TextDecoder) -> None:
        """Extend the open texts by a token and compute the logits of the next."""
        after, parents = self.method.advance(self.state, self.logits, self.length)
        for target, source in zip(self.state.tensors(), after.tensors()):
            if source is not target:
                target.copy_(source)
        self.cache.follow(parents, self.length)
        ids = self.state.tokens.flatten(0, -2).index_select(1, self.length).view(-1)
        segments = MaskedSegments((self.rows,) * self.bucket, self.cache.visible)
        images = ImageKV([tuple(layer) for layer in self.images], self.mask)
        positions = self.length.expand_as(ids)
        hidden = decoder.bert.masked_states(ids, positions, segments, images, cache=self.cache)
        self.logits.copy_(decoder.logits(hidden))
        self.length += 1


class CapturedStep:
    """A step that is captured as a CUDA graph after its first calls; on other devices it is called as it is.

    The step reads and writes tensors that stay where they are, and does not wait for the device.

    Args:
        device: where the step runs.
    """

    def __init__(self, device: torch.device):
        self._device, self._calls = device, 0
        self._enabled = device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, step: Callable[[], None]) -> None:
        """Run ``step``, which does the same work on the same tensors in every call."""
        if self._graph is not None:
            self._graph.replay()
        elif not self._enabled:
            step()
        elif self._calls < _WARM_UPS:
            self._calls += 1
            self._warm_up(step)
        else:
            self._capture(step)

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        # torch's own stream for captures is on the device that was current when it was made.
        return torch.cuda.Stream(self._device)

    def _warm_up(self, step: Callable[[], None]) -> None:
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            step()
        current.wait_stream(self._stream)

    def _capture(self, step: Callable[[], None]) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads (a loader that pins memory, a watchdog of a process group) may call CUDA meanwhile.
            mode = "thread_local"
            with torch.cuda.device(self._device), torch.cuda.graph(graph, None, self._stream, mode):
                step()
        except RuntimeError as error:
            self._enabled = False
            logger.warning("A decoding step could not be captured as a CUDA graph and runs without: %s", error)
            step()
        else:
            self._graph = graph
            graph.replay()
