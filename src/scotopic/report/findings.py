"""What is found on the held-out sites: by the network, by the reference masks, by the classical method, and in truth."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from scotopic.nuclei import measure, reference_segmentation
from scotopic.protocol import Problem, ProblemsError, full_light_ms
from scotopic.reference import (
    REFERENCE,
    SiteKey,
    finished_frames,
    origin_um,
    placed,
    read_corrected,
    sites_of_wrong_light,
)
from scotopic.simulator import Field

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from scotopic.learning.model import Model
    from scotopic.protocol import SegmentationSettings
    from scotopic.protocol.profile import Camera
    from scotopic.protocol.simulator_setup import SimulatorSetup
    from scotopic.report.schema import LeftOut, Source
    from scotopic.simulator import Specimen
    from scotopic.store import FrameRecord, RunFolder

Labels = dict[SiteKey, "NDArray[Any]"]
Row = tuple["Source", str]
"""Source and light level."""


class HeldOutSites:
    """The sites of held-out wells that can be judged, and why the others cannot.

    A site needs reference masks, all its images, and the light that they are called by: light levels are compared on the
    same sites, so one wrong or skipped image leaves its site out.
    """

    def __init__(self, run: RunFolder, seen_wells: Collection[str] = ()) -> None:
        """Sort the sites.

        Parameters
        ----------
        seen_wells : collection of str
            Wells that the model has learned from.
        """
        self.run = run
        self.protocol, self.profile = run.read_protocol(), run.read_profile()
        self.plate = run.plate(self.protocol, self.profile)
        wells = self.protocol.held_out_wells
        finished = {key: levels for key, levels in finished_frames(run).items() if key[0] in wells}
        of_level = {name: keys & finished.keys() for name, keys in sites_of_wrong_light(run).items()}
        self.levels_left_out = {
            name
            for name, wrong in of_level.items()
            if name != self.protocol.reference.name and 2 * len(wrong) > len(finished)
        }
        """Levels whose light is wrong at more than half of the sites: not the sites are to blame."""
        wrong = {key for name, keys in of_level.items() if name not in self.levels_left_out for key in keys}
        masks, skipped = run.references().keys(), _skipped(run, finished)

        def why(key: SiteKey) -> LeftOut | None:
            if key[0] in seen_wells:
                return "learned from"
            if key not in finished:
                return "not acquired"
            if key in wrong:
                return "wrong light"
            if key in skipped:
                return "skipped image"
            if self.protocol.reference.name not in finished[key]:
                return "no full-light image"
            return None if key in masks else "no masks"

        reasons = {key: why(key) for key in self._planned()}
        self.planned = len(reasons)
        """Number of sites of the held-out wells, by the protocol."""
        self.left_out: dict[LeftOut, int] = dict(Counter(each for each in reasons.values() if each is not None))
        """Why sites cannot be judged, and how many."""
        self.frames: dict[SiteKey, dict[str, FrameRecord]] = {
            key: {name: record for name, record in levels.items() if name not in self.levels_left_out}
            for key, levels in sorted(finished.items())
            if key in reasons and reasons[key] is None
        }

    def _planned(self) -> Iterator[SiteKey]:
        for well in self.protocol.held_out_wells:
            for site in range(self.protocol.sites.count):
                for t in range(self.protocol.time_points):
                    yield well, site, t

    @property
    def wells(self) -> tuple[str, ...]:
        """Held-out wells that have such sites, in the protocol's order."""
        there = {key[0] for key in self.frames}
        return tuple(well for well in self.protocol.held_out_wells if well in there)

    @property
    def missing(self) -> str:
        """Why there is nothing to validate on, or not all; empty if nothing went wrong."""
        if not self.protocol.held_out_wells:
            return "no well is held out: nothing can be validated"
        whole = [
            f"{name} is left out: its light is wrong at most held-out sites" for name in sorted(self.levels_left_out)
        ]
        failed: tuple[LeftOut, ...] = ("wrong light", "skipped image")
        sites = [f"{self.left_out[why]} held-out sites are left out: {why}" for why in failed if why in self.left_out]
        told = "; ".join(whole + sites)
        if self.frames:
            return told
        return told or "no site of a held-out well is finished, with reference masks"

    def of_channel(self, channel: str) -> Iterator[tuple[SiteKey, FrameRecord]]:
        """Yield the images of a channel."""
        names = {level.name for level in self.protocol.levels_of(channel)}
        return ((key, record) for key, site in self.frames.items() for record in site.values() if record.level in names)

    def relative_dose(self, key: SiteKey, record: FrameRecord) -> float:
        """Return the light of an image relative to the site's image at full light, or to the protocol's if there is none."""
        full = self.protocol.full_light(self.protocol.level(record.level))
        if (bright := self.frames[key].get(full.name)) is not None:
            return record.relative_to(bright)
        return record.signal_dose_ms / full_light_ms(self.protocol, self.profile, full)


def _skipped(run: RunFolder, sites: dict[SiteKey, dict[str, FrameRecord]]) -> set[SiteKey]:
    """Return the sites of which an image of the plane that is looked at was skipped."""
    planes = {(*key, record.attempt, record.z) for key, levels in sites.items() for record in levels.values()}
    return {r.site_key for r in run.ledger.read() if r.state == "skipped" and (*r.site_key, r.attempt, r.z) in planes}


def _measured(
    image: NDArray[Any], labels: NDArray[Any], record: FrameRecord, relative_dose: float, camera: Camera
) -> pd.DataFrame:
    """Return the table of nuclei of a frame, with the columns that the reference's tables have."""
    origin = origin_um(record, camera)
    table = measure(labels, image, pixel_size_um=camera.pixel_size_um, origin_um=origin, camera=camera)
    return placed(table, record, relative_dose)


@dataclass
class Findings:
    """Label images and tables of nuclei, by source and light level."""

    labels: dict[Row, Labels] = field(default_factory=lambda: defaultdict(dict))
    tables: dict[Row, list[pd.DataFrame]] = field(default_factory=lambda: defaultdict(list))
    truth: Labels = field(default_factory=dict)
    """Label images of the specimen, where it knows them."""
    true_nuclei: list[pd.DataFrame] = field(default_factory=list)
    """Tables of the specimen's nuclei that do not touch the border."""
    prediction_s: list[float] = field(default_factory=list)
    """Time that the network took, a frame."""

    def add(self, source: Source, record: FrameRecord, labels: NDArray[Any], table: pd.DataFrame) -> None:
        """Add what a source found in a frame."""
        self.labels[source, record.level][record.site_key] = labels
        self.tables[source, record.level].append(table)


class Network:
    """A model at work on the held-out sites."""

    def __init__(self, sites: HeldOutSites, model: Model) -> None:
        from scotopic.learning.prediction import Predictor

        camera = sites.profile.camera
        self.name, self.channel = model.hash, model.card.channel
        self._sites = sites
        self._predictor = Predictor(model, camera.noise)
        self._predictor.warm_up((camera.height_px, camera.width_px))
        self.card: dict[str, Any] = model.card.model_dump(mode="json") | {"predicted_in": self._predictor.computes_in}

    def find(self, findings: Findings) -> None:
        """Segment every frame of the model's channel; masks go into the plate, tables into the run, under the hash of the model's file."""
        sites = self._sites
        order = [level.name for level in sites.protocol.light_levels]
        sites.run.nuclei.folder(self.name).mkdir(parents=True, exist_ok=True)
        with sites.run.masks_lock():
            for key, levels in sites.frames.items():
                looked_at = sites.protocol.levels_of(self.channel)
                records = [levels[level.name] for level in looked_at if level.name in levels]
                for record in records:
                    image = read_corrected(sites.run.path, record)
                    begun = time.perf_counter()
                    dose = sites.relative_dose(key, record)
                    labels = self._predictor(image, dose).labels
                    findings.prediction_s.append(time.perf_counter() - begun)
                    group = f"network_{self.name}_{order.index(record.level)}"
                    sites.plate.write_labels(record.well, record.site, group, record.t, record.z, labels)
                    table = _measured(image, labels, record, dose, sites.profile.camera)
                    findings.add("network", record, labels, table)
                if tables := [findings.tables["network", record.level][-1] for record in records]:
                    sites.run.nuclei.write(self.name, *key, pd.concat(tables, ignore_index=True))

    def find_thinned(self, findings: Findings, name: str, dose: float) -> None:
        """Segment the bright frames with the photons of a lower dose, which no microscope took; nothing is written.

        The bright image's own noise is a share `dose` of the new image's variance: nothing, in the dark.
        """
        camera = self._sites.profile.camera
        for number, levels in enumerate(self._sites.frames.values()):
            bright = levels.get(self._sites.protocol.reference.name)
            if bright is None:
                continue
            electrons = np.maximum(camera.to_electrons(read_corrected(self._sites.run.path, bright)), 0)
            image = camera.expose(electrons * np.float32(dose), np.random.default_rng(number))
            record = bright.model_copy(update={"level": name})
            labels = self._predictor(image, dose).labels
            findings.add("network", record, labels, _measured(image, labels, record, dose, camera))


def find_by_reference(sites: HeldOutSites, findings: Findings) -> None:
    """Take the reference masks, which were made of the bright image, at every level.

    Raises
    ------
    ProblemsError
        If their tables are of an earlier version.
    """
    for key, levels in sites.frames.items():
        labels = sites.plate.read_labels(*key[:2], REFERENCE, key[2], next(iter(levels.values())).z)
        table = sites.run.nuclei.read(REFERENCE, *key)
        if "integrated_noise_e" not in table:
            told = (
                "has reference masks of an earlier version: `scotopic segment RUN --reference --again` makes them anew"
            )
            raise ProblemsError([Problem(told, str(sites.run.path))])
        own = {level.name for level in sites.protocol.levels_of(sites.protocol.channel)}
        for record in (record for record in levels.values() if record.level in own):
            findings.add("reference", record, labels, table[table["level"] == record.level])


def find_classically(sites: HeldOutSites, findings: Findings) -> None:
    """Segment every frame of the stain by standard image analysis, as bright ones are."""
    stained = list(sites.of_channel(sites.protocol.channel))
    camera, settings = sites.profile.camera, sites.protocol.nuclei.segmentation
    found = Parallel(n_jobs=-1, return_as="generator")(
        delayed(_classical)(sites.run.path, record, sites.relative_dose(key, record), camera, settings)
        for key, record in stained
    )
    for (_, record), (labels, table) in zip(stained, found, strict=True):
        findings.add("classical", record, labels, table)


def _classical(
    run_path: Path, record: FrameRecord, relative_dose: float, camera: Camera, settings: SegmentationSettings
) -> tuple[NDArray[Any], pd.DataFrame]:
    """Segment and measure one frame, in any process."""
    image = read_corrected(run_path, record)
    labels = reference_segmentation(image, pixel_size_um=camera.pixel_size_um, settings=settings)
    return labels, _measured(image, labels, record, relative_dose, camera)


def find_truth(sites: HeldOutSites, setup: SimulatorSetup, specimen: Specimen, findings: Findings) -> None:
    """Ask a simulated specimen what was there."""
    for key, levels in sites.frames.items():
        x_um, y_um = setup.placement.to_plate(*next(iter(levels.values())).xy_um)
        truth = specimen.at(key[2] * setup.interval_h).truth(
            Field(x_um, y_um, setup.width_px, setup.height_px, setup.pixel_size_um)
        )
        if truth is not None:
            findings.truth[key] = truth.labels
            whole = truth.nuclei[~truth.nuclei["touches_border"].astype(bool)]
            findings.true_nuclei.append(whole.assign(well=key[0], site=key[1], t=key[2]))
