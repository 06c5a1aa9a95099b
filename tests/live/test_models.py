"""Which models a live acquisition takes."""

from __future__ import annotations

import pytest

from conftest import DATA, load_job
from scotopic.protocol import MicroscopeProfile, ProblemsError
from scotopic.workflow.acquisition import fits_live

MODEL = DATA / "model.safetensors"


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("camera", "protocol", "told"),
    [
        ({"pixel_size_um": 1.3}, {}, r"pixels of 0.65 um, these images have 1.3 um \(allowed: 10% apart\)"),
        ({"read_noise_e": 12}, {}, "6 e- of read noise, this camera has 12 e-"),
        ({}, {"channel": "GFP"}, "the channel 'DAPI', these images are of 'GFP'"),
        ({}, {"live": None, "light_levels": None}, "the protocol has no section `live`"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_anything_moves(camera, protocol, told):
    job = load_job("live_low_light", "simulated")
    data = job.profile.model_dump(mode="json")
    data["camera"] |= camera
    changed = job.protocol.model_copy(update=protocol)
    with pytest.raises(ProblemsError, match=told):
        fits_live(MODEL, changed, MicroscopeProfile.model_validate(data))


@pytest.mark.e2e
def test_another_offset_and_gain_are_no_reason():
    job = load_job("live_low_light", "simulated")
    data = job.profile.model_dump(mode="json")
    data["camera"] |= {"offset_counts": 1000, "gain_e_per_count": 0.2, "read_noise_e": 2}
    fits_live(MODEL, job.protocol, MicroscopeProfile.model_validate(data))
