from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal

import useq
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from scotopic.photons import FrozenModel
from scotopic.protocol.focus import FixedFocus, Focus, HardwareFocus, PlaneFocus
from scotopic.protocol.levels import LightLevel
from scotopic.protocol.live import LiveSettings
from scotopic.protocol.nuclei import NucleiSettings
from scotopic.protocol.plate import Plate, expand_wells, spread_wells
from scotopic.protocol.profile import LIGHT_LEVEL_GROUP, MicroscopeProfile
from scotopic.protocol.sites import SiteGrid, Sites
from scotopic.protocol.training import TrainingSettings
from scotopic.protocol.validation import ValidationSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def _inputs(levels: Sequence[LightLevel], channel: str, names: Sequence[str]) -> tuple[LightLevel, ...]:
    """Return the levels of these names, or those of the channel."""
    known = {level.name: level for level in levels}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{', '.join(unknown)} not among light_levels; there are: {', '.join(known)}")
    chosen = tuple(known[name] for name in dict.fromkeys(names)) or tuple(
        level for level in levels if (level.channel or channel) == channel
    )
    if len(channels := {level.channel or channel for level in chosen}) > 1:
        raise ValueError(f"must be of one channel, not of {' and '.join(sorted(channels))}")
    return chosen


def _joined(value: object) -> object:
    """Accept a list of wells as well as one line."""
    return ", ".join(value) if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value) else value


Wells = Annotated[str, BeforeValidator(_joined, json_schema_input_type=str | list[str])]
Label = str | bool | int | float


class ZStack(FrozenModel):
    """Several heights around the focus."""

    planes: int = Field(gt=1, le=1000)
    """Number of heights."""
    step_um: float = Field(gt=0, le=1000)
    """Distance between heights in micrometres."""


class TimeLapse(FrozenModel):
    """The whole plate again and again."""

    count: int = Field(gt=0, le=1_000_000)
    """Number of time points."""
    interval_s: float = Field(ge=0, le=10_000_000)
    """Time between the starts of two time points in seconds; 0 means at once."""


@dataclass(frozen=True)
class Site:
    """One field of view: where it is on the plate."""

    well: str
    index: int
    """Number of the site in its well; it does not depend on the order of visits."""
    plate_x_um: float
    """Distance from A1 along the columns."""
    plate_y_um: float
    """Distance from A1 down the rows."""
    grid_row: int | None = None
    grid_column: int | None = None

    @property
    def name(self) -> str:
        """Well and site number, for example `B03`'s third site is `B3_2`."""
        return f"{self.well}_{self.index}"


class ImagingProtocol(FrozenModel):
    """What to image, and with which light."""

    name: str = Field(min_length=1, max_length=100)
    """Name of the experiment."""
    description: str = ""
    """What it is for."""
    plate_id: str | None = Field(default=None, min_length=1, max_length=100)
    """Barcode or name of this very plate, if it has one: a model remembers which plates it has seen."""
    plate: Plate
    """Plate format: a name such as `96-well`, an Opentrons labware file, or its measures."""
    wells: Wells
    """Wells to image: names and ranges such as `A1:H12` or `B2, C3:C6`."""
    exclude: Wells = ""
    """Wells to leave out of these."""
    held_out: int | Wells = 0
    """Wells that are never trained on: their names, or a number of wells spread evenly over the plate."""
    labels: dict[str, dict[str, Label]] = Field(default={})
    """Free labels of wells (condition, dose, ...): wells -> name -> value."""
    sites: Sites = SiteGrid()
    """Fields of view in each well: `rows`, `columns` and `overlap_percent`, or `random` and `seed`."""
    channel: str = Field(min_length=1)
    """Channel, by its name in the microscope profile's `light_sources`."""
    light_levels: tuple[LightLevel, ...] = Field(min_length=1)
    """Light levels of which each site gets one image; exactly one is the reference."""
    exposure_order: Literal["dimmest_first", "brightest_first", "as_listed"] = "dimmest_first"
    """Order of the exposures at a site. Dimmest first: bleaching by the bright one cannot touch the dim images, and
    to repeat an interrupted site costs next to no light. Levels of other channels come before, brightest first after."""
    z_stack: ZStack | None = None
    """Several heights at each site."""
    time_lapse: TimeLapse | None = None
    """Repeat the whole plate."""
    light_budget_s: float | None = Field(default=None, gt=0)
    """Most light that the sample may get in the whole run, in seconds at full power (`check` states what is planned).
    The run stops before the site that would exceed it."""
    focus: Annotated[Focus | None, Field(validate_default=True)] = None
    """How the focus is kept: `fixed`, `plane` or `hardware`. Must be named when there is more than one well."""

    nuclei: NucleiSettings = NucleiSettings()
    """How nuclei are found in the reference images, and which sites are good enough to learn from."""
    training: TrainingSettings = TrainingSettings()
    """How long the network learns."""
    validation: ValidationSettings = ValidationSettings()
    """Which errors a light level may have to be recommended."""
    live: Annotated[LiveSettings | None, Field(validate_default=True)] = None
    """Segmentation of dark images as they are taken, and what is decided by it."""

    @classmethod
    def white_paper(cls, channel: str, wells: str) -> ImagingProtocol:
        """Return the white paper's protocol for some wells: a 96-well plate, 3x3 sites, its four light levels."""
        dim = [("2%", 100.0), ("0.2%", 10.0), ("0.05%", 2.5)]
        return cls.model_validate(
            {
                "name": "white paper",
                "plate": "96-well",
                "wells": wells,
                "sites": {"rows": 3, "columns": 3},
                "channel": channel,
                "light_levels": [
                    {"name": "100%", "exposure_ms": 200, "led_percent": 100, "role": "reference"},
                    *({"name": name, "exposure_ms": 4, "led_percent": power} for name, power in dim),
                ],
            }
        )

    @field_validator("wells", "exclude")
    @classmethod
    def _wells_are_on_the_plate(cls, value: str, info: ValidationInfo) -> str:
        if isinstance(plate := info.data.get("plate"), Plate) and (value or info.field_name == "wells"):
            expand_wells(value, plate)
        return value

    @field_validator("exclude")
    @classmethod
    def _some_wells_are_left(cls, value: str, info: ValidationInfo) -> str:
        chosen = _chosen_wells({**info.data, "exclude": value})
        if chosen is not None and not chosen:
            raise ValueError("no well is left: every one of `wells` is excluded")
        return value

    @field_validator("held_out")
    @classmethod
    def _held_out_wells_are_imaged(cls, value: int | str, info: ValidationInfo) -> int | str:
        chosen = _chosen_wells(info.data)
        if isinstance(value, int):
            most = len(chosen) - 1 if chosen else 0
            if value < 0 or (chosen and value > most):
                raise ValueError(f"allowed: 0 to {most} of the {most + 1} wells, at least one is needed for training")
        elif chosen:
            held_out = expand_wells(value, info.data["plate"])
            if absent := [well for well in held_out if well not in chosen]:
                raise ValueError(f"{', '.join(absent)} not among the wells that are imaged")
            if len(held_out) == len(chosen):
                raise ValueError("every well is held out: at least one is needed for training")
        return value

    @field_validator("labels")
    @classmethod
    def _labels_do_not_contradict(
        cls, value: dict[str, dict[str, Label]], info: ValidationInfo
    ) -> dict[str, dict[str, Label]]:
        if isinstance(plate := info.data.get("plate"), Plate):
            _labels_by_well(value, plate)
        return value

    @field_validator("light_levels")
    @classmethod
    def _levels_are_distinct(cls, value: tuple[LightLevel, ...], info: ValidationInfo) -> tuple[LightLevel, ...]:
        names = [level.name for level in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names must be unique; given more than once: {', '.join(twice)}")
        references = [level for level in value if level.role == "reference"]
        if len(references) != 1:
            given = ", ".join(level.name for level in references) or "none"
            raise ValueError(f"exactly one level must have role: reference; given: {given}")
        own = info.data.get("channel")
        channels = {level.name: level.channel or own for level in value}
        if channels[references[0].name] != own:
            raise ValueError(f"the reference {references[0].name} must be of the protocol's channel {own}")
        for level in value:
            if channels[level.name] != own:
                if level.taken != "always":
                    raise ValueError(
                        f"{level.name}: taken: {level.taken} is for levels of the protocol's channel {own}"
                    )
            elif level is not references[0] and level.nominal_dose >= references[0].nominal_dose:
                raise ValueError(f"{level.name} is not dimmer than the reference {references[0].name}")
        doses = [(channels[level.name], level.exposure_ms, level.led_percent) for level in value]
        if same := [level.name for level, dose in zip(value, doses, strict=True) if doses.count(dose) > 1]:
            raise ValueError(f"{' and '.join(same)} have the same exposure and LED power: light for nothing")
        return value

    @field_validator("training")
    @classmethod
    def _inputs_are_levels(cls, value: TrainingSettings, info: ValidationInfo) -> TrainingSettings:
        if levels := info.data.get("light_levels"):
            try:
                _inputs(levels, info.data.get("channel", ""), value.input_levels)
            except ValueError as error:
                raise ValueError(f"input_levels: {error}") from error
        return value

    @field_validator("focus")
    @classmethod
    def _focus_fits(cls, value: Focus | None, info: ValidationInfo) -> Focus | None:
        chosen = _chosen_wells(info.data)
        if value is None and chosen and len(chosen) > 1:
            raise ValueError(
                "must be named for more than one well; allowed: {strategy: fixed}, {strategy: plane}, "
                "{strategy: hardware}"
            )
        if isinstance(value, PlaneFocus) and value.points is not None and isinstance(info.data.get("plate"), Plate):
            plate: Plate = info.data["plate"]
            if off := [well for well in value.points if well not in plate.wells]:
                raise ValueError(
                    f"points: {', '.join(off)} not on a {plate.name} plate; allowed: A1 to {plate.last_well}"
                )
            if len(value.points) < 3:
                raise ValueError(f"points: three wells or more span a plane, not {len(value.points)}")
        height_known = isinstance(value, PlaneFocus) or (isinstance(value, FixedFocus) and value.z_um is not None)
        if info.data.get("z_stack") and not height_known:
            # useq centres a stack on Z = 0 where a position has no Z: the objective would go there.
            raise ValueError("a z_stack needs a known height: strategy plane, or strategy fixed with z_um")
        return value

    @field_validator("live")
    @classmethod
    def _live_fits_the_levels(cls, value: LiveSettings | None, info: ValidationInfo) -> LiveSettings | None:
        levels: tuple[LightLevel, ...] = info.data.get("light_levels") or ()
        if not levels:
            return value
        taken = {level.taken for level in levels}
        if "always" not in taken:
            raise ValueError("at least one of light_levels must have taken: always")
        if value is None:
            if conditional := sorted(taken - {"always"}):
                raise ValueError(f"is needed where a light level has taken: {' or '.join(conditional)}")
            return value
        if info.data.get("z_stack"):
            raise ValueError("does not go with a z_stack")
        training = info.data.get("training") or TrainingSettings()
        inputs = _inputs(levels, info.data.get("channel", ""), training.input_levels)
        reduced = [level.name for level in inputs if level.role == "reduced"]
        if unknown := [name for name in value.levels if name not in reduced]:
            raise ValueError(f"levels: {', '.join(unknown)} not allowed; allowed: {', '.join(reduced) or 'none'}")
        if "at_sentinels" in taken and value.sentinels is None:
            raise ValueError("sentinels must be named where a light level has taken: at_sentinels")
        if any(level.taken == "when_unsure" and level.role == "reference" for level in levels):
            raise ValueError("the reference level cannot have taken: when_unsure; allowed: always, at_sentinels")
        if (value.rules.any or value.sentinels) and info.data.get("exposure_order") != "dimmest_first":
            raise ValueError("rules and sentinels need exposure_order: dimmest_first")
        asks = value.rules.least_confidence is not None or (value.sentinels and value.sentinels.then == "brighter")
        if "when_unsure" in taken and not asks:
            raise ValueError(
                "no rule asks for levels with taken: when_unsure; name least_confidence, or then: brighter"
            )
        if asks and "when_unsure" not in taken:
            raise ValueError("a rule asks for brighter images, but no light level has taken: when_unsure")
        return value

    @cached_property
    def well_names(self) -> tuple[str, ...]:
        """Wells to image, in plate order."""
        return _chosen_wells(self.__dict__) or ()

    @cached_property
    def held_out_wells(self) -> tuple[str, ...]:
        """Wells that are never trained on, in plate order."""
        if isinstance(self.held_out, int):
            return spread_wells(self.held_out, self.well_names, self.plate)
        return expand_wells(self.held_out, self.plate)

    @property
    def training_wells(self) -> tuple[str, ...]:
        """Wells that the network may learn from, in plate order."""
        return tuple(well for well in self.well_names if well not in self.held_out_wells)

    def with_fewer_wells(self, count: int) -> ImagingProtocol:
        """Return this protocol for `count` of its wells, held-out wells keeping their share (one at least).

        Raises
        ------
        ValueError
            If a protocol with held-out wells would have none left, or none to train on.
        """
        if self.held_out_wells and count < 2:
            raise ValueError("one well is not enough: the protocol holds wells out from training")
        share = len(self.held_out_wells) / len(self.well_names)
        n_held_out = min(max(round(count * share), 1), count - 1) if share else 0
        held_out = self.held_out_wells[:n_held_out]
        wells = self.training_wells[: count - n_held_out] + held_out
        changes = {"wells": ", ".join(wells), "exclude": "", "held_out": ", ".join(held_out) or 0}
        return ImagingProtocol.model_validate(self.model_dump() | changes)

    def well_labels(self, well: str) -> dict[str, Label]:
        """Return the labels of a well."""
        return _labels_by_well(self.labels, self.plate).get(well, {})

    @property
    def reference(self) -> LightLevel:
        """The full-light level."""
        return next(level for level in self.light_levels if level.role == "reference")

    def channel_of(self, level: LightLevel) -> str:
        """Return the channel of a level's images."""
        return level.channel or self.channel

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Channels that images are taken of, the protocol's own first."""
        return tuple(dict.fromkeys([self.channel, *map(self.channel_of, self.light_levels)]))

    def levels_of(self, channel: str) -> tuple[LightLevel, ...]:
        """Return the levels of a channel, the brightest first."""
        return tuple(
            sorted(
                (each for each in self.light_levels if self.channel_of(each) == channel), key=lambda e: -e.nominal_dose
            )
        )

    def full_light(self, level: LightLevel) -> LightLevel:
        """Return the level that the light of another is relative to: the brightest of its channel, in the protocol's the reference."""
        return self.levels_of(self.channel_of(level))[0]

    def relative_dose(self, level: LightLevel) -> float:
        """Return exposure x LED power relative to full light (`full_light`)."""
        return level.nominal_dose / self.full_light(level).nominal_dose

    def level(self, name: str) -> LightLevel:
        """Return a level by its name."""
        return next(level for level in self.light_levels if level.name == name)

    def inputs(self, names: Sequence[str] = ()) -> tuple[LightLevel, ...]:
        """Return the levels that a network looks at: those named here, or else in `training`, or else all of the protocol's channel.

        Raises
        ------
        ValueError
            If there is no such level, or they are of several channels.
        """
        return _inputs(self.light_levels, self.channel, names or self.training.input_levels)

    @property
    def levels_in_exposure_order(self) -> tuple[LightLevel, ...]:
        """Light levels in the order in which a site is exposed to them."""
        if self.exposure_order == "as_listed":
            return self.light_levels
        sign = -1 if self.exposure_order == "brightest_first" else 1

        def order(level: LightLevel) -> tuple[int, float]:  # one channel after the other: filters move once
            return -sign * self.channels.index(self.channel_of(level)), sign * level.nominal_dose

        return tuple(sorted(self.light_levels, key=order))

    @property
    def frames_per_site(self) -> int:
        """Number of images of a site at one time point."""
        return len(self.light_levels) * self.planes

    def is_sentinel(self, place: int, t: int) -> bool:
        """Return whether the site with this number in the order of travel is a sentinel at a time point."""
        sentinels = self.live.sentinels if self.live else None
        return sentinels is not None and (place + t) % sentinels.every == 0

    @cached_property
    def live_levels(self) -> tuple[str, ...]:
        """Light levels whose images are segmented as they are taken, the dimmest first."""
        if self.live is None:
            return ()
        by_dose = sorted(self.inputs(), key=lambda level: level.nominal_dose)
        return tuple(
            level.name
            for level in by_dose
            if level.role == "reduced" and (not self.live.levels or level.name in self.live.levels)
        )

    @cached_property
    def _n_sentinels(self) -> int:
        every = self.live.sentinels.every if self.live and self.live.sentinels else 0
        return sum((t + self.n_sites - 1) // every - (t - 1) // every for t in range(self.time_points)) if every else 0

    def is_beyond_rules(self, well: str) -> bool:
        """Return whether a well gets its full-light images whatever rules and sentinels say: held out, to judge the network by."""
        return self.live is not None and self.live.held_out == "full_light" and well in self.held_out_wells

    def is_planned(self, level: LightLevel, well: str, place: int, t: int) -> bool:
        """Return whether an image of a site, by its well and its number in the order of travel, is taken if no rule asks for anything else."""
        at_sentinels = level.taken == "at_sentinels"
        return level.taken == "always" or (at_sentinels and (self.is_sentinel(place, t) or self.is_beyond_rules(well)))

    def times_taken(self, level: LightLevel) -> int:
        """Return how many images of a light level are planned in the whole run, if no rule asks for another.

        Sentinels of held-out wells may be counted twice.
        """
        if level.taken == "when_unsure":
            return 0
        every = self.n_sites * self.time_points
        if level.taken == "always":
            return every * self.planes
        beyond_rules = sum(map(self.is_beyond_rules, self.well_names)) * self.sites.count * self.time_points
        return min(self._n_sentinels + beyond_rules, every) * self.planes

    @property
    def planes(self) -> int:
        """Number of heights at each site."""
        return self.z_stack.planes if self.z_stack else 1

    @property
    def time_points(self) -> int:
        """Number of times that the plate is imaged."""
        return self.time_lapse.count if self.time_lapse else 1

    @property
    def n_sites(self) -> int:
        """Number of sites on the plate."""
        return len(self.well_names) * self.sites.count

    @property
    def n_frames(self) -> int:
        """Number of images of the whole run."""
        return self.n_sites * self.frames_per_site * self.time_points

    def sites_in_travel_order(self, fov_um: tuple[float, float]) -> tuple[Site, ...]:
        """Return every site of the plate in an order that saves travel: rows of wells there and back.

        Parameters
        ----------
        fov_um : (float, float)
            Width and height of the field of view in micrometres.
        """
        ordered: list[Site] = []
        rows: dict[int, list[str]] = {}
        for well in self.well_names:
            rows.setdefault(self.plate.wells[well][0], []).append(well)
        for number, wells in enumerate(rows.values()):
            backwards = number % 2 == 1
            for well in reversed(wells) if backwards else wells:
                ordered.extend(sorted(self._sites_of(well, fov_um), key=_snake(backwards)))
        return tuple(ordered)

    def _sites_of(self, well: str, fov_um: tuple[float, float]) -> list[Site]:
        x, y = self.plate.centre_um(well)
        offsets = enumerate(self.sites.offsets_um(well, self.plate, fov_um))
        if not isinstance(self.sites, SiteGrid):
            return [Site(well, i, x + dx, y + dy) for i, (dx, dy) in offsets]
        columns = self.sites.columns
        return [Site(well, i, x + dx, y + dy, i // columns, i % columns) for i, (dx, dy) in offsets]

    def to_sequence(self, profile: MicroscopeProfile) -> useq.MDASequence:
        """Compile to a sequence of absolute stage positions that any useq engine can run on this microscope.

        Its channels are the presets of the config group `LightLevel`, which opening the microscope with this
        protocol defines. Z is None (not moved) unless the focus strategy gives a height.

        Raises
        ------
        ValueError
            If the profile has no plate calibration or focus plane that the protocol needs, or does not fit the plate.
        """
        placement = profile.placement(self.plate)
        height = self._height(profile)
        positions = []
        for site in self.sites_in_travel_order(profile.camera.fov_um):
            x, y = (round(v, 3) for v in placement.to_stage(site.plate_x_um, site.plate_y_um))
            row, column = self.plate.wells[site.well]
            positions.append(
                useq.Position(
                    x=x,
                    y=y,
                    z=height(x, y),
                    name=site.name,
                    plate_row=row,
                    plate_col=column,
                    grid_row=site.grid_row,
                    grid_col=site.grid_column,
                )
            )
        return useq.MDASequence(
            metadata={"scotopic": {"protocol": self.name, "plate": self.plate.name, "channel": self.channel}},
            axis_order="tpcz",
            stage_positions=tuple(positions),
            channels=tuple(
                useq.Channel(group=LIGHT_LEVEL_GROUP, config=level.name, exposure=level.exposure_ms)
                for level in self.levels_in_exposure_order
            ),
            z_plan=_z_plan(self.z_stack),
            time_plan=_time_plan(self.time_lapse),
            autofocus_plan=self._autofocus_plan(profile),
        )

    def _height(self, profile: MicroscopeProfile) -> Callable[[float, float], float | None]:
        if isinstance(self.focus, FixedFocus):
            z_um = self.focus.z_um
            return lambda _x, _y: z_um
        if isinstance(self.focus, PlaneFocus):
            a, b, c = profile.focus_plane_on(self.plate, self.focus.points)
            return lambda x, y: round(a * x + b * y + c, 3)
        return lambda _x, _y: None

    def _autofocus_plan(self, profile: MicroscopeProfile) -> useq.AxesBasedAF | None:
        if not isinstance(self.focus, HardwareFocus):
            return None
        if profile.stage.autofocus_device is None:
            raise ValueError("focus strategy hardware needs stage.autofocus_device in the profile")
        axes = ("t", "p") if self.time_lapse else ("p",)
        return useq.AxesBasedAF(autofocus_device_name=profile.stage.autofocus_device, axes=axes)


def _snake(backwards: bool) -> Callable[[Site], tuple[int, float]]:
    """Return the sorting key of the sites of a well: rows there and back, starting on the side of arrival."""

    def key(site: Site) -> tuple[int, float]:
        row = site.grid_row or 0
        leftwards = backwards != (row % 2 == 1)
        return row, -site.plate_x_um if leftwards else site.plate_x_um

    return key


def _z_plan(stack: ZStack | None) -> useq.ZRangeAround | None:
    return None if stack is None else useq.ZRangeAround(range=(stack.planes - 1) * stack.step_um, step=stack.step_um)


def _time_plan(lapse: TimeLapse | None) -> useq.TIntervalLoops | None:
    return None if lapse is None else useq.TIntervalLoops(interval=lapse.interval_s, loops=lapse.count)


def _chosen_wells(data: dict[str, object]) -> tuple[str, ...] | None:
    """Return the wells that `wells` and `exclude` leave, or None if either is not (yet) valid."""
    plate, wells, exclude = data.get("plate"), data.get("wells"), data.get("exclude")
    if not isinstance(plate, Plate) or not isinstance(wells, str) or not isinstance(exclude, str):
        return None
    left_out = expand_wells(exclude, plate) if exclude else ()
    return tuple(well for well in expand_wells(wells, plate) if well not in left_out)


def _labels_by_well(labels: dict[str, dict[str, Label]], plate: Plate) -> dict[str, dict[str, Label]]:
    by_well: dict[str, dict[str, Label]] = {}
    for wells, values in labels.items():
        for well in expand_wells(wells, plate):
            known = by_well.setdefault(well, {})
            for name, value in values.items():
                if known.setdefault(name, value) != value:
                    raise ValueError(f"well {well} has two values of {name!r}: {known[name]!r} and {value!r}")
    return by_well
