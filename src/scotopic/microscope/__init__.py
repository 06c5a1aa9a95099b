"""The hardware, through MMCore: opening a microscope, and checking it before anything moves."""

import logging

_root_level = logging.getLogger().level
import pymmcore_plus  # noqa: E402, F401

# Importing pymmcore-plus sets the root logger to DEBUG, for every library of the process: undone here, once.
logging.getLogger().setLevel(_root_level)
# Its runner tells what it cancels with all positions of a plate; what matters of that is told here, in a line. Nothing else of it is hidden.
logging.getLogger("pymmcore-plus").addFilter(lambda record: not record.getMessage().startswith("MDA Canceled"))

from scotopic.microscope.acquire import AcquireResult, Progress, acquire  # noqa: E402
from scotopic.microscope.check import CheckReport, check_files  # noqa: E402
from scotopic.microscope.core import (  # noqa: E402
    LightOnError,
    close_microscope,
    load_config,
    open_microscope,
    switch_light_off,
)
from scotopic.microscope.exposure import Exposure  # noqa: E402
from scotopic.microscope.hardware_check import check_hardware  # noqa: E402
from scotopic.microscope.light_guard import LightGuard  # noqa: E402
from scotopic.microscope.lock import MicroscopeTakenError, config_lock, driven_by, microscope_lock  # noqa: E402
from scotopic.microscope.look import image_site  # noqa: E402
from scotopic.microscope.new_profile import look_at_hardware, profile_text  # noqa: E402
from scotopic.microscope.resume import give_up_site, prepare_run  # noqa: E402

__all__ = [
    "AcquireResult",
    "CheckReport",
    "Exposure",
    "LightGuard",
    "LightOnError",
    "MicroscopeTakenError",
    "Progress",
    "acquire",
    "check_files",
    "check_hardware",
    "close_microscope",
    "config_lock",
    "driven_by",
    "give_up_site",
    "image_site",
    "load_config",
    "look_at_hardware",
    "microscope_lock",
    "open_microscope",
    "prepare_run",
    "profile_text",
    "switch_light_off",
]
