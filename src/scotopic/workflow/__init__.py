"""The one place where everything is wired together: one module for each thing that a user asks for."""

from scotopic.workflow.acquisition import acquire, ask, light_off, progress_line, retake, verify, watch
from scotopic.workflow.calibrating import (
    calibrate_camera,
    calibrate_illumination,
    calibrate_light,
    calibrate_plate,
)
from scotopic.workflow.darkness import segment_with_model
from scotopic.workflow.doctor import doctor
from scotopic.workflow.exporting import export_run, tables_into_plate
from scotopic.workflow.guarding import guard
from scotopic.workflow.importing import import_images
from scotopic.workflow.job import check, fit_to_specimen, read_job
from scotopic.workflow.learning import train
from scotopic.workflow.look import snap
from scotopic.workflow.models import export_model, export_package, model_facts
from scotopic.workflow.new_profile import new_profile
from scotopic.workflow.reporting import compare, report
from scotopic.workflow.screening import protocol_from
from scotopic.workflow.segmentation import follow_run, segment, segment_run
from scotopic.workflow.stages import stage_lines
from scotopic.workflow.validating import validate
from scotopic.workflow.viewing import view
from scotopic.workflow.whole import exit_code, run

__all__ = [
    "acquire",
    "ask",
    "calibrate_camera",
    "calibrate_illumination",
    "calibrate_light",
    "calibrate_plate",
    "check",
    "compare",
    "doctor",
    "exit_code",
    "export_model",
    "export_package",
    "export_run",
    "fit_to_specimen",
    "follow_run",
    "guard",
    "import_images",
    "light_off",
    "model_facts",
    "new_profile",
    "progress_line",
    "protocol_from",
    "read_job",
    "report",
    "retake",
    "run",
    "segment",
    "segment_run",
    "segment_with_model",
    "snap",
    "stage_lines",
    "tables_into_plate",
    "train",
    "validate",
    "verify",
    "view",
    "watch",
]
