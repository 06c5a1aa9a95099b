"""Folders as they really look: what cannot be read is named and left out, and nothing of the user's is overwritten."""

from __future__ import annotations

import json
import shutil

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy import ndimage as ndi

from conftest import DATA, acquired, small
from scotopic.nuclei.images import image_files, image_name, read_plane
from scotopic.protocol import ProblemsError
from scotopic.workflow import segment
from scotopic.workflow.nuclei_folder import NucleiFolder


def field(seed=1, size=200, dtype=np.uint16):
    """A dozen discs on a background, as a camera shows them."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((size, size))
    light = np.zeros((size, size))
    for row in range(3):
        for column in range(4):
            light[np.hypot(y - 35 - 60 * row, x - 30 - 45 * column) <= 11 + rng.uniform(-1, 1)] = 100
    scale = 1 if dtype == np.uint8 else 20
    return (scale * (ndi.gaussian_filter(light, 1.2) + rng.normal(20, 1, light.shape))).clip(0).astype(dtype)


def segmented(source, out, **more):
    said = []
    result = segment([source], out, said.append, workers=1, **more)
    return result, said


@pytest.mark.parametrize("compression", ["raw", "lzw", "deflate", "packbits", "jpeg"])
def test_tiffs_of_the_usual_compressions_are_read(compression, tmp_path):
    image = field(dtype=np.uint8)
    codec = {"deflate": "tiff_adobe_deflate", "lzw": "tiff_lzw", "raw": None}.get(compression, compression)
    Image.fromarray(image).save(tmp_path / "A1.tif", compression=codec)
    close = 12 if compression == "jpeg" else 0
    assert np.abs(read_plane(tmp_path / "A1.tif").astype(int) - image).max() <= close


@pytest.mark.parametrize("name", ["2024.05.06_A1.tif", "dose1.5uM_A01.ome.tif", "001.png", "A1.jpg"])
def test_a_name_keeps_its_dots(name, tmp_path):
    iio.imwrite(tmp_path / name, field(dtype=np.uint8))
    iio.imwrite(tmp_path / f"._{name}", field(dtype=np.uint8))
    (tmp_path / f"._{name}").write_bytes(b"\0\5\26\7")
    assert [path.name for path in image_files(tmp_path)] == [name]
    result, _ = segmented(tmp_path, tmp_path / "out")
    wanted = name.removesuffix(".ome.tif").removesuffix(".tif").removesuffix(".png").removesuffix(".jpg")
    assert image_name(tmp_path / name) == wanted
    table = pd.read_parquet(tmp_path / "out" / "nuclei.parquet")
    assert set(table.image) == {wanted}, "a name stays text"
    assert result.nuclei == len(table) == 12
    assert (tmp_path / "out" / "labels" / f"{wanted}.png").exists()


BAD = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-4000]),
    "no image": lambda path: path.write_text("a letter"),
    "true and false": lambda path: tifffile.imwrite(path, field() > 500),
    "colours": lambda path: iio.imwrite(path, np.stack([field(dtype=np.uint8)] * 3, axis=-1)),
    "planes": lambda path: tifffile.imwrite(path, np.stack([field()] * 4), photometric="minisblack"),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD.keys())
def test_one_bad_file_is_named_and_the_rest_is_done(spoil, tmp_path):
    for number in (1, 2, 3):
        tifffile.imwrite(tmp_path / f"A{number}.tif", field(number))
    spoil(tmp_path / "A2.tif")
    result, _ = segmented(tmp_path, tmp_path / "out")
    assert ["A2.tif" in str(problem) for problem in result.left_out] == [True]
    assert "\n" not in str(result.left_out[0])
    assert result.nuclei == 24
    assert list(pd.read_csv(tmp_path / "out" / "quality.csv").image) == ["A1", "A3"]
    with pytest.raises(ProblemsError, match=r"A2\.tif"):
        segmented(tmp_path / "A2.tif", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_no_segment_wrote_is_not_replaced(tmp_path):
    tifffile.imwrite(tmp_path / "A1.tif", field())
    mine = tmp_path / "out" / "labels" / "A1.png"
    mine.parent.mkdir(parents=True)
    iio.imwrite(mine, np.full((9, 9), 7, np.uint8))
    before = mine.read_bytes()
    with pytest.raises(
        ProblemsError, match="holds labels that no `segment` wrote; choose another --out, or --overwrite"
    ):
        segmented(tmp_path / "A1.tif", tmp_path / "out")
    assert mine.read_bytes() == before
    result, _ = segmented(tmp_path / "A1.tif", tmp_path / "out", overwrite=True)
    assert result.nuclei == iio.imread(mine).max() == 12


def test_a_folder_is_extended_or_replaced_as_a_whole(tmp_path):
    for number in (1, 2):
        tifffile.imwrite(tmp_path / f"A{number}.tif", field(number))
    segmented(tmp_path / "A1.tif", tmp_path / "out")
    first = pd.read_parquet(tmp_path / "out" / "nuclei.parquet")
    segmented(tmp_path / "A2.tif", tmp_path / "out")
    both = pd.read_parquet(tmp_path / "out" / "nuclei.parquet")
    assert list(both.image.unique()) == ["A1", "A2"]
    pd.testing.assert_frame_equal(both[both.image == "A1"], first)
    segmented(tmp_path / "A2.tif", tmp_path / "out")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "nuclei.parquet"), both)
    assert list(pd.read_csv(tmp_path / "out" / "quality.csv").image) == ["A1", "A2"]
    with pytest.raises(ProblemsError, match="was written with method = 'reference', this is 'model x at 2%'"):
        NucleiFolder(tmp_path / "out", {"method": "model x at 2%"})


def test_images_of_different_sizes_are_not_corrected_for_uneven_light_whenever_they_come(tmp_path):
    tifffile.imwrite(tmp_path / "A1.tif", field())
    tifffile.imwrite(tmp_path / "A2.tif", field()[:190])
    segmented(tmp_path / "A1.tif", tmp_path / "out")
    _, said = segmented(tmp_path / "A2.tif", tmp_path / "out")
    assert "the images differ in size" in "\n".join(said)


def test_an_image_without_nuclei_keeps_no_rows_of_an_earlier_one(tmp_path):
    tifffile.imwrite(tmp_path / "A1.tif", field())
    segmented(tmp_path / "A1.tif", tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "nuclei.parquet")
    folder = NucleiFolder(tmp_path / "out", {"method": "reference"})
    folder.open()
    folder.write_tables([table.drop(columns="illumination").iloc[:0]], [], {"A1": (400, 400)}, lambda _: None)
    assert len(pd.read_parquet(tmp_path / "out" / "nuclei.parquet")) == 0
    assert pd.read_csv(tmp_path / "out" / "images.csv").to_dict("records") == [{"image": "A1", "nuclei": 0}]


def test_without_a_pixel_size_nothing_is_in_micrometres(tmp_path):
    tifffile.imwrite(tmp_path / "A1.tif", field())
    segmented(tmp_path / "A1.tif", tmp_path / "out")
    columns = set(pd.read_csv(tmp_path / "out" / "nuclei.csv").columns)
    assert not [column for column in columns if column.endswith(("_um", "_um2", "_e"))]
    assert {"area_px", "x_px", "y_px", "mean_intensity_counts", "integrated_intensity_counts"} <= columns


def test_more_labels_than_16_bits_know_are_kept(tmp_path):
    folder = NucleiFolder(tmp_path, {"method": "reference"})
    folder.open()
    labels = np.arange(70_000, dtype=np.int32).reshape(200, 350)
    folder.write_image("big", labels, np.zeros((200, 350, 3), np.uint8))
    assert not (tmp_path / "labels" / "big.png").exists()
    written = tifffile.imread(tmp_path / "labels" / "big.tif")
    assert written.dtype == np.uint32
    np.testing.assert_array_equal(written, labels)


def test_tables_of_a_run_say_where_their_nuclei_are_from(segmented_plate, tmp_path):
    run = shutil.copytree(segmented_plate, tmp_path / "RUN")
    segmented(run, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "nuclei.parquet")
    assert list(table.columns[:6]) == ["image", "well", "site", "t", "z", "level"]
    assert set(table.level) == {"100%"}
    assert {"area_um2", "x_um", "mean_intensity_e"} <= set(table.columns)
    own = pd.read_parquet(run / "nuclei" / "reference.parquet")
    assert {"well", "site", "t", "z", "level"} <= set(own.columns)


def test_labels_of_the_protocol_are_columns(tmp_path):
    labels = {"B2": {"drug": "A", "site": "left"}, "B3": {"drug": 3}}
    run, _ = acquired(small("simulated", sites={"rows": 1, "columns": 1}, labels=labels), tmp_path / "RUN")
    segmented(run.path, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "nuclei.parquet")
    assert table.groupby("well").drug.unique().str[0].to_dict() == {"B2": "A", "B3": "3"}
    assert set(table[table.well == "B2"].label_site) == {"left"}


def test_nothing_of_the_users_is_replaced_by_a_run(tmp_path):
    job = small("simulated")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "microscope.yaml").write_text("my notes", encoding="utf-8")
    with pytest.raises(ProblemsError, match=r"holds another microscope\.yaml, and no run; choose another --out"):
        acquired(job, folder)
    assert (folder / "microscope.yaml").read_text(encoding="utf-8") == "my notes"
    assert not (folder / "job.json").exists()
    shutil.copy(job.profile_path, folder / "microscope.yaml")
    assert acquired(job, folder)[1].end_reason == "completed", "the very same file does no harm"


def test_the_plate_states_interval_and_height(tmp_path):
    changes = {"z_stack": {"planes": 3, "step_um": 4}, "focus": {"strategy": "fixed", "z_um": 1200}}
    job = small("simulated", wells="B2", held_out=0, time_lapse={"count": 2, "interval_s": 0.5}, **changes)
    run, _ = acquired(job, tmp_path / "RUN")
    image = (run.plate(job.protocol, job.profile).field_path("B2", 0) / "zarr.json").read_text(encoding="utf-8")
    data = json.loads(image)["attributes"]["ome"]["multiscales"][0]["datasets"][0]
    scale, translation = (each for each in data["coordinateTransformations"])
    assert scale["scale"][0] == 0.5
    assert scale["scale"][2] == 4
    assert translation["translation"][2] == 1196


def test_real_fields_are_segmented_as_ever(tmp_path):
    result, _ = segmented(DATA / "nuclei" / "images", tmp_path / "out")
    assert result.nuclei > 500
    assert result.left_out == ()
