"""Commissioning: what a microscope is, measured, and written into its profile."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from scotopic.protocol import (
    MicroscopeProfile,
    Plate,
    Problem,
    ProblemsError,
    SlideSettings,
    expand_wells,
    fit_placement,
    fit_plane,
    read_model,
    rounded,
)
from scotopic.workflow.profile_file import Measured, edit_profile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from scotopic.microscope.shots import Shots
    from scotopic.nuclei import Illumination
    from scotopic.photons import CameraFigures, CameraMaps, LightFigures
    from scotopic.protocol import PlatePlacement

_MOST_OFF_UM = 500.0
"""Of the well that is verified on, from where the others put it."""
_LEAST_WELLS = 3
_LEAST_NUCLEI, _LARGEST_ERROR = 500, 0.02
_SLIDE = "Put an even fluorescent slide under the objective, focus roughly, take covers away"


def calibrate_camera(
    profile_path: Path,
    say: Callable[[str], None],
    ask: Callable[[str], object],
    *,
    channel: str | None = None,
    led_percent: float = 100,
) -> Path:
    """Measure offset, gain, read noise, dark current, linearity, saturation and hot pixels, and write them into the profile.

    Parameters
    ----------
    ask : callable
        Told what the user is to do; returns when that is done.
    channel : str, optional
        Channel that gives light; the profile's first one without it.
    led_percent : float
        Power of the light.

    Returns
    -------
    Path
        Folder of the record.

    Raises
    ------
    ProblemsError
        If the images do not determine the camera; the profile is as it was.
    RuntimeError
        If a device fails; the profile is as it was, and the light is off.
    """
    from scotopic.microscope.calibrate import measure_camera
    from scotopic.workflow.calibration_plots import camera_figure

    profile, channel = _opened(profile_path, channel)
    ask(f"{_SLIDE}. It is lit with {channel} some 60 times; nothing moves.")
    found: CameraFigures
    maps: CameraMaps | None
    found, maps = _measured(
        profile_path, profile, channel, say, lambda shots: measure_camera(shots, profile, led_percent, say)
    )
    values: dict[str, float] = {
        "offset_counts": float(f"{found.offset_counts:.2f}"),
        "gain_e_per_count": float(f"{found.gain_e_per_count:.4g}"),
        "read_noise_e": float(f"{found.read_noise_e:.3g}"),
    }
    if found.saturation_counts is not None:
        values["saturation_counts"] = found.saturation_counts
    more = {
        "dark_current_e_per_s": round(found.dark_current_e_per_s, 3),
        "nonlinearity_percent": round(found.nonlinearity_percent, 2),
        "hot_pixels": int(found.hot.sum()),
    }
    for name, value in {**values, **more}.items():
        error = found.error.get(name)
        say(f"{name:<22} {value:g}" + (f" ± {error:.2g}" if error else ""))
    if found.saturation_counts is None:
        say("saturation             not reached: what stands in the profile was left")
    changes: dict[tuple[str, ...], Any] = {("camera", name): value for name, value in values.items()}
    if maps is not None:
        more["offset_spread_counts"] = round(float(maps.offset_counts[~maps.hot].std()), 2)
        more["response_spread_percent"] = round(100 * float(maps.response[~maps.hot].std()), 2)
        say(
            f"pixels differ: offsets by {more['offset_spread_counts']:g} counts, response by {more['response_spread_percent']:g} %; "
            "masks, measurements and network see images with equal pixels from now on"
        )
    elif profile.camera.maps is not None:
        changes["camera", "maps"] = None
    measured = Measured("camera", None, changes, more, found.error, {"curve": found.curve.tolist()}, maps)
    return _write(profile_path, measured, camera_figure(found), say)


def calibrate_light(
    profile_path: Path, say: Callable[[str], None], ask: Callable[[str], object], *, channel: str | None = None
) -> Path:
    """Measure the response of a light to power and exposure, and write it into the profile: doses are the measured ones from then on.

    Parameters
    ----------
    ask : callable
        Told what the user is to do; returns when that is done.
    channel : str, optional
        Channel; the profile's first one without it.

    Returns
    -------
    Path
        Folder of the record.

    Raises
    ------
    ProblemsError
        If the images do not determine the light; the profile is as it was.
    RuntimeError
        If a device fails; the profile is as it was, and the light is off.
    """
    from scotopic.microscope.calibrate import measure_light
    from scotopic.workflow.calibration_plots import light_figure

    profile, channel = _opened(profile_path, channel)
    source = profile.light_source(channel)
    if source.labels is not None:
        told = "has positions, not a range: write the transmission of each, as measured with a power meter, into its labels"
        problem = Problem(f"{source.device} {told}", str(profile_path), key=f"light_sources.{channel}")
        raise ProblemsError([problem])
    ask(f"{_SLIDE}. It is lit with {channel} at many powers, some 100 times; nothing moves.")
    found: LightFigures = _measured(
        profile_path, profile, channel, say, lambda shots: measure_light(shots, profile, say)
    )
    for percent, value, error in found.response:
        say(f"at {percent:>5g} % power {100 * value:8.3f} % of the light ± {100 * error:.2g}")
    say(f"no light up to         {found.dead_percent:g} % power; repeats agree from {found.least_percent:g} % on")
    say(f"without light at first {found.lag_ms:.2f} ± {found.error['lag_ms']:.2g} ms of each exposure")
    say(
        f"drift                  {found.drift_percent:+.2f} %, taken out; spread of repeats {found.stability_percent:.2f} %"
    )
    key = ("light_sources", channel)
    least = found.least_percent / 100 * (source.max or 0.0)
    curve = [
        {"led_percent": percent, "relative_power": float(f"{max(value, 0.0):.5g}")}
        for percent, value, _ in found.response
    ]
    curve[-1]["relative_power"] = 1
    values: dict[tuple[str, ...], Any] = {
        (*key, "dose_curve"): curve,
        (*key, "min"): float(f"{least:.6g}"),
        ("gating", "lag_ms"): float(f"{found.lag_ms:.3g}") if found.lag_ms > 2 * found.error["lag_ms"] else 0.0,
    }
    if found.settle_ms is not None:
        values[*key, "settle_ms"] = found.settle_ms
        say(f"stable                 {found.settle_ms:g} ms after a new power, to 1 %")
    more = {
        "dead_percent": found.dead_percent,
        "least_percent": found.least_percent,
        "drift_percent": round(found.drift_percent, 3),
        "stability_percent": round(found.stability_percent, 3),
        "linearity_percent": round(found.linearity_percent, 3),
    }
    record = {"response": [list(point) for point in found.response]}
    measured = Measured("light", channel, values, more, found.error, record)
    return _write(profile_path, measured, light_figure(found, channel), say)


def calibrate_plate(
    profile_path: Path,
    say: Callable[[str], None],
    ask: Callable[[str], str],
    *,
    plate: str = "96-well",
    wells: Sequence[str] = (),
    verify: str | None = None,
    given: Mapping[str, tuple[float, float]] | None = None,
    edges: bool = False,
    focus: bool = False,
) -> Path:
    """Find where a plate lies on the stage, and the plane of its focus, and write both into the profile.

    Parameters
    ----------
    ask : callable
        Told what the user is to do; returns the stage position that was typed (`X Y`), or nothing where the stage stands there.
    wells : sequence of str, optional
        Three wells or more; without it those that are given, or A1 and the ends of the first row and column.
    verify : str, optional
        Well to verify on; the last one of the plate without it.
    given : mapping of well to (x, y), optional
        Stage positions of centres that are known already: nobody is asked.
    edges : bool
        Three points of the edge of each well are taken, instead of its centre.
    focus : bool
        Measure the focus in these wells too: by the autofocus, or else by the user.

    Returns
    -------
    Path
        Folder of the record.

    Raises
    ------
    ProblemsError
        If the wells do not fit the plate, or lie outside the limits of the stage; the profile is as it was.
    RuntimeError
        If the stage does not get where it is told to.
    """
    from scotopic.microscope import close_microscope, microscope_lock, open_microscope
    from scotopic.microscope.places import Places
    from scotopic.photons import CannotTellError
    from scotopic.workflow.calibration_plots import plate_figure

    profile = read_model(profile_path, MicroscopeProfile)
    try:
        layout = Plate.model_validate(plate)
        expand_wells(", ".join([*wells, *filter(None, [verify]), *(given or {})]) or "A1", layout)
    except ValueError as error:
        told = (
            "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())
            if isinstance(error, ValidationError)
            else str(error)
        )
        raise ProblemsError([Problem(told, key="--plate")]) from error
    corners = dict.fromkeys(["A1", f"A{layout.columns}", layout.last_well.rstrip("0123456789") + "1"])
    verify = verify or layout.last_well
    known = tuple(well for well in given or {} if well != verify)
    wells = tuple(wells) or (known if len(known) >= _LEAST_WELLS else tuple(corners))
    with microscope_lock(profile, profile_path):
        core = open_microscope(profile, profile_path)
        try:
            found = Places(core, profile, layout, ask, dict(given or {}), edges=edges)
            places = {well: found.centre(well) for well in wells}
            placement = fit_placement(places, layout)
            expected = placement.to_stage(*layout.centre_um(verify))
            there = found.verified(verify, expected)
            off = math.dist(expected, there)
            say(f"{verify} is {off:.0f} um from where the others put it")
            if off > _MOST_OFF_UM:
                raise CannotTellError(
                    f"{verify} is {off:.0f} um from where {', '.join(wells)} put it (allowed: {_MOST_OFF_UM:g}): one of them was "
                    "another well than named, or not its centre"
                )
            places[verify] = there
            placement = fit_placement(places, layout)
            residuals = {w: math.dist(placement.to_stage(*layout.centre_um(w)), at) for w, at in places.items()}
            heights = {w: found.height(w, placement.to_stage(*layout.centre_um(w))) for w in places} if focus else {}
        except (CannotTellError, ValueError) as error:
            raise ProblemsError([Problem(f"{error}; the profile is as it was", str(profile_path))]) from error
        finally:
            close_microscope(core)
    values: dict[tuple[str, ...], Any] = {
        ("plate_calibration",): {well: [round(x, 2), round(y, 2)] for well, (x, y) in places.items()}
    }
    more = {"verified_um": round(off, 2), **_turned(placement)}
    spread = {"place_um": float(np.sqrt(np.mean(np.square(list(residuals.values())))))}
    if heights:
        points = [(*places[well], z) for well, z in heights.items()]
        a, b, c = fit_plane(points)
        left = [z - (a * x + b * y + c) for x, y, z in points]
        values["focus_plane",] = {well: round(z, 2) for well, z in heights.items()}
        more |= {"tilt_x_um_per_mm": round(1000 * a, 4), "tilt_y_um_per_mm": round(1000 * b, 4)}
        spread["focus_um"] = float(np.sqrt(np.mean(np.square(left))))
    for name, value in (more | spread).items():
        say(f"{name:<22} {value:g}")
    record = {"residuals_um": residuals, "places_um": places, "heights_um": heights}
    measured = Measured("plate", None, values, more, spread, record)
    return _write(profile_path, measured, plate_figure(layout, placement, places, residuals), say)


def _turned(placement: PlatePlacement) -> dict[str, float]:
    """Return how a plate is turned against the stage, and whether it is mirrored (1) or not (0)."""
    (a, b, _), (d, e, _) = placement.matrix
    return {"turned_degrees": round(math.degrees(math.atan2(d, a)), 3), "mirrored": float(a * e - b * d < 0)}


def calibrate_illumination(
    profile_path: Path,
    say: Callable[[str], None],
    ask: Callable[[str], object],
    *,
    channel: str | None = None,
    run_path: Path | None = None,
) -> Path:
    """Measure how even the light of a channel is over the field, from a slide or from a plate's own images, and write it into the profile.

    Parameters
    ----------
    ask : callable
        Told what the user is to do; returns when that is done.
    run_path : Path, optional
        Run whose nuclei at full light are taken instead of a slide; nothing is lit then.

    Returns
    -------
    Path
        Folder of the record.

    Raises
    ------
    ProblemsError
        If the images do not determine it; the profile is as it was.
    RuntimeError
        If a device fails; the profile is as it was, and the light is off.
    """
    from scotopic.microscope.calibrate import measure_field
    from scotopic.nuclei import illumination_of_field
    from scotopic.workflow.calibration_plots import illumination_figure

    profile, channel = _opened(profile_path, channel)
    if run_path is None:
        ask(f"{_SLIDE}. It is lit with {channel} some ten times; nothing moves.")
        field = _measured(profile_path, profile, channel, say, lambda shots: measure_field(shots, profile, say))
        try:
            light, off = illumination_of_field(field)
        except ValueError as error:
            raise ProblemsError([Problem(f"{error}; the profile is as it was", str(profile_path))]) from error
    else:
        light, off = _light_of_run(run_path, profile, channel, say)
    y, x = np.mgrid[0 : profile.camera.height_px : 16, 0 : profile.camera.width_px : 16]
    over = light.at(y, x)
    more = {"brightest": float(over.max()), "darkest": float(over.min())}
    say(f"light from {over.min():.3f} to {over.max():.3f} of its mean, ± {100 * off:.2f} % rms")
    say("runs that are measured from now on divide by it; it holds for this objective and channel")
    values: dict[tuple[str, ...], Any] = {
        ("light_sources", channel, "illumination"): [float(f"{c:.6g}") for c in light.coefficients]
    }
    measured = Measured("illumination", channel, values, more, {"rms": off}, {"objective": profile.objective})
    return _write(profile_path, measured, illumination_figure(over), say)


def _light_of_run(
    run_path: Path, profile: MicroscopeProfile, channel: str, say: Callable[[str], None]
) -> tuple[Illumination, float]:
    """Return the illumination that the nuclei of a run show, and how sure it is: nuclei are as bright wherever they lie in a field."""
    import pandas as pd

    from scotopic.nuclei import estimate_illumination
    from scotopic.reference import REFERENCE
    from scotopic.workflow.segmentation import opened_run, segment_run

    run = opened_run(run_path)
    protocol, theirs = run.read_protocol(), run.read_profile()
    if channel != protocol.channel:
        raise ProblemsError([Problem(f"has no nuclei stained in {channel}, but in {protocol.channel}", str(run_path))])
    shape = theirs.camera.height_px, theirs.camera.width_px
    if shape != (profile.camera.height_px, profile.camera.width_px):
        raise ProblemsError([Problem("has images of another size than the profile's camera", str(run_path))])
    segment_run(run_path, say)
    keys = [key for key, record in sorted(run.references().items()) if record.usable]
    tables = [run.nuclei.read(REFERENCE, *key) for key in keys]
    nuclei = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["level", "touches_border"])
    whole = nuclei[(nuclei["level"] == protocol.reference.name) & ~nuclei["touches_border"].astype(bool)]
    say(f"{len(whole):,} nuclei of {len(keys)} images")
    if len(whole) < _LEAST_NUCLEI:
        told = f"has {len(whole):,} whole nuclei in images that are fit; {_LEAST_NUCLEI:,} are needed at least"
        raise ProblemsError([Problem(told, str(run_path))])
    halves = [
        estimate_illumination(some["y_px"], some["x_px"], some["mean_intensity_e"], shape)
        for some in (whole[::2], whole[1::2])
    ]
    y, x = np.mgrid[0 : shape[0] : 16, 0 : shape[1] : 16]
    apart = float(np.sqrt(np.mean((halves[0].at(y, x) / halves[1].at(y, x) - 1) ** 2)))
    # Two halves differ by the square root of two times their error, and the whole has that of a half over the square root of two.
    if apart / 2 > _LARGEST_ERROR:
        told = f"its nuclei tell the light to {100 * apart / 2:.1f} % (allowed: {100 * _LARGEST_ERROR:g}): a run with more nuclei is needed"
        raise ProblemsError([Problem(told, str(run_path))])
    return estimate_illumination(whole["y_px"], whole["x_px"], whole["mean_intensity_e"], shape), apart / 2


def _opened(profile_path: Path, channel: str | None) -> tuple[MicroscopeProfile, str]:
    profile = read_model(profile_path, MicroscopeProfile)
    channel = channel or next(iter(profile.light_sources))
    try:
        profile.light_source(channel)
    except ValueError as error:
        raise ProblemsError([Problem(str(error), str(profile_path), key="--channel")]) from error
    return profile, channel


def _measured(
    profile_path: Path,
    profile: MicroscopeProfile,
    channel: str,
    say: Callable[[str], None],
    measure: Callable[[Shots], Any],
) -> Any:
    """Open the microscope, measure, and close it in the dark; a simulated one has a slide on it."""
    from scotopic.microscope import close_microscope, microscope_lock, open_microscope
    from scotopic.microscope.shots import Shots
    from scotopic.photons import CannotTellError

    lit = profile
    if profile.simulator is not None and not isinstance(profile.simulator.specimen, SlideSettings):
        say("the simulated microscope has an even fluorescent slide on it for this")
        simulator = profile.simulator.model_copy(update={"specimen": SlideSettings(kind="slide", brightness=5)})
        lit = profile.model_copy(update={"simulator": simulator})
    with microscope_lock(profile, profile_path):
        core = open_microscope(lit, profile_path)
        try:
            shots = Shots(core, profile, channel)
            try:
                return measure(shots)
            except CannotTellError as error:
                raise ProblemsError([Problem(f"{error}; the profile is as it was", str(profile_path))]) from error
            finally:
                say(f"light given to what lies there: {rounded(shots.sample_dose_ms / 1000)} s at full power")
        finally:
            close_microscope(core)


def _write(profile_path: Path, measured: Measured, figure: Figure, say: Callable[[str], None]) -> Path:
    """Write the record with its plot, then the profile, and say what became of what stood there."""
    now = datetime.now().astimezone()
    date = now.isoformat(timespec="seconds")
    name = "_".join(filter(None, [measured.what, measured.channel, now.strftime("%Y-%m-%dT%H%M%S")]))
    records = profile_path.parent / f"{profile_path.stem}.calibration"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    folder = next(records / each for each in names if not (records / each).exists())
    folder.mkdir(parents=True)
    record = folder.relative_to(profile_path.parent).as_posix()
    if measured.maps is not None:
        measured.maps.save(folder / "maps.npz")
        measured.values["camera", "maps"] = f"{record}/maps.npz"
    try:
        before = edit_profile(profile_path, measured, date, record)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    figure.savefig(folder / "plot.png", dpi=120)
    values = {".".join(key): value for key, value in measured.values.items()} | measured.more
    text = {"date": date, "values": values, "spread": measured.spread, "before": before, **measured.record}
    (folder / "record.json").write_text(json.dumps(text, indent=1, default=float), encoding="utf-8")
    for key, value in measured.numbers.items():
        if isinstance(before.get(key), float) and before[key] != value:
            say(f"{key}: {before[key]:g} before, {value:g} now")
    say(f"wrote {profile_path}; figures and plot: {folder}")
    return folder
