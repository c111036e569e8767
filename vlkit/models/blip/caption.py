"""Image captioning (paper, section 5.2): the image-grounded text decoder, fine-tuned with the LM loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlkit.errors import ConfigError, VlkitError, shortened
from vlkit.models.arguments import check_flag, check_whole, checked_keywords, number_list, text_list
from vlkit.models.attention import ImageKV
from vlkit.models.blip.base import BlipBase, LossOutput
from vlkit.models.blip.samples import Samples, joined
from vlkit.models.generation import Generated, GenerationConfig, generate
from vlkit.models.losses import lm_count, lm_loss, lm_targets
from vlkit.models.med import MedConfig, TextDecoder
from vlkit.models.packing import TextBatch
from vlkit.models.vit import VitConfig
from vlkit.processors.tokenizer import Tokenizer
from vlkit.registry import MODELS
from vlkit.registry.bounds import Tokens, UnitInterval


@dataclass
class CaptionOutput(LossOutput):
    """Output of a training step: ``loss_lm``, a scalar mean over predicted tokens."""

    loss_lm: Tensor


@dataclass
class Captions:
    """Captions of B images, best first.

    Args:
        texts: for each image its captions, prompt removed.
        scores: of each: log-probability over length for beam search, its plain sum otherwise.
        sequences: token ids, prompt included.
    """

    texts: list[list[str]]
    scores: list[list[float]]
    sequences: list[list[list[int]]]


@MODELS.register("blip_caption")
class BlipCaption(BlipBase):
    """Generate captions of images.

    Args:
        vit: sizes of the image encoder.
        med: sizes of the text decoder.
        tokenizer: name of a bundled vocabulary, or a path.
        prompt: first words of every caption, prepended to texts without it; the loss does not cover it.
        max_words: longest text in tokens, prompt included.
        label_smoothing: of the LM loss, 0 to 1.
    """

    def __init__(
        self,
        vit: VitConfig,
        med: MedConfig,
        tokenizer: str = "bert-base-uncased",
        prompt: str = "a picture of ",
        max_words: Tokens = 40,
        label_smoothing: UnitInterval = 0.1,
    ):
        super().__init__(vit, med, tokenizer, max_words)
        self.prompt, self.label_smoothing = prompt, label_smoothing
        self.prompt_length = len(self.tokenizer.encode(prompt)[0]) - 1  # without [SEP]
        if self.prompt_length + 2 > max_words:  # a word and [SEP] at least
            raise ConfigError(
                f"the prompt {shortened(prompt)} takes {self.prompt_length} tokens, [CLS] included, and max_words is "
                f"{max_words}, so no caption fits. Set max_words to at least {self.prompt_length + 2}, or shorten the "
                f"prompt."
            )
        self.text_decoder = TextDecoder(self.med_config, self.image_width)

    def tokenize(self, texts: Sequence[str] | str) -> TextBatch:
        """Return packed token ids of ``texts`` with the prompt, [DEC] first."""
        given = text_list("text_input", texts, empty=True)
        texts = [text if self._has_prompt(text) else self.prompt + text for text in given]
        return super().tokenize(texts).with_first(self.tokenizer.dec_id)

    def _has_prompt(self, text: str) -> bool:
        head, text = self.prompt.strip().lower(), text.strip().lower()
        # "a picture often" does not begin with the prompt "a picture of".
        inside_word = head[-1:].isalnum() and text[len(head) : len(head) + 1].isalnum()
        return text.startswith(head) and not inside_word

    def target_count(self, texts: TextBatch) -> int:
        """Return the number of tokens that the loss of ``texts`` is a mean over."""
        return lm_count(texts, self.prompt_length)

    @checked_keywords
    def forward(self, samples: Samples) -> CaptionOutput:
        """Return the LM loss of ``samples`` (``image`` and ``text_input`` or ``texts``)."""
        read = self.batches(samples, texts="paired").whole()
        texts = self.texts_of(read)
        states = self.text_decoder.bert.project_images(self.image_embeds(read))
        hidden = self.text_decoder(texts, states)
        rows, targets = lm_targets(texts, self.prompt_length)
        logits = self.text_decoder.logits(hidden.index_select(0, rows))
        return CaptionOutput(lm_loss(logits, targets, self.label_smoothing))

    @checked_keywords
    def caption(
        self,
        samples: Samples,
        config: GenerationConfig | None = None,
        seeds: Tensor | None = None,
        batch_size: int | None = None,
    ) -> Captions:
        """Generate captions with scores and token ids.

        Args:
            samples: with ``image``: pictures, or a preprocessed tensor [B, 3, S, S]; or with ``video``.
            config: how to decode; None: beam search of the paper (3 beams, 10 to 30 tokens).
            seeds: [B] for sampling; see :func:`vlkit.models.generation.generate`.
            batch_size: pictures decoded at once; None: a tensor is one batch, a list is taken 32 at a time.
        """
        return caption_images(self, samples, config, seeds, batch_size)

    @checked_keywords
    def generate(
        self,
        samples: Samples,
        use_nucleus_sampling: bool = False,
        num_beams: int = 3,
        max_length: int = 30,
        min_length: int = 10,
        top_p: float = 0.9,
        repetition_penalty: float = 1.0,
        num_captions: int = 1,
        temperature: float = 1.0,
        batch_size: int | None = None,
    ) -> list[str]:
        """Generate a flat list of ``B * num_captions`` captions: LAVIS's call. Lengths are in tokens, prompt included.

        See :class:`~vlkit.models.generation.GenerationConfig` for the arguments and :meth:`caption` for ``batch_size``
        and for scores. Sampling uses PyTorch's random state: after ``torch.manual_seed`` the captions are the same for
        every ``batch_size``.
        """
        check_flag("use_nucleus_sampling", use_nucleus_sampling)
        for name, value in (("num_beams", num_beams), ("num_captions", num_captions)):
            check_whole(name, value, 1)
        config = GenerationConfig(
            max_length=max_length,
            min_length=min_length,
            num_beams=1 if use_nucleus_sampling else max(num_beams, num_captions),
            sample=use_nucleus_sampling,
            top_p=top_p,
            temperature=temperature,
            repetition_penalty=repetition_penalty,
            num_return_sequences=num_captions,
        )
        return [text for texts in self.caption(samples, config, batch_size=batch_size).texts for text in texts]


@torch.inference_mode()
def caption_images(
    model: Any,
    samples: Samples,
    config: GenerationConfig | None,
    seeds: Tensor | None,
    batch_size: int | None,
) -> Captions:
    """Caption ``samples`` with a model that has a decoder and a prompt; see :meth:`BlipCaption.caption`."""
    config = check_config(config) or GenerationConfig()
    batches = model.batches(samples, batch_size)
    seeds = seeds_of(seeds, batches.count, config)
    found = []
    for part, batch in zip(batches.slices(), batches):
        states = model.text_decoder.bert.project_images(model.image_embeds(batch))
        some = None if seeds is None else seeds[part]
        found.append(decode_captions(model.text_decoder, states, model.tokenizer, model.prompt, config, some))
    return joined(found)


def check_config(config: Any) -> GenerationConfig | None:
    """Return ``config``, a :class:`GenerationConfig` or None.

    Raises:
        VlkitError: it is neither.
    """
    if config is None or isinstance(config, GenerationConfig):
        return config
    raise VlkitError(
        f"config must be a GenerationConfig or None; given: {type(config).__name__}. Import GenerationConfig from "
        f"vlkit.models.generation."
    )


def seeds_of(seeds: Any, count: int, config: GenerationConfig) -> Tensor | None:
    """Return [B] seeds for sampling, created for all images at once, so that they do not depend on batches.

    Raises:
        VlkitError: ``seeds`` are not one whole number for each of ``count`` images.
    """
    if seeds is None:
        return torch.randint(2**62, (count,)) if config.sample else None
    found = number_list("seeds", seeds, whole=True)
    if len(found) != count or any(abs(seed) >= 2**63 for seed in found):
        raise VlkitError(f"seeds must be one whole number of 64 bits an image; given: {len(found)} for {count} images.")
    return torch.tensor(found, dtype=torch.int64)


def decode_captions(
    decoder: TextDecoder,
    states: ImageKV,
    tokenizer: Tokenizer,
    prompt: str,
    config: GenerationConfig,
    seeds: Tensor | None = None,
) -> Captions:
    """Generate token ids and decode them to texts without the prompt. ``states`` are consumed."""
    ids = [tokenizer.dec_id, *tokenizer.encode(prompt)[0][1:-1]]
    device = states.layers[0][0].device
    found: Generated = generate(decoder, states, torch.tensor([ids], device=device), tokenizer.sep_id, config, seeds)
    texts = [tokenizer.batch_decode([s[len(ids) :] for s in group]) for group in found.sequences]
    texts = [[text.removeprefix("##").strip() for text in group] for group in texts]
    return Captions(texts, found.scores, found.sequences)
