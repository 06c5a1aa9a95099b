"""Masks of a plate, shared out to a Dask cluster."""

from __future__ import annotations

import shutil
import threading
import time
import warnings
from contextlib import suppress

import numpy as np
import pandas as pd
import psutil
import pytest
from typer.testing import CliRunner

from scotopic.cli import app
from scotopic.protocol import ProblemsError
from scotopic.store import RunFolder
from scotopic.workflow import segment_run

pytestmark = pytest.mark.filterwarnings("default")


def masks(run):
    """Return the labels and the tables of all sites, and what is said of each."""
    plate = run.plate(run.read_protocol(), run.read_profile())
    keys = sorted(run.references())
    return (
        [plate.read_labels(well, site, "reference") for well, site, _ in keys],
        pd.concat([run.nuclei.read("reference", *key) for key in keys], ignore_index=True),
        run.references(),
    )


@pytest.fixture
def unsegmented(segmented_plate, tmp_path):
    path = shutil.copytree(segmented_plate, tmp_path / "RUN")
    shutil.rmtree(path / "nuclei")
    for labels in (path / "plate.ome.zarr").glob("*/*/*/labels"):
        shutil.rmtree(labels)
    return RunFolder(path)


def same(run, other):
    here, there = masks(run), masks(other)
    for mine, yours in zip(here[0], there[0], strict=True):
        assert np.array_equal(mine, yours)
    pd.testing.assert_frame_equal(here[1], there[1])
    assert here[2] == there[2]


@pytest.mark.e2e
def test_two_workers_one_of_them_killed_make_the_same_masks_as_one_process(unsegmented, segmented_plate):
    killed = []

    def kill():
        """Kill a worker as soon as the first masks are there."""
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            time.sleep(0.05)
            if not list((unsegmented.path / "plate.ome.zarr").glob("*/*/*/labels/reference/0/c")):
                continue
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # it may end meanwhile
                    if "spawn_main" in " ".join(process.cmdline()) and not killed:
                        process.kill()
                        killed.append(process.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        segment_run(unsegmented.path, lambda _: None, workers=2, dask="local")
    thread.join()
    assert killed
    same(unsegmented, RunFolder(segmented_plate))


@pytest.mark.parametrize("words", [["--follow"], ["--dask", "local"]])
def test_what_is_for_runs_alone_is_not_passed_over(tmp_path, words):
    result = CliRunner().invoke(app, ["segment", str(tmp_path), "--reference", "--out", str(tmp_path / "out"), *words])
    assert result.exit_code == 2
    assert f"{words[0]} is for masks that runs take themselves" in result.output


def test_a_cluster_that_is_not_there_is_told(unsegmented):
    with pytest.raises(ProblemsError, match="no Dask scheduler answers there"):
        segment_run(unsegmented.path, lambda _: None, dask="tcp://127.0.0.1:1")
    assert not unsegmented.references()
