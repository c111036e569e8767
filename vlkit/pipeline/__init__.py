"""Pipelines: stages of jobs with references, run in order or in parallel, skipped when finished, resumed otherwise."""

from vlkit.pipeline.file import PipelineFile, load_pipeline
from vlkit.pipeline.parallel import ParallelPipeline
from vlkit.pipeline.pipeline import Pipeline

__all__ = ["ParallelPipeline", "Pipeline", "PipelineFile", "load_pipeline"]
