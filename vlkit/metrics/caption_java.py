"""METEOR and SPICE: Java programs that come with pycocoevalcap (extra ``caption-java``)."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vlkit.metrics.base import check_positive, check_texts
from vlkit.metrics.caption import paired_captions, tokenize_captions

logger = logging.getLogger(__name__)

METEOR_JAR = "meteor/meteor-1.5.jar"
SPICE_JAR = "spice/spice-1.0.jar"
SPICE_MODELS = ("spice/lib/stanford-corenlp-3.6.0.jar", "spice/lib/stanford-corenlp-3.6.0-models.jar")


class _Unavailable(Exception):
    """Why a score cannot be had."""


def java_caption_scores(
    candidates: Mapping[Hashable, str] | Sequence[str],
    references: Mapping[Hashable, Sequence[str]] | Sequence[Sequence[str]],
    names: Sequence[str] = ("meteor", "spice"),
    timeout: float = 1800.0,
) -> tuple[dict[str, float], dict[str, str]]:
    """Scores for which Java is needed. What is not installed is skipped: nothing is downloaded, nothing hangs.

    Args:
        candidates: as for ``caption_scores``.
        references: as for ``caption_scores``.
        names: which of ``meteor`` and ``spice``.
        timeout: seconds each of them may take.

    Returns:
        The scores, 0 to 1, by name; and for each that could not be computed its name and the reason.

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
    """METEOR 1.5 of tokenized captions, aggregated over the corpus.

    Raises:
        _Unavailable: with the reason.
    """
    java, folder = _java(), _package()
    jar = _file(folder, METEOR_JAR)
    # -Dfile.encoding: by itself Java reads text in the encoding of the locale.
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
    except (OSError, ValueError) as error:  # the pipe broke, or what came is no number
        if late.is_set():
            raise _Unavailable(f"METEOR took longer than {timeout:g} seconds") from error
        raise _Unavailable(f"METEOR failed: {error}") from error
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def _meteor_dialog(
    process: subprocess.Popen[bytes], candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> float:
    """One line of statistics a caption, then the scores of all: one a caption and the last for the corpus."""
    stdin, stdout = process.stdin, process.stdout
    if stdin is None or stdout is None:
        raise ValueError("the program was started without pipes")

    def ask(*fields: str) -> None:
        stdin.write(" ||| ".join(fields).encode() + b"\n")
        stdin.flush()

    statistics = []
    for candidate, group in zip(candidates, references):
        ask("SCORE", *group, candidate)
        statistics.append(stdout.readline().decode().strip())
        if not statistics[-1]:
            raise ValueError("the program ended early")
    ask("EVAL", *statistics)
    lines = [stdout.readline() for _ in range(len(candidates) + 1)]
    return float(lines[-1])


def spice(candidates: Sequence[str], references: Sequence[Sequence[str]], timeout: float) -> float:
    """SPICE of tokenized captions, mean over the images. Its models are looked for, never downloaded.

    Raises:
        _Unavailable: with the reason.
    """
    java, folder = _java(), _package()
    jar = _file(folder, SPICE_JAR)
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


_PROGRAMS: dict[str, Callable[[Sequence[str], Sequence[Sequence[str]], float], float]] = {
    "meteor": meteor,
    "spice": spice,
}


def _java() -> str:
    java = shutil.which("java")
    if java is None:
        raise _Unavailable("java not found")
    return java


def _package() -> Path:
    """Folder of pycocoevalcap, which is not imported: its modules look for the network."""
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise _Unavailable("package not installed: pip install 'vlkit[caption-java]'")
    return Path(next(iter(spec.submodule_search_locations)))


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise _Unavailable(f"{folder / name} is missing: reinstall pycocoevalcap")
    return folder / name
