"""Image-text and video-text retrieval (paper, sections 5.1 and 5.6): trains with ITC and ITM losses, ranks by both.

Shapes: ``I`` images (or videos), ``T`` texts, ``P`` image tokens, ``Dv`` image width, ``E`` projection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlkit.errors import ConfigError, DataError
from vlkit.io.tensor_files import TensorSpool
from vlkit.metrics.retrieval import median_rank, recall
from vlkit.processors.text import pre_caption
from vlkit.registry import TASKS
from vlkit.registry.bounds import NotNegative, PositiveInt, UnitInterval, WholeNumber
from vlkit.tasks.base import Batch, EvalContext, Progress, StepOutput, Task, alpha_ramp, to_device
from vlkit.tasks.reranking import Pool, Ranking, Retrieved, retrieve, unique_texts

_ANSWERS_SHOWN = 10  # of each query in the result file


@TASKS.register("retrieval")
class Retrieval(Task):
    """Train ``blip_retrieval``; evaluate it, and any model with features and matching, on images or videos.

    Samples of an evaluation set hold ``image`` or ``video`` and ``references``, a list of texts (if missing, the one
    text is ``text_input``). Scores of the final ranking, all 0 to 1: ``tr@1``, ``tr@5``, ``tr@10`` (image or video to
    text) and their mean ``tr_mean``, ``ir@k`` and ``ir_mean`` (text to image), ``recall_mean`` of both. Median ranks
    from 1: ``tr_median_rank``, ``ir_median_rank``. The same with the prefix ``itc_`` by similarity alone. An answer of
    equal score counts as better than the right one. If no right answer is among the re-ranked candidates, all wrong
    answers count as better. Each query's rank and best answers are written to ``retrieval_<set>.json``.

    Args:
        rerank_top_k: most similar candidates of a query that matching re-ranks, in each direction (COCO 256,
            Flickr30k 128); 0: similarity alone.
        alpha: weight of the momentum model's soft targets in the ITC loss, 0 to 1.
        alpha_ramp_epochs: epochs in which ``alpha`` rises from 0.
        max_words: words of a reference that are read, preprocessed as captions in training are; None: references as
            they are.
        image_tokens_gib: GiB of image tokens that each process keeps in memory for re-ranking; further tokens go to a
            temporary file in the run's folder.

    Raises:
        ConfigError: an argument outside its range.
    """

    evaluation_keys = ("rerank_top_k", "max_words", "image_tokens_gib")

    def __init__(
        self,
        rerank_top_k: WholeNumber = 256,
        alpha: UnitInterval = 0.4,
        alpha_ramp_epochs: NotNegative = 1.0,
        max_words: PositiveInt | None = 30,
        image_tokens_gib: NotNegative = 4.0,
    ):
        if rerank_top_k < 0:
            raise ConfigError(f"rerank_top_k: {rerank_top_k} given; it must be 0 (no re-ranking) or more.")
        self.rerank_top_k, self.alpha, self.alpha_ramp_epochs = rerank_top_k, alpha, alpha_ramp_epochs
        self.max_words, self.image_tokens_gib = max_words, image_tokens_gib

    def prepare(self, model: Any, batch: Batch, device: torch.device) -> Batch:
        texts = model.tokenize(batch["text_input"])
        return to_device({"image": batch["image"], "texts": texts, "image_id": batch["image_id"]}, device)

    def train_step(self, model: Any, inputs: Batch, progress: Progress) -> StepOutput:
        alpha = alpha_ramp(self.alpha, progress.epoch, self.alpha_ramp_epochs)
        out = model(inputs, alpha=alpha, update=progress.micro == 0)
        predicted = out.itm_logits.argmax(-1)
        matched = torch.arange(len(predicted), device=predicted.device) < len(inputs["texts"])
        metrics = {
            "itm_accuracy": (predicted == matched).float().mean(),
            "temperature": out.temperature,
            "alpha": alpha,
            "queue_age": out.queue_age / progress.micros,
        }
        return StepOutput(losses={"loss_itc": out.loss_itc, "loss_itm": out.loss_itm}, metrics=metrics)

    def evaluate(self, model: Any, loader: Iterable[Batch], context: EvalContext) -> dict[str, float]:
        pool, found = self.rank(model, loader, context)
        if context.writes:
            context.write_json("retrieval", _results(pool, found), ensure_ascii=False, indent=0)
        scores: dict[str, float] = {}
        for prefix, ranks in (("itc_", found.itc_ranks), ("", found.ranks)):
            scores |= {f"{prefix}{key}": value for key, value in recall(*ranks).items()}
            scores |= {f"{prefix}{side}_median_rank": median_rank(each) for side, each in zip(("tr", "ir"), ranks)}
        return scores

    def rank(
        self, model: Any, loader: Iterable[Batch], context: EvalContext, texts: Sequence[str] | None = None
    ) -> tuple[Pool, Retrieved]:
        """Read the set that ``loader`` yields and rank its images and texts for each other.

        Args:
            model, loader, context: see :meth:`evaluate`.
            texts: of the whole set, if samples bring none; there are no right answers then.
        """
        limit = int(self.image_tokens_gib * 2**30)
        hint = ", or raise image_tokens_gib of the task"
        with TensorSpool(context.device, limit, context.output_dir, "image tokens", hint) as tokens:
            pool = read_pool(model, loader, context, tokens if self.rerank_top_k else None, self.max_words, texts)
            return pool, retrieve(model, pool, tokens, self.rerank_top_k, context, _ANSWERS_SHOWN)

    def sim_matrix(
        self, model: Any, data_loader: Iterable[Batch], context: EvalContext | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores of all pairs in the form of LAVIS's ``compute_sim_matrix``.

        Args:
            model: in eval mode.
            data_loader: batches with ``image`` or ``video`` and ``references``; or, as in LAVIS, without texts and with
                a ``dataset`` whose ``text`` lists them.
            context: of the evaluation; None: one process, in the model's precision.

        Returns:
            score_i2t [I, T] and score_t2i [T, I]: similarity plus matching logit, -100 where a pair was not scored.
            Texts are in the order of their images, or of ``dataset.text``.
        """
        context = context or EvalContext(model.device, nullcontext)
        texts = getattr(getattr(data_loader, "dataset", None), "text", None)
        with torch.inference_mode():
            _, found = self.rank(model, _with_index(data_loader), context, texts)
        return found.to_texts.matrix(), found.to_images.matrix()

    def describe(self, model: Any, batch: Batch, context: EvalContext) -> list[str]:
        """Return the best text of the whole batch for each image."""
        whole = {**batch, "index": list(range(len(batch["image_id"])))}
        pool, found = self.rank(model, [whole], context)
        best = found.to_texts.scores.argmax(1)[:, None]
        return [pool.texts[text] for text in np.take_along_axis(found.to_texts.candidates, best, 1)[:, 0]]


@dataclass
class _ImageRow:
    """An image as it is exchanged between processes."""

    index: int
    image_id: Any
    feats: np.ndarray
    texts: list[str]


def read_pool(
    model: Any,
    loader: Iterable[Batch],
    context: EvalContext,
    tokens: TensorSpool | None = None,
    max_words: int | None = None,
    texts: Sequence[str] | None = None,
) -> Pool:
    """Encode the images and texts of a set; each process encodes its share of both.

    Args:
        model: has ``image_embeds``, ``image_feats``, ``tokenize`` and ``text_feats_in_passes``.
        loader: this process's batches, with ``image`` or ``video``, ``image_id``, ``index``, and ``references`` (else
            ``text_input``) unless ``texts`` are given.
        context: of the evaluation.
        tokens: stores the image tokens; None: they are not needed.
        max_words: words of each text, preprocessed as a caption; None: texts as they are.
        texts: of the whole set, if their images are unknown; the pool's ``image_of_text`` is -1 then.

    Raises:
        DataError: there is no sample, or one has no text.
    """
    own = _encode_images(model, loader, context, tokens, texts)
    rows = sorted(context.gather(own), key=lambda row: row.index)
    if not rows:
        raise DataError(f"evaluation set {context.name!r}: none of its samples could be used.")
    if texts is None:
        _check_texts(rows, context.name)
        texts = [text for row in rows for text in row.texts]
        image_of_text = np.repeat(np.arange(len(rows)), [len(row.texts) for row in rows])
    else:
        image_of_text = np.full(len(texts), -1)
    texts = [text if max_words is None else pre_caption(text, max_words) for text in texts]
    feats = torch.from_numpy(np.stack([row.feats for row in rows])).to(context.device)
    index, image_ids = [row.index for row in rows], [row.image_id for row in rows]
    return Pool(index, image_ids, feats, texts, text_feats(model, texts, context), image_of_text)


def _encode_images(
    model: Any,
    loader: Iterable[Batch],
    context: EvalContext,
    tokens: TensorSpool | None,
    texts: Sequence[str] | None,
) -> list[_ImageRow]:
    """Return this process's images; their tokens go to ``tokens``."""
    own: list[_ImageRow] = []
    for batch in loader:
        key = "video" if "video" in batch else "image"
        visual = batch[key].to(context.device, non_blocking=True)
        frames = visual.shape[1] if key == "video" else 1
        with context.autocast():
            embeds = model.image_embeds({key: visual})
            if tokens is not None:
                tokens.add(batch["index"], _in_autocast_dtype(embeds))
            feats = model.image_feats(embeds, frames).cpu().numpy()
        own += map(_ImageRow, batch["index"], batch["image_id"], feats, _texts_of(batch, texts))
    return own


def _in_autocast_dtype(embeds: Tensor) -> Tensor:
    """Convert to the type in which autocast uses image tokens: half the memory, and no loss."""
    kind = embeds.device.type
    return embeds.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else embeds


def text_feats(model: Any, texts: Sequence[str], context: EvalContext) -> Tensor:
    """Return [T, E] features of ``texts``, which are the same in every process. Each process encodes a share of the
    unique ones with about as many tokens as any other."""
    unique, index = unique_texts(texts)
    packed = model.tokenize(unique)
    world = len(context.gather([context.rank]))
    share = np.argsort(np.asarray(packed.lengths, np.int64), kind="stable")[context.rank :: world]
    own = []
    if len(share):
        with context.autocast():
            own = [(share, model.text_feats_in_passes(packed.select(share)).cpu().numpy())]
    shares = context.gather(own)
    place = np.argsort(np.concatenate([part for part, _ in shares]))
    return torch.from_numpy(np.concatenate([feats for _, feats in shares])[place[index]]).to(context.device)


def _texts_of(batch: Batch, texts: Sequence[str] | None) -> list[list[str]]:
    """Return the texts of each image of a batch; none if ``texts`` of the whole set are given."""
    if texts is not None:
        return [[] for _ in batch["index"]]
    return batch["references"] if "references" in batch else [[text] for text in batch["text_input"]]


def _check_texts(rows: list[_ImageRow], name: str) -> None:
    without = [row.index for row in rows if not row.texts]
    if without:
        raise DataError(
            f"evaluation set {name!r}: {len(without)} samples have no text to be found by, the first is number "
            f"{without[0]}. Give each image a caption, or leave it out."
        )


def _with_index(loader: Iterable[Batch]) -> Iterator[Batch]:
    """Number the samples of a plain loader that is read by one process."""
    count = 0
    for batch in loader:
        size = len(batch["video"] if "video" in batch else batch["image"])
        index = list(range(count, count + size))
        yield {"image_id": index, **batch, "index": index}
        count += size


def _results(pool: Pool, found: Retrieved) -> dict[str, Any]:
    """Return the rank from 1 and the best answers of each query."""
    ids = pool.image_ids
    images, texts = [], []
    for row, best in enumerate(_best(found.to_texts)):
        answers = [[pool.texts[text], score] for text, score in best]
        images.append({"image_id": ids[row], "rank": int(found.ranks[0][row]) + 1, "texts": answers})
    for row, best in enumerate(_best(found.to_images)):
        answers = [[ids[image], score] for image, score in best]
        query = {"text": pool.texts[row], "image_id": ids[pool.image_of_text[row]]}
        texts.append({**query, "rank": int(found.ranks[1][row]) + 1, "images": answers})
    return {"images": images, "texts": texts}


def _best(ranking: Ranking) -> Iterator[list[tuple[int, float]]]:
    """Yield candidates and scores of each query, best first."""
    for candidates, scores in zip(ranking.candidates, ranking.scores):
        order = np.argsort(-scores, kind="stable")[:_ANSWERS_SHOWN]
        yield list(zip(candidates[order].tolist(), scores[order].tolist()))
