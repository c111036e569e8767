"""Every run file, job file and pipeline of ``projects`` names things that exist, with arguments that they take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vlkit.cli.train import file_kind
from vlkit.config.load import load_config
from vlkit.jobs.capfilt import CapFiltJob
from vlkit.jobs.train import EvaluateJob, TrainJob
from vlkit.pipeline import load_pipeline

ROOT = Path(__file__).parents[3] / "projects"
FILES = sorted(file for file in ROOT.rglob("*.yaml") if not file.name.startswith("_"))


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_it_can_be_built(file):
    if file_kind(file) == "pipeline":
        assert load_pipeline(file).stages
        return
    config = load_config(file)
    if "input" in config.data:
        job = CapFiltJob(config)
        assert list(job.file.model.models) == ["captioner", "filter"]
        assert job.file.task.build().decision.threshold == 0.5
        return
    job = (TrainJob if "train" in config.data["datasets"] else EvaluateJob)(config)
    with torch.device("meta"):
        model = job.parts.model.build()
    assert sum(p.numel() for p in model.parameters()) > 500_000
    assert job.parts.task.check() == []


def test_each_row_of_the_paper_has_a_file():
    """Tables 5 to 11 of the paper."""
    rows = ["retrieval_coco", "retrieval_flickr_zero_shot", "caption_coco", "nocaps", "vqa", "nlvr2", "visdial"]
    rows += ["msrvtt_retrieval", "msrvtt_qa", "msvd_qa"]
    assert {f"blip/eval/{row}.yaml" for row in rows} <= {str(file.relative_to(ROOT)) for file in FILES}
