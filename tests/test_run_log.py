"""What is written down of a run for people, and what is collected when they ask for help."""

from __future__ import annotations

import json
import logging
import re

import pytest
import yaml
from typer.testing import CliRunner

from conftest import ROOT, small
from scotopic.cli import app
from scotopic.workflow.command import ENDS_WITH_STDIN
from scotopic.workflow.run_log import run_log

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} (INFO|WARNING|ERROR) +\S")


@pytest.fixture
def job(tmp_path):
    """Two wells of two sites, as files."""
    made = small("simulated", faults=[{"kind": "snap_fails", "after": 2}])
    protocol, profile = tmp_path / "small.yaml", tmp_path / "simulated.yaml"
    protocol.write_text(yaml.safe_dump(made.protocol.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    data = made.profile.model_dump(mode="json", exclude_none=True)
    profile.write_text(yaml.safe_dump(data), encoding="utf-8")
    (tmp_path / "simulated.cfg").write_bytes((ROOT / "hardware_configs" / "simulated.cfg").read_bytes())
    return protocol, profile


def test_a_run_has_a_readable_log_of_what_was_said_and_what_went_wrong(job, tmp_path):
    protocol, profile = job
    words = ["acquire", str(protocol), "--microscope", str(profile), "--out", str(tmp_path / "run")]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 1, first.output
    lines = (tmp_path / "run" / "run.log").read_text(encoding="utf-8").splitlines()
    assert all(LINE.match(line) for line in lines), lines
    assert "Only one training well" in lines[0], "what came before the folder is there too"
    assert any("WARNING" in line and "skipped: camera error" in line for line in lines)
    assert lines[-1].endswith("verified: 15 frames written, 1 skipped")
    CliRunner().invoke(app, words)
    again = (tmp_path / "run" / "run.log").read_text(encoding="utf-8").splitlines()
    assert again[: len(lines)] == lines
    assert len(again) > len(lines)
    told = CliRunner().invoke(app, ["doctor", "--microscope", str(profile), "--run", str(tmp_path / "run")])
    assert told.exit_code == 0, told.output
    assert "pymmcore-plus 0." in told.output
    assert "calibration" not in told.output
    assert "camera: not measured" in told.output
    assert "acquire: completed" in told.output
    assert "skipped: camera error" in told.output


def test_a_folder_that_is_refused_gets_no_log(job, tmp_path):
    protocol, profile = job
    other = tmp_path / "other"
    other.mkdir()
    (other / "frames.jsonl").write_text("{}\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["acquire", str(protocol), "--microscope", str(profile), "--out", str(other)])
    assert result.exit_code == 2
    assert not (other / "run.log").exists()


def test_one_process_of_a_run_writes_its_log(tmp_path, monkeypatch):
    heard = []
    with run_log(heard.append, tmp_path) as outer, run_log(outer.say, tmp_path) as inner:
        inner.say("once")
    assert (tmp_path / "run.log").read_text(encoding="utf-8").count("once") == 1
    monkeypatch.setenv(ENDS_WITH_STDIN, "1")
    with run_log(heard.append, tmp_path) as log:
        log.say("by the process that began this one")
    assert "by the process" not in (tmp_path / "run.log").read_text(encoding="utf-8")
    assert heard == ["once", "by the process that began this one"]


def test_a_log_does_not_grow_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("scotopic.workflow.run_log._LARGEST_BYTES", 2000)
    with run_log(lambda _: None, tmp_path) as log:
        for number in range(500):
            log.say(f"line {number}")
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["run.log", "run.log.1", "run.log.2", "run.log.3"]
    assert all(path.stat().st_size < 2100 for path in tmp_path.iterdir())
    assert "line 499" in (tmp_path / "run.log").read_text(encoding="utf-8")


def test_what_ends_a_run_is_in_its_log_and_told_once(tmp_path, capsys):
    with pytest.raises(RuntimeError, match="stage jammed"), run_log(lambda _: None, tmp_path):
        raise RuntimeError("stage jammed")
    assert "ERROR   ended by RuntimeError: stage jammed" in (tmp_path / "run.log").read_text(encoding="utf-8")
    assert capsys.readouterr().err == ""


def test_warnings_are_still_seen(tmp_path, capsys):
    with run_log(lambda _: None, tmp_path):
        logging.getLogger("scotopic.microscope").warning("the light is on")
    assert "the light is on" in capsys.readouterr().err
    assert "WARNING the light is on" in (tmp_path / "run.log").read_text(encoding="utf-8")


def test_a_doctor_is_not_stopped_by_what_is_broken(tmp_path):
    (tmp_path / "status").mkdir()
    (tmp_path / "status" / "train.json").write_text("{", encoding="utf-8")
    (tmp_path / "broken.yaml").write_text("name: x\n", encoding="utf-8")
    words = ["doctor", "--microscope", str(tmp_path / "broken.yaml"), "--run", str(tmp_path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "train: cannot be read" in result.output
    assert "error: " in result.output
    assert json.dumps("GPU") in json.dumps(result.output) or "GPU" in result.output
