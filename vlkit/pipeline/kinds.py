"""The kinds of stages by the command that a pipeline file gives them."""

from __future__ import annotations

from vlkit.pipeline.stages.base import Stage
from vlkit.pipeline.stages.capfilt import CapFiltStage
from vlkit.pipeline.stages.cut import CutStage
from vlkit.pipeline.stages.experiments import EvaluateStage, TrainStage
from vlkit.pipeline.stages.report import ReportStage
from vlkit.pipeline.stages.shards import ShardsStage

_CLASSES: tuple[type[Stage], ...] = (TrainStage, EvaluateStage, ShardsStage, CapFiltStage, CutStage, ReportStage)
KINDS = {kind.command: kind for kind in _CLASSES}
