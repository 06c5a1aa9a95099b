from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from conftest import acquired, no_line_after, rewrite_lines, small
from scotopic.microscope import open_microscope
from scotopic.store import RunFolder, verify


@pytest.fixture
def run(segmented_plate, tmp_path) -> RunFolder:
    return RunFolder(shutil.copytree(segmented_plate, tmp_path / "RUN"))


def change_line(run, number, **changes):
    path = run.path / "frames.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines[number] |= changes
    rewrite_lines(path, lines)


def told(run):
    return "\n".join(map(str, verify(run)))


def test_a_sound_run_is_sound(run):
    assert verify(run) == []


def test_a_hole_that_shows_pixels_is_found(run):
    change_line(run, 2, state="skipped", reason="the stage did not move")
    assert "2% of B2_0 was skipped, but shows pixels" in told(run)


def test_a_wrong_copy_of_an_image_is_found(run):
    plate = run.plate(run.read_protocol(), run.read_profile())
    image = plate.read("B2", 1, "2%")
    plate._write("B2", 1, "2%", 0, 0, image + np.uint16(7), numbers=range(1, 2))
    assert "2% of B2_1, t 0, z 0: its copy of 1/2 of the size is wrong" in told(run)


def test_lines_that_repeat_or_asked_for_another_light_are_found(run):
    with (run.path / "frames.jsonl").open("a", encoding="utf-8") as file:
        file.write((run.path / "frames.jsonl").read_text(encoding="utf-8").splitlines()[0] + "\n")
    change_line(run, 1, led_percent=20)
    found = told(run)
    assert "1 frames have more than one line, for example 0.05% of B2_0" in found
    assert "0.2% of B2_0 was asked for with 4 ms at 20 %, which is not this level" in found


def test_masks_that_are_gone_are_missed(run):
    field = run.plate(run.read_protocol(), run.read_profile()).field_path("B4", 1)
    shutil.rmtree(field / "labels" / "reference" / "0" / "c")
    assert "the masks of B4_1, t 0, are missing" in told(run)


def test_a_frame_that_is_skipped_at_the_second_visit_does_not_show_the_first(tmp_path):
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    with no_line_after(3):
        run, _ = acquired(job, tmp_path / "RUN", core)
    plate = run.plate(job.protocol, job.profile)
    assert plate.has_pixels("B2", 0, "0.2%")
    core.setProperty("Simulator", "Faults", '[{"kind": "snap_fails", "after": 1}]')
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "completed_with_errors"
    assert [r.level for r in run.ledger.read() if r.state == "skipped"] == ["0.2%"]
    assert not plate.has_pixels("B2", 0, "0.2%")
    assert not run.plate(job.protocol, job.profile).read("B2", 0, "0.2%").any()
    assert verify(run) == []
