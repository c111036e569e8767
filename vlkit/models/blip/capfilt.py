"""CapFilt (paper, section 3.3): a captioner generates texts of images, a filter scores them and the web texts.

An image is encoded once if captioner and filter have equal image encoders, and its keys and values are projected once
for all of its texts.

Shapes: ``B`` images, ``N`` texts, ``P`` image tokens, ``Dv`` image width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlkit.contracts import GenerationConfig, ScoredText
from vlkit.errors import VlkitError
from vlkit.models.arguments import check_whole, checked_keywords, one_or_more, text_list
from vlkit.models.attention import ImageKV
from vlkit.models.blip.caption import Captions, check_config, decode_captions, seeds_of
from vlkit.models.blip.samples import Samples, refuse_unknown, wanted
from vlkit.models.packing import TextBatch
from vlkit.registry import MODELS
from vlkit.registry.bounds import PositiveInt

CAPTIONERS = ("blip_caption", "blip_pretrain")
FILTERS = ("blip_image_text_matching", "blip_retrieval", "blip_pretrain")


@MODELS.register("blip_capfilt")
class BlipCapFilt(nn.Module):
    """Annotate images with a captioner and a filter.

    Args:
        captioner: generates texts (``blip_caption``, ``blip_pretrain``).
        filter: scores texts (``blip_image_text_matching``, ``blip_retrieval``, ``blip_pretrain``); None: the captioner,
            as in the paper's comparison of shared and decoupled parameters (table 4).
        pairs_at_once: bound on the memory of one pass of the filter, in pairs of image and text.

    Raises:
        VlkitError: a model lacks a method, or ``pairs_at_once`` is below 1.
    """

    def __init__(self, captioner: nn.Module, filter: nn.Module | None = None, pairs_at_once: PositiveInt = 1024):
        super().__init__()
        check_whole("pairs_at_once", pairs_at_once, 1)
        self.captioner: Any = captioner
        self.filter: Any = captioner if filter is None else filter
        self.pairs_at_once = pairs_at_once
        self._one_encoder: bool | None = None
        _check("captioner", self.captioner, ("image_embeds", "text_decoder", "tokenizer", "prompt"), CAPTIONERS)
        _check("filter", self.filter, ("image_embeds", "text_encoder", "tokenize", "match"), FILTERS)

    def train(self, mode: bool = True) -> BlipCapFilt:
        self._one_encoder = None  # training may have changed the encoders
        super().train(mode)
        return self

    @property
    def visual_encoder(self) -> nn.Module:
        """Image encoder of the captioner."""
        return self.captioner.visual_encoder

    @property
    def one_encoder(self) -> bool:
        """Whether captioner and filter have one image encoder, or two equal ones."""
        if self._one_encoder is None:
            self._one_encoder = _equal_encoders(self.captioner, self.filter)
        return self._one_encoder

    @checked_keywords
    @torch.inference_mode()
    def annotate(
        self,
        samples: Samples,
        web: Sequence[str | Sequence[str] | None] | str,
        generation: GenerationConfig | None = None,
        seeds: Tensor | None = None,
    ) -> list[list[ScoredText]]:
        """Return the scored texts of B images: web texts first, then synthetic ones.

        Equal texts of an image are scored once. An empty synthetic text is not scored.

        Args:
            samples: ``image``, B pictures or a preprocessed tensor [B, 3, S, S], which both models read; and
                ``filter_image`` [B, 3, S', S'] if the filter needs another size.
            web: a text or a list of texts for each image, or None; empty texts are skipped.
            generation: decoding of captions; None: the paper's beam search of captioning.
            seeds: [B] for sampling; see :func:`vlkit.models.generation.generate`.
        """
        texts = [_web_texts(each, f"web[{place}]") for place, each in enumerate(one_or_more("web", web))]
        generation = check_config(generation) or GenerationConfig()
        embeds, judged = self.encode(samples)
        if len(texts) != len(embeds):
            raise VlkitError(
                f"annotate needs a web text (or a list of them, or None) for each image: {len(texts)} for {len(embeds)}"
                " images."
            )
        captions, states = self._write(embeds, judged, generation, seeds_of(seeds, len(embeds), generation))
        pairs = _Pairs(texts, captions.texts)
        return pairs.scored(captions, *self._scores(pairs, states, judged))

    def encode(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """Return image tokens [B, P, Dv] for the captioner and for the filter, maybe the same tensor."""
        image = {"image": wanted(samples, "image", "BlipCapFilt")}
        refuse_unknown(samples, "BlipCapFilt", ("image", "filter_image"))
        embeds = self.captioner.image_embeds(image)
        if "filter_image" in samples:
            return embeds, self.filter.image_embeds({"image": samples["filter_image"]})
        return embeds, embeds if self.one_encoder else self.filter.image_embeds(image)

    def _write(
        self, embeds: Tensor, judged: Tensor, generation: GenerationConfig, seeds: Tensor | None
    ) -> tuple[Captions, ImageKV]:
        """Return synthetic texts, and the keys and values for the filter."""
        writer = self.captioner
        states = writer.text_decoder.bert.project_images(embeds)
        kept = None
        if judged is embeds and _same_cross_attention(writer.text_decoder.bert, self.filter.text_encoder):
            # Decoding overwrites its states; a copy costs a fraction of a second projection.
            kept = ImageKV([tuple(tensor.clone() for tensor in layer) for layer in states.layers])
        captions = decode_captions(writer.text_decoder, states, writer.tokenizer, writer.prompt, generation, seeds)
        return captions, kept or self.filter.text_encoder.project_images(judged)

    def _scores(self, pairs: _Pairs, states: ImageKV, judged: Tensor) -> tuple[list[float], list[Any]]:
        """Return the probability of a match and the cosine similarity (or None) of each pair."""
        if not pairs.count:
            return [], []
        packed = self.filter.tokenize(pairs.texts)
        logits = []
        for some, images in pairs.parts(self.pairs_at_once):
            near = ImageKV([tuple(tensor[images] for tensor in layer) for layer in states.layers])
            logits.append(self.filter.match(packed.select(pairs.text[some]), near, pairs.image[some] - images.start))
        itm = torch.cat(logits).float().softmax(-1)[:, 1].tolist()
        return itm, self._similarity(pairs, packed, judged)

    def _similarity(self, pairs: _Pairs, packed: TextBatch, judged: Tensor) -> list[Any]:
        if getattr(self.filter, "vision_proj", None) is None:
            return [None] * pairs.count
        parts = np.split(np.arange(len(packed)), range(self.pairs_at_once, len(packed), self.pairs_at_once))
        feats = torch.cat([self.filter.text_feats(packed.select(part)) for part in parts])
        image, text = (torch.from_numpy(index).to(judged.device) for index in (pairs.image, pairs.text))
        image_feats = self.filter.image_feats(judged)
        return (image_feats.index_select(0, image) * feats.index_select(0, text)).sum(-1).tolist()


class _Pairs:
    """Unique texts of each image, one image after the other.

    Args:
        web, synthetic: texts of each image.

    Attributes:
        texts: the unique texts of all images; each is tokenized once, and encoded once without an image.
        image, text: [N] image and index in ``texts`` of each pair.
    """

    def __init__(self, web: Sequence[Sequence[str]], synthetic: Sequence[Sequence[str]]):
        self.web = web
        self._place: list[dict[str, int]] = []
        known: dict[str, int] = {}
        texts: list[int] = []
        for own, generated in zip(web, synthetic):
            unique = dict.fromkeys(text for text in (*own, *generated) if text)
            self._place.append({text: len(texts) + number for number, text in enumerate(unique)})
            texts += [known.setdefault(text, len(known)) for text in unique]
        self.texts, self.text = list(known), np.array(texts, np.int64)
        counts = [len(place) for place in self._place]
        self.starts = np.cumsum([0, *counts])
        self.image = np.repeat(np.arange(len(counts)), counts)

    @property
    def count(self) -> int:
        """Number of pairs N."""
        return len(self.text)

    def parts(self, most: int) -> Iterator[tuple[np.ndarray, slice]]:
        """Yield the pairs of runs of images, at most ``most`` unless one image has more, and the images."""
        first, count = 0, len(self.starts) - 1
        while first < count:
            last = int(np.searchsorted(self.starts, self.starts[first] + most, side="right")) - 1
            last = max(last, first + 1)
            if self.starts[last] > self.starts[first]:
                yield np.arange(self.starts[first], self.starts[last]), slice(first, last)
            first = last

    def scored(self, captions: Captions, itm: Sequence[float], itc: Sequence[float | None]) -> list[list[ScoredText]]:
        """Return the texts of each image in the order of :meth:`BlipCapFilt.annotate`."""
        found = []
        for own, place, texts, log_probs in zip(self.web, self._place, captions.texts, captions.scores):
            rows = [ScoredText(text, "web", itm[place[text]], itc[place[text]]) for text in own]
            for text, log_prob in zip(texts, log_probs):
                scores = (itm[place[text]], itc[place[text]]) if text else (0.0, None)
                rows.append(ScoredText(text, "synthetic", *scores, log_prob))
            found.append(rows)
        return found


def _web_texts(given: str | Sequence[str] | None, name: str) -> list[str]:
    """Return the web texts of one image that are not empty."""
    return [] if given is None else [str(text) for text in text_list(name, given, empty=True) if text.strip()]


def _equal_encoders(one: Any, other: Any) -> bool:
    """Whether the image encoders of two models give the same tokens."""
    mine, theirs = one.visual_encoder, other.visual_encoder
    if mine is theirs:
        return True
    if type(mine) is not type(theirs) or _sizes(one) != _sizes(other):
        return False
    tensors, others = mine.state_dict(), theirs.state_dict()
    return tensors.keys() == others.keys() and all(_equal(tensor, others[name]) for name, tensor in tensors.items())


def _sizes(model: Any) -> Any:
    """Return an image encoder's configuration without the settings of training."""
    config = getattr(model, "vit_config", None)
    return config and dataclasses.replace(config, drop_path_rate=0.0, init_std=1.0)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


def _same_cross_attention(decoder: Any, encoder: Any) -> bool:
    """Whether two text transformers share their cross-attention, so that they compute the same keys and values."""
    layers = list(zip(decoder.encoder.layer, encoder.encoder.layer))
    return all(mine.crossattention is theirs.crossattention for mine, theirs in layers)


def _check(role: str, model: Any, needed: Sequence[str], known: Sequence[str]) -> None:
    lacking = [name for name in needed if not hasattr(model, name)]
    if lacking:
        raise VlkitError(
            f"{type(model).__name__} cannot be the {role}: it has no {' and no '.join(lacking)}. "
            f"Give {', '.join(known[:-1])} or {known[-1]}."
        )
