"""From a verdict to the next plate."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from conftest import DATA, ROOT
from scotopic.cli import app
from scotopic.learning.model import model_hash
from scotopic.protocol import ImagingProtocol, read_model
from scotopic.report.schema import Judgement, Learned, Purpose, Recommendation, Report
from scotopic.store import RunFolder

MODEL = DATA / "model.safetensors"
BETWEEN = Judgement(name="0.0707%", relative_dose=0.000707, measured=False, verdict="within")
FOUND = {
    "level": "0.0707%",
    "relative_dose": 0.000707,
    "exposure_ms": 4.0,
    "led_percent": 3.5,
    "light_saving_factor": 1414,
}


@pytest.fixture
def run(segmented_plate, tmp_path):
    """A run with a report that recommends a light for counting alone."""
    run = RunFolder(shutil.copytree(segmented_plate, tmp_path / "run"))
    run.models_path.mkdir(exist_ok=True)
    shutil.copyfile(MODEL, run.models_path / f"{model_hash(MODEL)}.safetensors")
    purposes = {
        "count": Purpose(outcome="level", tolerances={}, judgements=(BETWEEN,), **FOUND),
        "each_nucleus": Purpose(outcome="none", tolerances={}),
    }
    learned = Learned(f1=0.95, least_f1=0.85, wells="held-out")
    recommendation = Recommendation(purpose="each_nucleus", purposes=purposes, confidence=0.95, learned=learned)
    report = Report(
        protocol="quickstart", model=model_hash(MODEL), held_out_wells=("B3",), sites=2, planned_sites=2, levels=(), missing=(),
        recommendation=recommendation, timing={}, dose={}, versions={}, specimen=None,
    )  # fmt: skip
    (run.path / "report.json").write_text(json.dumps(report.model_dump(mode="json", by_alias=True)), encoding="utf-8")
    return run


def protocol_from(run, out, *words):
    return CliRunner().invoke(app, ["protocol", "from", str(run.path), "--out", str(out), *words])


def test_the_next_plate_is_imaged_at_the_recommended_light_with_the_model_at_work(run, tmp_path):
    out = tmp_path / "screen.yaml"
    result = protocol_from(run, out, "--purpose", "count")
    assert result.exit_code == 0, result.output
    protocol = read_model(out, ImagingProtocol)
    level = protocol.level("0.0707%")
    assert (level.exposure_ms, level.led_percent, level.taken) == (4.0, 3.5, "always")
    assert protocol.reference.taken == "at_sentinels"
    assert protocol.live.model == (run.models_path / f"{model_hash(MODEL)}.safetensors").absolute().as_posix()
    assert protocol.held_out_wells == ()
    assert protocol.well_names == run.read_protocol().well_names
    assert "plate: 96-well" in out.read_text(encoding="utf-8"), "as a person has written it"
    profile = str(ROOT / "hardware_configs" / "simulated.yaml")
    checked = CliRunner().invoke(app, ["check", str(out), "--microscope", profile])
    assert checked.exit_code == 0, checked.output


def test_a_light_that_is_not_recommended_is_not_made_up(run, tmp_path):
    result = protocol_from(run, tmp_path / "screen.yaml")
    assert result.exit_code == 2
    assert "recommends no light for each_nucleus" in result.output
    assert "--purpose count" in result.output
    assert not (tmp_path / "screen.yaml").exists()


def test_mistakes_get_one_line(run, tmp_path):
    out = tmp_path / "screen.yaml"
    assert "allowed: count, each_nucleus" in protocol_from(run, out, "--purpose", "cout").output
    out.write_text("mine", encoding="utf-8")
    assert "is there already" in protocol_from(run, out, "--purpose", "count").output
    assert out.read_text(encoding="utf-8") == "mine"
    next(run.models_path.glob("*.safetensors")).unlink()
    other = tmp_path / "other.yaml"
    assert "does not exist there" in protocol_from(run, other, "--purpose", "count").output
    assert protocol_from(run, other, "--purpose", "count", "--model", str(MODEL)).exit_code == 0
    (run.path / "report.json").unlink()
    assert "has no report yet" in protocol_from(run, tmp_path / "third.yaml").output
