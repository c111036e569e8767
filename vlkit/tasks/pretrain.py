"""Pre-training with ITC, ITM and LM losses (paper, section 3.2), and its evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlkit.contracts import GenerationConfig
from vlkit.io.tensor_files import TensorSpool
from vlkit.metrics.classification import accuracy, auc
from vlkit.metrics.retrieval import recall
from vlkit.registry import TASKS
from vlkit.registry.bounds import NotNegative, UnitInterval, WholeNumber
from vlkit.tasks.base import (
    Batch,
    EvalContext,
    Progress,
    Row,
    StepOutput,
    Task,
    alpha_ramp,
    best_captions,
    image_text_inputs,
)
from vlkit.tasks.reranking import Pool, retrieve

_TOKENS_IN_MEMORY = 2**32  # bytes of image tokens of each process; further ones go to a temporary file


@TASKS.register("pretrain")
class Pretrain(Task):
    """Train and evaluate ``blip_pretrain``.

    Scores on an evaluation set, whose pairs should be one text an image: ``itc_tr@k``, ``itc_ir@k`` (recall by
    similarity), ``itm_tr@k``, ``itm_ir@k`` (after re-ranking, with ``rerank_top_k``), ``itm_accuracy`` and ``itm_auc``
    against the next pair's text, ``itm_accuracy_<name>`` and ``itm_auc_<name>`` if samples have false texts
    (``negatives: {<name>: text}``), ``loss_lm``, ``temperature``.

    Args:
        alpha: weight of the momentum model's soft targets in the ITC loss, 0 to 1.
        alpha_ramp_epochs: epochs in which ``alpha`` rises from 0.
        rerank_top_k: candidates that matching re-ranks in evaluation, in each direction; 0: none.
        generation: decoding of the captions of the sample grid.
    """

    evaluation_keys = ("rerank_top_k", "generation")

    def __init__(
        self,
        alpha: UnitInterval = 0.4,
        alpha_ramp_epochs: NotNegative = 2.0,
        rerank_top_k: WholeNumber = 0,
        generation: GenerationConfig | None = None,
    ):
        self.alpha, self.alpha_ramp_epochs, self.rerank_top_k = alpha, alpha_ramp_epochs, rerank_top_k
        self.generation = generation or GenerationConfig(max_length=20, min_length=4)

    def prepare(self, model: Any, batch: Batch, device: torch.device) -> Batch:
        return image_text_inputs(model, batch, device)

    def counts(self, inputs: Batch) -> dict[str, float]:
        return {"loss_lm": float(inputs["targets"])}

    def train_step(self, model: Any, inputs: Batch, progress: Progress) -> StepOutput:
        alpha = alpha_ramp(self.alpha, progress.epoch, self.alpha_ramp_epochs)
        out = model(inputs, alpha=alpha, update=progress.micro == 0)
        matched = out.itm_logits.argmax(-1)
        size = len(matched) // 3
        right = torch.cat([matched[:size] == 1, matched[size:] == 0]).float().mean()
        return StepOutput(
            losses={"loss_itc": out.loss_itc, "loss_itm": out.loss_itm, "loss_lm": out.loss_lm},
            metrics={
                "itm_accuracy": right,
                "temperature": out.temperature,
                "alpha": alpha,
                "queue_age": out.queue_age / progress.micros,
            },
        )

    def evaluate(self, model: Any, loader: Iterable[Batch], context: EvalContext) -> dict[str, float]:
        hint = ", or set rerank_top_k of the task to 0"
        with TensorSpool(context.device, _TOKENS_IN_MEMORY, context.output_dir, "image tokens", hint) as tokens:
            rows = self._rows(model, loader, tokens, context)
            scores = self._matching_scores(rows)
            scores["loss_lm"] = sum(row["lm_sum"] for row in rows) / max(sum(row["lm_count"] for row in rows), 1)
            scores["temperature"] = float(model.temp)
            found = retrieve(model, _pool(rows, context.device), tokens, self.rerank_top_k, context)
        scores |= {f"itc_{key}": value for key, value in recall(*found.itc_ranks).items()}
        if self.rerank_top_k:
            scores |= {f"itm_{key}": value for key, value in recall(*found.ranks).items()}
        return scores

    def describe(self, model: Any, batch: Batch, context: EvalContext) -> list[str]:
        return best_captions(model, batch, self.generation, context)

    def _rows(self, model: Any, loader: Iterable[Batch], tokens: TensorSpool, context: EvalContext) -> list[Row]:
        """Return the contribution of each pair to the scores, in the order of the dataset; fills ``tokens``."""
        own: list[Row] = []
        last: list[tuple[int, Tensor]] = []
        for batch in loader:
            with context.autocast():
                embeds, found = self._read(model, batch, context.device)
            own += found
            last.append((batch["index"][-1], embeds[-1].clone()))
            if self.rerank_top_k:
                tokens.add(batch["index"], embeds)
        rows = context.gather_rows(own)
        self._match_across_batches(model, last, rows, context)
        return rows

    def _read(self, model: Any, batch: Batch, device: torch.device) -> tuple[Tensor, list[Row]]:
        """Return image tokens [B, P, Dv], and each pair's contribution to the scores, as plain data."""
        inputs = self.prepare(model, batch, device)
        texts, size = inputs["texts"], len(batch["text_input"])
        embeds = model.image_embeds(inputs)
        states = model.text_encoder.project_images(embeds)
        feats = torch.stack([model.image_feats(embeds), model.text_feats(texts)]).cpu().numpy()
        own = np.arange(size)
        found = {"matched": _match(model, texts, states, own)}
        if size > 1:
            found["random"] = _match(model, texts.select(own[1:]), states, own[:-1])
        sums, counts = model.lm_sums(texts, states)
        rows = []
        for i in range(size):
            row = {"index": batch["index"][i], "text": batch["text_input"][i], "lm_sum": sums[i], "lm_count": counts[i]}
            row |= {"image_feats": feats[0, i], "text_feats": feats[1, i]}
            row |= {name: values[i] for name, values in found.items() if i < len(values)}
            rows.append(row)
        self._match_negatives(model, states, batch.get("negatives", []), rows)
        return embeds, rows

    def _match_negatives(self, model: Any, states: Any, negatives: list[dict[str, str]], rows: list[Any]) -> None:
        """Add the matching scores of each image's false texts to ``rows``."""
        named = [(i, name, text) for i, texts in enumerate(negatives) for name, text in texts.items()]
        if not named:
            return
        index = np.array([i for i, _, _ in named])
        margins = _match(model, model.tokenize([text for _, _, text in named]), states, index)
        for (i, name, _), margin in zip(named, margins):
            rows[i].setdefault("negatives", {})[name] = margin

    def _match_across_batches(
        self, model: Any, last: list[tuple[int, Tensor]], rows: list[Row], context: EvalContext
    ) -> None:
        """Add ``random`` to the rows of images that end a batch: the next pair is in another batch, perhaps of another
        process, and the first pair follows the last. So no score depends on how the set is batched."""
        place = {row["index"]: at for at, row in enumerate(rows)}
        found = []
        for at, embeds in ((place[index], embeds) for index, embeds in last):
            texts = model.tokenize([rows[(at + 1) % len(rows)]["text"]])
            with context.autocast():
                states = model.text_encoder.project_images(embeds[None])
                found.append((at, _match(model, texts, states, np.zeros(1, np.int64))[0]))
        for at, probability in context.gather(found):
            if len(rows) > 1:
                rows[at]["random"] = probability

    def _matching_scores(self, rows: list[Row]) -> dict[str, float]:
        pairs = {"": [(row["matched"], row["random"]) for row in rows if "random" in row]}
        for row in rows:
            for name, margin in row.get("negatives", {}).items():
                pairs.setdefault(f"_{name}", []).append((row["matched"], margin))
        scores: dict[str, float] = {}
        for name, both in pairs.items():
            if both:
                values = np.array(both).T.reshape(-1)
                labels = np.repeat([1, 0], len(both))
                scores[f"itm_auc{name}"] = auc(values, labels)
                scores[f"itm_accuracy{name}"] = accuracy(values > 0, labels)
        return scores


def _pool(rows: list[Row], device: torch.device) -> Pool:
    """Return the pairs as a retrieval pool."""
    image_feats, text_feats = (
        torch.from_numpy(np.stack([row[name] for row in rows])).to(device) for name in ("image_feats", "text_feats")
    )
    index, texts = [row["index"] for row in rows], [row["text"] for row in rows]
    return Pool(index, index, image_feats, texts, text_feats, np.arange(len(rows)))


def _match(model: Any, texts: Any, states: Any, image_index: np.ndarray) -> list[float]:
    """Return the logit difference of "matches" and "does not match" of each pair; probabilities would tie at 1."""
    logits = model.match(texts, states, image_index).float()
    return (logits[:, 1] - logits[:, 0]).tolist()
