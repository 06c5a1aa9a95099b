from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field

from scotopic.photons import FrozenModel
from scotopic.protocol.imaging import ImagingProtocol, Site
from scotopic.protocol.plate import Plate
from scotopic.protocol.profile import PlatePlacement, fit_placement
from scotopic.protocol.simulation import SimulatorSettings

if TYPE_CHECKING:
    from scotopic.protocol.profile import MicroscopeProfile


class SimulatorSetup(FrozenModel):
    """Everything the simulated microscope must know, in one message: settings, camera frame, plate and sites.

    It is sent to the simulator's hub device as a property, so that only MMCore stands between the two.
    """

    settings: SimulatorSettings = SimulatorSettings()
    """Behaviour and specimen."""
    width_px: int = Field(default=512, gt=0)
    """Width of the camera."""
    height_px: int = Field(default=512, gt=0)
    """Height of the camera."""
    pixel_size_um: float = Field(default=0.65, gt=0)
    """Size of a pixel on the sample."""
    saturation_counts: int = Field(default=65535, gt=0, le=65535)
    """Largest value of a pixel: 4095 makes a 12-bit camera."""
    plate: Plate = Plate.model_validate("96-well")
    """Plate on the stage."""
    wells_um: dict[str, tuple[float, float]] | None = None
    """Where it really lies: well -> stage position; without it A1 is at the origin."""
    interval_h: float = Field(default=0, ge=0)
    """Time between two time points of a time lapse."""
    sites: tuple[Site, ...] = ()
    """Sites of the protocol, for specimens that are shared out over them."""

    @classmethod
    def of(cls, profile: MicroscopeProfile, protocol: ImagingProtocol | None = None) -> Self:
        """Return the set-up that a profile (and protocol) asks for.

        Raises
        ------
        ValueError
            If the profile is not one of a simulated microscope, or its calibration does not fit the plate.
        """
        settings = profile.simulator
        if settings is None:
            raise ValueError(f"the profile {profile.name!r} has no simulator section: it is not simulated")
        plate = settings.plate or (protocol.plate if protocol else None) or Plate.model_validate("96-well")
        setup = cls(
            settings=settings,
            width_px=profile.camera.width_px,
            height_px=profile.camera.height_px,
            pixel_size_um=profile.camera.pixel_size_um,
            saturation_counts=profile.camera.saturation_counts,
            plate=plate,
            wells_um=settings.placement or profile.plate_calibration,
            interval_h=protocol.time_lapse.interval_s / 3600 if protocol and protocol.time_lapse else 0,
            sites=protocol.sites_in_travel_order(profile.camera.fov_um) if protocol else (),
        )
        _ = setup.placement  # a calibration that does not fit is told here, not by a device
        return setup

    @property
    def placement(self) -> PlatePlacement:
        """Map from the plate to the stage."""
        if self.wells_um is None:
            return PlatePlacement(((1, 0, 0), (0, 1, 0)))
        return fit_placement(self.wells_um, self.plate)
