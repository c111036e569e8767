"""Decode texts for images: beam search, greedy search, nucleus sampling.

:mod:`beam_search` and :mod:`sampling` choose the next tokens. :mod:`steps` runs them with tensors of what is left to
decode, :mod:`cuda_graphs` with tensors of fixed shapes. Both attend to one copy of each image's keys and values,
however many beams or samples it has, and read a prompt once per image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlkit.contracts import GenerationConfig
from vlkit.errors import VlkitError
from vlkit.models.attention import ImageKV
from vlkit.models.generation import cuda_graphs
from vlkit.models.generation.beam_search import BeamSearch
from vlkit.models.generation.sampling import Sampler, draw_uniform
from vlkit.models.generation.steps import Generated, decode_steps
from vlkit.models.med import TextDecoder

__all__ = ["Generated", "GenerationConfig", "generate", "use_cuda_graphs"]


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
        config: how to decode.
        seeds: [B] int64 for sampling: what is sampled for an image depends on its seed alone, whatever else is in the
            batch; None: seeds from torch's generator.

    Raises:
        VlkitError: the prompt, the lengths or the numbers of prompts and seeds do not fit.
    """
    _check(decoder, images, prompt, config, seeds)
    prompt = prompt.expand(images.count, -1)
    fixed_shapes = decoder.cuda_graphs and cuda_graphs.pays(decoder, prompt, config)
    method: BeamSearch | Sampler
    if config.sample or config.num_beams == 1:
        uniform = draw_uniform(seeds, images.count, config) if config.sample else None
        method = Sampler(config, eos, uniform, host_sync=not fixed_shapes)
    else:
        method = BeamSearch(config, eos, prompt.device, host_sync=not fixed_shapes)
    decode = cuda_graphs.decode if fixed_shapes else decode_steps
    return decode(decoder, images, prompt, method)


def use_cuda_graphs(model: nn.Module, enable: bool = True) -> None:
    """Let the text decoders in ``model`` decode with CUDA graphs, where the device and the batch allow it."""
    for module in model.modules():
        if isinstance(module, TextDecoder):
            module.cuda_graphs = enable


def _check(
    decoder: TextDecoder, images: ImageKV, prompt: Tensor, config: GenerationConfig, seeds: Tensor | None
) -> None:
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
