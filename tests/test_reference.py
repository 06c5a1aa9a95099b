"""Reference masks of a run: written into it once, gone on with after a kill, the same from any number of processes."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from conftest import acquired, small
from scotopic.protocol import ProblemsError
from scotopic.reference import REFERENCE, finished_frames, make_references, write_tables
from scotopic.store import RunFolder, verify


@pytest.fixture(scope="module")
def plate(tmp_path_factory):
    """Four sites, acquired once."""
    run, _ = acquired(small("simulated"), tmp_path_factory.mktemp("runs") / "run")
    return run.path


@pytest.fixture
def run(plate, tmp_path):
    return RunFolder(shutil.copytree(plate, tmp_path / "run"))


def masks(run):
    return {
        key: run.plate(run.read_protocol(), run.read_profile()).read_labels(*key[:2], REFERENCE)
        for key in run.references()
    }


def test_masks_are_made_once_and_again_when_asked(run):
    made = list(make_references(run, workers=1))
    assert sorted(record.site_key for record in made) == sorted(finished_frames(run))
    assert all(labels.max() == run.references()[key].nuclei > 10 for key, labels in masks(run).items())
    assert list(make_references(run, workers=1)) == []
    assert len(list(make_references(run, workers=1, again=True))) == 4


def test_processes_change_nothing(run, plate, tmp_path):
    other = RunFolder(shutil.copytree(plate, tmp_path / "other"))
    for each, workers in ((run, 1), (other, 2)):
        list(make_references(each, workers=workers))
        write_tables(each)
    ours, theirs = masks(run), masks(other)
    for key, labels in ours.items():
        np.testing.assert_array_equal(labels, theirs[key])
    pd.testing.assert_frame_equal(
        *(pd.read_parquet(each.path / "nuclei" / "reference.parquet") for each in (run, other))
    )


def test_a_kill_costs_the_site_under_way_and_no_more(run):
    made = make_references(run, workers=1)
    done = [next(made), next(made)]
    made.close()
    lines = run.path / "nuclei" / "reference" / "sites.jsonl"
    lines.write_bytes(lines.read_bytes() + b'{"well":"B3","si')
    rest = list(make_references(run, workers=1))
    assert len(rest) == 2
    assert len(run.references()) == 4
    assert not {r.site_key for r in rest} & {r.site_key for r in done}


def test_a_site_that_was_taken_again_gets_new_masks(run):
    list(make_references(run, workers=1))
    records = run.ledger.read()
    again = [r.model_copy(update={"attempt": 2}) for r in records if r.site_key == records[0].site_key]
    run.ledger.append(again)
    assert len(run.references()) == 3, "masks of frames that were replaced do not count"
    assert [r.attempt for r in make_references(run, workers=1)] == [2]


def test_two_processes_do_not_make_the_same_masks(run):
    with run.masks_lock(), pytest.raises(ProblemsError, match="another process"):
        next(make_references(RunFolder(run.path), workers=1))


def test_nuclei_are_the_same_at_every_level_and_their_light_follows_the_dose(run):
    list(make_references(run, workers=1))
    write_tables(run)
    table = pd.read_parquet(run.path / "nuclei" / "reference.parquet")
    assert len(pd.read_csv(run.path / "nuclei" / "reference.csv")) == len(table)
    signal = table.pivot_table(index=["well", "site", "label"], columns="level", values="integrated_intensity_e")
    dose = table.groupby("level").relative_dose.first()
    assert set(dose.index) == {level.name for level in run.read_protocol().light_levels}
    ratio = signal.div(signal["100%"], axis=0).median()
    assert ratio.to_numpy() == pytest.approx(dose[ratio.index].to_numpy(), rel=0.05)
    flags = table.pivot_table(index=["well", "site", "label"], columns="level", values="mitotic", aggfunc="first")
    assert (flags.nunique(axis=1) == 1).all(), "what a nucleus looks like is said by its bright image"


def test_masks_of_a_stack_are_of_its_sharpest_plane(tmp_path):
    changes = {"z_stack": {"planes": 5, "step_um": 4}, "focus": {"strategy": "fixed", "z_um": 1204}}
    job = small("simulated", wells="B2", held_out=0, sites={"rows": 1, "columns": 1}, **changes)
    run, _ = acquired(job, tmp_path / "run")
    assert {frames["100%"].z for frames in finished_frames(run).values()} == {1}, "the specimen lies at 1200 um"
    [record] = make_references(run, workers=1)
    assert record.z == 1
    plate = run.plate(job.protocol, job.profile)
    assert plate.read_labels("B2", 0, REFERENCE, z=1).max() == record.nuclei > 60
    assert plate.read_labels("B2", 0, REFERENCE, z=0).max() == 0
    write_tables(run)
    assert set(pd.read_parquet(run.path / "nuclei" / "reference.parquet").z) == {1}
    assert verify(run) == []
    shutil.rmtree(plate.field_path("B2", 0) / "labels" / REFERENCE / "0" / "c" / "0" / "1")
    assert ["the masks of B2_0" in str(problem) for problem in verify(run)] == [True]
