"""What README shows does run: its plugin, its own-data file, its Python calls."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.assets.make_data import coco_file
from vlkit.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PYTHON = (ROOT / "docs" / "python.md").read_text()


def block(kind: str, having: str, page: str = README) -> str:
    """The code block of that language in ``page`` that holds ``having``."""
    found = [text for text in re.findall(rf"```{kind}\n(.*?)```", page, re.S) if having in text]
    assert len(found) == 1, f"{len(found)} {kind} blocks with {having!r}"
    return found[0]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_plugin_learns(folder):
    (folder / "brightness.py").write_text(block("python", "# brightness.py"))
    (folder / "run.yaml").write_text(block("yaml", "brightness.py"))
    assert main(["train", "run.yaml", "--output", "there"]) == 0
    result = json.loads((folder / "there" / "result.json").read_text())
    assert result["metrics"]["val/error"] < 0.1  # a constant guess is off by 0.25


def test_own_captions(folder):
    """The run of README on a file made here, with the small model in the place of the released one."""
    for name, seed in (("captions_train", 0), ("captions_val", 1)):
        made = coco_file(folder / name, count=8, seed=seed)
        made.rename(folder / f"{name}.json")
        (folder / "images").mkdir(exist_ok=True)
        for image in (folder / name / "images").iterdir():
            image.rename(folder / "images" / f"{name}_{image.name}")
        data = json.loads((folder / f"{name}.json").read_text())
        for image in data["images"]:
            image["file_name"] = f"{name}_{Path(image['file_name']).name}"
        (folder / f"{name}.json").write_text(json.dumps(data))
    run = yaml.safe_load(block("yaml", "captions_train.json"))
    run["model"]["type"] = "tiny"
    del run["run"]["init_from"]
    run["run"] |= {"max_epochs": 1, "batch_size": 8, "sample_images": 2}
    (folder / "mine.yaml").write_text(yaml.safe_dump(run))
    assert main(["check", "mine.yaml"]) == 0
    assert main(["train", "mine.yaml", "optim.lr=2e-5"]) == 0
    assert (folder / "output" / "mine" / "samples.png").is_file()
    assert main(["evaluate", "mine.yaml", "optim.lr=2e-5"]) == 0


def test_the_calls_of_all_heads():
    """They print what README and docs/python.md say."""
    from vlkit import load_model

    names = {
        "vqa": "blip_vqa",
        "matcher": "blip_image_text_matching",
        "features": "blip_feature_extractor",
        "nlvr": "blip_nlvr",
        "dialog": "blip_dialog",
    }
    known = {name: load_model(model, "tiny_shapes", is_eval=True) for name, model in names.items()}
    for code in (block("python", "load_model_and_preprocess("), block("python", "vqa.predict_answers", PYTHON)):
        exec(code, known)
        for line in code.splitlines():
            call, _, shown = line.partition('  # ["')
            if shown:
                assert eval(call, known) == json.loads(f'["{shown}'), line
    assert len(known["session"].history) == 1


def test_commands_named_are_there():
    from vlkit.cli import COMMANDS

    missing = [name for name in COMMANDS if not re.search(rf"\bvlkit {name}\b", README)]
    assert not missing


def test_it_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 150
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []
