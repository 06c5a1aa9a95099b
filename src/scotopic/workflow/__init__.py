"""The one place where everything is wired together: one module for each thing that a user asks for."""

from scotopic.workflow.acquisition import STILL_MISSING, acquire, ask, light_off, progress_line, run, verify
from scotopic.workflow.job import check, fit_to_specimen, read_job
from scotopic.workflow.learning import train
from scotopic.workflow.look import snap
from scotopic.workflow.segmentation import segment, segment_run

__all__ = [
    "STILL_MISSING",
    "acquire",
    "ask",
    "check",
    "fit_to_specimen",
    "light_off",
    "progress_line",
    "read_job",
    "run",
    "segment",
    "segment_run",
    "snap",
    "train",
    "verify",
]
