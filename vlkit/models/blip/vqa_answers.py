"""The answers that a question answerer learns, from samples as our datasets and LAVIS's give them.

Shapes: ``B`` questions, ``N`` answers of all questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vlkit.errors import VlkitError
from vlkit.models.arguments import number_list, one_or_more, text_list
from vlkit.models.blip.samples import Samples, wanted
from vlkit.models.packing import TextBatch


@dataclass
class Targets:
    """Answers of B questions to learn.

    Args:
        texts: N answers, [DEC] first.
        weights: [N].
        counts: answers of each question; they stand one question after the other.
    """

    texts: TextBatch
    weights: Tensor
    counts: Sequence[int]


def read_answers(samples: Samples) -> tuple[list[str], list[float], list[int]]:
    """N texts with their weights, and how many of them belong to each question.

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
