"""The light over the image is found from nuclei alone, and taken out of their intensities."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scotopic.nuclei import LEAST_NUCLEI_FOR_ILLUMINATION, estimate_illumination

_SHAPE = (400, 600)


def _nuclei(n: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Return nuclei of two brightnesses with a few mitoses under light that falls off from a point off the centre."""
    rng = np.random.default_rng(3)
    y, x = rng.uniform(0, _SHAPE[0], n), rng.uniform(0, _SHAPE[1], n)
    light = np.exp(-(((y - 150) / 500) ** 2) - ((x - 350) / 600) ** 2)
    own = rng.choice([1.0, 1.2, 4.0], n, p=[0.6, 0.35, 0.05]) * rng.lognormal(0, 0.2, n)
    return pd.DataFrame(
        {"y": y, "x": x, "mean_intensity_e": own * light, "integrated_intensity_e": own * light * 300}
    ), own


def test_the_light_is_found_and_taken_out() -> None:
    """The correction leaves each nucleus' own brightness, up to a common factor."""
    nuclei, own = _nuclei(2000)
    light = estimate_illumination(nuclei.y, nuclei.x, nuclei.mean_intensity_e, _SHAPE)
    ratio = light.corrected(nuclei, nuclei.y, nuclei.x).integrated_intensity_e / own
    assert np.std(nuclei.integrated_intensity_e / own) / np.mean(nuclei.integrated_intensity_e / own) > 0.1
    assert np.std(ratio) / np.mean(ratio) < 0.03


def test_its_mean_is_one() -> None:
    """So that intensities keep their scale."""
    nuclei, _ = _nuclei(500)
    light = estimate_illumination(nuclei.y, nuclei.x, nuclei.mean_intensity_e, _SHAPE)
    y, x = np.indices(_SHAPE)
    assert np.mean(light.at(y.ravel(), x.ravel())) == pytest.approx(1, abs=0.005)


def test_few_nuclei_are_refused() -> None:
    """A surface through a handful of nuclei would be their own brightness."""
    nuclei, _ = _nuclei(LEAST_NUCLEI_FOR_ILLUMINATION - 1)
    with pytest.raises(ValueError, match="are needed"):
        estimate_illumination(nuclei.y, nuclei.x, nuclei.mean_intensity_e, _SHAPE)
