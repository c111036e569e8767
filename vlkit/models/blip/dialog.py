"""Visual dialog (paper, section 5.5 and figure 5c): rank answers by how well they fit image, caption and history.

The caption is read by the text encoder alone; its states are appended to the image tokens, and the dialog encoder (the
image-grounded text encoder) attends to both. The paper leaves two points open. Here both encoders are one, as in MED,
so that a pre-trained checkpoint fills all of it. If caption states and image tokens differ in width (ViT-L), a linear
layer ``caption_proj`` maps the former to the width of the latter, so that the pre-trained cross-attention fits.

Keys and values of image and caption are projected once for all candidates of all rounds. History and question are the
same for all candidates of a round, but each of their tokens sees the candidate, so they are encoded with each.

Shapes: ``B`` images (one dialog each), ``K`` candidates of a round, ``N`` texts, ``P`` image tokens, ``C`` tokens of
the longest caption, ``Dv`` image width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlkit.errors import VlkitError
from vlkit.models.arguments import as_mapping, check_whole, checked_keywords, text_list
from vlkit.models.attention import ImageKV
from vlkit.models.blip.base import BlipBase, LossOutput
from vlkit.models.blip.dialog_texts import (
    Candidates,
    Dialog,
    DialogWriter,
    answer_and_negatives,
    dialogs_of,
    options_of,
)
from vlkit.models.blip.samples import Samples, wanted
from vlkit.models.med import MedConfig, TextTransformer
from vlkit.models.packing import Segments, TextBatch
from vlkit.models.vit import VitConfig
from vlkit.registry import MODELS
from vlkit.registry.bounds import PositiveInt, Tokens


@dataclass
class DialogOutput(LossOutput):
    """Output of a training step.

    Args:
        loss_itm: matching, mean over N texts.
        itm_logits: [N, 2]; class 1 is the answer.
        labels: [N], 1 for the answer of its round.
    """

    loss_itm: Tensor
    itm_logits: Tensor
    labels: Tensor


@MODELS.register("blip_dialog")
class BlipDialog(BlipBase):
    """Rank candidate answers in a dialog about an image.

    Samples hold ``image`` [B, 3, S, S], ``text_input`` (B captions) and ``dialog``: B lists of rounds, each a mapping
    with ``question``, and ``answer``, ``answer_options`` and ``gt_index`` if they are known.

    Args:
        vit: sizes of the image encoder.
        med: sizes of the text transformer.
        tokenizer: name of a bundled vocabulary, or a path.
        max_words: longest text of history, question and candidate in tokens; the oldest rounds are dropped first.
        max_answer_words: longest answer in tokens; this many are always reserved.
        max_caption_words: longest caption in tokens, [CLS] and [SEP] included.
        num_negatives: wrong candidates of each round in a training step, at least 1, sampled at random.
    """

    sample_keys = (*BlipBase.sample_keys, "dialog", "dialog_texts", "image_index", "labels")

    def __init__(
        self,
        vit: VitConfig,
        med: MedConfig,
        tokenizer: str = "bert-base-uncased",
        max_words: Tokens = 256,
        max_answer_words: PositiveInt = 20,
        max_caption_words: Tokens = 40,
        num_negatives: PositiveInt = 1,
    ):
        super().__init__(vit, med, tokenizer, max_words)
        if num_negatives < 1:
            raise VlkitError(f"num_negatives is {num_negatives}; matching needs 1 or more.")
        self.num_negatives, self.max_caption_words = num_negatives, max_caption_words
        self.writer = DialogWriter(self.tokenizer, max_words, max_answer_words)
        width = self.med_config.hidden_size
        self.text_encoder = TextTransformer(self.med_config, self.image_width)
        self.caption_proj = nn.Identity() if width == self.image_width else nn.Linear(width, self.image_width)
        self.itm_head = nn.Linear(width, 2)

    def tokenize(self, texts: Sequence[str] | str) -> TextBatch:
        """Return packed token ids of captions, on the model's device."""
        return self.pack(texts, self.max_caption_words)

    def training_inputs(self, samples: Samples) -> dict[str, Any]:
        """Tokenize ``samples``; :meth:`forward` does so if it has not been done.

        Samples ``num_negatives`` wrong candidates for each round with a known answer (fewer if there are fewer).

        Returns:
            ``image``, ``texts`` (captions), ``dialog_texts``, ``image_index`` [N] and ``labels`` [N].

        Raises:
            VlkitError: no round has an answer and another candidate.
        """
        read = self.batches(samples, texts="paired").whole()
        dialogs = dialogs_of(samples, len(read["texts"]), type(self).__name__)
        texts, index, labels = [], [], []
        for image, dialog in enumerate(dialogs):
            chosen = [answer_and_negatives(turn, self.num_negatives) for turn in dialog]
            for written in self.writer.write_dialog(dialog, image, chosen):
                texts += written.texts
                index += [image] * len(written.texts)
                labels += [int(i == written.matched) for i in range(len(written.texts))]
        if not texts:
            raise VlkitError(
                f"{type(self).__name__}: none of the {sum(map(len, dialogs))} rounds has 'gt_index' and two different "
                "'answer_options' to learn from."
            )
        return {
            "image": self.images_of(read),
            "texts": read["texts"],
            "dialog_texts": TextBatch.from_lists(texts, self.device),
            "image_index": np.asarray(index),
            "labels": torch.tensor(labels).to(self.device),
        }

    @checked_keywords
    def forward(self, samples: Samples) -> DialogOutput:
        """Return the ITM loss of ``samples``, as given or from :meth:`training_inputs`."""
        tokenized = "dialog_texts" in as_mapping("samples", samples, "{'image': ..., 'text_input': ..., 'dialog': ...}")
        inputs = samples if tokenized else self.training_inputs(samples)
        captions, index, labels = (wanted(inputs, key, "BlipDialog") for key in ("texts", "image_index", "labels"))
        states = self.project(self.image_embeds(inputs), captions)
        logits = self.match(inputs["dialog_texts"], states, index)
        return DialogOutput(F.cross_entropy(logits.float(), labels), logits.detach(), labels)

    def project(self, image_embeds: Tensor, captions: TextBatch) -> ImageKV:
        """Return keys and values of ``image_embeds`` [B, P, Dv], followed by their captions' states: [B, P + C, Dv].

        Raises:
            VlkitError: not one caption an image.
        """
        if len(captions) != len(image_embeds):
            raise VlkitError(
                f"{type(self).__name__} needs one caption an image; given: {len(image_embeds)} images, "
                f"{len(captions)} captions."
            )
        segments = Segments(captions.lengths, image_embeds.device)
        words = segments.pad(self.caption_proj(self.text_encoder(captions)))
        mask = None
        if not segments.uniform:
            mask = torch.cat([segments.valid.new_ones(image_embeds.shape[:2]), segments.valid], 1)
        return self.text_encoder.project_images(torch.cat([image_embeds, words], 1), mask)

    def match(self, texts: TextBatch, states: ImageKV, image_index: Sequence[int] | np.ndarray) -> Tensor:
        """Return ITM logits [N, 2] (class 1 fits) of texts that begin with [ENC], each with its image."""
        return self.itm_head(self.text_encoder(texts, states, image_index, first_only=True))

    def margins(self, texts: list[list[int]], states: ImageKV, image_index: np.ndarray, tokens_at_once: int) -> Tensor:
        """Return [N] logit differences of "fits" and "does not fit", on the CPU; see :meth:`score`.

        Args:
            texts: token ids that begin with [ENC].
            states: of the images and captions.
            image_index: [N] image of each text.
            tokens_at_once: bound on the memory of one pass, in tokens.
        """
        lengths = np.asarray([len(text) for text in texts])
        margins = torch.empty(len(texts))
        # Texts of similar length share a pass, since self-attention pads to the longest.
        for part in _runs(np.argsort(lengths, kind="stable"), lengths, tokens_at_once):
            packed = TextBatch.from_lists([texts[i] for i in part], self.device)
            logits = self.match(packed, states, image_index[part]).float()
            margins[torch.from_numpy(part)] = (logits[:, 1] - logits[:, 0]).cpu()
        return margins

    @checked_keywords
    @torch.inference_mode()
    def score(self, samples: Samples, tokens_at_once: int = 16384, batch_size: int | None = None) -> list[list[Tensor]]:
        """Score each candidate of each round, given the true answers of earlier rounds.

        Args:
            samples: as for training; ``gt_index`` is not used if ``answer`` is given.
            tokens_at_once: bound on the memory of one pass, in tokens.
            batch_size: images read and encoded at once; None: a tensor is one batch, a list is taken 32 at a time.

        Returns:
            For each dialog and round [K] logit differences of "fits" and "does not fit" (their sigmoid is the
            probability), on the CPU; empty for a round without candidates.
        """
        check_whole("tokens_at_once", tokens_at_once, 1)
        batches = self.batches(samples, batch_size, "paired")
        dialogs = dialogs_of(samples, batches.count, type(self).__name__)
        scores: list[list[Tensor]] = []
        for part, some in zip(batches.slices(), batches):
            scores += self._score(self.image_embeds(some), self.texts_of(some), dialogs[part], tokens_at_once)
        return scores

    def _score(
        self, image_embeds: Tensor, captions: TextBatch, dialogs: Sequence[Dialog], tokens_at_once: int
    ) -> list[list[Tensor]]:
        """:meth:`score` of one batch."""
        scores = []
        for group, rounds in self._groups(dialogs, tokens_at_once):
            index = np.asarray(group)
            states = self.project(image_embeds[group[0] : group[-1] + 1], captions.select(index))
            texts = [text for turn in rounds for text in turn.texts]
            images = np.repeat([turn.image - group[0] for turn in rounds], [len(turn.texts) for turn in rounds])
            margins = iter(self.margins(texts, states, images, tokens_at_once).split([len(t.texts) for t in rounds]))
            scores += [[next(margins) for _ in dialogs[image]] for image in group]
        return scores

    @checked_keywords
    @torch.inference_mode()
    def chat(self, image: Any, caption: str, answers: Sequence[str] | str | None = None) -> DialogSession:
        """Start a dialog about one image that keeps its history.

        Args:
            image: a picture, or a preprocessed tensor [3, S, S] or [1, 3, S, S].
            caption: of the image, as in the training data; may be empty.
            answers: candidates for questions without their own.

        Raises:
            VlkitError: not one picture, or a text that is no string.
        """
        if not isinstance(caption, str):
            raise VlkitError(f"caption is {caption!r:.80}; it must be a string, which may be empty.")
        options = None if answers is None else text_list("answers", answers)
        read = self.batches({"image": image, "text_input": caption}, texts="paired")
        if read.count != 1:
            raise VlkitError(f"a dialog is about one image; given: {read.count}.")
        states = self.project(self.image_embeds(read.whole()), self.tokenize([caption]))
        return DialogSession(self, states, options)

    def _groups(self, dialogs: Sequence[Dialog], tokens_at_once: int) -> Iterator[tuple[list[int], list[Candidates]]]:
        """Yield runs of dialogs and their rounds, at most ``tokens_at_once`` tokens unless a single dialog has more."""
        group: list[int] = []
        rounds: list[Candidates] = []
        tokens = 0
        for image, dialog in enumerate(dialogs):
            every = [range(len(options_of(turn))) for turn in dialog]
            written = self.writer.write_dialog(dialog, image, every)
            size = sum(len(text) for turn in written for text in turn.texts)
            if group and tokens + size > tokens_at_once:
                yield group, rounds
                group, rounds, tokens = [], [], 0
            group, rounds, tokens = [*group, image], [*rounds, *written], tokens + size
        if group:
            yield group, rounds


def _runs(order: np.ndarray, lengths: np.ndarray, tokens_at_once: int) -> Iterator[np.ndarray]:
    """Split ``order`` (shortest first) into pieces of at most ``tokens_at_once`` tokens, padded to their longest."""
    begin = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - begin) * lengths[order[end]] > tokens_at_once:
            yield order[begin:end]
            begin = end


class RankedAnswer(NamedTuple):
    """A candidate answer and the probability, 0 to 1, that it fits."""

    answer: str
    score: float


class DialogSession:
    """A dialog about one image that keeps its history; created by :meth:`BlipDialog.chat`.

    Args:
        model: answers the questions.
        states: keys and values of the image and its caption.
        answers: candidates for questions without their own.

    Attributes:
        history: questions and chosen answers, oldest first; may be edited.
    """

    def __init__(self, model: BlipDialog, states: ImageKV, answers: Sequence[str] | None = None):
        self.model, self.states = model, states
        self.answers = list(answers or ())
        self.history: list[tuple[str, str]] = []

    @checked_keywords
    @torch.inference_mode()
    def ask(
        self, question: str, candidates: Sequence[str] | str | None = None, tokens_at_once: int = 16384
    ) -> list[RankedAnswer]:
        """Rank candidate answers, best first, and append the best one to the history.

        Args:
            question: may refer to earlier rounds.
            candidates: possible answers; None: those of the session.
            tokens_at_once: see :meth:`BlipDialog.score`.

        Raises:
            VlkitError: there are no candidates.
        """
        if not isinstance(question, str):
            raise VlkitError(f"question is {question!r:.80}; it must be a string.")
        check_whole("tokens_at_once", tokens_at_once, 1)
        options = list(self.answers) if candidates is None else text_list("candidates", candidates, empty=True)
        if not options:
            raise VlkitError("there is no answer to choose from: give candidates to ask(), or answers to chat().")
        texts = self.model.writer.write(self.history, question, options)
        margins = self.model.margins(texts, self.states, np.zeros(len(texts), np.int64), tokens_at_once)
        order = torch.argsort(margins, descending=True, stable=True).tolist()
        scores = margins.sigmoid().tolist()
        ranked = [RankedAnswer(options[i], scores[i]) for i in order]
        self.history.append((question, ranked[0].answer))
        return ranked
