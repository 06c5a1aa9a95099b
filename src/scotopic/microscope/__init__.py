"""The hardware, through MMCore: opening a microscope, and checking it before anything moves."""

import logging

_root_level = logging.getLogger().level
import pymmcore_plus  # noqa: E402, F401

# Importing pymmcore-plus sets the root logger to DEBUG, for every library of the process: undone here, once.
logging.getLogger().setLevel(_root_level)

from scotopic.microscope.acquire import AcquireResult, Progress, acquire  # noqa: E402
from scotopic.microscope.check import CheckReport, check_files  # noqa: E402
from scotopic.microscope.core import LightOnError, close_microscope, open_microscope, switch_light_off  # noqa: E402
from scotopic.microscope.exposure import Exposure  # noqa: E402
from scotopic.microscope.hardware_check import check_hardware  # noqa: E402
from scotopic.microscope.light_guard import LightGuard  # noqa: E402
from scotopic.microscope.lock import microscope_lock  # noqa: E402
from scotopic.microscope.look import image_site  # noqa: E402
from scotopic.microscope.resume import give_up_site, prepare_run  # noqa: E402

__all__ = [
    "AcquireResult",
    "CheckReport",
    "Exposure",
    "LightGuard",
    "LightOnError",
    "Progress",
    "acquire",
    "check_files",
    "check_hardware",
    "close_microscope",
    "give_up_site",
    "image_site",
    "microscope_lock",
    "open_microscope",
    "prepare_run",
    "switch_light_off",
]
