from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from conftest import DATA
from scotopic.protocol import ImageSpecimenSettings, ImagingProtocol, ProblemsError
from scotopic.protocol.simulation import SimulatorSettings
from scotopic.protocol.simulator_setup import SimulatorSetup
from scotopic.simulator import Field, ImageSpecimen, Instrument

PX = 0.65
SHAPE = (256, 256)
FOV = (256 * PX, 256 * PX)


def sites(wells="A1:A6", rows=2, columns=2, held_out=0):
    protocol = ImagingProtocol.model_validate(
        {
            "name": "x",
            "plate": "96-well",
            "wells": wells,
            "held_out": held_out,
            "channel": "DAPI",
            "sites": {"rows": rows, "columns": columns},
            "light_levels": [{"name": "full", "exposure_ms": 200, "led_percent": 100, "role": "reference"}],
            "focus": {"strategy": "fixed"},
        }
    )
    return protocol.sites_in_travel_order(FOV)


def specimen(folder=DATA / "nuclei", shape=SHAPE, chosen=None, **changes):
    settings = ImageSpecimenSettings(kind="images", folder=str(folder), **changes)
    return ImageSpecimen(settings, chosen if chosen is not None else sites(), shape, PX)


def field_of(site, shape=SHAPE):
    return Field(site.plate_x_um, site.plate_y_um, shape[1], shape[0], PX)


def test_a_source_image_is_in_one_well_only():
    s = specimen()
    assert s.wells == ("A1", "A2", "A3", "A4", "A5", "A6")  # 6 images of 2 x 2 pieces
    names = [name for sources in s.sources.values() for name in sources]
    assert len(names) == len(set(names)) == 6


def test_too_few_images_leave_wells_out_and_repeat_nothing():
    s = specimen(chosen=sites("A1:A12"))
    assert len(s.wells) == 6
    empty = next(site for site in sites("A1:A12") if site.well == "A9")
    assert s.truth(field_of(empty)) is None
    assert np.ptp(s.scene(field_of(empty).origin_px, SHAPE, PX).light) == 0


def test_a_site_shows_its_piece_of_a_real_image_and_its_masks():
    s = specimen(smooth_px=0, background_fraction=0)
    seen = []
    for site in sites("A1"):
        field = field_of(site)
        scene = s.scene(field.origin_px, SHAPE, PX)
        assert scene.origin_px == pytest.approx(field.origin_px)
        seen.append((scene.light, s.truth(field)))
    raw = [iio.imread(p).astype(float) for p in sorted((DATA / "nuclei" / "images").glob("*.png"))]
    for image, truth in seen:
        assert truth.labels.shape == SHAPE
        assert truth.labels.max() == len(truth.nuclei) > 0
        assert image[truth.labels > 0].mean() > 3 * image[truth.labels == 0].mean()
        # The piece is found again, pixel for pixel, in the source.
        assert any(
            np.corrcoef(image.ravel(), r[4:260, x : x + 256].ravel())[0, 1] > 0.999 for r in raw for x in (92, 348)
        ) or any(
            np.corrcoef(image.ravel(), r[260:516, x : x + 256].ravel())[0, 1] > 0.999 for r in raw for x in (92, 348)
        )


def test_no_two_sites_show_the_same_pixels():
    s = specimen()
    images = [s.scene(field_of(x).origin_px, SHAPE, PX).light for x in sites()]
    assert len({image.tobytes() for image in images}) == len(images) == 24


def test_a_shifted_stage_shows_a_shifted_image_and_mask():
    s = specimen()
    site = sites("A1")[0]
    field = field_of(site)
    moved = Field(field.x_um + 3 * PX, field.y_um, 256, 256, PX)
    a, b = (s.scene(f.origin_px, SHAPE, PX).light for f in (field, moved))
    np.testing.assert_array_equal(a[:, 3:], b[:, :-3])
    a, b = (s.truth(f).labels > 0 for f in (field, moved))
    np.testing.assert_array_equal(a[:, 3:], b[:, :-3])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_tiff_and_ome_tiff_without_masks_are_read(tmp_path, dtype):
    rng = np.random.default_rng(1)
    for i in range(2):
        data = (rng.random((300, 300)) * 200).astype(dtype)
        tifffile.imwrite(tmp_path / f"{i}.ome.tif", data[None], metadata={"axes": "CYX"})
    s = specimen(tmp_path, chosen=sites("A1:A2", rows=1, columns=1))
    assert s.wells == ("A1", "A2")
    assert s.truth(field_of(sites("A1")[0])) is None


def test_the_brightness_is_that_asked_for():
    settings = SimulatorSettings(
        specimen=ImageSpecimenSettings(kind="images", folder=str(DATA / "nuclei"), background_fraction=0),
        peak_e=8000,
        illumination_falloff=0,
        bleaching_per_full_exposure=0,
        drift_um=0,
    )
    chosen = sites()
    scope = Instrument(SimulatorSetup(settings=settings, width_px=256, height_px=256, sites=chosen))
    scope.set_led_percent(100)
    scope.set_shutter_open(True)
    electrons = []
    for site in chosen:
        scope.move_xy(*scope.setup.placement.to_stage(site.plate_x_um, site.plate_y_um))
        scope.stage_is_moving()
        electrons.append(scope._sensor.noise.to_electrons(scope.expose(200)))
    assert np.percentile(electrons, 99.5) == pytest.approx(8000, rel=0.1)


def test_a_folder_that_cannot_serve_is_told(tmp_path):
    with pytest.raises(ProblemsError, match="is no folder"):
        specimen(tmp_path / "none")
    with pytest.raises(ProblemsError, match="holds no TIFF or PNG images"):
        specimen(tmp_path)
    iio.imwrite(tmp_path / "small.png", np.zeros((20, 30), np.uint8))
    with pytest.raises(ProblemsError, match="is 30 x 20 pixels, smaller than the camera"):
        specimen(tmp_path)
    (tmp_path / "small.png").unlink()
    (tmp_path / "broken.tif").write_bytes(b"no image")
    with pytest.raises(ProblemsError, match="cannot be read as an image"):
        specimen(tmp_path)


def a_folder_of(tmp_path, images, masks=()):
    for folder, content in (("images", images), ("masks", masks)):
        (tmp_path / folder).mkdir()
        for name, data in dict(content).items():
            tifffile.imwrite(tmp_path / folder / name, data)
    return tmp_path


NOISE = np.random.default_rng(7).integers(0, 200, (2, 300, 300), dtype=np.uint8)
BAD_FOLDERS = {
    "the same image twice": ({"a.tif": NOISE[0], "b.tif": NOISE[0]}, {}, "is the same image as a.tif"),
    "a mask of another size": (
        {"a.tif": NOISE[0]},
        {"a.tif": NOISE[0, :256]},
        "is 300 x 256 pixels, its image 300 x 300",
    ),
    "a mask of fractions": ({"a.tif": NOISE[0]}, {"a.tif": NOISE[0] * 0.5}, "must hold whole numbers"),
    "not finite": ({"a.tif": NOISE[0] * np.nan}, {}, "holds values that are not finite"),
    "colours": ({"a.tif": np.stack([NOISE[0]] * 3, -1)}, {}, "one grey plane"),
}


@pytest.mark.parametrize(("images", "masks", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS.keys())
def test_images_and_masks_that_would_spoil_the_truth_are_refused(images, masks, message, tmp_path):
    with pytest.raises(ProblemsError, match=message):
        specimen(a_folder_of(tmp_path, images, masks))


def test_masks_belong_to_the_image_of_the_same_name_and_black_and_white_ones_are_taken_apart(tmp_path):
    mask = np.zeros((300, 300), np.uint8)
    mask[100:120, 100:120] = mask[200:220, 200:220] = 255
    folder = a_folder_of(tmp_path, {"w[1].ome.tif": NOISE[0], "w.tif": NOISE[1]}, {"w[1].tif": mask, "w.1.tif": mask})
    s = specimen(folder, chosen=sites("A1:A2", rows=1, columns=1))
    truths = [s.truth(field_of(site)) for site in sites("A1:A2", rows=1, columns=1)]
    assert [t and len(t.nuclei) for t in truths] == [None, 2]


def test_labels_from_a_png_are_truth_as_they_are(tmp_path):
    """Pillow hands out pixels that cannot be written to."""
    labels = np.zeros((96, 96), np.uint16)
    labels[10:30, 10:30], labels[50:70, 40:80] = 7, 300
    for folder, image in (("images", (labels > 0) * np.uint8(200)), ("masks", labels)):
        (tmp_path / folder).mkdir()
        iio.imwrite(tmp_path / folder / "a.png", image)
    settings = ImageSpecimenSettings(kind="images", folder=str(tmp_path))
    site = sites("A1", rows=1, columns=1)[0]
    truth = ImageSpecimen(settings, (site,), (96, 96), PX).truth(field_of(site, (96, 96)))
    assert np.unique(truth.labels).tolist() == [0, 1, 2]
