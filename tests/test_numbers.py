"""Options with numbers that no computer can reckon with, or wait for: each is refused in a line."""

from __future__ import annotations

import shutil

import pytest
from typer.testing import CliRunner

from conftest import ROOT
from scotopic.cli import app

PROFILE = str(ROOT / "hardware_configs" / "simulated.yaml")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "RUN", "--again", "--minutes", "inf"], "minutes: Input should be a finite number"),
        (["train", "RUN", "--again", "--minutes", "1e9"], "minutes: Input should be less than or equal to 10000"),
        (["train", "RUN", "--again", "--seed", str(10**23)], "seed: Input should be less than 2147483648"),
        (["guard", "RUN", "-m", PROFILE, "--process", "-1"], "greater than or equal to 1"),
        (["guard", "RUN", "-m", PROFILE, "--hangs-s", "inf"], "less than or equal to 86400"),
        (["queue", "train", "RUN", "--minutes", "1e9"], "minutes: Input should be less than or equal to 10000"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_number_without_bounds_is_refused(words, told, segmented_plate, tmp_path, monkeypatch):
    shutil.copytree(segmented_plate, tmp_path / "RUN")
    monkeypatch.setenv("SCOTOPIC_QUEUE", str(tmp_path / "queue"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, words)
    printed = " ".join(result.output.replace("│", " ").split())
    assert (result.exit_code, told in printed) == (2, True), printed
