from __future__ import annotations

import json

import numpy as np
import pytest
import yaozarrs
import zarr
from ome_zarr_models.v05.hcs import HCS
from ome_zarr_models.v05.image import Image

from conftest import load_job
from scotopic.store import PlateLayout, PlateStore


@pytest.fixture
def store(tmp_path):
    job = load_job("low_light_96", "simulated")
    return PlateStore(tmp_path / "plate.ome.zarr", PlateLayout.of(job.protocol, job.profile))


def frame(seed):
    return np.random.default_rng(seed).integers(0, 65535, (512, 512), dtype=np.uint16)


def test_frames_are_found_again_by_their_address_in_any_order(store):
    places = [("B2", 3, "2%"), ("A1", 0, "100%"), ("B2", 3, "0.05%"), ("H12", 8, "0.2%"), ("B2", 0, "2%")]
    for seed, (well, site, level) in enumerate(places):
        store.open_field(well, site, (0, 0))
        store.write(well, site, level, 0, 0, frame(seed))
    again = PlateStore(store.path, store.layout)
    for seed, (well, site, level) in reversed(list(enumerate(places))):
        np.testing.assert_array_equal(again.read(well, site, level), frame(seed))


def test_the_plate_validates_at_any_moment_and_opens_in_an_independent_reader(store):
    for well, site in (("C3", 1), ("A1", 0), ("C3", 0), ("A2", 5)):
        store.open_field(well, site, (1000, 2000))
        store.write(well, site, "2%", 0, 0, frame(1))
        store.write_pyramid(well, site, "2%", 0, 0, frame(1))
        store.commit(well, site, [("2%", 0, 0)])
        yaozarrs.validate_zarr_store(str(store.path))
    plate = HCS.from_zarr(zarr.open_group(store.path, mode="r")).ome_attributes.plate
    assert {w.path for w in plate.wells} == {"A/1", "A/2", "C/3"}
    image = Image.from_zarr(zarr.open_group(store.path / "C" / "3" / "1", mode="r")).ome_attributes
    scale, translation = image.multiscales[0].datasets[0].coordinateTransformations
    assert scale.scale == [1, 1, 1, 0.65, 0.65]
    assert translation.translation[-2:] == pytest.approx([2000 - 255.5 * 0.65, 1000 - 255.5 * 0.65])
    channels = json.loads((store.path / "C" / "3" / "1" / "zarr.json").read_text())["attributes"]["ome"]["omero"][
        "channels"
    ]
    assert [c["label"] for c in channels] == ["100%", "2%", "0.2%", "0.05%"]
    dim = channels[-1]["window"]
    assert dim["start"] < 200 < dim["end"] < 300, "a 0.05 % image must not be black in a viewer"


def test_no_masks_are_declared_before_there_are_any(store):
    """A viewer would show empty ones."""
    folder = store.open_field("A1", 0, (100, 50))
    assert not (folder / "labels").exists()
    store.write_labels("A1", 0, "reference", 0, 0, np.zeros((512, 512), int))
    array = zarr.open_array(folder / "labels" / "reference" / "0", mode="r")
    assert array.shape == (1, 1, 512, 512)
    assert array.dtype == np.uint32
    places = [
        json.loads((group / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]["datasets"][0]
        for group in (folder, folder / "labels" / "reference")
    ]
    image, masks = (place["coordinateTransformations"][1]["translation"][-2:] for place in places)
    assert image == masks, "masks lie where their image lies"


def test_an_all_black_frame_is_a_chunk_as_well(store):
    """zarr leaves out chunks of zeros by default: a missing chunk must always be a missing frame."""
    folder = store.open_field("A1", 0, (0, 0))
    store.write("A1", 0, "2%", 0, 0, np.zeros((512, 512), np.uint16))
    chunks = [p for p in (folder / "0" / "c").rglob("*") if p.is_file()]
    assert len(chunks) == 1


def test_the_pyramid_is_the_mean_of_the_pixels(store):
    folder = store.open_field("A1", 0, (0, 0))
    image = frame(1)
    store.write_pyramid("A1", 0, "2%", 0, 0, image)
    half = np.asarray(zarr.open_array(folder / "1", mode="r")[0, 1, 0]).astype(float)
    np.testing.assert_allclose(half, image.reshape(256, 2, 256, 2).mean((1, 3)), atol=0.51)


@pytest.mark.parametrize(
    "image", [np.zeros((512, 511), np.uint16), np.zeros((512, 512), np.uint8)], ids=["shape", "type"]
)
def test_a_frame_that_does_not_fit_is_refused(store, image):
    store.open_field("A1", 0, (0, 0))
    with pytest.raises(ValueError, match="the plate takes"):
        store.write("A1", 0, "2%", 0, 0, image)


def test_a_field_that_is_opened_twice_keeps_its_frames(store):
    store.open_field("A1", 0, (0, 0))
    store.write("A1", 0, "2%", 0, 0, frame(1))
    PlateStore(store.path, store.layout).open_field("A1", 0, (0, 0))
    np.testing.assert_array_equal(store.read("A1", 0, "2%"), frame(1))


def test_a_field_is_named_to_readers_when_its_frames_are_there_and_not_before(store):
    store.open_field("B2", 0, (0, 0))
    store.write("B2", 0, "2%", 0, 0, frame(1))
    assert not store.path.joinpath("zarr.json").exists()
    with pytest.raises(FileNotFoundError):  # its pyramid is missing: what is not there cannot be committed
        store.commit("B2", 0, [("2%", 0, 0)])
    store.write_pyramid("B2", 0, "2%", 0, 0, frame(1))
    store.commit("B2", 0, [("2%", 0, 0)])
    assert PlateStore(store.path, store.layout).listed_wells == {"B2"}


def test_a_well_that_a_kill_left_out_of_the_plates_metadata_is_named_later(store, monkeypatch):
    store.open_field("B2", 0, (0, 0))
    with monkeypatch.context() as patch:
        patch.setattr(PlateStore, "_write_plate", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.commit("B2", 0, [])
    again = PlateStore(store.path, store.layout)
    assert again.listed_wells == set()
    again.commit("B2", 0, [])
    assert PlateStore(store.path, store.layout).listed_wells == {"B2"}


def test_masks_are_read_back_by_others_with_smaller_copies_that_keep_the_numbers(store):
    store.open_field("B2", 0, (0, 0))
    store.write("B2", 0, "2%", 0, 0, frame(1))
    store.write_pyramid("B2", 0, "2%", 0, 0, frame(1))
    store.commit("B2", 0, [("2%", 0, 0)])
    labels = np.kron(np.arange(1, 1025).reshape(32, 32), np.ones((16, 16), int))
    store.write_labels("B2", 0, "reference", 0, 0, labels)
    np.testing.assert_array_equal(store.read_labels("B2", 0, "reference"), labels)
    group = zarr.open_group(store.field_path("B2", 0) / "labels" / "reference", mode="r")
    HCS.from_zarr(zarr.open_group(store.path, mode="r"))
    yaozarrs.validate_zarr_store(store.path)
    for number in range(len(store.layout.pyramid)):
        assert set(np.unique(group[str(number)][0, 0])) == set(range(1, 1025)), "no number between two nuclei"
    assert list(zarr.open_group(store.field_path("B2", 0) / "labels", mode="r").attrs["ome"]["labels"]) == ["reference"]
    with pytest.raises(FileNotFoundError):
        store.read_labels("B2", 0, "network_0")
    store.write_labels("B2", 0, "network_0", 0, 0, labels)
    yaozarrs.validate_zarr_store(store.path)
    named = zarr.open_group(store.field_path("B2", 0) / "labels", mode="r").attrs["ome"]["labels"]
    assert named == ["reference", "network_0"], "masks are declared when they are there"
    with pytest.raises(ValueError, match="shape"):
        store.write_labels("B2", 0, "reference", 0, 0, labels[1:])
    with pytest.raises(FileNotFoundError, match="no field A1_0"):
        store.write_labels("A1", 0, "reference", 0, 0, labels)
