from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from conftest import ROOT
from scotopic.protocol import ProblemsError, TrainingSettings
from scotopic.store import RunFolder
from scotopic.workflow import stages, whole

TRAINING = {
    "state": "training",
    "step": 1234,
    "seconds_left": 360,
    "growing": True,
    "checks": [{"f1": {"100%": 0.98, "0.05%": 0.91}}],
}
LIVE = {"images": {"segmented": 30, "dropped": 2, "lost": 0}, "model": "abc"}


@pytest.fixture
def run(monkeypatch):
    """A run of which the status files can be set."""
    status = {}
    protocol = SimpleNamespace(
        training=TrainingSettings(minutes=12), held_out_wells=("B2", "C3"), sites=SimpleNamespace(count=9)
    )
    of = SimpleNamespace(read_status=lambda part: status.get(part, {}), read_protocol=lambda: protocol)
    monkeypatch.setattr(stages, "RunFolder", lambda path: of)
    return status, protocol


def test_each_process_has_a_line_and_the_report_its_time(run, tmp_path):
    status, _ = run
    status |= {"train": TRAINING, "live": LIVE}
    assert stages.stage_lines(tmp_path, 120, to_the_report=True) == [
        "training: step 1,234, 6 min left once the plate is complete; F1 0.980 at 100%, 0.910 at 0.05%",
        "live: 30 segmented, 2 dropped, model abc",
        "report in about 9 min",
    ]


def test_before_anything_is_known_the_whole_budget_is_to_come(run, tmp_path):
    assert stages.stage_lines(tmp_path, 120, to_the_report=True) == ["report in about 15 min"]
    assert stages.stage_lines(tmp_path, None, to_the_report=True) == []


def test_where_no_report_follows_none_is_promised(run, tmp_path):
    assert stages.stage_lines(tmp_path, 120, to_the_report=False) == []


def test_steps_take_nobody_knows_how_long(run, tmp_path):
    _, protocol = run
    protocol.training = TrainingSettings(steps=100, least_f1=0)
    assert stages.stage_lines(tmp_path, 120, to_the_report=True) == []


def test_when_the_training_is_done_only_the_judgement_is_left(run, tmp_path):
    status, _ = run
    status["train"] = {"state": "completed", "model": "abc", "checks": []}
    assert stages.stage_lines(tmp_path, 0, to_the_report=True) == [
        "training: completed, model abc",
        "report in about 54 s",
    ]


def test_a_run_does_not_go_on_beside_a_training_of_somebody_else(segmented_plate, tmp_path, monkeypatch):
    """Both would write its model and its report."""
    monkeypatch.setattr(whole, "_LAST_TRAINER_S", 0)
    copy = shutil.copytree(segmented_plate, tmp_path / "run")
    protocol, profile = (ROOT / name for name in ("protocols/quickstart.yaml", "hardware_configs/simulated.yaml"))
    said = []
    with RunFolder(copy).training_lock(), pytest.raises(ProblemsError, match="another process trains on it"):
        whole.run(protocol, profile, copy, said.append)
    assert said == ["waiting for another process to end its training on this run"]
    assert not (copy / "report.html").exists()
