"""Visual question answering (paper, section 5.3 and figure 5a): a question encoder that attends to the image, and an
answer decoder that attends to the question's states.

Shapes: ``B`` questions, ``N`` answers of all questions, ``M`` tokens of the longest question, ``A`` answers to choose
from, ``D`` text width.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vlkit.contracts import GenerationConfig
from vlkit.errors import VlkitError
from vlkit.models.answer_tree import AnswerTree
from vlkit.models.arguments import (
    as_mapping,
    check_choice,
    check_flag,
    check_keywords,
    check_whole,
    checked_keywords,
    number_list,
    one_or_more,
    text_list,
)
from vlkit.models.attention import ImageKV
from vlkit.models.blip.base import BlipBase, LossOutput
from vlkit.models.blip.caption import check_config, decode_captions, seeds_of
from vlkit.models.blip.samples import Samples, joined, wanted
from vlkit.models.losses import lm_loss, lm_targets, sum_by_text
from vlkit.models.med import MedConfig, TextDecoder, TextTransformer
from vlkit.models.packing import MaskedSegments, Segments, TextBatch
from vlkit.models.vit import VitConfig
from vlkit.registry import MODELS
from vlkit.registry.bounds import Tokens, UnitInterval

INFERENCE = ("rank", "generate")
_ANSWERS = ("answers", "weights", "answer", "weight", "n_answers", "targets")


@dataclass
class VqaOutput(LossOutput):
    """Output of a training step.

    Args:
        loss_vqa: scalar, sum over answers of weight times loss, mean over questions.
        answer_losses: [N] label-smoothed LM loss of each answer, summed over its tokens.
    """

    loss_vqa: Tensor
    answer_losses: Tensor


@dataclass
class Answers:
    """Answers to B questions, best first.

    Args:
        texts: of each question.
        scores: of each. Ranked: minus the label-smoothed loss summed over tokens; generated: as captions' scores.
    """

    texts: list[list[str]]
    scores: list[list[float]]


@dataclass
class Targets:
    """Target answers of B questions.

    Args:
        texts: N answers, [DEC] first.
        weights: [N].
        counts: answers of each question; they are in the order of the questions.
    """

    texts: TextBatch
    weights: Tensor
    counts: Sequence[int]


@MODELS.register("blip_vqa")
class BlipVqa(BlipBase):
    """Answer questions about images.

    Args:
        vit: sizes of the image encoder.
        med: sizes of the question encoder and of the answer decoder.
        tokenizer: name of a bundled vocabulary, or a path.
        max_words: longest question in tokens.
        label_smoothing: of the answers' LM loss, 0 to 1; ranking uses the same.
    """

    video_frames = 16  # Paper: 5.6
    sample_keys = (*BlipBase.sample_keys, "image_index", *_ANSWERS)

    def __init__(
        self,
        vit: VitConfig,
        med: MedConfig,
        tokenizer: str = "bert-base-uncased",
        max_words: Tokens = 35,
        label_smoothing: UnitInterval = 0.1,
    ):
        super().__init__(vit, med, tokenizer, max_words)
        self.label_smoothing = label_smoothing
        self.text_encoder = TextTransformer(self.med_config, self.image_width)
        self.text_decoder = TextDecoder(self.med_config, self.med_config.hidden_size)
        self._tree: tuple[tuple[str, ...], AnswerTree] | None = None

    def tokenize(self, texts: Sequence[str] | str) -> TextBatch:
        """Return packed token ids of questions, [ENC] first."""
        return super().tokenize(texts).with_first(self.tokenizer.enc_id)

    def tokenize_answers(self, texts: Sequence[str] | str) -> TextBatch:
        """Return packed token ids of answers, [DEC] first."""
        return self.pack(texts, self.med_config.max_position_embeddings).with_first(self.tokenizer.dec_id)

    def targets_of(self, samples: Samples) -> Targets:
        """Return the target answers: from ``answers`` and ``weights`` (a list for each question), from LAVIS's flat
        ``answer``, ``weight`` and ``n_answers``, or ``targets`` as they are."""
        if "targets" in as_mapping("samples", samples, "{'image': ..., 'text_input': ..., 'answers': ...}"):
            return samples["targets"]
        texts, weights, counts = read_answers(samples)
        weight = torch.tensor(weights, dtype=torch.float32, device=self.device)
        return Targets(self.tokenize_answers(texts), weight, counts)

    def read_questions(self, samples: Samples, attend_to_padding: bool = False) -> ImageKV:
        """Encode questions with their images and return the keys and values that the answer decoder attends to.

        Args:
            samples: ``image`` or ``video``, and ``text_input`` or ``texts``; ``image_index`` if there is not one
                question an image: for each question the index of its image (or video).
            attend_to_padding: pad the questions to the longest of the batch and attend to the padding, as the original
                does when it generates; an answer then depends on the other questions.
        """
        texts = self.texts_of(samples)
        images = self.text_encoder.project_images(self.image_embeds(samples))
        read = self.text_decoder.bert.project_images
        if attend_to_padding:
            return read(self._padded_states(texts, images, samples.get("image_index")))
        hidden = self.text_encoder(texts, images, samples.get("image_index"))
        segments = Segments(texts.lengths, texts.ids.device)
        return read(segments.pad(hidden), None if segments.uniform else segments.valid)

    def _padded_states(self, texts: TextBatch, images: ImageKV, image_index: np.ndarray | None) -> Tensor:
        """Return [B, M, D]. Padding attends to the question, the question does not attend to padding."""
        ids, mask = texts.padded(self.tokenizer.pad_id)
        count, longest = ids.shape
        segments = MaskedSegments((longest,) * count, mask.bool()[:, None])
        positions = torch.arange(longest, device=ids.device).repeat(count)
        hidden = self.text_encoder.masked_states(ids.reshape(-1), positions, segments, images, image_index)
        return hidden.unflatten(0, (count, longest))

    @checked_keywords
    def forward(self, samples: Samples) -> VqaOutput:
        """Return the loss of ``samples``: ``image``, ``text_input`` (questions) or ``texts``, and answers as for
        :meth:`targets_of`."""
        targets = self.targets_of(samples)
        questions = self.read_questions(self.batches(samples, texts="paired").whole())
        if len(targets.counts) != questions.count:
            raise VlkitError(
                f"BlipVqa was given answers to {len(targets.counts)} questions, and {questions.count} questions."
            )
        index = np.repeat(np.arange(questions.count), targets.counts)
        hidden = self.text_decoder(targets.texts, questions, index)
        rows, tokens = lm_targets(targets.texts)
        logits = self.text_decoder.logits(hidden.index_select(0, rows))
        losses = lm_loss(logits, tokens, self.label_smoothing, reduction="none")
        answer_losses = sum_by_text(losses, targets.texts, rows)
        return VqaOutput((answer_losses * targets.weights).sum() / questions.count, answer_losses)

    @checked_keywords
    @torch.inference_mode()
    def rank(
        self,
        samples: Samples,
        answer_list: Sequence[str] | str,
        num_ans_candidates: int = 128,
        batch_size: int | None = None,
    ) -> Answers:
        """Rank the answers of a list for each question.

        The answers with the likeliest first tokens are kept (equal ones in the order of the list) and sorted by their
        label-smoothed loss.

        Args:
            samples: ``image`` (or ``video``), and ``text_input`` or ``texts``; a single string is the question for all
                images.
            answer_list: A texts.
            num_ans_candidates: answers kept for each question.
            batch_size: questions encoded at once; None: a tensor is one batch, a list is taken 32 at a time.
        """
        answers = text_list("answer_list", answer_list)
        check_whole("num_ans_candidates", num_ans_candidates, 1)
        batches = self.batches(samples, batch_size, "paired")
        return joined([self.rank_read(self.read_questions(some), answers, num_ans_candidates) for some in batches])

    @torch.inference_mode()
    def rank_read(self, questions: ImageKV, answer_list: Sequence[str], num_ans_candidates: int = 128) -> Answers:
        """:meth:`rank` for questions that :meth:`read_questions` has read."""
        answer_list = text_list("answer_list", answer_list)
        check_whole("num_ans_candidates", num_ans_candidates, 1)
        tree = self._answer_tree(tuple(answer_list))
        kept = self._likeliest(tree, questions, min(num_ans_candidates, len(tree)))
        losses = tree.losses(self.text_decoder, questions, kept, self.label_smoothing)
        losses, order = losses.sort(dim=1, stable=True)
        best = np.take_along_axis(kept, order.cpu().numpy(), axis=1)
        return Answers([[answer_list[i] for i in row] for row in best.tolist()], (-losses).tolist())

    def _likeliest(self, tree: AnswerTree, questions: ImageKV, count: int) -> np.ndarray:
        """Return [B, count] indices of answers, sorted by the probability of their first token."""
        start = TextBatch.from_lists([[self.tokenizer.dec_id]] * questions.count, self.device)
        log_probs = self.text_decoder.logits(self.text_decoder(start, questions)).float().log_softmax(-1)
        first = torch.from_numpy(tree.first).to(log_probs.device)
        order = log_probs.index_select(1, first).sort(dim=1, descending=True, stable=True).indices
        return order[:, :count].cpu().numpy()

    def _answer_tree(self, answers: tuple[str, ...]) -> AnswerTree:
        """Return the prefix tree of a list; that of the last list is cached."""
        if self._tree is None or self._tree[0] != answers:
            texts = self.tokenize_answers(answers)
            ids = np.split(texts.ids.cpu().numpy(), np.cumsum(texts.lengths)[:-1])
            self._tree = (answers, AnswerTree([each.tolist() for each in ids]))
        return self._tree[1]

    @checked_keywords
    @torch.inference_mode()
    def generate(
        self,
        samples: Samples,
        config: GenerationConfig | None = None,
        attend_to_padding: bool = False,
        batch_size: int | None = None,
    ) -> Answers:
        """Generate answers.

        Args:
            samples: ``image``, and ``text_input`` or ``texts``.
            config: how to decode; None: the original's 3 beams, 1 to 10 tokens, [DEC] counted.
            attend_to_padding: see :meth:`read_questions`; then answers depend on ``batch_size`` too.
            batch_size: as for :meth:`rank`.
        """
        check_flag("attend_to_padding", attend_to_padding)
        config = check_config(config) or GenerationConfig(max_length=10, min_length=1)
        batches = self.batches(samples, batch_size, "paired")
        seeds = None if "image_index" in samples else seeds_of(None, batches.count, config)
        found = []
        for part, some in zip(batches.slices(), batches):
            questions = self.read_questions(some, attend_to_padding)
            own = None if seeds is None else seeds[part]
            captions = decode_captions(self.text_decoder, questions, self.tokenizer, "", config, own)
            found.append(Answers(captions.texts, captions.scores))
        return joined(found)

    def predict_answers(
        self,
        samples: Samples,
        num_beams: int = 3,
        inference_method: Literal["rank", "generate"] | None = None,
        max_len: int = 10,
        min_len: int = 1,
        num_ans_candidates: int = 128,
        answer_list: Sequence[str] | str | None = None,
        attend_to_padding: bool = False,
        batch_size: int | None = None,
        **generation: Any,
    ) -> list[str]:
        """Return one answer for each question: LAVIS's call. See :meth:`rank` and :meth:`generate` for scores and more
        answers.

        Args:
            samples: ``image``, and ``text_input``: a question, or B of them.
            num_beams: beams, for "generate".
            inference_method: "rank" chooses from ``answer_list``, "generate" decodes freely; None: "rank" if there is
                such a list.
            max_len: largest number of tokens of a generated answer, [DEC] included.
            min_len: smallest number.
            num_ans_candidates: answers that "rank" keeps by their first token.
            answer_list: answers that "rank" chooses from.
            attend_to_padding: see :meth:`read_questions`; for "generate".
            batch_size: as for :meth:`rank`.
            **generation: further fields of :class:`~vlkit.models.generation.GenerationConfig`, for "generate".
        """
        if inference_method is None:
            inference_method = "generate" if answer_list is None else "rank"
        check_choice("inference_method", inference_method, INFERENCE)
        self._check_prediction(num_beams, max_len, min_len, num_ans_candidates, generation)
        check_flag("attend_to_padding", attend_to_padding)
        if inference_method == "generate":
            config = GenerationConfig(max_length=max_len, min_length=min_len, num_beams=num_beams, **generation)
            return [texts[0] for texts in self.generate(samples, config, attend_to_padding, batch_size).texts]
        if answer_list is None:
            raise VlkitError("inference_method 'rank' chooses from answer_list, and none is given.")
        if generation:
            raise VlkitError(f"{next(iter(generation))} is for inference_method 'generate'; here answers are ranked.")
        return [texts[0] for texts in self.rank(samples, answer_list, num_ans_candidates, batch_size).texts]

    def _check_prediction(
        self, num_beams: int, max_len: int, min_len: int, num_ans_candidates: int, generation: dict[str, Any]
    ) -> None:
        own = [name for name in inspect.signature(self.predict_answers).parameters if name != "generation"]
        further = [field.name for field in fields(GenerationConfig) if field.name not in ("max_length", "min_length")]
        check_keywords("predict_answers", generation, list(dict.fromkeys([*own, *further])))
        for name, value in (("num_beams", num_beams), ("num_ans_candidates", num_ans_candidates)):
            check_whole(name, value, 1)
        check_whole("max_len", max_len, 2)  # [DEC] is one of them
        check_whole("min_len", min_len, 0, max_len)


def read_answers(samples: Samples) -> tuple[list[str], list[float], list[int]]:
    """Return N texts, their weights, and the number of texts of each question.

    Args:
        samples: ``answers`` and ``weights`` (a list for each question), or LAVIS's flat ``answer``, ``weight`` and
            ``n_answers``.

    Raises:
        VlkitError: a key is missing, a value is no text or no number, or their numbers do not fit.
    """
    if "answer" in samples:
        model = "BlipVqa with 'answer'"
        texts = text_list("answer", samples["answer"], empty=True)
        counts = number_list("n_answers", wanted(samples, "n_answers", model), whole=True, low=0)
        weights = number_list("weight", wanted(samples, "weight", model))
    else:
        given = one_or_more("answers", wanted(samples, "answers", "BlipVqa"))
        answers = [text_list(f"answers[{i}]", each, empty=True) for i, each in enumerate(given)]
        texts, counts = [text for each in answers for text in each], [len(each) for each in answers]
        equal = [[1.0 / len(each)] * len(each) for each in answers if each]
        weights = [
            weight
            for each in one_or_more("weights", samples.get("weights", equal), "number")
            for weight in number_list("weights", each)
        ]
    if not texts or len(texts) != len(weights) or sum(counts) != len(texts):
        raise VlkitError(
            f"BlipVqa was given {len(texts)} answers, {len(weights)} weights, and {sum(counts)} answers counted "
            f"over {len(counts)} questions; it needs at least one answer and a weight for each."
        )
    return texts, weights, counts
