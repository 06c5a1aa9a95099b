"""Runs in an object store: a server on this computer that speaks S3."""

from __future__ import annotations

import gc
import shutil
from urllib.request import Request, urlopen

import fsspec
import numpy as np
import pandas as pd
import pytest
from joblib.externals.loky import get_reusable_executor
from moto.server import ThreadedMotoServer
from typer.testing import CliRunner

import scotopic
from conftest import DATA
from scotopic.cli import app
from scotopic.store import RunFolder
from scotopic.store.files import path_of
from scotopic.workflow import segment_run, validate

pytestmark = pytest.mark.filterwarnings("default", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def bucket(monkeypatch):
    """A bucket on a server of its own."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    get_reusable_executor().shutdown(
        kill_workers=True
    )  # joblib's processes of earlier tests know nothing of this server
    store = fsspec.filesystem("s3", skip_instance_cache=True)
    store.mkdir("plates")
    yield store
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    server.stop()
    get_reusable_executor().shutdown(kill_workers=True)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    gc.collect()  # connections that nobody has closed complain here, and not in another test


@pytest.mark.e2e
def test_a_run_in_an_object_store_gives_the_same_report(bucket, segmented_plate, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "scotopic.learning.prediction.faster_dtype", lambda *_: "float32"
    )  # timed, and not twice the same
    here = shutil.copytree(segmented_plate, tmp_path / "RUN")
    bucket.put(str(here), "plates/RUN", recursive=True)
    model = DATA / "model.safetensors"
    result = CliRunner().invoke(app, ["validate", "s3://plates/RUN", "--model", str(model)])
    assert result.exit_code == 0, result.output
    expected = validate(here, lambda _: None, model=model)
    found = scotopic.open_run("s3://plates/RUN").report()
    assert found.levels == expected.levels
    assert found.recommendation == expected.recommendation
    page = bucket.cat("plates/RUN/report.html")
    assert len(page) > 100_000
    masks = f"network_{expected.model}_2"
    site = next(scotopic.open_run("s3://plates/RUN").sites(expected.held_out_wells))
    twin = next(scotopic.open_run(here).sites(expected.held_out_wells))
    assert np.array_equal(site.labels(masks), twin.labels(masks))


def test_masks_are_made_in_an_object_store(bucket, segmented_plate):
    run = RunFolder(segmented_plate)
    bucket.put(str(segmented_plate), "plates/RUN", recursive=True)
    bucket.rm("plates/RUN/nuclei", recursive=True)
    for labels in bucket.glob("plates/RUN/plate.ome.zarr/*/*/*/labels"):
        bucket.rm(labels, recursive=True)
    there = RunFolder(path_of("s3://plates/RUN"))
    assert segment_run(there.path, lambda _: None, workers=1) > 100
    assert there.references() == run.references()
    for key in run.references():
        pd.testing.assert_frame_equal(there.nuclei.read("reference", *key), run.nuclei.read("reference", *key))
    plates = [each.plate(each.read_protocol(), each.read_profile()) for each in (there, run)]
    assert np.array_equal(*(plate.read_labels("B2", 0, "reference") for plate in plates))
    verified = CliRunner().invoke(app, ["verify", "s3://plates/RUN"])
    assert verified.exit_code == 0, verified.output


def test_an_unknown_store_and_a_missing_run_get_a_line(bucket):
    del bucket
    unknown = CliRunner().invoke(app, ["verify", "nowhere://plates/RUN"])
    assert unknown.exit_code == 2
    assert "error: nowhere://plates/RUN: cannot be used" in unknown.output
    missing = CliRunner().invoke(app, ["validate", "s3://plates/none"])
    assert missing.exit_code == 2
    assert "holds no run" in missing.output
