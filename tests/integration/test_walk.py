"""``python -m benchmarks walk`` lists the files that a journey enters."""

import pytest

from benchmarks.__main__ import main

ENTERED = {
    "generate": {"models/blip/caption.py", "models/vit.py"},
    "pretrain": {"jobs/train.py", "runner/train_step.py", "models/blip/pretrain.py", "tasks/pretrain.py"},
    "retrieval": {"runner/evaluation.py", "tasks/reranking.py", "metrics/retrieval.py"},
    "capfilt": {"capfilt/decision.py", "models/blip/capfilt.py"},
}


@pytest.mark.parametrize("journey", ENTERED)
def test_the_files_of_a_journey(journey, capsys):
    assert main(["walk", journey, "--list"]) == 0
    out, err = capsys.readouterr()
    files = {line.strip() for line in out.splitlines() if line.endswith(".py")}
    assert ENTERED[journey] <= files
    assert f"{journey}: {len(files)} files" in err
    assert not any(file.startswith("cli/") for file in files) or journey != "generate"
