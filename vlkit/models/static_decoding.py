"""Decoding in fixed shapes: one CUDA graph a step, and no step waits for the host.

Images are decoded in buckets: a step is captured for so many images, and when enough of them are finished the others
move to the front and go on in a smaller bucket. The host looks at what is finished one step late, while the device
computes the next. Buffers and graphs are kept for the next batch, as long as weights stay where they are; training,
which needs the memory itself, gives them up.

Everything but the capture runs on any device, with the same results as decoding step by step.

Shapes: ``A`` images of a bucket, ``K`` open texts of each, ``P`` image tokens, ``V`` vocabulary.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from vlkit.models.cuda_graphs import CapturedSteps, LateFlags
from vlkit.models.decoding import Generated, Rules, State
from vlkit.models.kv_cache import SelfCache
from vlkit.models.med import ImageKV, TextDecoder, moved_order
from vlkit.models.static_step import GraphKVCache, tree_logits

# Places that an image's texts may have: with more, attention to all of them costs more than copying rows.
_MOST_PLACES = 1024
# Image tokens are padded to multiples of so many where a mask tells padding apart.
_TOKENS = 64
# Larger batches keep a device busy without graphs, and their images' keys and values are too large to hold twice.
_MOST_IMAGES = 256
# Kinds of batches whose buffers are kept for a decoder.
_KEPT = 2


def can_be_static(decoder: TextDecoder, prompt: Tensor, rows: int, max_length: int) -> bool:
    """Whether decoding ``rows`` texts an image of at most ``max_length`` tokens in fixed shapes is possible and pays:
    plain weights, no dropout, and not too many texts. ``prompt`` is [B, t]."""
    images, length = prompt.shape
    if images > _MOST_IMAGES or GraphKVCache.places(rows, length, max_length) > _MOST_PLACES or decoder.training:
        return False
    return all(type(weight) is nn.Parameter for weight in decoder.parameters())


def bucket_of(images: int) -> int:
    """The smallest bucket for so many images: 1, 2, 3, 4, 6, 8, 12, 16, ..."""
    power = 1 << (images - 1).bit_length()
    return power * 3 // 4 if power >= 4 and images <= power * 3 // 4 else power


class Buffers:
    """Tensors that steps read and write, for the first ``images`` of a batch or fewer.

    Args:
        images: most images.
        states: image keys and values of a batch, for their shapes.
        logits: of the prompts of a batch.
        state: of a batch.
        prompt: cache of the prompts.
        rules: how texts are decoded.
    """

    def __init__(self, images: int, states: ImageKV, logits: Tensor, state: State, prompt: SelfCache, rules: Rules):
        key, batch = states.layers[0][0], states.count
        layers, rows = len(states.layers), rules.config.rows
        tokens = key.shape[2]
        self.mask = None
        if states.mask is not None:
            tokens = -(-tokens // _TOKENS) * _TOKENS
            self.mask = key.new_zeros((images, tokens), dtype=torch.bool)
        self.images = key.new_zeros((layers, 2, images, key.shape[1], tokens, key.shape[3]))
        own, _ = prompt.filled(0)
        places = GraphKVCache.places(rows, prompt.length, rules.config.max_length)
        self.cache = GraphKVCache(
            own.new_zeros((layers, 2, images, own.shape[1], places, own.shape[3])),
            torch.zeros((images, rows, places), dtype=torch.bool, device=key.device),
            prompt.length,
            torch.zeros(rows, dtype=torch.long, device=key.device),
        )
        self.logits = logits.new_zeros((images * rows, logits.shape[1]))
        self.state = type(state)(*(x.new_zeros((images * (len(x) // batch), *x.shape[1:])) for x in state.tensors()))
        self.length = torch.zeros(1, dtype=torch.long, device=key.device)
        self.count, self.rows = images, rows

    def load(self, states: ImageKV, logits: Tensor, state: State, prompt: SelfCache) -> None:
        """Begin a batch."""
        tokens = states.layers[0][0].shape[2]
        for mine, layer in zip(self.images, states.layers):
            for target, source in zip(mine, layer):
                target[: states.count, :, :tokens].copy_(source)
        if self.mask is not None and states.mask is not None:
            self.mask.zero_()[: states.count, :tokens] = states.mask
            self.images[:, :, : states.count, :, tokens:] = 0.0  # a mask does not hide a NaN of the batch before
        self.cache.begin(prompt)
        self.logits[: states.count * self.rows] = logits.repeat_interleave(self.rows, 0)
        for target, source in zip(self.state.tensors(), state.tensors()):
            target[: len(source)].copy_(source)
        self.length.fill_(prompt.length)

    def state_of(self, images: int) -> State:
        """Where the texts of the first images stand, as views."""
        return type(self.state)(*(x[: images * (len(x) // self.count)] for x in self.state.tensors()))

    def states_of(self, images: int) -> ImageKV:
        """Keys and values of the first images, as views."""
        layers: list[tuple[Tensor, ...]] = [(keys[:images], values[:images]) for keys, values in self.images]
        return ImageKV(layers, None if self.mask is None else self.mask[:images])

    def move(self, order: list[int]) -> None:
        """Place i becomes what place ``order[i]`` was, where it differs; see
        :func:`~vlkit.models.med.moved_order`."""
        places = [place for place, image in enumerate(order) if place != image]
        images = [order[place] for place in places]
        if not places:
            return
        to, of = (torch.tensor(each, device=self.length.device) for each in (places, images))
        apart = [x.unflatten(0, (self.count, -1)) for x in (self.logits, *self.state.tensors())]
        for tensor in (*apart, self.cache.visible, *([self.mask] if self.mask is not None else [])):
            tensor[to] = tensor[of]
        # These are large: no copy of several images at a time.
        for tensor in (self.images, self.cache.store):
            for place, image in zip(places, images):
                tensor[:, :, place] = tensor[:, :, image]

    def step(self, decoder: TextDecoder, rules: Rules, images: int) -> None:
        """Extend the open texts of the first ``images`` by a token and read it."""
        state, logits = self.state_of(images), self.logits[: images * self.rows]
        after, parents = rules.advance(state, logits, self.length)
        for target, source in zip(state.tensors(), after.tensors()):
            if source is not target:
                target.copy_(source)
        cache = self.cache.of_first(images)
        cache.follow(parents, self.length)
        ids = state.tokens.flatten(0, -2).index_select(1, self.length).view(-1)
        logits.copy_(tree_logits(decoder, ids, self.length, cache, self.states_of(images)))
        self.length += 1


class StaticDecoder:
    """Buffers and captured steps for one kind of batch.

    Args:
        images: most images of a batch.
        rules: how texts are decoded; they must not ask the host. Graphs read tensors of theirs, so they are kept.
    """

    def __init__(self, images: int, rules: Rules):
        self.images, self.rules = images, rules
        self._buffers: Buffers | None = None
        self._steps: CapturedSteps | None = None
        self._weights: tuple[int, ...] = ()

    def run(self, decoder: TextDecoder, states: ImageKV, prompt: Tensor, state: State) -> Generated:
        """Decode a batch of at most ``images`` images; see :func:`decode`."""
        rules, length = self.rules, prompt.shape[1]
        cache = SelfCache(len(states.layers), len(prompt), length)
        logits = decoder.next_logits(prompt, states, cache)
        if self._buffers is None:
            with torch.inference_mode(False):  # tensors of inference mode cannot be written outside of it
                self._buffers = Buffers(self.images, states, logits, state, cache, rules)
        weights = tuple(weight.data_ptr() for weight in decoder.parameters())
        if self._steps is None or weights != self._weights:
            self._steps, self._weights = CapturedSteps(prompt.device), weights
        self._buffers.load(states, logits, state, cache)
        batch = _Batch(self._buffers, rules, len(prompt))
        for _ in range(length, rules.config.max_length - 1):
            if batch.bucket == 0:
                break
            self._steps.run(batch.bucket, lambda: batch.buffers.step(decoder, rules, batch.bucket))
            batch.look()
        batch.end()
        return batch.found()


class _Batch:
    """Which images of a batch are still decoded, and what the others ended with."""

    def __init__(self, buffers: Buffers, rules: Rules, count: int):
        self.buffers, self.rules, self.count = buffers, rules, count
        self.bucket = bucket_of(count)
        self.image_ids = np.arange(count)  # of the places at the front
        self._left: list[tuple[np.ndarray, State]] = []
        self._flags = LateFlags(buffers.length.device)

    def look(self) -> None:
        """Ask for what is finished now and learn what was one step ago; drop images when a smaller bucket does."""
        asked = self.rules.finished(self.buffers.state_of(self.bucket))
        flags = self._flags.exchange(asked)
        if flags is None:
            return
        done = flags[: len(self.image_ids)]
        live = np.flatnonzero(~done)
        if len(live) and bucket_of(len(live)) == self.bucket:
            return
        self._leave(np.flatnonzero(done))
        order = moved_order(live.tolist(), len(done))
        self.buffers.move(order)
        self.image_ids = self.image_ids[order]
        self.bucket = bucket_of(len(live)) if len(live) else 0
        self._flags.follow(order)

    def end(self) -> None:
        """The last token, which nothing follows."""
        if not len(self.image_ids):
            return
        buffers, rules, rows = self.buffers, self.rules, self.bucket * self.buffers.rows
        state, _ = rules.advance(buffers.state_of(self.bucket), buffers.logits[:rows], buffers.length)
        self._left.append((self.image_ids, rules.close_open(state, buffers.length + 1)))

    def _leave(self, places: np.ndarray) -> None:
        index = torch.from_numpy(places).to(self.buffers.length.device)
        state = self.buffers.state_of(self.bucket).of_images(index, self.bucket)
        self._left.append((self.image_ids[places], state))

    def found(self) -> Generated:
        """The texts of all images."""
        found = Generated.none_yet(self.count)
        for images, state in self._left:
            found.put(images, self.rules.file(state))
        return found


_decoders: weakref.WeakKeyDictionary[TextDecoder, OrderedDict[Hashable, StaticDecoder]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def decode(decoder: TextDecoder, states: ImageKV, prompt: Tensor, rules: Rules, state: State) -> Generated:
    """Decode in fixed shapes.

    Args:
        decoder: in eval mode; see :func:`can_be_static`.
        states: what the texts look at; left as they are.
        prompt: [B, t].
        rules: how; they must not ask the host.
        state: where the texts of all images begin.
    """
    bucket = bucket_of(len(prompt))
    # Batches share buffers, so they take turns.
    with _lock, _same_casts(prompt.device):
        kept = _decoders.setdefault(decoder, OrderedDict())
        kind = _kind(states, prompt, rules)
        mine = kept.get(kind)
        if mine is None or mine.images < bucket:
            mine = StaticDecoder(bucket, rules)
        kept[kind] = mine
        kept.move_to_end(kind)
        while len(kept) > _KEPT:
            kept.popitem(last=False)
        return mine.run(decoder, states, prompt, state)


def release(decoder: TextDecoder) -> None:
    """Give up the buffers and graphs of ``decoder``."""
    with _lock:
        _decoders.pop(decoder, None)


def _kind(states: ImageKV, prompt: Tensor, rules: Rules) -> Hashable:
    """What batches have in common that can share buffers and graphs."""
    key = states.layers[0][0]
    tokens = key.shape[2] if states.mask is None else -(-key.shape[2] // _TOKENS)
    device = prompt.device
    cast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    settings = (type(rules), rules.eos, *dataclasses.astuple(rules.config))
    return (settings, prompt.shape[1], tokens, states.mask is None, key.dtype, device, cast)


def _same_casts(device: torch.device) -> AbstractContextManager[object]:
    """Autocast as it is, but without its cache of cast weights: a graph would go on reading what it has freed."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, torch.get_autocast_dtype(device.type), cache_enabled=False)
