"""What was measured, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure as Canvas

if TYPE_CHECKING:
    from scotopic.photons import CameraFigures, LightFigures


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
    right.plot(exposure, signal, "o-", color="#0072b2")
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
    axes.set_xlabel("power asked for, %")
    axes.set_ylabel("light, % of that at 100 %")
    axes.set_title(channel)
    axes.legend()
    return canvas
