"""Commissioning: what a microscope is, measured, and written into its profile."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from scotopic.protocol import MicroscopeProfile, Problem, ProblemsError, SlideSettings, read_model, rounded
from scotopic.workflow.profile_file import edit_profile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matplotlib.figure import Figure

    from scotopic.microscope.shots import Shots
    from scotopic.photons import CameraFigures, LightFigures

_SLIDE = "Put an even fluorescent slide under the objective, focus roughly, take covers away"


def calibrate_camera(
    profile_path: Path,
    say: Callable[[str], None],
    ask: Callable[[str], None],
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
    ask(f"{_SLIDE}. It is lit with {channel} for some {2 * 14 * 0.1:.0f} s at most; nothing moves.")
    found: CameraFigures = _measured(
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
    return _write(
        profile_path,
        "camera",
        None,
        {("camera", name): value for name, value in values.items()},
        more,
        found.error,
        camera_figure(found),
        {"curve": found.curve.tolist()},
        say,
    )


def calibrate_light(
    profile_path: Path, say: Callable[[str], None], ask: Callable[[str], None], *, channel: str | None = None
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
    ask(f"{_SLIDE}. It is lit with {channel} at many powers, some 100 times; nothing moves.")
    found: LightFigures = _measured(
        profile_path, profile, channel, say, lambda shots: measure_light(shots, profile, say)
    )
    source = profile.light_source(channel)
    for percent, value, error in found.response:
        say(f"at {percent:>5g} % power {100 * value:8.3f} % of the light ± {100 * error:.2g}")
    say(f"no light up to         {found.dead_percent:g} % power; repeats agree from {found.least_percent:g} % on")
    say(f"without light at first {found.lag_ms:.2f} ± {found.error['lag_ms']:.2g} ms of each exposure")
    say(
        f"drift                  {found.drift_percent:+.2f} %, taken out; spread of repeats {found.stability_percent:.2f} %"
    )
    key = ("light_sources", channel)
    least = max(source.min, found.least_percent / 100 * source.max)
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
    more = {
        "dead_percent": found.dead_percent,
        "least_percent": found.least_percent,
        "drift_percent": round(found.drift_percent, 3),
        "stability_percent": round(found.stability_percent, 3),
        "linearity_percent": round(found.linearity_percent, 3),
    }
    record = {"response": [list(point) for point in found.response]}
    return _write(profile_path, "light", channel, values, more, found.error, light_figure(found, channel), record, say)


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
            found = measure(shots)
        except CannotTellError as error:
            raise ProblemsError([Problem(f"{error}; the profile is as it was", str(profile_path))]) from error
        finally:
            close_microscope(core)
    say(f"light given to what lies there: {rounded(shots.sample_dose_ms / 1000)} s at full power")
    return found


def _write(
    profile_path: Path,
    what: str,
    channel: str | None,
    values: dict[tuple[str, ...], Any],
    more: dict[str, float],
    spread: dict[str, float],
    figure: Figure,
    record: dict[str, Any],
    say: Callable[[str], None],
) -> Path:
    """Write the record with its plot, then the profile, and say what became of what stood there."""
    now = datetime.now().astimezone()
    name = "_".join(filter(None, [what, channel, now.strftime("%Y-%m-%dT%H%M%S")]))
    folder = profile_path.parent / f"{profile_path.stem}.calibration" / name
    folder.mkdir(parents=True)
    figure.savefig(folder / "plot.png", dpi=120)
    numbers = {".".join(key): value for key, value in values.items() if not isinstance(value, list)}
    before = edit_profile(
        profile_path, values, what, channel, now.isoformat(timespec="seconds"), numbers | more, spread, folder
    )
    text = {"date": now.isoformat(timespec="seconds"), "values": {".".join(k): v for k, v in values.items()} | more}
    text |= {"spread": spread, "before": before, **record}
    (folder / "record.json").write_text(json.dumps(text, indent=1, default=float), encoding="utf-8")
    for key, value in numbers.items():
        if before.get(key) not in (None, value):
            say(f"{key}: {before[key]:g} before, {value:g} now")
    say(f"wrote {profile_path}; figures and plot: {folder}")
    return folder
