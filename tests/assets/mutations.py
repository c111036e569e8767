"""Files that are changed at random, for campaigns that look for tracebacks and hangs."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import random
import signal
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.assets.run_files import GENERATION, SIZES, caption_run, pretrain_run
from tests.assets.tars import picture, write_tar
from vlkit.cli import main
from vlkit.config.signature import signature
from vlkit.config.yamlfile import dump_yaml
from vlkit.registry import DATASETS, MODELS, PROCESSORS, TASKS
from vlkit.registry.bounds import number_spans

FULL = os.environ.get("VLKIT_CAMPAIGN") == "full"
SEED = int(os.environ.get("VLKIT_CAMPAIGN_SEED", "20251"))
LIMIT = 60
"""Most seconds of one case."""
NUMBERS = [
    *(0, -1, 1, 2, 3, 7, -5, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63), 10**9, 10**30, 10**77),
    *(0.0, -0.0, 0.1, 0.5, 0.999, 1.0, 1.5, -0.1, 1e-300, 5e-324, 1e-9, 1e9, 1e30, 1e308),
    *(float("nan"), float("inf"), float("-inf")),
]
NAMES = [
    *(
        "",
        " ",
        "\t",
        "\n",
        "x\ny",
        "null",
        "~",
        "true",
        "0",
        "1e-4",
        "nan",
        ".",
        "..",
        "/",
        "../..",
        "~",
        "~nobody-here",
    ),
    *("a" * 300, "a" * 5000, "/".join("ab" * 3000), "\u00e4\u4e2d\U0001f600", "\u202e", "\x85", "%s%d%n", "{}"),
    *("{0.__class__}", "__class__", "__init__", "con", "NUL", "-", "--help", "*", "?", "[", "***", "a.b", "a/b"),
    *("a\\b", "a:b", "'", '"', "`ls`", "$(ls)", "$HOME", "${run.seed}", "${nothing}", "${", "???", "card", "card:"),
    *("card:a/b", "card:blip_caption/none", "hf://", "hf://..", "hf://a/b@/etc", "package://", "package://vlkit/.."),
    *("data://", "data://..", "data://none", "http://", "http://[", "ftp://host/x", "s3://bucket/x", "file://"),
    *("file:///etc", "/dev/null", "/dev/stdin", "/proc", "/etc/shadow", "run.yaml", "data", "data/captions.json"),
    *("tiny", "shapes", "bert-base-uncased", "blip_caption", "image_text", "captioning"),
]
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [None], {"name": None}, {"a": {"b": 1}}, [1, "a"], {"": 1}]
LINES = [
    *("\t", "%", "&a", "*a", "<<: *a", "---", "...", "- x", "? y", "key", "key: [", "key: {", "!!int x", "!tag y"),
    *("\x00", "\ufeff"),
]


def evaluation_run(folder: Path) -> dict[str, Any]:
    """An evaluation with weights that the package holds."""
    sets = {"val": {"name": "shapes", "split": "val", "size": 4}}
    return {
        "model": {"name": "blip_caption", "type": "tiny_shapes"},
        "datasets": {"eval": sets},
        "task": {"name": "captioning", "generation": GENERATION},
        "run": {"device": "cpu", "output_dir": "out", "seed": 3, "eval_batch_size": 2, "init_from": "card"},
    }


def capfilt_job(folder: Path) -> dict[str, Any]:
    """A CapFilt job on one tar file."""
    members = [[(f"{i}.png", picture(9 * i)), (f"{i}.txt", b"a red circle")] for i in range(4)]
    write_tar(folder / "data" / "0.tar", [member for each in members for member in each])
    captioner = {"name": "blip_caption", "type": "tiny_shapes"}
    scorer = {"name": "blip_image_text_matching", "type": "tiny_shapes"}
    return {
        "model": {"name": "blip_capfilt", "captioner": captioner, "filter": scorer},
        "task": {"name": "capfilt", "generation": GENERATION, "decision": {"threshold": 0.5}, "max_words": 20},
        "input": {"path": "data/0.tar", "max_pixels": 10000, "rows_per_shard": 10, "text": "txt"},
        "run": {
            "output_dir": "job",
            "batch_size": 2,
            "device": "cpu",
            "decode_threads": 1,
            "threads": 1,
            "lease": 30.0,
        },
    }


def pipeline_file(folder: Path) -> dict[str, Any]:
    """Pre-training, then captioning from its weights."""
    train = pretrain_run(output_dir=None)
    tune = caption_run(folder, init_from="${stages.pretrain}", output_dir=None)
    return {
        "output_dir": "pipe",
        "seeds": [1, 2],
        "jobs": 1,
        "stages": [
            {"name": "pretrain", "command": "train", "config": train, "once": True},
            {"name": "caption", "command": "train", "config": tune, "set": {"run.sample_images": 0}},
        ],
        "table": [{"name": "CIDEr", "value": "caption/val/cider"}],
        "variants": {"wide": {"pretrain.model.vit.embed_dim": 32}},
    }


def training_run(folder: Path) -> dict[str, Any]:
    """Captioning with most keys written out, so that there is something to change."""
    run = caption_run(folder, seed=3, grad_accum_steps=1, monitor="val/cider", keep_checkpoints=1)
    run["optim"] |= {
        "min_lr": 0.0,
        "weight_decay": 0.05,
        "betas": [0.9, 0.99],
        "warmup": "1 steps",
        "schedule": "cosine",
    }
    run["datasets"]["train"][0] |= {"weight": 1.0, "image_processor": {"name": "blip_image_train", "image_size": 48}}
    run["model"] |= {"prompt": "a ", "max_words": 12, "label_smoothing": 0.1, "tokenizer": "shapes"}
    return run


def shapes_run(model: str, task: str, dataset: str, **sizes: Any) -> dict[str, Any]:
    """Training and evaluation of a head on the toy dataset."""
    run = pretrain_run()
    run["model"] = {"name": model, "type": "tiny", **sizes, **copy.deepcopy(SIZES)}
    run["task"] = {"name": task}
    run["datasets"]["train"] = [{"name": dataset, "split": "train", "size": 12}]
    run["datasets"]["eval"] = {"val": {"name": dataset, "split": "val", "size": 4}}
    return run


def shards_run(folder: Path) -> dict[str, Any]:
    """Captioning of web shards together with a caption file."""
    run = caption_run(folder)  # first: it writes its data unless the folder is there
    capfilt_job(folder)
    run["datasets"]["train"].append({"name": "web_shards", "path": ["data/0.tar"]})
    run["datasets"]["train"][0] |= {"image_root": "data", "format": "coco", "limit": 5, "image_ids": "rows"}
    return run


BASES = {
    "shards": shards_run,
    "vqa": lambda folder: shapes_run("blip_vqa", "vqa", "shapes_vqa"),
    "retrieval": lambda folder: shapes_run("blip_retrieval", "retrieval", "shapes", queue_size=16, embed_dim=8),
    "nlvr": lambda folder: shapes_run("blip_nlvr", "nlvr", "shapes_nlvr"),
    "dialog": lambda folder: shapes_run("blip_dialog", "visdial", "shapes_dialog"),
    "training": training_run,
    "pretraining": lambda folder: pretrain_run(),
    "evaluation": evaluation_run,
    "capfilt": capfilt_job,
    "pipeline": pipeline_file,
}


def checked(text: str | bytes, codes: tuple[int, ...] = (0, 2)) -> str:
    """What is wrong with how ``vlkit check`` takes a file: a traceback, a hang, an odd code or no message; else ""."""
    Path("run.yaml").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    out, err = io.StringIO(), io.StringIO()
    started = time.perf_counter()
    try:
        with _at_most(LIMIT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["check", "run.yaml"])
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{''.join(traceback.format_exception(error)[-6:])}"
    finally:
        seconds = time.perf_counter() - started
    message = err.getvalue()
    if code not in codes:
        return f"exit code {code}: {message}"
    if "Traceback" in message or (code == 2 and not message.startswith(("error: ", "usage: "))):
        return f"message: {message!r}"
    if code == 0 and message:
        return f"nothing is wrong, but: {message!r}"
    return f"{seconds:.0f} s" if seconds > LIMIT else ""


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def end(number: int, frame: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def mutated(base: dict[str, Any], rng: random.Random) -> str | bytes:
    """The file of ``base`` with one to three changes: keys, values, or bytes of its text."""
    data = copy.deepcopy(base)
    kinds = rng.choices(("structure", "text", "bytes"), (12, 3, 1), k=rng.choice((1, 1, 2, 3)))
    for _ in range(kinds.count("structure")):
        _change(data, rng)
    try:
        text = dump_yaml(data)
    except Exception:  # PyYAML writes no keys of these kinds
        text = dump_yaml(base)
    for _ in range(kinds.count("text")):
        text = _change_text(text, rng)
    content: str | bytes = text
    for _ in range(kinds.count("bytes")):
        raw = bytearray(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        for _ in range(rng.randint(1, 8)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        content = bytes(raw)
    return content


def _places(node: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value."""
    pairs = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    return [(node, key) for key, _ in pairs] + [place for _, value in pairs for place in _places(value)]


def _change(data: dict[str, Any], rng: random.Random) -> None:
    places = _places(data)
    if not places:
        return
    node, key = rng.choice(places)
    what = rng.choice(("delete", "odd", "odd", "odd", "number", "name", "rename", "add", "deep", "swap", "wrap"))
    if what == "delete":
        del node[key]
    elif what == "odd":
        node[key] = copy.deepcopy(rng.choice(rng.choice((NUMBERS, NAMES, OTHERS))))
    elif what in ("number", "name"):
        node[key] = rng.choice(NUMBERS if what == "number" else NAMES)
    elif what == "rename" and isinstance(node, dict):
        letters = list(str(key))
        letters.insert(rng.randrange(len(letters) + 1), rng.choice("aex_\u00e4 .1"))
        node["".join(letters)] = node.pop(key)
    elif what == "add" and isinstance(node, dict):
        node[rng.choice(NAMES)] = copy.deepcopy(rng.choice(rng.choice((NUMBERS, NAMES, OTHERS))))
    elif what == "deep":
        for _ in range(rng.choice((1, 5, 40, 60))):
            node[key] = [node[key]] if rng.random() < 0.5 else {"a": node[key]}
    elif what == "swap":
        other, place = rng.choice(places)
        node[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(node[key])
    else:
        node[key] = {"name": node[key]}


def _change_text(text: str, rng: random.Random) -> str:
    lines = text.splitlines() or [""]
    index = rng.randrange(len(lines))
    what = rng.choice(("double", "insert", "cut", "indent", "join", "drop"))
    if what == "double":
        lines.insert(index, lines[index])
    elif what == "insert":
        lines.insert(index, " " * rng.randrange(6) + rng.choice(LINES))
    elif what == "cut":
        lines = [*lines[:index], lines[index][: rng.randrange(len(lines[index]) + 1)]]
    elif what == "indent":
        lines[index] = " " * rng.randrange(5) + lines[index].lstrip()
    elif what == "join":
        lines[index] += " " + rng.choice(LINES)
    else:
        del lines[index]
    return "\n".join(lines)


def odd_value(base: dict[str, Any], rng: random.Random) -> tuple[dict[str, Any], str]:
    """``base`` with one odd number or name at a key that its parts take, whether it was written or not; and which."""
    data = copy.deepcopy(base)
    node, name, is_number = rng.choice(_keys(data))
    node[name] = rng.choice(NUMBERS if is_number else NAMES)
    return data, f"{name}={str(node[name])[:60]!r}"


def _keys(data: dict[str, Any]) -> list[tuple[dict[str, Any], str, bool]]:
    """(mapping, key, whether it is a number) for all keys that take a number or a text."""
    from vlkit.capfilt.inputs import InputOptions
    from vlkit.capfilt.job_file import JobOptions
    from vlkit.config.schema import OptimConfig, RunOptions
    from vlkit.models.generation import GenerationConfig
    from vlkit.models.med import MedConfig
    from vlkit.models.vit import VitConfig
    from vlkit.pipeline.schema import PipelineEntries

    found: list[tuple[dict[str, Any], str, bool]] = []

    def add(node: dict[str, Any], constructor: Any) -> None:
        for parameter in signature(constructor).parameters.values():
            spans = number_spans(parameter.hint)
            if spans or str in (parameter.hint, *getattr(parameter.hint, "__args__", ())):
                found.append((node, parameter.name, bool(spans)))

    def part(node: Any, registry: Any) -> None:
        if isinstance(node, dict) and node.get("name") in registry:
            found.append((node, "name", False))
            add(node, registry.get(node["name"]))
            for key, value in node.items():
                if key in ("captioner", "filter"):
                    part(value, MODELS)
                elif key.endswith("_processor"):
                    part(value, PROCESSORS)
            if registry is MODELS and node["name"] != "blip_capfilt":
                add(node.setdefault("vit", dict(SIZES["vit"]) if node.get("type") == "tiny" else {}), VitConfig)
                add(node.setdefault("med", dict(SIZES["med"]) if node.get("type") == "tiny" else {}), MedConfig)

    def run(node: dict[str, Any]) -> None:
        part(node["model"], MODELS)
        part(node["task"], TASKS)
        if node["task"]["name"] in ("captioning", "pretrain", "vqa", "capfilt"):
            add(node["task"].setdefault("generation", {}), GenerationConfig)
        for entry in [*node.get("datasets", {}).get("train", []), *node.get("datasets", {}).get("eval", {}).values()]:
            part(entry, DATASETS)
            found.append((entry, "weight", True))
        add(node["run"], JobOptions if "input" in node else RunOptions)
        if "input" in node:
            add(node["input"], InputOptions)
        elif "optim" in node:
            add(node["optim"], OptimConfig)

    if "stages" in data:
        add(data, PipelineEntries)
        for stage in data["stages"]:
            found.append((stage, "name", False))
            run(stage["config"])
    else:
        run(data)
    return found
