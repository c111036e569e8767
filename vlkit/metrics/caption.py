"""Caption metrics equal to those of pycocoevalcap 1.2, which published figures use.

BLEU, ROUGE-L and CIDEr-D are computed here. METEOR and SPICE run the Java programs of pycocoevalcap (extra
``caption-java``).

``bleu``, ``rouge_l`` and ``cider_d`` take text that ``ptb_tokenize`` has prepared (tokens joined by one space);
``caption_scores`` and ``java_caption_scores`` take raw captions.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import shutil
import subprocess
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlkit.metrics.base import check_positive, check_texts, paired_captions
from vlkit.metrics.ptb import ptb_tokenize

logger = logging.getLogger(__name__)
METEOR_JAR = "meteor/meteor-1.5.jar"
SPICE_JAR = "spice/spice-1.0.jar"
SPICE_MODELS = ("spice/lib/stanford-corenlp-3.6.0.jar", "spice/lib/stanford-corenlp-3.6.0-models.jar")
MAX_N = 4
Counts = list[Counter[tuple[str, ...]]]


def caption_scores(
    candidates: Mapping[Hashable, str] | Sequence[str],
    references: Mapping[Hashable, Sequence[str]] | Sequence[Sequence[str]],
) -> dict[str, float]:
    """Score one caption of each image against its references, after PTB tokenization.

    Args:
        candidates: image id to caption, or captions in the order of ``references``.
        references: image id to its captions, at least one each; the same ids as ``candidates``.

    Returns:
        ``bleu_1`` to ``bleu_4`` and ``rouge_l``, 0 to 1, and ``cider``, 0 to 10. CIDEr weighs words by how few images
        they occur in, so it needs a set of images; it is 0 for a single one.

    Raises:
        DataError: no captions, other ids, or something that is not text.
    """
    texts, groups = paired_captions(candidates, references)
    tokens, reference_tokens = tokenize_captions(texts, groups)
    bleus, _ = bleu(tokens, reference_tokens)
    scores = {f"bleu_{n}": float(value) for n, value in enumerate(bleus, start=1)}
    scores["rouge_l"] = rouge_l(tokens, reference_tokens)[0]
    scores["cider"] = cider_d(tokens, reference_tokens)[0]
    return scores


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Compute BLEU-1 to BLEU-4; brevity is relative to the reference of the closest length (of equals the shorter).

    Args:
        candidates: N tokenized captions.
        references: N lists of tokenized captions.

    Returns:
        BLEU-1 to BLEU-4 of the corpus [4] and of each image [N, 4], 0 to 1.

    Raises:
        DataError: as ``caption_scores``.
    """
    candidates, references = paired_captions(candidates, references)
    correct = np.zeros((len(candidates), MAX_N))
    guessed = np.zeros((len(candidates), MAX_N))
    lengths = np.zeros((len(candidates), 2))  # of the candidate, of its closest reference
    for i, (candidate, group) in enumerate(zip(candidates, references, strict=True)):
        words, split_group = candidate.split(), [reference.split() for reference in group]
        length = len(words)
        lengths[i] = length, min((len(r) for r in split_group), key=lambda n: (abs(n - length), n))
        guessed[i] = [max(0, length - n) for n in range(MAX_N)]
        group_counts = [_count(reference) for reference in split_group]
        for n, counter in enumerate(_count(words)):
            correct[i, n] = sum(min(c, max(r[n][gram] for r in group_counts)) for gram, c in counter.items())
    return _bleu(correct.sum(0), guessed.sum(0), lengths.sum(0)), _bleu(correct, guessed, lengths)


def _bleu(correct: np.ndarray, guessed: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    # The two constants, of pycocoevalcap, keep empty captions finite; they show in the ninth decimal.
    precision = np.cumprod((correct + 1e-15) / (guessed + 1e-9), axis=-1)
    ratio = (lengths[..., 0] + 1e-15) / (lengths[..., 1] + 1e-9)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return precision ** (1 / np.arange(1, MAX_N + 1)) * brevity[..., None]


def rouge_l(
    candidates: Sequence[str], references: Sequence[Sequence[str]], beta: float = 1.2
) -> tuple[float, np.ndarray]:
    """Compute the F-measure of the longest common subsequence; best precision and best recall over the references.

    Args:
        candidates: N tokenized captions.
        references: N lists of tokenized captions.
        beta: weight of recall.

    Returns:
        The mean, and the score of each image [N], 0 to 1.

    Raises:
        DataError: as ``caption_scores``, or ``beta`` is not above 0.
    """
    candidates, references = paired_captions(candidates, references)
    beta = check_positive("rouge_l", "beta", beta)
    scores = np.zeros(len(candidates))
    for i, (candidate, group) in enumerate(zip(candidates, references, strict=True)):
        words = candidate.split(" ")  # as pycocoevalcap: an empty caption is one empty word
        places: dict[str, int] = {}
        for j, word in enumerate(words):
            places[word] = places.get(word, 0) | 1 << j
        split_group = [reference.split(" ") for reference in group]
        common = [_common_subsequence(places, len(words), reference) for reference in split_group]
        precision = max(common) / len(words)
        recall = max(c / len(reference) for c, reference in zip(common, split_group))
        if precision and recall:
            scores[i] = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    return float(scores.mean()), scores


def _common_subsequence(places: Mapping[str, int], length: int, other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence; a row of the usual table is the bits of one integer.

    Args:
        places: word to the bits of its positions in the first sequence.
        length: of the first sequence.
        other: the second sequence.
    """
    row = full = (1 << length) - 1
    for word in other:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return length - row.bit_count()


def cider_d(
    candidates: Sequence[str], references: Sequence[Sequence[str]], sigma: float = 6.0
) -> tuple[float, np.ndarray]:
    """Compute CIDEr-D: similarity of n-gram counts (n from 1 to 4), weighted by rarity. Source: Vedantam et al., arXiv
    1411.5726. Document frequencies are those of ``references``.

    Args:
        candidates: N tokenized captions.
        references: N lists of tokenized captions.
        sigma: width of the penalty on a difference in length, in words.

    Returns:
        The mean, and the score of each image [N], 0 to 10.

    Raises:
        DataError: as ``caption_scores``, or ``sigma`` is not above 0.
    """
    candidates, references = paired_captions(candidates, references)
    sigma = check_positive("cider_d", "sigma", sigma)
    counts = [[_count(reference.split()) for reference in group] for group in references]
    weights = _squared_rarity(counts)
    scores = np.zeros(len(candidates))
    for i, (candidate, group) in enumerate(zip(candidates, counts, strict=True)):
        counter = _count(candidate.split())
        norms, pairs = _norms(counter, weights), sum(counter[1].values())
        total = 0.0
        for reference in group:
            # pycocoevalcap counts the length in pairs of words, so captions of no and of one word are equal
            penalty = math.exp(-((pairs - sum(reference[1].values())) ** 2) / (2 * sigma**2))
            for own, other, norm, other_norm in zip(counter, reference, norms, _norms(reference, weights)):
                shared = [gram for gram in own if gram in other]  # a list: sums must not depend on hashes
                product = sum(min(own[gram], other[gram]) * other[gram] * weights[gram] for gram in shared)
                total += penalty * product / (norm * other_norm or 1.0)
        scores[i] = 10 * total / MAX_N / len(group)
    return float(scores.mean()), scores


def _squared_rarity(counts: Sequence[Sequence[Counts]]) -> defaultdict[tuple[str, ...], float]:
    """Return log(images / images whose references have it)² for each n-gram; an unseen one counts as in one image."""
    frequency: Counter[tuple[str, ...]] = Counter()
    for group in counts:
        frequency.update(set().union(*(counter for reference in group for counter in reference)))
    unseen = math.log(len(counts))
    weights = {gram: (unseen - math.log(number)) ** 2 for gram, number in frequency.items()}
    return defaultdict(lambda: unseen**2, weights)


def _norms(counts: Counts, weights: Mapping[tuple[str, ...], float]) -> list[float]:
    """Return the length of the weighted n-gram vector for each n."""
    return [math.sqrt(sum(c * c * weights[gram] for gram, c in counter.items())) for counter in counts]


def _count(words: Sequence[str]) -> Counts:
    return [Counter(zip(*(words[i:] for i in range(n)))) for n in range(1, MAX_N + 1)]


def tokenize_captions(texts: Sequence[str], groups: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Tokenize candidates and their references."""
    return ptb_tokenize(texts), [ptb_tokenize(group) for group in groups]


class _Unavailable(Exception):
    """A score cannot be computed; the message is the reason."""


def java_caption_scores(
    candidates: Mapping[Hashable, str] | Sequence[str],
    references: Mapping[Hashable, Sequence[str]] | Sequence[Sequence[str]],
    names: Sequence[str] = ("meteor", "spice"),
    timeout: float = 1800.0,
) -> tuple[dict[str, float], dict[str, str]]:
    """Compute the scores that need Java. If a program is not installed or takes too long, its score is skipped; nothing
    is downloaded.

    Args:
        candidates: as for ``caption_scores``.
        references: as for ``caption_scores``.
        names: any of ``meteor`` and ``spice``.
        timeout: seconds for each of them.

    Returns:
        The scores, 0 to 1, by name; and the reason for each name that could not be computed.

    Raises:
        DataError: captions that cannot be scored (as ``caption_scores``), ``names`` that are no list of texts, or a
            ``timeout`` that is not above 0.
    """
    texts, groups = paired_captions(candidates, references)
    tokens, reference_tokens = tokenize_captions(texts, groups)
    names = check_texts("java_caption_scores", "names", names, empty=True)
    timeout = check_positive("java_caption_scores", "timeout", timeout)
    scores: dict[str, float] = {}
    skipped: dict[str, str] = {}
    for name in names:
        program = _PROGRAMS.get(name)
        if program is None:
            skipped[name] = f"no such score; known: {', '.join(_PROGRAMS)}"
            continue
        try:
            scores[name] = program(tokens, reference_tokens, timeout)
        except _Unavailable as reason:
            skipped[name] = str(reason)
            logger.warning("%s is skipped: %s", name, reason)
    return scores, skipped


def meteor(candidates: Sequence[str], references: Sequence[Sequence[str]], timeout: float) -> float:
    """Compute METEOR 1.5 of tokenized captions, aggregated over the corpus."""
    java, jar = _java_program(METEOR_JAR)
    # -Dfile.encoding: the default is the encoding of the locale.
    command = [java, "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    process = subprocess.Popen(
        command, cwd=jar.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    watchdog = threading.Timer(timeout, stop)
    watchdog.start()
    try:
        return _meteor_dialog(process, candidates, references)
    except (OSError, ValueError) as error:  # the pipe broke, or the answer is not a number
        if late.is_set():
            raise _Unavailable(f"METEOR took longer than {timeout:g} seconds") from error
        raise _Unavailable(f"METEOR failed: {error}") from error
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def _meteor_dialog(process: Any, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Request a line of statistics for each caption, then the scores: of each caption and last of the corpus."""

    def ask(*fields: str) -> None:
        process.stdin.write(" ||| ".join(fields).encode() + b"\n")
        process.stdin.flush()

    statistics = []
    for candidate, group in zip(candidates, references):
        ask("SCORE", *group, candidate)
        statistics.append(process.stdout.readline().decode().strip())
        if not statistics[-1]:
            raise ValueError("the program ended early")
    ask("EVAL", *statistics)
    return float([process.stdout.readline() for _ in range(len(candidates) + 1)][-1])


def spice(candidates: Sequence[str], references: Sequence[Sequence[str]], timeout: float) -> float:
    """Compute SPICE of tokenized captions, mean over the images. Its models are never downloaded."""
    java, jar = _java_program(SPICE_JAR)
    folder = _package()
    missing = [Path(name).name for name in SPICE_MODELS if not (folder / name).is_file()]
    if missing:
        raise _Unavailable(
            f"SPICE model missing: {', '.join(missing)} (nothing is downloaded, this works offline). Put the files of "
            f"Stanford CoreNLP 3.6.0 into {folder / 'spice' / 'lib'}"
        )
    images = [
        {"image_id": i, "test": text, "refs": list(group)}
        for i, (text, group) in enumerate(zip(candidates, references))
    ]
    with tempfile.TemporaryDirectory() as scratch:
        given, result = Path(scratch) / "captions.json", Path(scratch) / "scores.json"
        given.write_text(json.dumps(images))
        command = [java, "-Xmx8G", "-jar", jar.name, str(given), "-out", str(result), "-silent"]
        try:
            subprocess.run(
                command, cwd=jar.parent, timeout=timeout, check=True, stdin=subprocess.DEVNULL, capture_output=True
            )
            values = [image["scores"]["All"]["f"] for image in json.loads(result.read_text())]
        except subprocess.TimeoutExpired as error:
            raise _Unavailable(f"SPICE took longer than {timeout:g} seconds") from error
        except (OSError, subprocess.CalledProcessError, ValueError, KeyError, TypeError) as error:
            raise _Unavailable(f"SPICE failed: {type(error).__name__}: {error}") from error
    return float(np.mean(values))


_PROGRAMS: dict[str, Callable[..., float]] = {"meteor": meteor, "spice": spice}


def _java_program(name: str) -> tuple[str, Path]:
    """Return the paths of java and of pycocoevalcap's archive ``name``."""
    java = shutil.which("java")
    if java is None:
        raise _Unavailable("java not found")
    jar = _package() / name
    if not jar.is_file():
        raise _Unavailable(f"{jar} is missing: reinstall pycocoevalcap")
    return java, jar


def _package() -> Path:
    """Return the folder of pycocoevalcap without importing it, since its modules access the network."""
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise _Unavailable("package not installed: pip install 'vlkit[caption-java]'")
    return Path(next(iter(spec.submodule_search_locations)))
