"""What to image and with what: protocols and microscope profiles, as pure models."""

from scotopic.protocol.dose import LightSetting, full_light_ms, relative_dose, setting_for
from scotopic.protocol.files import Problem, ProblemsError, read_model
from scotopic.protocol.focus import FixedFocus, HardwareFocus, PlaneFocus, fit_plane
from scotopic.protocol.imaging import ImagingProtocol, Site, TimeLapse, ZStack
from scotopic.protocol.levels import LightLevel
from scotopic.protocol.light_source import LightSource, PropertySetting, same_property
from scotopic.protocol.live import LiveSettings, Rules, Sentinels
from scotopic.protocol.names import did_you_mean, rounded
from scotopic.protocol.nuclei import NucleiSettings, QualityGate, SegmentationSettings
from scotopic.protocol.plate import Plate, expand_wells, spread_wells
from scotopic.protocol.profile import (
    LIGHT_LEVEL_GROUP,
    Camera,
    LightGating,
    MicroscopeProfile,
    PlatePlacement,
    Stage,
    fit_placement,
)
from scotopic.protocol.simulation import (
    Fault,
    ImageSpecimenSettings,
    SimulatorSettings,
    SlideSettings,
    SyntheticSpecimenSettings,
)
from scotopic.protocol.sites import RandomSites, SiteGrid
from scotopic.protocol.training import TrainingSettings
from scotopic.protocol.validation import LEAST_WELLS, Tolerances, ValidationSettings

__all__ = [
    "LEAST_WELLS",
    "LIGHT_LEVEL_GROUP",
    "Camera",
    "Fault",
    "FixedFocus",
    "HardwareFocus",
    "ImageSpecimenSettings",
    "ImagingProtocol",
    "LightGating",
    "LightLevel",
    "LightSetting",
    "LightSource",
    "LiveSettings",
    "MicroscopeProfile",
    "NucleiSettings",
    "PlaneFocus",
    "Plate",
    "PlatePlacement",
    "Problem",
    "ProblemsError",
    "PropertySetting",
    "QualityGate",
    "RandomSites",
    "Rules",
    "SegmentationSettings",
    "Sentinels",
    "SimulatorSettings",
    "Site",
    "SiteGrid",
    "SlideSettings",
    "Stage",
    "SyntheticSpecimenSettings",
    "TimeLapse",
    "Tolerances",
    "TrainingSettings",
    "ValidationSettings",
    "ZStack",
    "did_you_mean",
    "expand_wells",
    "fit_placement",
    "fit_plane",
    "full_light_ms",
    "read_model",
    "relative_dose",
    "rounded",
    "same_property",
    "setting_for",
    "spread_wells",
]
