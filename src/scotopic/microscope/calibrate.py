"""Measurements of camera and light: which images are taken, in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scotopic.photons import CannotTellError, Pair, Shot, camera_figures, camera_maps, light_figures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from scotopic.microscope.shots import Shots
    from scotopic.photons import CameraFigures, CameraMaps, LightFigures
    from scotopic.protocol import MicroscopeProfile

_LONGEST_MS = 1000.0
_AIM = 0.7
"""Of the way to saturation: where signals are large and nothing is cut off."""
_BRIGHT_PAIRS, _LEAST_OF_AIM = 14, 1 / 500
_POWERS = (0.5, 1, 2, 2.5, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100)
_EXPOSURES_MS = (1, 2, 3, 4, 6, 10, 20, 50, 100, 200)
_REPEATS, _FULL_EVERY = 3, 5
_WAITS_MS, _SHORT_MS = (0, 1, 2, 5, 10, 20, 50, 100), 10.0
_FIELD_IMAGES = 8
_MAP_DARKS, _MAP_FLATS, _FLAT_SHARE = 48, 24, 0.4


def measure_camera(
    shots: Shots, profile: MicroscopeProfile, led_percent: float, say: Callable[[str], None]
) -> tuple[CameraFigures, CameraMaps | None]:
    """Take dark images, and pairs of bright ones from little light to saturation; then what tells pixels apart.

    Returns
    -------
    (CameraFigures, CameraMaps or None)
        The second where pixels differ by more than noise.

    Raises
    ------
    CannotTellError
        If the images do not determine the camera; the message says why.
    RuntimeError
        If a device fails. The light is off.
    """
    camera = profile.camera
    longest = _exposure_for(shots, profile, led_percent, 1.3)
    say(f"saturation is reached near {longest:.3g} ms at {led_percent:g} % power")
    shortest = camera.min_exposure_ms
    darks = [
        Pair(ms, shots.dark(ms), shots.dark(ms))
        for ms in (shortest, max(longest / 4, 4 * shortest), max(longest, 100.0))
    ]
    exposures = np.geomspace(max(shortest, longest * _LEAST_OF_AIM), longest, _BRIGHT_PAIRS)
    exposures = np.random.default_rng(0).permutation(exposures)  # so that bleaching is not taken for a bent line
    brights = [Pair(float(ms), *(shots.lit(float(ms), led_percent) for _ in range(2))) for ms in exposures]
    found = camera_figures(darks, brights)
    exposure = max(longest * _FLAT_SHARE, shortest)
    say(f"each pixel: {_MAP_DARKS} dark images, {_MAP_FLATS} of {exposure:.3g} ms")
    maps = camera_maps(
        (shots.dark(shortest) for _ in range(_MAP_DARKS)),
        (shots.lit(exposure, led_percent) for _ in range(_MAP_FLATS)),
        found.hot,
        found.gain_e_per_count,
    )
    return found, maps


def measure_light(shots: Shots, profile: MicroscopeProfile, say: Callable[[str], None]) -> LightFigures:
    """Take images at many powers and exposures in random order, with repeats, and full power again and again between them.

    Raises
    ------
    CannotTellError
        If the images do not determine the light; the message says why.
    RuntimeError
        If a device fails. The light is off.
    """
    rng = np.random.default_rng(0)
    exposure = _exposure_for(shots, profile, 100, _AIM)
    say(f"powers at {exposure:.3g} ms: full power fills the camera to {_AIM:.0%}")
    dark = float(shots.dark(exposure).mean(dtype=float))
    powers = [each for each in dict.fromkeys(map(shots.on_step, _POWERS)) if shots.least_percent <= each < 100]
    order = list(rng.permutation(np.repeat(powers, _REPEATS)))
    for at in range(len(order), -1, -_FULL_EVERY):
        order.insert(at, 100.0)
    order = [100.0, *order, 100.0]
    by_power = [Shot(float(led), exposure, shots.lit(exposure, float(led)).mean(dtype=float) - dark) for led in order]
    led = _power_for(by_power, exposure, max(_EXPOSURES_MS))
    say(f"exposures at {led:g} % power")
    shortest = profile.camera.min_exposure_ms
    times = [ms for ms in _EXPOSURES_MS if ms >= shortest]
    darkness = {ms: float(shots.dark(ms).mean(dtype=float)) for ms in times}
    by_exposure = [
        Shot(led, float(ms), shots.lit(float(ms), led).mean(dtype=float) - darkness[int(ms)])
        for ms in rng.permutation(np.repeat(times, _REPEATS))
    ]
    settling: list[tuple[float, float]] = []
    if profile.gating.how != "software":  # there nothing may settle: the sample is lit from the power on
        short = max(_SHORT_MS, shortest)
        say(f"settling at {short:g} ms")
        below = float(shots.dark(short).mean(dtype=float))
        for wait in rng.permutation(np.repeat(_WAITS_MS, _REPEATS)):
            signal = shots.lit(short, 100, settle_ms=float(wait)).mean(dtype=float) - below
            settling.append((float(wait), float(signal)))
    return light_figures(by_power, by_exposure, settling)


def measure_field(shots: Shots, profile: MicroscopeProfile, say: Callable[[str], None]) -> NDArray[np.float64]:
    """Return the mean of some images of an even slide at full power above darkness, counts, shape (Y, X).

    Raises
    ------
    CannotTellError
        If there is no light, or too much; the message says which.
    RuntimeError
        If a device fails. The light is off.
    """
    exposure = _exposure_for(shots, profile, 100, 0.5)
    say(f"{_FIELD_IMAGES} images of {exposure:.3g} ms")
    lit = np.mean([shots.lit(exposure, 100) for _ in range(_FIELD_IMAGES)], axis=0)
    dark = np.mean([shots.dark(exposure) for _ in range(_FIELD_IMAGES)], axis=0)
    field: NDArray[np.float64] = lit - dark
    return field


def _exposure_for(shots: Shots, profile: MicroscopeProfile, led_percent: float, share: float) -> float:
    """Return the exposure at which the field is filled to a share of the way to saturation, starting from little light.

    Raises
    ------
    CannotTellError
        If there is no light, or too much even at the shortest exposure.
    """
    camera = profile.camera
    shortest = camera.min_exposure_ms
    for exposure in _rising(max(shortest, 1.0)):
        image, dark = shots.lit(exposure, led_percent), shots.dark(exposure)
        above, room = (
            float(image.mean(dtype=float) - dark.mean(dtype=float)),
            camera.saturation_counts - float(dark.mean()),
        )
        if (image >= camera.saturation_counts).mean() > 0.5:
            raise CannotTellError(
                f"saturated at {exposure:g} ms and {led_percent:g} % power: less power (`calibrate camera --led-percent`), "
                "a dimmer slide, or a grey filter"
            )
        if above > 0.02 * room:
            found = exposure * share * room / above
            if found > 2 * _LONGEST_MS:
                break
            return max(found, shortest)
    raise CannotTellError(
        f"hardly any light at {_LONGEST_MS:g} ms and {led_percent:g} % power: is the light path open, and something fluorescent "
        "under the objective?"
    )


def _rising(first: float) -> Iterator[float]:
    exposure = first
    while exposure <= _LONGEST_MS:
        yield exposure
        exposure *= 4


def _power_for(shots: list[Shot], exposure_ms: float, longest_ms: float) -> float:
    """Return the power at which the longest exposure is as bright as full power was at the exposure of the powers."""
    full = float(np.mean([shot.signal for shot in shots if shot.led_percent == 100]))
    wanted = full * min(exposure_ms / longest_ms, 1)
    below = [shot for shot in shots if shot.signal <= wanted]
    return max((shot.led_percent for shot in below), default=min(shot.led_percent for shot in shots))
