"""Beam search step by step: images leave when they are finished. The rules are those of beams.py.

Shapes: ``A`` images still being decoded, ``G`` groups of an image, ``S = A * G`` searches, ``K`` beams of a search.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vlkit.models.beams import Beams, BeamState
from vlkit.models.decoding import Generated
from vlkit.models.kv_cache import SelfCache, place_rows
from vlkit.models.med import ImageKV, TextDecoder, moved_order


class BeamSearch:
    """Searches of ``A`` images."""

    def __init__(self, decoder: TextDecoder, images: ImageKV, prompt: Tensor, rules: Beams, state: BeamState):
        self.decoder, self.images, self.rules, self.state = decoder, images, rules, state
        count, self.length = prompt.shape
        self.image_ids = np.arange(count)
        self.found = Generated.none_yet(count)
        # Rows of the cache stand where they are copied least; this is the place of each beam's in its search.
        self.places = np.tile(np.arange(rules.beams), (len(state.done), 1))
        # The prompt is the same for all beams of an image: one row each until they part.
        rows = rules.config.rows
        self.cache = SelfCache(decoder.bert.config.num_hidden_layers, count, rules.config.max_length)
        self.logits = decoder.next_logits(prompt, images, self.cache).repeat_interleave(rows, 0)
        self.cache.reorder(np.repeat(np.arange(count), rows))

    def run(self) -> Generated:
        device, most = self.logits.device, self.rules.config.max_length
        while True:
            places = torch.from_numpy(self.places).to(device)
            length = torch.tensor([self.length], device=device)
            self.state, parents = self.rules.advance(self.state, self.logits, length, places)
            self.length += 1
            if self.length >= most:
                self.state = self.rules.close_open(self.state, length + 1)
            self._place(parents.cpu().numpy())
            done = self.rules.finished(self.state).cpu().numpy()
            if done.any():
                self._leave(done)
            if not len(self.image_ids):
                return self.found
            order = torch.from_numpy(np.argsort(self.places, axis=1)).to(device)
            step = self.state.tokens[:, :, self.length - 1].gather(1, order)
            self.logits = self.decoder.next_logits(step.view(-1, 1), self.images, self.cache)

    def _place(self, parents: np.ndarray) -> None:
        """Rows of the cache follow the beams, which continue ``parents`` [A, G * K] of their images."""
        parents = parents.reshape(self.places.shape) % self.rules.beams
        placed = place_rows(parents, self.places)
        rows = np.empty_like(placed)
        np.put_along_axis(rows, placed, np.take_along_axis(self.places, parents, 1), 1)
        self.cache.reorder((rows + np.arange(len(rows))[:, None] * self.rules.beams).reshape(-1))
        self.places = placed

    def _leave(self, done: np.ndarray) -> None:
        """File the images that are done and drop them."""
        count, device = len(done), self.logits.device
        leaving = np.flatnonzero(done)
        state = self.state.of_images(torch.from_numpy(leaving).to(device), count)
        self.found.put(self.image_ids[leaving], self.rules.file(state))
        live = np.flatnonzero(~done)
        order = np.asarray(moved_order(live.tolist(), count), dtype=np.int64)
        self.image_ids = self.image_ids[order]
        if len(live):
            self.images = self.images.narrow_(live.tolist())
            self.state = self.state.of_images(torch.from_numpy(order).to(device), count)
            self.places = self.places.reshape(count, -1)[order].reshape(-1, self.rules.beams)
            rows = np.arange(count * self.rules.config.rows).reshape(count, -1)
            self.cache.reorder(rows[order].reshape(-1))
