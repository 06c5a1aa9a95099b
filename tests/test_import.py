"""Images that other software took become a run."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from typer.testing import CliRunner

from conftest import DATA, ROOT
from scotopic.cli import app
from scotopic.protocol import Plate, ProblemsError
from scotopic.store import RunFolder, verify
from scotopic.store.foreign import PRESETS, find_by_list, find_by_names, on_a_plate
from scotopic.workflow import segment_run, validate

PROFILE = ROOT / "hardware_configs" / "simulated.yaml"
LIGHT = {"100%": "200,100", "2%": "4,100", "0.2%": "4,10", "0.05%": "4,2.5"}
LEVELS = [part for name, light in LIGHT.items() for part in ("--level", f"{name}={light}")]


def imported(*words: object):
    return CliRunner().invoke(app, ["import", *map(str, words)])


def frames_of(path):
    """Yield each written frame of a run with its image."""
    run = RunFolder(path)
    plate = run.plate(run.read_protocol(), run.read_profile())
    for record in run.ledger.read():
        yield record, plate.read(record.well, record.site, record.level)


@pytest.fixture
def renamed(segmented_plate, tmp_path):
    """The images of a run under the names that another microscope would have given them, and a list of them."""
    folder = tmp_path / "images"
    folder.mkdir()
    with (folder / "list.csv").open("w", newline="") as file:
        lines = csv.writer(file, delimiter=";")
        lines.writerow(["file", "well", "site", "level", "exposure_ms", "led_percent", "x_um", "y_um"])
        for record, image in frames_of(segmented_plate):
            name = f"{record.well[0]}{int(record.well[1:]):02d}_s{record.site + 1}_{record.level}.tif"
            tifffile.imwrite(folder / name, image)
            light = record.exposure_ms, record.led_percent
            lines.writerow([name, record.well.lower(), record.site, record.level, *light, *record.xy_um])
    return folder


def tables(run):
    """Return the nuclei of a run's reference masks, by site."""
    folder = RunFolder(run).nuclei.folder("reference")
    table = pd.concat(map(pd.read_parquet, sorted(folder.glob("*.parquet"))), ignore_index=True)
    return table.sort_values(["well", "site", "level", "label"], ignore_index=True)


@pytest.mark.parametrize("how", ["pattern", "list"])
def test_renamed_images_of_a_run_give_the_same_table_as_the_run(segmented_plate, renamed, tmp_path, how):
    told = (
        ["--pattern", "{well}_s{site}_{level}.tif", *LEVELS] if how == "pattern" else ["--list", renamed / "list.csv"]
    )
    out = tmp_path / "RUN"
    result = imported(renamed, *told, "-m", PROFILE, "--out", out)
    assert result.exit_code == 0, result.output
    assert "imported 32 images of 8 sites in 4 wells, held out B" in result.output
    assert not verify(RunFolder(out))
    segment_run(out, lambda _: None, workers=1)
    pd.testing.assert_frame_equal(tables(out), tables(segmented_plate))
    assert yaml.safe_load((out / "protocol.yaml").read_text())["light_levels"][0]["role"] == "reference"


@pytest.mark.e2e
def test_a_model_is_judged_on_imported_images_as_on_the_run(segmented_plate, renamed, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "scotopic.learning.prediction.faster_dtype", lambda *_: "float32"
    )  # timed, and not twice the same
    out, protocol = tmp_path / "RUN", tmp_path / "protocol.yaml"
    values = RunFolder(segmented_plate).read_protocol().model_dump(mode="json", exclude_none=True)
    protocol.write_text(yaml.safe_dump(values), encoding="utf-8")
    told = ["--pattern", "{well}_s{site}_{level}.tif", "-p", protocol, "-m", PROFILE]
    assert imported(renamed, *told, "--out", out).exit_code == 0
    model = DATA / "model.safetensors"
    twin = shutil.copytree(segmented_plate, tmp_path / "twin")
    here, there = (validate(run, lambda _: None, model=model) for run in (out, twin))
    assert [level.model_dump() | {"sample_dose": 0} for level in here.levels] == [
        level.model_dump() | {"sample_dose": 0} for level in there.levels
    ]


def test_an_interrupted_import_goes_on(renamed, tmp_path, monkeypatch):
    from scotopic.workflow.importing import frames

    told = [renamed, "--pattern", "{well}_s{site}_{level}.tif", *LEVELS, "-m", PROFILE, "--out", tmp_path / "RUN"]
    calls = []

    def read(path, real=frames.read_plane):
        calls.append(path)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(frames, "read_plane", read)
    assert imported(*told).exit_code == 130
    assert imported(*told).exit_code == 0
    assert len(calls) < 11 + 32 - 4, "sites that were there are not read again"
    assert not verify(RunFolder(tmp_path / "RUN"))
    other = imported(*told[:-2], "--held-out", 2, "--out", tmp_path / "RUN")
    assert other.exit_code == 2
    assert "holds another run: held_out differ" in other.output


def test_what_cannot_be_read_or_is_not_there_is_a_hole_with_a_reason(renamed, tmp_path):
    (renamed / "B02_s1_2%.tif").write_bytes(b"no image")
    tifffile.imwrite(renamed / "B02_s2_2%.tif", np.zeros((10, 10), np.uint16))
    (renamed / "B03_s1_0.2%.tif").unlink()
    tifffile.imwrite(renamed / "B03_s1_FITC.tif", np.zeros((10, 10), np.uint16))
    (renamed / "thumbs.tif").write_bytes(b"x")
    result = imported(
        renamed, "--pattern", "{well}_s{site}_{level}.tif", *LEVELS, "-m", PROFILE, "--out", tmp_path / "RUN"
    )
    assert result.exit_code == 1, result.output
    assert "not imported: 1 files of other levels, for example B03_s1_FITC.tif" in result.output
    assert "thumbs.tif" in result.output
    assert "left out: 2 of the images given" in result.output
    assert "2% of B2_0" in result.output
    assert "cannot be read as an image" in result.output
    assert "has 10 x 10 px; the others, or the profile, have 512 x 512" in result.output
    assert "imported 29 images of 8 sites" in result.output
    assert "1 that the plate would have are not there" in result.output


def test_a_pair_without_plate_or_profile(segmented_plate, tmp_path):
    images = {r.level: image for r, image in frames_of(segmented_plate) if (r.well, r.site) == ("B2", 0)}
    paths = [tmp_path / "bright.png", tmp_path / "dark.tif"]
    tifffile.imwrite(paths[1], images["2%"])
    from skimage.io import imsave

    imsave(paths[0], images["100%"], check_contrast=False)
    out = tmp_path / "RUN"
    told = [*paths, "--level", "bright=200,100", "--level", "dark=4,100", "--out", out]
    missing = imported(*told)
    assert missing.exit_code == 2
    assert "--pixel-size-um must be given, or --microscope" in missing.output
    result = imported(*told, "--pixel-size-um", 0.65)
    assert result.exit_code == 0, result.output
    assert "assumed, for want of --microscope: an offset of" in result.output
    assert "imported 2 images of 1 sites in 1 wells, held out none" in result.output
    assert segment_run(out, lambda _: None, workers=1) > 20
    assert set(tables(out)["level"]) == {"bright", "dark"}


def test_what_was_missing_comes_with_the_same_command_and_nothing_changes_its_place(renamed, tmp_path):
    told = [renamed, "--pattern", "{well}_s{site}_{level}.tif", *LEVELS, "-m", PROFILE, "--out", tmp_path / "RUN"]
    late, kept = renamed / "B03_s1_2%.tif", tmp_path / "kept.tif"
    late.rename(kept)
    assert "imported 31 images" in imported(*told).output
    kept.rename(late)
    result = imported(*told)
    assert "imported 32 images of 8 sites" in result.output
    assert not verify(RunFolder(tmp_path / "RUN"))
    moved = tmp_path / "elsewhere" / renamed.name
    moved.parent.mkdir()
    renamed.rename(moved)
    other = imported(moved, *told[1:])
    assert other.exit_code == 2
    assert "before; choose another --out" in other.output


def test_the_third_site_stays_the_third_and_no_image_is_put_into_the_first_well(tmp_path):
    for name in ("B2_s3_a.tif", "B2_s4_a.tif"):
        (tmp_path / name).write_bytes(b"")
    plate = Plate.model_validate("96-well")
    found = find_by_names(tmp_path, ["{well}_s{site}_{level}.tif"]).images
    assert [image.site for image in on_a_plate(found, plate).images] == [2, 3]
    (tmp_path / "list.csv").write_text("file,level,well\nB2_s3_a.tif,a,B2\nB2_s4_a.tif,b,\n")
    with pytest.raises(ProblemsError, match="has no well, and 0 more have none, while others have one"):
        on_a_plate(find_by_list(tmp_path / "list.csv"), plate)
    with pytest.raises(ProblemsError, match="go together"):
        find_by_names(tmp_path, ["r{row}_{level}.tif"])


def test_images_that_a_protocol_has_no_place_for_are_refused(segmented_plate, renamed, tmp_path):
    protocol = tmp_path / "protocol.yaml"
    values = RunFolder(segmented_plate).read_protocol().model_dump(mode="json", exclude_none=True)
    protocol.write_text(yaml.safe_dump(values | {"wells": "B2:B4"}), encoding="utf-8")
    told = ["--pattern", "{well}_s{site}_{level}.tif", "-p", protocol, "-m", PROFILE]
    result = imported(renamed, *told, "--out", tmp_path / "RUN")
    assert result.exit_code == 2
    assert (
        "B5_0, time point 0, plane 0, is not in the protocol, nor are 7 more: it has 3 wells, 2 sites" in result.output
    )


def test_wells_by_number_are_counted_from_one(tmp_path):
    for number in ("00000", "00097"):
        (tmp_path / f"W{number}--P00001--Z00000--T00000--DAPI.tif").write_bytes(b"")
    found = find_by_names(tmp_path, PRESETS["scanr"]).images
    with pytest.raises(ProblemsError) as error:
        on_a_plate(found, Plate.model_validate("96-well"))
    assert [p.message[:8] for p in error.value.problems] == ["well 0 i", "well 97 "]


def test_channels_of_a_file_are_levels(segmented_plate, tmp_path):
    frames = [(r, image) for r, image in frames_of(segmented_plate) if r.well == "B2"]
    folder = tmp_path / "ome"
    folder.mkdir()
    for site in (0, 1):
        images = {r.level: image for r, image in frames if r.site == site}
        channels = {"Channel": {"Name": list(LIGHT)}}
        stack = np.stack([images[name] for name in LIGHT])
        tifffile.imwrite(folder / f"field {site}.ome.tif", stack, metadata={"axes": "CYX"} | channels)
    out = tmp_path / "RUN"
    result = imported(folder, "--pattern", "{field}.ome.tif", *LEVELS, "-m", PROFILE, "--out", out)
    assert result.exit_code == 0, result.output
    records = {(r.well, r.level): r.checksum for r in RunFolder(out).ledger.read()}
    assert records["A2", "0.2%"] == next(r.checksum for r, _ in frames if r.site == 1 and r.level == "0.2%")


def test_a_known_level_ends_a_name_wherever_else_it_could_end(tmp_path):
    for name in ("img_01_Dark.tif", "img_01_bright.tif", "img_02_dark.tif", "img_02_bright.tif"):
        (tmp_path / name).write_bytes(b"")
    found = find_by_names(tmp_path, ["{field}_{level}.tif"], ["bright", "dark"])
    assert {(i.field, i.level) for i in found.images} == {
        (f, v) for f in ("img_01", "img_02") for v in ("bright", "dark")
    }
    assert not found.left_out
    found = find_by_names(tmp_path, ["{field}_{level}.tif"])
    assert {i.field for i in found.images} == {"img_01", "img_02"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--pattern", "{wel}_{level}.tif"], "{wel} is no placeholder; did you mean 'well'"),
        (["--pattern", "{well}-{level}.tif"], "no file fits {well}-{level}.tif; 34 files are there, for example"),
        (["--pattern", "{well}_s{site}_{level}.tif"], "exposure and LED power of 100% are not known: --level 100%="),
        (
            ["--pattern", "{well}_s{site}_{level}.tif", "--level", "w1=1,1"],
            "no file fits {well}_s{site}_{level}.tif with the levels w1",
        ),
        (["--pattern", "{well}_{*}_{level}.tif", *LEVELS], "are both 100% of B2_0: one frame"),
        (["--pattern", "{well}_s{site}_{level}.tif", "--level", "2%"], "--level = '2%': allowed: NAME=EXPOSURE_MS"),
        (["--pattern", "{well}_s{site}_{level}.tif", *LEVELS, "--plate", "6-well"], "B4 is not on a 6-well plate"),
        (["--preset", "opera"], "--preset = 'opera': allowed: scanr, imagexpress, micro-manager"),
        ([*LEVELS], "must be given: --pattern, --preset or --list"),
    ],
)
def test_mistakes_get_a_line_and_leave_nothing(renamed, tmp_path, words, told):
    (renamed / "notes.txt").write_text("x")
    result = imported(renamed, *words, "-m", PROFILE, "--out", tmp_path / "RUN")
    assert result.exit_code == 2, result.output
    assert told in result.output
    assert not (tmp_path / "RUN").exists()


def test_a_list_with_mistakes_names_each_line(renamed):
    path = renamed / "wrong.csv"
    path.write_text(
        "file,level,well,site\nnone.tif,a,B2,0\nB02_s1_2%.tif,,B2,0\nB02_s1_2%.tif,2%,22,0\nB02_s1_2%.tif,2%,B2,x\n"
    )
    with pytest.raises(ProblemsError) as error:
        find_by_list(path)
    assert [problem.line for problem in error.value.problems] == [2, 3, 4, 5]
    path.write_text("file,levl\na,b\n")
    with pytest.raises(ProblemsError, match="level"):
        find_by_list(path)
