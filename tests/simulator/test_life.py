"""Nuclei that live: what they are at a later time follows from seed and time alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from conftest import acquired, small
from scotopic.protocol import MicroscopeProfile, Plate, SyntheticSpecimenSettings
from scotopic.protocol.simulator_setup import SimulatorSetup
from scotopic.simulator import Field, SyntheticSpecimen, make_specimen

PLATE = Plate.model_validate("96-well")
FIELD = Field(0, 0, 512, 512, 0.65)
CENTRES = ["x_px", "y_px"]


def living(**life):
    return SyntheticSpecimen(SyntheticSpecimenSettings(life=life), PLATE)


def test_in_the_beginning_it_is_the_specimen_without_life():
    truth, pinned = living().at(0).truth(FIELD), SyntheticSpecimen(SyntheticSpecimenSettings(), PLATE).truth(FIELD)
    np.testing.assert_array_equal(truth.labels, pinned.labels)
    soon = living().at(1e-6).truth(FIELD).nuclei
    assert np.sort(soon["dna_content"]) == pytest.approx(np.sort(pinned.nuclei["dna_content"]), abs=1e-3)


def test_the_same_time_is_the_same_from_wherever_it_is_seen():
    one, other = (living().at(7.5).truth(Field(x, 0, 512, 512, 0.65)) for x in (0, 0.65 * 100))
    np.testing.assert_array_equal(one.labels[100:400, 200:500] > 0, other.labels[100:400, 100:400] > 0)


def test_nuclei_move_a_little_and_those_that_divide_become_two():
    specimen = living(cycle_h=20, wander_um=6)
    before, after = (specimen.at(hours).truth(FIELD).nuclei for hours in (5, 5.5))
    step_um = cKDTree(before[CENTRES]).query(after[CENTRES])[0] * 0.65
    assert 0.3 < np.median(step_um) < 4
    counts = [len(specimen.at(hours).truth(FIELD).nuclei) for hours in (0, 10, 20, 30)]
    assert counts[2] / counts[0] == pytest.approx(2, rel=0.25), "each once in a cycle, crowding hides some"
    assert counts[0] < counts[1] < counts[2] < counts[3]
    later = specimen.at(20).truth(FIELD).nuclei
    assert (later["phase"] == "G2").mean() == pytest.approx(0.3, abs=0.12), "phases keep their shares"


def test_light_and_truth_agree_at_any_time():
    specimen = living().at(12)
    truth = specimen.truth(FIELD)
    left, top = FIELD.origin_px
    light = specimen.scene((left, top), (512, 512), 0.65).light
    inside, outside = light[truth.labels > 0].mean(), light[truth.labels == 0].mean()
    assert inside > 4 * outside


def test_a_time_lapse_of_a_living_specimen_shows_its_truth(tmp_path):
    job = small(
        "simulated", wells="B2", held_out=0, sites={"rows": 1, "columns": 1}, time_lapse={"count": 2, "interval_s": 0}
    )
    job.protocol = job.protocol.model_copy(
        update={"time_lapse": job.protocol.time_lapse.model_copy(update={"interval_s": 1.0})}
    )
    data = job.profile.model_dump(mode="json")
    data["simulator"]["specimen"] |= {"life": {"cycle_h": 0.0006}}
    data["simulator"] |= {"drift_um": 0}
    job.profile = MicroscopeProfile.model_validate(data)
    run, _ = acquired(job, tmp_path / "run")
    setup = SimulatorSetup.of(job.profile, job.protocol)
    specimen = make_specimen(setup)
    x_um, y_um = setup.placement.to_plate(*run.ledger.read()[0].xy_um)
    field = Field(x_um, y_um, 512, 512, 0.65)
    plate = run.plate(job.protocol, job.profile)
    for t in (0, 1):
        image = plate.read("B2", 0, "100%", t).astype(float)
        masks = (specimen.at(other * setup.interval_h).truth(field).labels > 0 for other in (0, 1))
        likeness = [np.corrcoef(np.sqrt(image).ravel(), mask.ravel())[0, 1] for mask in masks]
        assert likeness[t] > 1.1 * likeness[1 - t], "bright where its own truth has nuclei"
