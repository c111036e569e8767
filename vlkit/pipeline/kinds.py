"""The kinds of stages by the command that a pipeline file gives them."""

from __future__ import annotations

from vlkit.pipeline.stages.base import Stage
from vlkit.pipeline.stages.experiments import EvaluateStage, TrainStage

KINDS: dict[str, type[Stage]] = {kind.command: kind for kind in (TrainStage, EvaluateStage)}
