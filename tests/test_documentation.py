"""The documentation site is built from the repository, and its reference pages from the code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from conftest import ROOT
from scotopic import api


@pytest.mark.e2e
def test_the_site_is_built_with_every_key_and_every_name(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    surroundings = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=surroundings, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    protocol, profile, python = (
        (tmp_path / "reference" / name / "index.html").read_text(encoding="utf-8")
        for name in ("protocol", "profile", "python")
    )
    for key in ("held_out", "light_levels", "led_percent", "overlap_percent", "purposes", "edge"):
        assert f"<code>{key}</code>" in protocol
    for key in ("switch_off", "gain_e_per_count", "xy_tolerance_um", "clock"):
        assert f"<code>{key}</code>" in profile
    for name in api.__all__:
        assert name in python
    assert "Shape" in python or "shape" in python
