"""A guard that sees an acquisition die, and makes it dark."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from conftest import ROOT
from lasting import STATE
from scotopic.microscope import microscope_lock
from scotopic.protocol import MicroscopeProfile, ProblemsError, read_model
from scotopic.store import RunFolder
from scotopic.workflow import guard

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends signals that Windows does not have")


@pytest.fixture
def burning(tmp_path, monkeypatch):
    """A microscope whose LED burns on when its process dies, and a protocol that takes long exposures."""
    text = (ROOT / "hardware_configs" / "simulated.cfg").read_text(encoding="utf-8")
    for label, module in {"LED": "lasting,LastingLED", "Shutter": "lasting,LastingShutter"}.items():
        line = next(each for each in text.splitlines() if each.startswith(f"#py pyDevice,{label},"))
        text = text.replace(line, f"#py pyDevice,{label},{module}")
    (tmp_path / "burning.cfg").write_text(text, encoding="utf-8")
    data = yaml.safe_load((ROOT / "hardware_configs" / "simulated.yaml").read_text(encoding="utf-8"))
    del data["simulator"]
    data |= {"config": "burning.cfg", "plate_calibration": {"A1": [0, 0], "A12": [99000, 0], "H1": [0, 63000]}}
    data["verification"] = {"light_check": False}
    (tmp_path / "burning.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    protocol = yaml.safe_load((ROOT / "protocols" / "quickstart.yaml").read_text(encoding="utf-8"))
    protocol |= {"wells": "B2:B3", "held_out": 1, "sites": {"rows": 3, "columns": 3}}
    protocol["light_levels"] = [
        {"name": "100%", "exposure_ms": 3000, "led_percent": 100, "role": "reference"},
        {"name": "2%", "exposure_ms": 2000, "led_percent": 10},
    ]
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(protocol), encoding="utf-8")
    state = tmp_path / "power.txt"
    monkeypatch.setenv(STATE, str(state))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), str(ROOT / "src")]))
    return state


def acquiring(burning):
    """An acquisition that has its light on."""
    here = burning.parent
    words = ["acquire", here / "slow.yaml", "--microscope", here / "burning.yaml", "--out", here / "run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "scotopic", *map(str, words)], stdout=subprocess.DEVNULL, start_new_session=True
    )
    wait_for(lambda: power(burning) > 0 and RunFolder(here / "run").read_status("acquire"), process)
    return process


def power(state):
    return float(state.read_text(encoding="utf-8") or 0) if state.exists() else 0.0


def wait_for(what, process=None, seconds=60):
    until = time.monotonic() + seconds
    while not what():
        assert process is None or process.poll() is None, "it has ended"
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.e2e
def test_after_a_kill_of_the_whole_group_the_guard_makes_it_dark(burning):
    process = acquiring(burning)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert power(burning) > 0, "the LED does not know that its process is gone"
    wait_for(lambda: power(burning) == 0)
    run = burning.parent / "run"
    wait_for(lambda: RunFolder(run).guard_has_acted())
    log = (run / "run.log").read_text(encoding="utf-8")
    assert f"guard: process {process.pid} is gone" in log
    assert "guard: the light is off" in log
    wait_for(lambda: not guards(run))


@pytest.mark.e2e
def test_a_process_that_hangs_is_ended_and_made_dark(burning):
    process = acquiring(burning)
    os.kill(process.pid, signal.SIGSTOP)
    run = burning.parent / "run"
    assert guard(run, burning.parent / "burning.yaml", lambda _: None, process=process.pid, hangs_s=6) is False
    process.wait()
    assert not psutil.pid_exists(process.pid)
    assert power(burning) == 0
    assert "has not answered for 6 s" in (run / "run.log").read_text(encoding="utf-8")


def test_where_the_light_stays_out_of_reach_it_is_said(burning, monkeypatch):
    monkeypatch.setattr("scotopic.workflow.guarding._PORT_FREE_S", 0)
    here, said = burning.parent, []
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (here / "run").mkdir()
    (here / "burning.cfg").unlink()
    with pytest.raises(ProblemsError):
        guard(here / "run", here / "burning.yaml", said.append, process=ended.pid)
    assert "LOOK WHETHER IT IS ON" in said[-1]
    with pytest.raises(ProblemsError, match="no acquisition to watch over"):
        guard(here / "run", here / "burning.yaml", said.append)


def test_a_microscope_that_another_process_has_by_then_is_left_to_it(burning, monkeypatch):
    monkeypatch.setattr("scotopic.workflow.guarding._PORT_FREE_S", 0)
    here, said = burning.parent, []
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (here / "run").mkdir()
    burning.write_text("50", encoding="utf-8")
    with microscope_lock(read_model(here / "burning.yaml", MicroscopeProfile), here / "burning.yaml"):
        assert guard(here / "run", here / "burning.yaml", said.append, process=ended.pid) is False
    assert "the light is that process's" in said[-1]
    assert power(burning) == 50


@pytest.mark.e2e
def test_a_guard_goes_when_the_run_ends(burning):
    process = acquiring(burning)
    run = burning.parent / "run"
    assert len(guards(run)) == 1
    process.terminate()
    process.wait()
    assert power(burning) == 0
    wait_for(lambda: not guards(run))
    assert RunFolder(run).read_status("guard")["state"] == "watching"
    assert not RunFolder(run).guard_has_acted()


def guards(run):
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "guard" in words and str(run) in words:
            found.append(process)
    return found
