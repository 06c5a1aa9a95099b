"""The hardware, through MMCore: opening a microscope, and checking it before anything moves."""

from scotopic.microscope.check import CheckReport, check_files, check_hardware
from scotopic.microscope.core import open_microscope, switch_light_off
from scotopic.microscope.look import image_site

__all__ = ["CheckReport", "check_files", "check_hardware", "image_site", "open_microscope", "switch_light_off"]
