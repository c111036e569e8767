"""``vlkit check --images all`` decodes every image; the default says how many it decoded."""

from __future__ import annotations

import json

from tests.assets.run_files import caption_run, fails, write
from vlkit.cli import main


def test_check_says_how_many_images_it_decoded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = caption_run(tmp_path)
    files = sorted((tmp_path / "data" / "images").iterdir())
    rows = []
    for i in range(40):
        (tmp_path / "data" / f"{i}.png").write_bytes(files[i % len(files)].read_bytes())
        rows.append({"image": f"{i}.png", "caption": "a red square"})
    (tmp_path / "data" / "captions.json").write_text(json.dumps(rows))
    file = write(tmp_path / "run.yaml", run)
    said = "train.0: decoded 16 of 40 images, eval.val: decoded 16 of 40 images; --images all decodes every one"
    assert main(["check", file]) == 0
    assert said in capsys.readouterr().out
    for i in (1, 3, 11):  # not among the 16
        (tmp_path / "data" / f"{i}.png").write_bytes(b"no picture")
    assert main(["check", file]) == 0
    assert said in capsys.readouterr().out
    message = fails(capsys, "check", file, "--images", "all")
    for i in (1, 3, 11):
        assert f"the image data/{i}.png cannot be used: not an image file" in message
    assert main(["check", file, "--images", "all", "run.bad_samples=skip"]) == 0
    out = capsys.readouterr().out
    assert "train.0: decoded 40 of 40 images (3 cannot be used), eval.val: decoded 40 of 40 images (3 cannot" in out
    assert "--images all" not in out.split("nothing wrong")[1]
