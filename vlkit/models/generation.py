"""Decoding texts for images: beam search, greedy search, nucleus sampling.

An image's keys and values are never repeated: all its beams or samples attend to its one copy. A prompt is read once
per image, not once per beam. Images that are finished leave the batch. On CUDA steps have fixed shapes, so that each is
one graph (static_decoding.py); elsewhere they have those of what is left (beam_search.py, sampling.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlkit.errors import VlkitError
from vlkit.models import static_decoding
from vlkit.models.beam_search import BeamSearch
from vlkit.models.beams import Beams
from vlkit.models.decoding import Generated, GenerationConfig
from vlkit.models.med import ImageKV, TextDecoder
from vlkit.models.sampling import Sampler, Walks, draw_uniform

__all__ = ["Generated", "GenerationConfig", "generate"]


@torch.no_grad()
def generate(
    decoder: TextDecoder,
    images: ImageKV,
    prompt: Tensor,
    eos: int,
    config: GenerationConfig,
    seeds: Tensor | None = None,
) -> Generated:
    """Decode texts for ``B`` images.

    Args:
        decoder: the language model.
        images: keys and values of the images; decoding consumes them (their storage is reused).
        prompt: [B, t] or [1, t] first tokens of every text, [DEC] first.
        eos: id of [SEP].
        config: how.
        seeds: [B] int64 for sampling: what is drawn for an image depends on its seed alone, whatever else is in the
            batch; None: seeds drawn from torch's generator.
    """
    if prompt.shape[1] >= config.max_length:
        raise VlkitError(
            f"generation: the prompt has {prompt.shape[1]} tokens and max_length is {config.max_length}; "
            f"it counts the prompt, so raise it."
        )
    limit = decoder.bert.config.max_position_embeddings
    if config.max_length > limit:
        raise VlkitError(f"generation: max_length is {config.max_length}; this model reads at most {limit} tokens.")
    if len(prompt) not in (1, images.count):
        raise VlkitError(
            f"generation: {len(prompt)} prompts were given for {images.count} images; give 1, or one each."
        )
    if seeds is not None and len(seeds) != images.count:
        raise VlkitError(f"generation: {len(seeds)} seeds were given for {images.count} images; give one each.")
    prompt = prompt.expand(images.count, -1)
    static = _is_static(decoder, prompt, config)
    if config.sample or config.num_beams == 1:
        walks = Walks(config, eos, ask=not static)
        walk = walks.start(prompt, draw_uniform(seeds, images.count, config) if config.sample else None)
        if static:
            return static_decoding.decode(decoder, images, prompt, walks, walk)
        return Sampler(decoder, images, prompt, walks, walk).run()
    beams = Beams(config, eos, prompt.device, ask=not static)
    search = beams.start(prompt)
    if static:
        return static_decoding.decode(decoder, images, prompt, beams, search)
    return BeamSearch(decoder, images, prompt, beams, search).run()


def _is_static(decoder: TextDecoder, prompt: Tensor, config: GenerationConfig) -> bool:
    return prompt.is_cuda and static_decoding.can_be_static(decoder, prompt, config.rows, config.max_length)
