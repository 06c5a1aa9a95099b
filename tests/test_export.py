"""Masks and tables of a run, opened by other programs."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import shapely.geometry as shapely
import tifffile
from typer.testing import CliRunner

from conftest import acquired, small
from scotopic.cli import app
from scotopic.protocol import MicroscopeProfile
from scotopic.store import RunFolder, verify
from scotopic.workflow import export_run, segment_run


@pytest.fixture(scope="module")
def exported(segmented_plate, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "out"
    export_run(segmented_plate, out, lambda _: None, images=True)
    return out


def labels_of(run, well="B2", site=0):
    folder = RunFolder(run)
    return folder.plate(folder.read_protocol(), folder.read_profile()).read_labels(well, site, "reference")


def test_masks_and_images_are_those_of_the_run(segmented_plate, exported):
    masks = tifffile.imread(exported / "masks" / "B2_0_2%.tif")
    assert np.array_equal(masks, labels_of(segmented_plate))
    assert masks.dtype == np.uint16
    assert len(list((exported / "images").iterdir())) == 32
    table = pd.read_parquet(exported / "nuclei.parquet")
    assert (table.groupby(["well", "site", "level"]).size() > 20).all()
    pd.testing.assert_frame_equal(pd.read_csv(exported / "nuclei.csv", dtype={"label": "int32"}), table)


def test_an_image_without_nuclei_is_a_row_with_0_and_no_missing_one(tmp_path):
    """A well that was looked at and has none was in no export: in a count by well it was missing instead of 0."""
    job = small("simulated", wells="B2:B3", held_out=0, sites={"rows": 1, "columns": 1})
    data = job.profile.model_dump(mode="json")
    data["simulator"]["specimen"] |= {"empty_well_fraction": 0.5, "seed": 4}
    job.profile = MicroscopeProfile.model_validate(data)
    run, _ = acquired(job, tmp_path / "run")
    segment_run(run.path, lambda _: None, workers=1)
    found = {key[0]: record.nuclei for key, record in run.references().items()}
    assert sorted(n > 0 for n in found.values()) == [False, True], "this seed has a well of each kind"
    assert verify(run) == [], "masks without nuclei are not missing"
    export_run(run.path, tmp_path / "out", lambda _: None)
    counts = pd.read_csv(tmp_path / "out" / "images.csv").groupby("well")["nuclei"].max().to_dict()
    assert counts == found
    lines = pd.read_csv(tmp_path / "out" / "cellprofiler.csv")
    assert lines.groupby("Metadata_Well").size().to_dict() == {"B2": 4, "B3": 4}
    (empty,) = [well for well, n in found.items() if n == 0]
    assert tifffile.imread(tmp_path / "out" / "masks" / f"{empty}_0_2%.tif").max() == 0
    shown = json.loads((tmp_path / "out" / "qupath" / f"{empty}_0_2%.geojson").read_text(encoding="utf-8"))
    assert shown == {"type": "FeatureCollection", "features": []}


def test_cellprofiler_finds_each_file_of_the_list(exported):
    """Columns as CellProfiler's LoadData wants them; the program itself does not run on this Python."""
    lines = pd.read_csv(exported / "cellprofiler.csv")
    assert len(lines) == 32
    for path, name in (
        ("Image_PathName_DNA", "Image_FileName_DNA"),
        ("Image_ObjectsPathName_Nuclei", "Image_ObjectsFileName_Nuclei"),
    ):
        for line in lines.itertuples():
            values = line._asdict()
            assert tifffile.imread(f"{values[path]}/{values[name]}").shape == (512, 512)


def test_outlines_for_qupath_hold_the_pixels_of_the_masks(segmented_plate, exported):
    collection = json.loads((exported / "qupath" / "B2_0_100%.geojson").read_text(encoding="utf-8"))
    labels = labels_of(segmented_plate)
    assert collection["type"] == "FeatureCollection"
    assert len(collection["features"]) == labels.max()
    for feature in collection["features"]:
        polygon = shapely.shape(feature["geometry"])
        assert polygon.is_valid
        label = int(feature["properties"]["name"])
        rows, columns = np.nonzero(labels == label)
        assert polygon.area == pytest.approx(len(rows), rel=0.12, abs=4), "contours cut the corners of pixels"
        assert polygon.buffer(0.8).contains(shapely.MultiPoint(np.column_stack([columns, rows]) + 0.5))
        assert feature["properties"]["objectType"] == "detection"
        assert feature["properties"]["measurements"]["area_um2"] > 0


def test_ngio_opens_plate_masks_and_tables(segmented_plate, tmp_path):
    run = shutil.copytree(segmented_plate, tmp_path / "RUN")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ngio

        for _ in range(2):  # again replaces them
            result = CliRunner().invoke(app, ["export", str(run), "--into-plate"])
            assert result.exit_code == 0, result.output
        plate = ngio.open_ome_zarr_plate(run / "plate.ome.zarr", mode="r")
        assert set(plate.wells_paths()) == {"B/2", "B/3", "B/4", "B/5"}
        field = plate.get_image(row="B", column="2", image_path="0")
        assert field.list_tables() == ["reference_0", "reference_1", "reference_2", "reference_3"]
        assert field.get_image().pixel_size.x == pytest.approx(0.65)
        labels = np.squeeze(field.get_label("reference").get_as_numpy())
        table = field.get_table("reference_2")
        found = table.dataframe
        assert table.reference_label == "reference"
    assert np.array_equal(labels, labels_of(run))
    mine = RunFolder(run).nuclei.read("reference", "B2", 0, 0)
    mine = mine[mine["level"] == "0.2%"].set_index("label")
    assert found["area_um2"].to_numpy() == pytest.approx(mine["area_um2"].to_numpy())
    assert set(found.index) == set(mine.index)


def test_mistakes_get_a_line(segmented_plate, tmp_path):
    def told(*words):
        result = CliRunner().invoke(app, ["export", str(segmented_plate), *map(str, words)])
        assert result.exit_code == 2
        return result.output

    assert "--out or --into-plate: one of the two must be given" in told()
    assert "has no nuclei of 'abc'; there are those of reference" in told("--out", tmp_path / "a", "--source", "abc")
    (tmp_path / "mine.txt").write_text("x")
    assert "is not empty; choose another folder" in told("--out", tmp_path)
