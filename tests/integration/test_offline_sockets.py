"""``VLKIT_OFFLINE=1``: no dataset and no loading of weights opens a socket or looks up a name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

GUARDED = """
    import json, socket, sys, time

    opened = []

    def guarded(name):
        def refuse(*args, **kwargs):
            opened.append(f"{name}: {args[-1] if name.startswith('connect') else args[0]}")
            raise OSError("a socket is opened")
        return refuse

    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
        setattr(socket, name, guarded(name))
    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, guarded(name))

    def attempt(label, action):
        opened.clear()
        start = time.monotonic()
        try:
            said = f"{len(action())} samples"
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        results[label] = {"said": said, "opened": list(opened)}

    results = {}
"""
LOCAL = {"image_text", "image_question", "image_pair", "visdial", "video_text", "video_question"}
FAR = "https://example.invalid/files/a.json"


def guarded_run(body: str, folder: Path, imported_before: bool = False, **environment: str) -> dict[str, dict]:
    """What a fresh process says to each attempt, and the sockets that it opened meanwhile."""
    first = "import datasets, huggingface_hub" if imported_before else ""
    code = "\n".join([first, textwrap.dedent(GUARDED), textwrap.dedent(body), "print(json.dumps(results))"])
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    places = {"HF_HOME": str(folder / "hf"), "VLKIT_CACHE": str(folder / "cache"), "VLKIT_DATA": str(folder / "data")}
    given = {**clean, **places, "VLKIT_OFFLINE": "1", **environment}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("imported_before", [False, True])
def test_the_packages_of_hugging_face_stay_offline(tmp_path, imported_before):
    pytest.importorskip("datasets").Dataset.from_dict({"image": ["a.jpg"], "caption": ["x"]}).to_parquet(
        str(tmp_path / "a.parquet")
    )
    (tmp_path / "folder" / "train").mkdir(parents=True)
    (tmp_path / "folder" / "train" / "metadata.csv").write_text("file_name,text\n0.png,x\n")
    (tmp_path / "folder" / "train" / "0.png").write_bytes(b"")
    body = f"""
        from vlkit.datasets.hf import HuggingFaceDataset
        for path in ("owner/name", "single_name", {str(tmp_path / "a.parquet")!r}, {str(tmp_path / "folder")!r}):
            attempt(path, lambda: HuggingFaceDataset(path, image_processor=str))
        attempt("part", lambda: HuggingFaceDataset("owner/name", part="train[:10]", subset="x", image_processor=str))
    """
    found = guarded_run(body, tmp_path, imported_before)
    assert {label: each["opened"] for label, each in found.items() if each["opened"]} == {}
    assert found[str(tmp_path / "a.parquet")]["said"] == found[str(tmp_path / "folder")]["said"] == "1 samples"
    for label in ("owner/name", "single_name", "part"):
        said = found[label]["said"]
        assert said.startswith("DataError: ")
        assert "VLKIT_OFFLINE" in said
        assert f"cache of the Hugging Face hub ({tmp_path / 'hf' / 'datasets'})" in said
        assert "save_to_disk('FOLDER')" in said


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict]:
    """Attempts with addresses in place of paths, and with all cards and an empty data folder."""
    body = f"""
        from vlkit import list_datasets, list_models, load_dataset, load_model
        from vlkit.registry import DATASETS
        from vlkit.jobs.models import from_name
        from vlkit.models.weights.load import from_path
        far = {FAR!r}
        for kind in DATASETS.names():
            if "shapes" not in kind:
                attempt(f"kind {{kind}}", lambda: DATASETS.get(kind)(path=far, image_processor=str))
        attempt("answers", lambda: DATASETS.get("image_question")(path=far, answer_list=far, image_processor=str))
        attempt("hub file", lambda: DATASETS.get("image_text")(path="hf://owner/name", image_processor=str))
        attempt("store", lambda: DATASETS.get("image_text")(path="s3://bucket/a.json", image_processor=str))
        for card in list_datasets():
            if "shapes" not in card and card not in DATASETS:
                attempt(f"card {{card}}", lambda: load_dataset(card))
        for name, types in list_models():
            attempt(f"weights {{name}}", lambda: [from_name(f"card:{{name}}/{{kind}}").file() for kind in types[:1]])
        for source in ("hf://owner/name", "hf://owner/name@main", "https://example.invalid/a.pth", "s3://bucket/a.pth"):
            attempt(f"weights {{source}}", lambda: from_path(source))
        attempt("weights load", lambda: load_model("blip_caption", "base_coco"))
        attempt("weights own", lambda: load_model("blip_caption", "base_coco", checkpoint="hf://owner/name"))
    """
    folder = tmp_path_factory.mktemp("offline")
    return guarded_run(body, folder, TORCH_HOME=str(folder / "torch"))


def test_no_kind_and_no_card_of_dataset_opens_a_socket(found):
    assert {label: each["opened"] for label, each in found.items() if each["opened"]} == {}
    assert LOCAL | {"web_shards", "hf_dataset"} <= {label.removeprefix("kind ") for label in found}
    assert sum(label.startswith("card ") for label in found) >= 10
    for label, each in found.items():
        if not label.startswith("weights"):
            assert each["said"].partition(":")[0] in ("DataError", "ConfigError", "VlkitError"), (label, each)
    for kind in LOCAL:
        assert "put it at" in found[f"kind {kind}"]["said"], found[f"kind {kind}"]


def test_no_loading_of_weights_opens_a_socket(found):
    assert sum(label.startswith("weights ") for label in found) >= 10
    for label in ("hf://owner/name", "https://example.invalid/a.pth", "load", "own"):
        assert "VLKIT_OFFLINE" in found[f"weights {label}"]["said"], found[f"weights {label}"]
