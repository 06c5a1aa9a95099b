"""What was measured, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure as Canvas

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray

    from scotopic.photons import CameraFigures, LightFigures
    from scotopic.protocol import Plate, PlatePlacement


def camera_figure(found: CameraFigures) -> Canvas:
    """Return the photon transfer curve, and signal over exposure."""
    canvas = Canvas(figsize=(9, 3.6), layout="constrained")
    left, right = canvas.subplots(1, 2)
    signal, variance, exposure = found.curve[np.argsort(found.curve[:, 2])].T
    lit = signal > 0
    signal, variance, exposure = signal[lit], variance[lit], exposure[lit]
    line = np.geomspace(signal.min(), signal.max(), 50)
    read = (found.read_noise_e / found.gain_e_per_count) ** 2
    left.loglog(signal, variance, "o", color="#0072b2")
    left.loglog(
        line, read + line / found.gain_e_per_count, color="#d55e00", label=f"1 count = {found.gain_e_per_count:.3g} e⁻"
    )
    left.set_xlabel("signal, counts")
    left.set_ylabel("variance of a pixel, counts²")
    left.legend()
    right.loglog(exposure, signal, "o", color="#0072b2")
    right.set_xlabel("exposure, ms")
    right.set_ylabel("signal, counts")
    return canvas


def light_figure(found: LightFigures, channel: str) -> Canvas:
    """Return the light that each power gives, beside what it should give."""
    canvas = Canvas(figsize=(5, 4), layout="constrained")
    axes = canvas.subplots()
    percent, value, error = zip(*found.response, strict=True)
    axes.errorbar(
        percent, [100 * v for v in value], [100 * e for e in error], fmt="o-", color="#0072b2", label="measured"
    )
    axes.plot(percent, percent, color="#888", linewidth=0.8, label="nominal")
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_ylim(0, 150)
    axes.set_xlabel("power asked for, %")
    axes.set_ylabel("light, % of that at 100 %")
    axes.set_title(channel)
    axes.legend()
    return canvas


def plate_figure(
    plate: Plate,
    placement: PlatePlacement,
    places_um: Mapping[str, tuple[float, float]],
    residuals_um: Mapping[str, float],
) -> Canvas:
    """Return the wells on the stage, and those that were measured."""
    canvas = Canvas(figsize=(6, 4.4), layout="constrained")
    axes = canvas.subplots()
    centres = np.array([placement.to_stage(*plate.centre_um(well)) for well in plate.wells]) / 1000
    axes.plot(*centres.T, "o", color="#bbb", markersize=4, label="by the fit")
    for well, (x, y) in places_um.items():
        axes.plot(x / 1000, y / 1000, "x", color="#d55e00")
        axes.annotate(f"{well}: {residuals_um[well]:.0f} µm off", (x / 1000, y / 1000), fontsize=8)
    axes.set_aspect("equal")
    axes.set_xlabel("stage X, mm")
    axes.set_ylabel("stage Y, mm")
    canvas.legend(loc="outside lower center")
    return canvas


def illumination_figure(light: NDArray[Any]) -> Canvas:
    """Return the light over the field, relative to its mean."""
    canvas = Canvas(figsize=(5, 4), layout="constrained")
    axes = canvas.subplots()
    canvas.colorbar(axes.imshow(light), ax=axes, label="light, relative to its mean")
    axes.set_axis_off()
    return canvas
