"""The page: everything in it is drawn, nothing leaves it, and it can be drawn anew."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess

import imageio.v3 as iio
import pytest

from scotopic import workflow
from scotopic.protocol import ProblemsError
from scotopic.report import write_page
from scotopic.report.schema import RefusedSite
from scotopic.store import RunFolder

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "msedge"))), None)


@pytest.fixture(scope="module")
def run(segmented_plate, tmp_path_factory):
    """A run with a model that has learned nothing to speak of."""
    run = RunFolder(shutil.copytree(segmented_plate, tmp_path_factory.mktemp("page") / "run"))
    workflow.train(run.path, lambda _: None)
    workflow.validate(run.path, lambda _: None)
    return run


@pytest.fixture(scope="module")
def page(run):
    return (run.path / "report.html").read_text(encoding="utf-8")


@pytest.mark.e2e
def test_all_pictures_of_a_page_are_in_it(run, page):
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) >= 12
    for source in sources:
        assert iio.imread(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))).size > 0
    assert "http" not in page
    assert "<script" not in page
    for heading in (
        "The table",
        "over the darkest image",
        "The same field at every light",
        "Ground truth",
        "Bleaching and drift",
    ):
        assert heading in page
    assert (run.path / "report.html").stat().st_size < 8e6


@pytest.mark.e2e
@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_a_browser_shows_the_page_without_a_complaint(run, tmp_path):
    picture = tmp_path / "page.png"
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    quiet += ["--disable-sync", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [
        BROWSER,
        "--headless",
        *quiet,
        "--enable-logging=stderr",
        "--window-size=1200,3000",
        f"--screenshot={picture}",
    ]
    shown = subprocess.run(
        [*command, (run.path / "report.html").as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    assert "CONSOLE" not in shown.stderr
    assert iio.imread(picture).std() > 10


@pytest.mark.e2e
def test_a_page_is_drawn_anew_from_the_json_with_figures_for_papers(run, page, tmp_path):
    (run.path / "report.html").unlink()
    said = []
    workflow.report(run.path, said.append, figures=tmp_path / "figures")
    assert (run.path / "report.html").read_text(encoding="utf-8") == page
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"light_against_error.pdf", "light_against_error.png", "plate.pdf", "dna.png"} <= names


@pytest.mark.e2e
def test_runs_are_compared_and_one_without_a_report_is_told(run, segmented_plate):
    lines = workflow.compare([run.path, run.path])
    assert len(lines) >= 8
    assert lines[0][2] == "100%"
    with pytest.raises(ProblemsError, match="has no report yet"):
        workflow.compare([run.path, segmented_plate])


@pytest.mark.e2e
def test_refused_sites_are_shown_with_the_reason(run):
    report = workflow.reporting.read_report(run.path)
    truth = report.ground_truth.model_copy(update={"refused": (RefusedSite(name="B2_0", reasons=("fibre",)),)})
    write_page(run, report.model_copy(update={"ground_truth": truth}))
    assert "B2_0: fibre" in (run.path / "report.html").read_text(encoding="utf-8")
