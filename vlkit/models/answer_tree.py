"""A prefix tree of the answers to choose from: common prefixes are decoded once.

The candidates of a question are one sequence of tokens, the nodes of the tree; each node attends to the nodes on its
path from the root. So every candidate has the loss that it has alone, to rounding.

Shapes: ``A`` answers, ``G`` nodes, ``N`` questions, ``T`` nodes of all questions' candidates, ``R`` predicted tokens,
``D`` width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vlkit.models.attention import ImageKV
from vlkit.models.med import TextDecoder
from vlkit.models.packing import MaskedSegments

# Nodes in one pass of the decoder: their logits over a vocabulary of 30,000 take a quarter of a gigabyte.
_NODES_AT_ONCE = 2048


class AnswerTree:
    """The prefix tree of a list of answers.

    Args:
        answers: token ids of each, [DEC] first and [SEP] last.

    Attributes:
        first: [A] first token after [DEC].
    """

    def __init__(self, answers: Sequence[Sequence[int]]):
        children: dict[tuple[int, int], int] = {}
        tokens, paths = [answers[0][0]], [[0]]
        parents: list[int] = []  # of every predicted token, answer after answer
        for answer in answers:
            node = 0
            for token in answer[1:-1]:
                parents.append(node)
                node = children.setdefault((node, token), len(tokens))
                if node == len(tokens):
                    tokens.append(token)
                    paths.append([*paths[parents[-1]], node])
            parents.append(node)
        self.first = np.array([answer[1] for answer in answers])
        self._tokens, self._depths = np.array(tokens), np.array([len(path) - 1 for path in paths])
        longest = max(map(len, paths))
        # Short paths repeat their last node.
        self._paths = np.array([path + path[-1:] * (longest - len(path)) for path in paths])
        self._parents, self._targets = np.array(parents), np.array([t for answer in answers for t in answer[1:]])
        self._lengths = np.array([len(answer) - 1 for answer in answers])
        self._starts = np.cumsum(self._lengths) - self._lengths

    def __len__(self) -> int:
        return len(self.first)

    def losses(self, decoder: TextDecoder, questions: ImageKV, chosen: np.ndarray, label_smoothing: float) -> Tensor:
        """Compute the label-smoothed LM loss of each candidate, summed over its tokens.

        Args:
            decoder: attends to ``questions``.
            questions: keys and values of N questions.
            chosen: [N, K] answers to score for each question.
            label_smoothing: 0..1.

        Returns:
            [N, K] float32.
        """
        rows = [self._predictions(answers) for answers in chosen]
        nodes = [np.unique(self._parents[each]) for each in rows]
        losses = [
            self._group_losses(decoder, questions, group, nodes, rows, chosen, label_smoothing)
            for group in _groups([len(each) for each in nodes])
        ]
        return torch.cat(losses)

    def _predictions(self, answers: np.ndarray) -> np.ndarray:
        """Return the indices of the predicted tokens of ``answers`` among those of all answers."""
        lengths = self._lengths[answers]
        ends = np.cumsum(lengths)
        return np.arange(ends[-1]) + np.repeat(self._starts[answers] - (ends - lengths), lengths)

    def _group_losses(
        self,
        decoder: TextDecoder,
        questions: ImageKV,
        group: Sequence[int],
        nodes: Sequence[np.ndarray],
        rows: Sequence[np.ndarray],
        chosen: np.ndarray,
        label_smoothing: float,
    ) -> Tensor:
        """Compute the losses of a group of questions, [questions of the group, K]."""
        device = questions.layers[0][0].device
        nodes = [nodes[i] for i in group]
        joined = np.concatenate(nodes)
        ids, positions = (torch.from_numpy(x[joined]).to(device) for x in (self._tokens, self._depths))
        segments = MaskedSegments([len(each) for each in nodes], self._visible(nodes).to(device))
        hidden = decoder.bert.masked_states(ids, positions, segments, questions, np.asarray(group))
        offsets = np.cumsum([0, *segments.lengths[:-1]])
        places = [
            offset + np.searchsorted(mine, self._parents[rows[i]]) for offset, mine, i in zip(offsets, nodes, group)
        ]
        candidates = chosen[list(group)].reshape(-1)
        table = [
            np.concatenate(places),
            np.concatenate([self._targets[rows[i]] for i in group]),
            np.repeat(np.arange(len(candidates)), self._lengths[candidates]),
        ]
        place, target, candidate = (torch.from_numpy(x).to(device) for x in table)
        losses = smoothed_losses(decoder.logits(hidden), place, target, label_smoothing)
        return losses.new_zeros(len(candidates)).index_add(0, candidate, losses).unflatten(0, (len(group), -1))

    def _visible(self, nodes: Sequence[np.ndarray]) -> Tensor:
        """Return [n, M, M]: a node sees its path from the root; padding sees the root."""
        longest = max(map(len, nodes))
        visible = np.zeros((len(nodes), longest, longest), dtype=bool)
        visible[:, :, 0] = True
        for mask, mine in zip(visible, nodes):
            mask[np.arange(len(mine))[:, None], np.searchsorted(mine, self._paths[mine])] = True
        return torch.from_numpy(visible)


def smoothed_losses(logits: Tensor, rows: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Compute the cross entropy [R] of ``logits`` [T, V] at ``rows`` [R] with ``targets`` [R]; rows may repeat."""
    logits = logits.float()
    normalizer, mean = logits.logsumexp(-1), logits.mean(-1)
    hard, even = normalizer[rows] - logits[rows, targets], (normalizer - mean)[rows]
    return (1 - label_smoothing) * hard + label_smoothing * even


def _groups(sizes: Sequence[int]) -> list[list[int]]:
    """Split questions into consecutive groups whose nodes stay below the bound (a single question may exceed it)."""
    groups: list[list[int]] = []
    held = 0
    for place, size in enumerate(sizes):
        if not groups or held + size > _NODES_AT_ONCE:
            groups.append([])
            held = 0
        groups[-1].append(place)
        held += size
    return groups
