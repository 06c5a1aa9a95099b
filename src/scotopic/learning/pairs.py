"""What is learned from: the images of a site at each light level, and the masks of its bright one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from scotopic.learning.calibration import bare_field, contrast
from scotopic.learning.instances import SMALLEST_PX
from scotopic.learning.model import LearnedFrom
from scotopic.learning.targets import GRID, Targets, known, make_targets
from scotopic.protocol import spread_wells
from scotopic.reference import REFERENCE, Frames, SiteKey, finished_frames, read_corrected
from scotopic.store import light_verdicts, site_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from scotopic.photons import CameraNoise
    from scotopic.protocol import ImagingProtocol
    from scotopic.store import RunFolder

VALIDATION_SHARE = 0.12
"""Of the training wells, at least one is kept to check on."""
_PEAK_PERCENTILE = 90
_TEACHER_BLIND = 0.25
"""Width of the rim of an image in which the reference masks say nothing of what the border cuts, in diameters of a nucleus: there it
leaves out small pieces. Without the rim, the border cuts nuclei that are known whole."""


class NothingToLearnError(ValueError):
    """There are no images to learn from, or none to check on; the message says why."""


LearnedKey = tuple[int, str, int, int]
"""Number of the run in `Pairs.runs`, well, site and time point."""


@dataclass(frozen=True)
class Pairs:
    """Which sites are learned from and which are checked on, with their ledger lines by light level."""

    runs: tuple[RunFolder, ...]
    """Runs that are learned from; the first one gets the model."""
    training: dict[LearnedKey, Frames]
    validation: dict[LearnedKey, Frames]
    refused: dict[LearnedKey, tuple[str, ...]]
    """Sites that are not fit, with the gate's reasons."""
    inputs: tuple[str, ...] = ()
    """Light levels that are looked at, where they are named; else those of the protocol's channel."""

    @property
    def training_wells(self) -> tuple[str, ...]:
        """Wells that are learned from; those of further runs with the run's name."""
        return tuple(dict.fromkeys(map(self._well, self.training)))

    @property
    def validation_wells(self) -> tuple[str, ...]:
        """Wells that are checked on."""
        return tuple(dict.fromkeys(map(self._well, self.validation)))

    def _well(self, key: LearnedKey) -> str:
        return self._of_run(key) + key[1]

    def _of_run(self, key: LearnedKey) -> str:
        return f"{self.runs[key[0]].path.name}/" if key[0] else ""

    def learned_from(self, specimens: Sequence[str | None]) -> Iterator[LearnedFrom]:
        """Yield what a model remembers of each run: its wells and sites, those that it is checked on included.

        Parameters
        ----------
        specimens : sequence of str or None
            Fingerprint of each run's simulated specimen.
        """
        for number, (run, specimen) in enumerate(zip(self.runs, specimens, strict=True)):
            keys = sorted(key[1:] for key in (*self.training, *self.validation) if key[0] == number)
            protocol = run.read_protocol()
            yield LearnedFrom(
                run=protocol.name,
                run_id=run.run_id,
                plate_id=protocol.plate_id,
                specimen=specimen,
                wells=tuple(dict.fromkeys(well for well, *_ in keys)),
                sites=tuple(site_name(*key) for key in keys),
            )

    def name(self, key: LearnedKey) -> str:
        """Return the name of a site, that of its run included if it is not the first one."""
        return self._of_run(key) + site_name(*key[1:])

    def load(self, key: LearnedKey) -> TrainingSite:
        """Read a site, ready to be learned from."""
        frames = self.training.get(key) or self.validation[key]
        return replace(load_site(self.runs[key[0]], key[1:], frames, self.inputs), name=self.name(key))


def merged(parts: Sequence[Pairs]) -> Pairs:
    """Return the pairs of several runs as one; wells that are held out in one of them are left out of all.

    Two runs may be of one plate: what one of them is judged on must not be learned from in the other.

    Raises
    ------
    NothingToLearnError
        If nothing is left of one of the runs to learn from, or of all to check on.
    """
    runs = tuple(run for part in parts for run in part.runs)
    held_out = {well for run in runs for well in run.read_protocol().held_out_wells}
    training, validation, refused = (
        {
            (number, *key[1:]): value
            for number, part in enumerate(parts)
            for key, value in getattr(part, name).items()
            if key[1] not in held_out
        }
        for name in ("training", "validation", "refused")
    )
    for number, run in enumerate(runs):
        if not any(key[0] == number for key in training):
            raise NothingToLearnError(f"nothing can be learned from {run.path}: its wells are held out in another run")
    if not validation:
        raise NothingToLearnError("nothing can be learned: no well to check on is left that no run holds out")
    return Pairs(runs, training, validation, refused, parts[0].inputs)


def difference(run: RunFolder, other: RunFolder, inputs: Sequence[str] = ()) -> str:
    """Return why two runs cannot be learned from together; nothing if they can.

    One network looks at the images of both: channel, light levels, pixels and camera must be the same.
    """
    mine, theirs = (each.read_protocol() for each in (run, other))
    my_camera, their_camera = (each.read_profile().camera for each in (run, other))
    try:
        levels = [[(x.name, x.exposure_ms, x.led_percent) for x in p.inputs(inputs)] for p in (mine, theirs)]
        full = [p.full_light(p.inputs(inputs)[0]) for p in (mine, theirs)]
    except ValueError as error:
        return str(error)
    settings = [
        (each.exposure_ms, each.led_percent, p.channel_of(each)) for each, p in zip(full, (mine, theirs), strict=True)
    ]
    size = [(c.width_px, c.height_px, c.pixel_size_um) for c in (my_camera, their_camera)]
    for what, (here, there) in (
        ("light levels", levels),
        ("full light", settings),
        ("pixels", size),
        ("camera", [c.noise for c in (my_camera, their_camera)]),
    ):
        if here != there:
            return f"its {what} are others: {there}, not {here}"
    return ""


def find_pairs(run: RunFolder, inputs: Sequence[str] = (), *, growing: bool = False) -> Pairs:
    """Share out the finished sites of a run that are fit to learn from; those of held-out wells are never among them.

    A site needs reference masks that passed the quality gate; a dim image of it must have got the light that it should.
    Which wells are checked on follows from the protocol, so that they stay the same while a plate grows; only if none of
    them is of use in the end, others are taken.

    Parameters
    ----------
    inputs : sequence of str
        Light levels to look at; the protocol's (`ImagingProtocol.inputs`) without it.
    growing : bool
        More sites are to come.

    Raises
    ------
    ValueError
        If there is no such light level, or they are of several channels.
    NothingToLearnError
        If there is nothing to learn from, or nothing left to check on; the message says why.
    """
    protocol = run.read_protocol()
    references = run.references()
    lit = _well_lit_frames(run, protocol, inputs)
    of_training = {key: record for key, record in references.items() if key[0] in protocol.training_wells}
    refused = {key: record.reasons for key, record in of_training.items() if not record.usable}
    usable = {key: lit[key] for key in sorted(of_training) if key not in refused and len(lit.get(key, {})) > 1}
    wells = tuple(dict.fromkeys(well for well, *_ in usable))
    if not usable:
        raise NothingToLearnError(_nothing_usable(refused))
    if len(wells) < 2:
        raise NothingToLearnError(
            f"nothing can be learned: {wells[0]} is the only training well with usable sites, and one well must be "
            "kept to check on"
        )
    planned = _spread(protocol.training_wells, protocol)
    checked = tuple(well for well in planned if well in wells)
    if not checked or len(checked) == len(wells):
        if growing:
            raise NothingToLearnError("nothing can be learned yet: no site to check on")
        checked = _spread(wells, protocol)
    return Pairs(
        runs=(run,),
        training={(0, *key): frames for key, frames in usable.items() if key[0] not in checked},
        validation={(0, *key): frames for key, frames in usable.items() if key[0] in checked},
        refused={(0, *key): reasons for key, reasons in refused.items()},
        inputs=tuple(inputs),
    )


def _spread(wells: tuple[str, ...], protocol: ImagingProtocol) -> tuple[str, ...]:
    return spread_wells(max(1, round(VALIDATION_SHARE * len(wells))), wells, protocol.plate)


def _nothing_usable(refused: dict[SiteKey, tuple[str, ...]]) -> str:
    if not refused:
        return "nothing can be learned: no site of a training well is finished, with a reference and a dimmer image"
    reasons = [reason for each in refused.values() for reason in each]
    most = sorted(set(reasons), key=reasons.count, reverse=True)
    return f"nothing can be learned: the quality gate refuses all {len(refused)} training sites ({', '.join(most)})"


def _well_lit_frames(run: RunFolder, protocol: ImagingProtocol, inputs: Sequence[str]) -> dict[SiteKey, Frames]:
    """Return the frames of each site that has a reference: it, full light of what is looked at, and all of that not in doubt."""
    frames = finished_frames(run)
    finished = {key: next(iter(levels.values())).attempt for key, levels in frames.items()}
    verdicts = light_verdicts(run.light_checks.read(), finished)
    looked_at = protocol.inputs(inputs)
    needed = {protocol.reference.name, protocol.full_light(looked_at[0]).name}
    wanted = needed | {level.name for level in looked_at}
    lit = {
        key: {level: r for level, r in levels.items() if level in wanted and verdicts.get((*key, level), "ok") == "ok"}
        for key, levels in frames.items()
    }
    return {key: levels for key, levels in lit.items() if needed <= levels.keys()}


@dataclass(frozen=True)
class TrainingSite:
    """One site, ready to be learned from."""

    name: str
    images: dict[str, NDArray[np.uint16]]
    """Light level -> counts, shape (Y, X), as the network is shown them; without the rim, where masks are doubtful."""
    doses: dict[str, float]
    """Light level -> light relative to full light, as the images have it."""
    full_light: NDArray[np.uint16]
    """The image at full light, shape (Y, X)."""
    field_e: float | None
    """Photo-electrons of the bare field at full light where images are in transmitted light; none of fluorescence."""
    labels: NDArray[np.uint32]
    """Reference masks, shape (Y, X)."""
    targets: Targets
    nuclei: int
    """Number of nuclei."""


def load_site(run: RunFolder, key: SiteKey, frames: Frames, inputs: Sequence[str] = ()) -> TrainingSite:
    """Read images and masks of a site, cut off the rim, and make its targets."""
    protocol, profile = run.read_protocol(), run.read_profile()
    looked_at, reference = protocol.inputs(inputs), protocol.reference.name
    full = protocol.full_light(looked_at[0])
    shown = [level.name for level in looked_at if level.name in frames]
    bright, field_e = read_corrected(run.path, frames[reference]), None
    images = {level: read_corrected(run.path, frames[level]) for level in {*shown, full.name}}
    doses = {level: frames[level].relative_to(frames[full.name]) for level in images}
    if profile.light_source(protocol.channel_of(full)).transmitted:
        field_e = float(np.median(bare_field(profile.camera.to_electrons(images[full.name]))))
        images = {level: contrast(image, doses[level], profile.camera) for level, image in images.items()}
    plate = run.plate(protocol, profile)
    labels = plate.read_labels(*key[:2], REFERENCE, key[2], frames[reference].z)
    table = run.nuclei.read(REFERENCE, *key)
    table = table[table["level"] == reference]
    doubted = table["label"][table["clump"] | table["debris"]].tolist()
    rim = _rim(labels)
    images = {level: image[rim:-rim, rim:-rim] for level, image in images.items()}
    bright = bright[rim:-rim, rim:-rim]
    labels = _large_enough(labels[rim:-rim, rim:-rim])
    return TrainingSite(
        name=site_name(*key),
        images={level: images[level] for level in shown},
        doses={level: doses[level] for level in shown},
        full_light=images[full.name],
        field_e=field_e,
        labels=labels,
        targets=make_targets(labels.astype(np.int32), known(bright, labels, doubted)),
        nuclei=len(table),
    )


def _rim(labels: NDArray[np.uint32]) -> int:
    """Return the width of the rim, a whole number of grid points."""
    areas = np.unique(labels[labels > 0], return_counts=True)[1]
    diameter = np.sqrt(4 / np.pi * np.median(areas)) if areas.size else 1
    return GRID * int(np.ceil(_TEACHER_BLIND * diameter / GRID))


def _large_enough(labels: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return labels without those pieces that nobody could call a nucleus."""
    area = np.bincount(labels.ravel())
    return np.where(area[labels] >= SMALLEST_PX, labels, 0).astype(np.uint32)


def peak_electrons(camera: CameraNoise, sites: Sequence[TrainingSite]) -> float:
    """Return the photo-electrons of a bright nucleus at full light: the 90th percentile of nuclear pixels.

    In transmitted light nuclei are brighter here and darker there than the bare field: that of their difference.

    Raises
    ------
    NothingToLearnError
        If there is no nucleus.
    """
    pixels = [camera.to_electrons(site.full_light[site.labels > 0][::7]) for site in sites]
    of_all = np.concatenate([p if site.field_e is None else np.abs(p) for p, site in zip(pixels, sites, strict=True)])
    if not of_all.size:
        raise NothingToLearnError("nothing can be learned: the usable sites have nuclei at their rim only")
    return float(np.percentile(of_all, _PEAK_PERCENTILE))
