"""The report of small runs, whole and broken ones."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from conftest import DATA, acquired, rewrite_json, rewrite_lines, small, without_seal
from scotopic.protocol import MicroscopeProfile, ProblemsError
from scotopic.report import Report, write_page
from scotopic.report.findings import Findings, HeldOutSites, find_by_reference
from scotopic.report.page import _chosen
from scotopic.report.rows import Comparisons, rows_of
from scotopic.report.verdict import verdict
from scotopic.store import RunFolder
from scotopic.workflow import segment_run, validate

MODEL = DATA / "model.safetensors"
LEVELS = ["100%", "2%", "0.2%", "0.05%"]


@pytest.fixture
def run(segmented_plate, tmp_path):
    return RunFolder(shutil.copytree(segmented_plate, tmp_path / "run"))


def change_job(run, **protocol):
    path = run.path / "job.json"
    job = json.loads(path.read_text(encoding="utf-8"))
    job["protocol"] |= protocol
    rewrite_json(path, job)


def without_some(labels, keep):
    kept = labels.copy()
    kept[~np.isin(labels, keep)] = 0
    return kept


def test_figures_are_those_that_a_pencil_gives(run):
    """A network that finds half of what the reference has, at one level one nucleus, at one nothing."""
    sites, findings = HeldOutSites(run), Findings()
    find_by_reference(sites, findings)
    count = sum(int(np.unique(labels).size - 1) for labels in findings.labels["reference", "100%"].values())
    half = 0
    for key, record in sites.of_channel("DAPI"):
        labels = findings.labels["reference", record.level][key]
        names = np.unique(labels)[1:]
        keep = {"100%": names, "2%": names[::2], "0.2%": names[:1], "0.05%": []}[record.level]
        half += len(keep) if record.level == "2%" else 0
        table = sites.run.nuclei.read("reference", *key)
        table = table[(table["level"] == record.level) & table["label"].isin(keep)]
        findings.add("network", record, without_some(labels, keep), table)
    rows = {(row.source, row.name): row for row in rows_of(sites, Comparisons(sites, findings))}
    assert list(rows) == [(source, level) for source in ("network", "reference") for level in LEVELS]
    full = rows["network", "100%"]
    assert full.nuclei_count == count
    assert set(full.against) == {"reference"}, "nothing is compared with itself"
    assert full.against["reference"].f1_at_0_5.value == 1
    dim = rows["network", "2%"]
    assert dim.nuclei_count == half
    assert dim.against["network_100"].count_deviation_percent.value == pytest.approx(100 * (half / count - 1))
    assert dim.against["reference"].miss_percent.value == pytest.approx(100 * (1 - half / count))
    assert dim.against["reference"].false_percent.value == 0
    assert dim.against["reference"].f1_at_0_5.confidence_95 is None, "one well: no guess"
    one, none = rows["network", "0.2%"], rows["network", "0.05%"]
    assert one.nuclei_count == 2
    assert one.g1_percent is None
    assert "nuclei" in one.cell_cycle
    assert none.nuclei_count == 0
    assert none.median_area_um2 is None
    assert none.against["network_100"].count_deviation_percent.value == -100
    assert rows["reference", "0.05%"].relative_dose == pytest.approx(0.0005)
    assert rows["reference", "0.05%"].mean_intensity == pytest.approx(rows["reference", "100%"].mean_intensity, rel=0.1)


def test_a_run_without_a_model_has_a_report_that_says_so(run):
    said = []
    report = validate(run.path, said.append)
    assert report.model is None
    assert report.missing == ("there is no model: the run was not trained on",)
    assert report.held_out_wells == ("B3",)
    assert report.timing == {"prediction_per_frame": None, "training": None}, "no time is not a time of nothing"
    assert {row.source for row in report.levels} == {"reference", "classical"}
    assert all("truth" in row.against for row in report.levels)
    assert "missing in the report: there is no model: the run was not trained on" in said
    written = without_seal(json.loads((run.path / "report.json").read_text(encoding="utf-8")))
    assert Report.model_validate(written) == report
    assert "f1_at_0.5" in written["levels"][0]["against"]["truth"]
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "Missing: there is no model" in page
    assert page.count("<img") == 6, "light against score, a field at four levels, the plate"
    assert verdict(report).startswith("No verdict")


def test_a_run_without_held_out_wells_says_so(run):
    change_job(run, held_out=0)
    report = validate(run.path, lambda _: None)
    assert report.missing[0] == "no well is held out: nothing can be validated"
    assert report.levels == ()
    assert "no well is held out" in (run.path / "report.html").read_text(encoding="utf-8")


def test_sites_with_images_of_the_wrong_light_are_not_judged_and_that_is_said(run):
    checks = [c for c in run.light_checks.read() if c.well == "B3" and c.level == "2%" and c.site == 0]
    run.light_checks.append([c.model_copy(update={"verdict": "wrong"}) for c in checks])
    assert set(HeldOutSites(run).frames) == {("B3", 1, 0)}
    report = validate(run.path, lambda _: None)
    assert report.missing[0] == "1 held-out sites are left out: wrong light"
    assert report.sites == 1
    lines = (run.path / "frames.jsonl").read_text(encoding="utf-8").splitlines()
    changed = [json.loads(line) for line in lines]
    for line in changed:
        if (line["well"], line["site"], line["level"]) == ("B3", 1, "0.2%"):
            line |= {"state": "skipped", "reason": "the camera was busy"}
    rewrite_lines(run.path / "frames.jsonl", changed)
    sites = HeldOutSites(run)
    assert sites.frames == {}
    assert sites.missing == "1 held-out sites are left out: wrong light; 1 held-out sites are left out: skipped image"
    assert "held-out sites are left out" in validate(run.path, lambda _: None).missing[0]


def test_fields_are_shown_beside_a_level_that_was_made_by_thinning(run):
    report = validate(run.path, lambda _: None)
    row = next(row for row in report.levels if row.source == "reference")
    rows = [
        row.model_copy(update={"source": "network", "name": name, "measured": name == "2%"}) for name in ("2%", "3.2%")
    ]
    assert len(_chosen(run, report.model_copy(update={"levels": (*report.levels, *rows)}))) == 2


def test_a_level_of_the_wrong_light_is_left_out_and_the_others_are_judged(run):
    checks = [c for c in run.light_checks.read() if c.level == "0.05%"]
    run.light_checks.append([c.model_copy(update={"verdict": "wrong"}) for c in checks])
    report = validate(run.path, lambda _: None)
    assert report.missing[0] == "0.05% is left out: its light is wrong at most held-out sites"
    assert report.sites == 2
    assert {row.name for row in report.levels} == {"100%", "2%", "0.2%"}


def test_a_model_is_not_judged_on_wells_that_it_has_learned_from(run):
    """The tests' model has learned from B2 of this very specimen, and never saw B3."""
    change_job(run, held_out="B2")
    with pytest.raises(ProblemsError, match="has learned from B2 of this plate: what it finds there proves nothing"):
        validate(run.path, lambda _: None, model=MODEL)
    change_job(run, held_out="B2, B3")
    said = []
    report = validate(run.path, said.append, model=MODEL)
    assert report.held_out_wells == ("B3",)
    assert report.left_out == {"learned from": 2}
    assert report.seen == "same_plate"
    assert (
        "Judged on 2 of 4 sites of the held-out wells; left out: 2 in wells that the network has learned from." in said
    )
    assert "On 1 well that it never trained on" in verdict(report)
    assert report.recommendation.headline.outcome == "too few wells"
    other_plate, unknown = (report.model_copy(update={"seen": seen}) for seen in ("other_plate", "unknown"))
    assert "of another plate than it learned from" in verdict(other_plate)
    assert "it is not known whether it has learned from this plate" in verdict(unknown)


def test_a_network_that_has_not_learned_is_the_reports_first_sentence(run):
    change_job(run, training={"least_f1": 0.85})
    run.write_status("train", state="completed", learned=False, f1={"100%": 0.2}, step=127, seconds=120.0)
    report = validate(run.path, lambda _: None)
    assert report.recommendation.headline.outcome == "not learned"
    assert report.recommendation.learned.wells == "validation"
    assert not report.is_whole
    assert verdict(report, "RUN").startswith("The network has not learned yet after 127 steps: at full light its F1")
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "The network has not learned yet" in page


@pytest.mark.e2e
def test_nothing_in_the_held_out_wells_is_no_success(tmp_path):
    job = small("simulated")
    data = job.profile.model_dump(mode="json")
    data["simulator"]["specimen"] |= {"empty_well_fraction": 1.0}
    job.profile = MicroscopeProfile.model_validate(data)
    run, _ = acquired(job, tmp_path / "run")
    segment_run(run.path, lambda _: None, workers=1)
    report = validate(run.path, lambda _: None, model=MODEL)
    assert report.recommendation.headline.outcome == "no nuclei"
    assert not report.is_whole
    full = next(row for row in report.levels if row.source == "network")
    assert full.against["reference"].f1_at_0_5.value is None
    assert full.against["reference"].miss_percent.value is None
    assert verdict(report).startswith("There are no nuclei in the held-out wells")


def test_sites_without_a_full_light_image_are_counted(run):
    path = run.path / "frames.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if (line["well"], line["site"], line["level"]) == ("B3", 1, "100%"):
            line |= {"state": "left_out", "reason": "a rule"}
    rewrite_lines(path, lines)
    sites = HeldOutSites(run)
    assert (sites.planned, len(sites.frames), sites.left_out) == (2, 1, {"no full-light image": 1})
    lines = [line for line in lines if (line["well"], line["site"]) != ("B3", 0)]
    rewrite_lines(path, lines)
    assert HeldOutSites(run).left_out == {"not acquired": 1, "no full-light image": 1}


def test_wells_without_nuclei_are_no_repeats_of_the_experiment(run):
    """Four empty wells beside two made an interval of two wells, and a narrow one."""
    change_job(run, held_out="B3, B4, B5")
    sites, findings = HeldOutSites(run), Findings()
    find_by_reference(sites, findings)
    for (source, level), labels in list(findings.labels.items()):
        for key, masks in labels.items():
            seen = np.zeros_like(masks) if key[0] != "B3" else masks
            findings.labels[source, level][key] = seen
            table = next(t for t in findings.tables[source, level] if (t["well"].iloc[0], t["site"].iloc[0]) == key[:2])
            record = sites.frames[key][level]
            findings.add("network", record, seen, table[table["label"].isin(np.unique(seen))])
    comparisons = Comparisons(sites, findings)
    assert comparisons.wells_with_nuclei(("network", "100%")) == 1
    row = next(row for row in rows_of(sites, comparisons) if (row.source, row.name) == ("network", "2%"))
    assert row.against["network_100"].miss_percent.value == 0
    assert row.against["network_100"].miss_percent.confidence_95 is None, "one well with nuclei"
    assert row.confidence_95["median_area_um2"] is None


def test_half_a_plate_is_reported_as_what_it_is(run):
    change_job(run, held_out="B3, B5")
    ledger = run.path / "frames.jsonl"
    lines = ledger.read_text(encoding="utf-8").splitlines(keepends=True)
    ledger.write_text("".join(line for line in lines if '"well":"B5"' not in line), encoding="utf-8")
    report = validate(run.path, lambda _: None)
    assert report.held_out_wells == ("B3",)
    assert report.timing == {"prediction_per_frame": None, "training": None}, "no time is not a time of nothing"
    assert report.sites == 2


def test_fields_without_nuclei_are_a_report_too(tmp_path):
    run, _ = acquired(small("demo"), tmp_path / "run")
    segment_run(run.path, lambda _: None, workers=1)
    report = validate(run.path, lambda _: None)
    assert {row.source for row in report.levels} == {"reference", "classical"}
    assert all(row.against.keys() <= {"reference"} for row in report.levels)
    assert report.specimen is None
    assert (run.path / "report.html").exists()


def test_names_in_a_page_are_text(run):
    report = validate(run.path, lambda _: None).model_copy(update={"protocol": "<script>alert(1)</script>"})
    write_page(run, report)
    assert "<script" not in (run.path / "report.html").read_text(encoding="utf-8")
