"""A pipeline: a file of stages that use what earlier ones made, run one after the other or side by side."""

from vlkit.pipeline.file import PipelineFile, is_pipeline, load_pipeline
from vlkit.pipeline.parallel import ParallelPipeline
from vlkit.pipeline.pipeline import Pipeline

__all__ = ["ParallelPipeline", "Pipeline", "PipelineFile", "is_pipeline", "load_pipeline"]
