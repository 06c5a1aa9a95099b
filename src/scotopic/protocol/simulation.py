from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, model_validator

from scotopic.photons import FrozenModel
from scotopic.protocol.names import beside_the_file
from scotopic.protocol.plate import Plate

FaultKind = Literal[
    "snap_fails",
    "camera_hangs",
    "led_ignores",
    "led_misreports",
    "led_stays_on",
    "shutter_sticks",
    "stage_stops_short",
    "autofocus_fails",
    "device_slow",
    "disk_fills",
]


class Fault(FrozenModel):
    """Something that goes wrong on purpose."""

    kind: FaultKind
    """What goes wrong."""
    after: int = Field(default=0, ge=0)
    """How many operations of that kind still go well first."""
    times: int | None = Field(default=1, gt=0)
    """How many operations then go wrong; null means all."""
    amount: float = Field(default=0, ge=0)
    """How much: LED percent really given (led_misreports), micrometres short (stage_stops_short), seconds
    (camera_hangs, device_slow)."""
    folder: str | None = None
    """Folder on the small file system to be filled (disk_fills)."""

    @model_validator(mode="after")
    def _folder_belongs_to_disk(self) -> Self:
        if (self.kind == "disk_fills") != (self.folder is not None):
            raise ValueError("folder is needed for disk_fills, and only there")
        return self


class LifeSettings(FrozenModel):
    """Nuclei that move, grow and divide from one time point of a time lapse to the next; within one they keep still."""

    cycle_h: float = Field(default=20, gt=0, le=1000)
    """Duration of a cell cycle; its phases last in proportion to their share of cells."""
    wander_um: float = Field(default=8, ge=0, le=20)
    """How far a nucleus strays from its place, standard deviation along each axis."""


class SyntheticSpecimenSettings(FrozenModel):
    """A made-up plate of nuclei with known truth, infinite by seed.

    The defaults are the pinned specimen that every published figure names; a change of any of them is
    another specimen with another fingerprint.
    """

    kind: Literal["synthetic"] = "synthetic"
    """A made-up plate."""
    seed: int = Field(default=1, ge=0, lt=2**31)
    """Seed: another seed is another plate of the same kind."""
    nuclei_per_mm2: float = Field(default=640, gt=0, le=4000)
    """Density of nuclei in an average well."""
    well_density_spread: float = Field(default=0.3, ge=0, le=1)
    """Coefficient of variation of the density between wells."""
    empty_well_fraction: float = Field(default=0, ge=0, le=1)
    """Share of wells without cells."""
    g1_diameter_um: float = Field(default=17.8, gt=2, le=60)
    """Mean diameter of a G1 nucleus."""
    s_fraction: float = Field(default=0.08, ge=0, le=1)
    """Share of cells in S phase."""
    g2_fraction: float = Field(default=0.30, ge=0, le=1)
    """Share of cells in G2 phase."""
    mitotic_fraction: float = Field(default=0.05, ge=0, le=1)
    """Share of cells in mitosis: compact and bright."""
    dim_fraction: float = Field(default=0.05, ge=0, le=1)
    """Share of very dim nuclei."""
    dna_cv: float = Field(default=0.05, ge=0, le=0.3)
    """Coefficient of variation of the stain that a given amount of DNA binds."""
    debris_per_mm2: float = Field(default=150, ge=0)
    """Density of specks that are no nuclei."""
    haze_fraction: float = Field(default=0.35, ge=0, le=1)
    """Out-of-focus light around cells, as a fraction of the local mean of the scene."""
    background_fraction: float = Field(default=0.04, ge=0, le=1)
    """Even background of medium and plastic, as a fraction of the peak."""
    life: LifeSettings | None = None
    """Whether, and how, nuclei live on in a time lapse. Bleaching fades them in any case."""

    @model_validator(mode="after")
    def _phases_add_up(self) -> Self:
        total = self.s_fraction + self.g2_fraction + self.mitotic_fraction + self.dim_fraction
        if total > 1:
            raise ValueError(f"the fractions of S, G2, mitotic and dim cells add up to {total:.2f}, more than 1")
        return self


class ImageSpecimenSettings(FrozenModel):
    """A folder of real bright images, shared out over the wells of the plate, as the scene."""

    kind: Literal["images"]
    """A folder of images."""
    folder: Annotated[str, AfterValidator(beside_the_file)]
    """Folder of TIFF or PNG images (or with them in `images/`, and label images of the same names in `masks/`)."""
    offset_counts: float | None = Field(default=None, ge=0)
    """Counts of the source images without light; without it, their 1st percentile of all images together."""
    smooth_px: float | None = Field(default=None, ge=0, le=5)
    """Gaussian smoothing that takes the source camera's noise away; without it 1 px for 8-bit images and 0.6 px
    for 16-bit ones."""
    background_fraction: float = Field(default=0.04, ge=0, le=1)
    """Even background added, as a fraction of the peak."""
    limit: int | None = Field(default=None, gt=0)
    """Use only the first so many images, by name."""


class SlideSettings(FrozenModel):
    """A fluorescent slide, even everywhere: what cameras, lights and illumination are measured with."""

    kind: Literal["slide"]
    """An even slide."""
    brightness: float = Field(default=1, gt=0, le=100)
    """Its fluorescence; 1 is that of a bright nucleus."""


SpecimenSettings = Annotated[SyntheticSpecimenSettings | ImageSpecimenSettings | SlideSettings, Discriminator("kind")]


class SimulatorSettings(FrozenModel):
    """A microscope made of software: what lies on it and how it behaves."""

    hub: str = "Simulator"
    """Label of the simulator's hub device in the `.cfg`."""
    clock: Literal["real", "fast"] = "fast"
    """`real`: exposures and moves take their time; `fast`: as fast as the computer can."""
    seed: int = Field(default=1, ge=0, lt=2**31)
    """Seed of noise, drift and failures of the instrument (not of the specimen)."""
    specimen: SpecimenSettings = SyntheticSpecimenSettings()
    """What lies on the stage."""
    plate: Plate | None = None
    """Plate on the stage; without it the protocol's, or a 96-well plate."""
    placement: dict[str, tuple[float, float]] | None = None
    """Where the plate really lies: well -> stage position in micrometres; without it the profile's calibration."""
    camera: Literal["ccd", "scmos"] = "ccd"
    """Kind of camera: `ccd` has 6 e- of read noise, `scmos` 1.6 e- and maps of offset and gain."""
    peak_e: float = Field(default=8000, gt=0)
    """Photo-electrons of a bright interphase nucleus (replayed images: of their 99.5th percentile above background)
    at `full_light_ms` and 100 % LED."""
    full_light_ms: float = Field(default=200, gt=0)
    """Exposure at which `peak_e` is reached."""
    lamp_e_per_ms: float = Field(default=20_000, gt=0)
    """Photo-electrons of the bare field for each millisecond of the lamp through the sample at full power."""
    illumination_falloff: float = Field(default=0.3, ge=0, lt=1)
    """Loss of light from the brightest point to the farthest corner of the field."""
    psf_sigma_um: float = Field(default=0.5, ge=0.1, le=5)
    """Width of the point-spread function in focus (standard deviation)."""
    defocus_blur_um_per_um: float = Field(default=0.25, ge=0, le=5)
    """Additional blur for each micrometre out of focus."""
    focus_z_um: float = 1200
    """Height of the focus at A1."""
    tilt_um_per_mm: tuple[float, float] = (0, 0)
    """Slope of the focus along x and y of the plate."""
    drift_um: float = Field(default=0.05, ge=0, le=20)
    """Random shift between exposures (standard deviation along x and y)."""
    bleaching_per_full_exposure: float = Field(default=0.004, ge=0, lt=1)
    """Share of the fluorescence lost by `full_light_ms` at 100 % LED."""
    led_step_percent: float = Field(default=0.5, gt=0, le=50)
    """Step size of the LED."""
    led_delay_ms: float = Field(default=0.5, ge=0, le=1000)
    """Time from the opening of the shutter, or a new LED power, until the light is there."""
    led_dead_percent: float = Field(default=0, ge=0, lt=50)
    """LED power up to which there is no light at all."""
    led_curvature: float = Field(default=0, ge=-0.45, le=0.45)
    """How far the LED is from linear: of the light at half of its working range, this share is missing (negative: is more)."""
    led_settle_ms: float = Field(default=0, ge=0, le=1000)
    """Time after a new power, of which the LED says nothing, in which it gives a tenth less (with the real clock)."""
    shutter_lag_ms: float = Field(default=0, ge=0, le=1000)
    """Time that the shutter takes to let light through after it has said that it is open: exposures are so much shorter."""
    stage_um_per_s: float = Field(default=20_000, gt=0)
    """Speed of the XY stage."""
    autofocus_error_um: float = Field(default=0.2, ge=0, le=50)
    """Error of a successful autofocus (standard deviation)."""
    faults: tuple[Fault, ...] = ()
    """What goes wrong on purpose."""

    @property
    def seeds(self) -> dict[str, int]:
        """All seeds that the simulated data follow from."""
        specimen = getattr(self.specimen, "seed", None)
        return {"instrument": self.seed} | ({} if specimen is None else {"specimen": specimen})
