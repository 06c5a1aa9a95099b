"""A microscope made of software: specimen, optics, camera, stages, faults; loaded by MMCore like a real one."""

from scotopic.simulator.cameras import NOISE as CAMERA_NOISE
from scotopic.simulator.instrument import Instrument, make_specimen
from scotopic.simulator.replay import ImageSpecimen
from scotopic.simulator.specimen import Field, Specimen, Truth
from scotopic.simulator.synthetic import SyntheticSpecimen

__all__ = [
    "CAMERA_NOISE",
    "Field",
    "ImageSpecimen",
    "Instrument",
    "Specimen",
    "SyntheticSpecimen",
    "Truth",
    "make_specimen",
]
