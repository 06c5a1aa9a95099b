"""The record is the truth, also of what is not there: damage, forgetting, and locks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT, acquired, load_job, rewrite_lines, small
from scotopic.microscope import give_up_site, microscope_lock
from scotopic.protocol import ProblemsError
from scotopic.store import RunFolder, verify, wrong_light
from scotopic.workflow import ask, light_off, retake
from scotopic.workflow import verify as verify_all


@pytest.fixture
def run(segmented_plate, tmp_path) -> RunFolder:
    return RunFolder(shutil.copytree(segmented_plate, tmp_path / "RUN"))


def go_on(run):
    return acquired(small("simulated", wells="B2:B5", held_out="B3", training=TRAINING), run.path)


TRAINING = {"steps": 4, "threads": 2, "dtype": "float32"}


def cut_lines(path, keep):
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:keep]), encoding="utf-8")


def test_a_ledger_that_forgets_finished_sites_is_not_gone_on_from(run):
    cut_lines(run.path / "frames.jsonl", 12)
    with pytest.raises(ProblemsError, match="has 3 finished sites, but the status knows of 8 finished sites"):
        go_on(run)
    (run.path / "status" / "acquire.json").unlink()
    with pytest.raises(ProblemsError, match=r"light\.jsonl has proofs of 5 visits that it has no line of"):
        go_on(run)
    (run.path / "light.jsonl").unlink()
    with pytest.raises(ProblemsError, match="the plate has 5 fields that it has no line of"):
        go_on(run)
    assert len(run.ledger.read()) == 12


def test_a_zero_in_the_middle_of_the_ledger_lights_nothing_again(run):
    path = run.path / "frames.jsonl"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] = 0
    path.write_bytes(bytes(data))
    with pytest.raises(ProblemsError, match=r"frames\.jsonl:\d+: damaged line"):
        go_on(run)
    assert path.read_bytes() == bytes(data)
    assert ["damaged line" in str(problem) for problem in verify_all(run.path)] == [True]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("job.json", "{", r"job\.json: is damaged: protocol and microscope of the run cannot be trusted"),
        ("job.json", '{"format": 7}', "written by another version of scotopic; this one knows 1"),
        ("job.json", '{"protocol": {}, "profile": {}}', r"job\.json: \w+\.\w+: Field required"),
        ("light.jsonl", "{}\n{}\n", r"light\.jsonl:1: damaged line"),
        ("visits.jsonl", "no\nno\n", r"visits\.jsonl:1: damaged line"),
        ("plate.ome.zarr/zarr.json", "{}", r"zarr\.json: is damaged"),
        ("plate.ome.zarr/B/2/zarr.json", "[", r"zarr\.json: is damaged"),
    ],
)
def test_a_damaged_file_is_one_line_and_nothing_is_lost(name, content, told, run):
    (run.path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ProblemsError, match=told) as caught:
        go_on(run)
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)
    assert (run.path / name).read_text(encoding="utf-8") == content


def test_a_damaged_chunk_names_its_frame_and_the_rest_is_read(run):
    field = run.plate(run.read_protocol(), run.read_profile()).field_path("B4", 1)
    chunk = field / "0/c/0/2/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    level = run.read_protocol().light_levels[2].name
    (found,) = verify(run)
    assert found.file == str(chunk.parent.parent)
    assert found.message.startswith(f"{level} of B4_1, t 0, z 0 cannot be read")


def test_a_wrong_light_or_none_proved_is_not_sound_and_complete(run):
    assert verify_all(run.path) == []
    path = run.path / "light.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines[1]["verdict"] = "wrong"
    del lines[5]
    rewrite_lines(path, lines)
    found = [str(problem) for problem in wrong_light(run)]
    assert found[0].startswith("1 frames have the wrong light by the images' proof, for example 0.2% of B2_0")
    assert found[1].startswith("1 frames have no proof of their light in light.jsonl, for example 2% of B2_1")
    assert [str(problem) for problem in verify_all(run.path)] == found


def test_without_its_reference_a_dim_frame_is_undetermined(tmp_path):
    run, _ = acquired(small("simulated", [{"kind": "snap_fails", "after": 3}]), tmp_path / "RUN")
    assert [r.level for r in run.ledger.read() if r.state == "skipped"] == ["100%"]
    checks = [check for check in run.light_checks.read() if (check.well, check.site) == ("B2", 0)]
    assert [(check.verdict, check.expected) for check in checks] == [("undetermined", None)] * 3
    assert wrong_light(run) == []


def test_a_site_can_be_given_up_and_is_taken_anew(run):
    plate = run.plate(run.read_protocol(), run.read_profile())
    chunk = plate.field_path("B4", 1) / "0/c/0/2/0/0/0"
    chunk.write_bytes(b"damaged")
    dose_ms = run.sample_dose_ms()
    table = run.nuclei.folder("reference") / "B4_1.parquet"
    assert table.exists()
    retake(run.path, "b4_1")
    assert not table.exists(), "nuclei of an image that is given up"
    assert (table.parent / "B4_0.parquet").exists()
    assert run.sample_dose_ms() == dose_ms
    assert any("4 of 32 planned frames are missing" in str(problem) for problem in verify(run))
    with pytest.raises(ProblemsError, match="B4_1: at time point 0 is not finished: it is taken anyway"):
        retake(run.path, "B4_1")
    _, result = go_on(run)
    assert result.end_reason == "completed"
    assert verify(run) == []
    assert {r.attempt for r in run.ledger.read() if r.state == "written" and (r.well, r.site) == ("B4", 1)} == {1, 2}
    assert result.progress.sample_dose_ms == pytest.approx(dose_ms * 9 / 8, rel=0.01)


@pytest.mark.parametrize(
    ("name", "told"), [("B9_0", "is not in the protocol"), ("B2_7", "is not in the protocol"), ("B2", "is no site")]
)
def test_only_a_site_of_the_run_can_be_given_up(name, told, run):
    before = (run.path / "frames.jsonl").read_bytes()
    with pytest.raises(ProblemsError, match=told):
        retake(run.path, name)
    assert (run.path / "frames.jsonl").read_bytes() == before


def test_a_run_that_is_being_acquired_keeps_its_sites(run):
    run.lock()
    with pytest.raises(ProblemsError, match=r"another process is acquiring into this run: process \d+"):
        give_up_site(RunFolder(run.path), "B2", 0)
    run.unlock()


def test_looking_whether_a_run_is_locked_does_not_lock_it(run):
    other = RunFolder(run.path)
    assert not other.is_locked()
    with pytest.raises(ProblemsError, match="no acquisition is running into this folder"):
        ask(run.path, "pause")
    run.lock()
    assert other.is_locked()
    assert other.is_locked()
    run.unlock()
    assert not other.is_locked()
    other.lock()
    other.unlock()


def test_a_dead_process_holds_nothing(run):
    code = f"import os; from pathlib import Path; from scotopic.store import RunFolder\nRunFolder(Path({str(run.path)!r})).lock(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (run.path / "run.lock.owner").exists()
    assert not run.is_locked()
    run.lock()
    run.unlock()


def test_a_microscope_that_is_driven_says_by_whom(tmp_path, monkeypatch):
    monkeypatch.setenv("PROGRAMDATA", str(tmp_path))
    job = load_job("quickstart", "demo")
    with (
        microscope_lock(job.profile, job.profile_path),
        pytest.raises(ProblemsError, match=r"this microscope is driven by process \d+ \(`\S+.*`\) since 20"),
    ):
        light_off(job.profile_path)
    with microscope_lock(job.profile, job.profile_path):
        light_off(job.profile_path, force=True)
        with pytest.raises(ProblemsError, match="this microscope is driven by"):
            acquired(small("demo"), tmp_path / "RUN")
    light_off(job.profile_path)
    simulated = load_job("quickstart", "simulated")
    with (
        microscope_lock(simulated.profile, simulated.profile_path),
        microscope_lock(simulated.profile, simulated.profile_path),
    ):
        assert ROOT.exists(), "made of software, each process has its own"
