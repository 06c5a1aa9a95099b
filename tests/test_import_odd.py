"""One odd file does not decide for a whole import, and every mistake is told by file, well and line."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from scotopic.cli import app
from scotopic.nuclei.images import read_plane
from scotopic.protocol import Plate, ProblemsError
from scotopic.store import RunFolder
from scotopic.store.foreign import find_by_list, find_by_names, on_a_plate, without_projections

LIGHT = ["--level", "bright=200,100", "--level", "dark=4,10"]
SIZE = ["--pixel-size-um", "0.65"]
PATTERN = ["--pattern", "{well}_{level}.tif"]
PLATE = Plate.model_validate("96-well")


def imported(*words: object):
    return CliRunner().invoke(app, ["import", *map(str, words)])


def image(level, dtype=np.uint16, size=32, top=None):
    random = np.random.default_rng(1)
    mean = {"bright": 3000, "dark": 120}[level] if dtype != np.uint8 else {"bright": 100, "dark": 12}[level]
    pixels = random.poisson(mean, (size, size))
    if top is not None:
        pixels[4:12, 4:12] = top
    return pixels.astype(dtype)


@pytest.fixture
def plate(tmp_path):
    """Bright and dark images of 24 wells."""
    folder = tmp_path / "images"
    folder.mkdir()
    for well in [f"{row}{column:02d}" for row in "BC" for column in range(1, 13)]:
        for level in ("bright", "dark"):
            tifffile.imwrite(folder / f"{well}_{level}.tif", image(level))
    return folder


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("B01_dark.tif", image("dark", np.uint8), "has 8 bits, most images of dark have 16"),
        ("B01_dark.tif", image("dark", size=16), "has 16 x 16 px; the others, or the profile, have 32 x 32"),
        ("B01_dark.tif", b"", "B01_dark.tif: cannot be read as an image"),
        ("Z99_dark.tif", image("dark"), "Z99 is not on a 96-well plate (A1 to H12)"),
        ("B01 copy.tif", image("dark"), "B01 copy.tif: fits no pattern"),
    ],
)
def test_an_odd_file_is_left_out_named_and_counted(plate, tmp_path, name, content, told):
    path = plate / name
    path.write_bytes(content) if isinstance(content, bytes) else tifffile.imwrite(path, content)
    result = imported(plate, *PATTERN, *LIGHT, *SIZE, "--out", tmp_path / "RUN")
    assert result.exit_code == 1, result.output
    assert told in result.output
    assert "left out: 1 of the images given" in result.output
    assert f"imported {47 if name == 'B01_dark.tif' else 48} images of 24 sites in 24 wells" in result.output
    profile = RunFolder(tmp_path / "RUN").read_profile().camera
    assert (profile.height_px, profile.saturation_counts) == (32, 65535)
    assert 80 < profile.offset_counts < 110


@pytest.mark.parametrize(
    ("bright", "dark", "full", "told"),
    [
        (image("bright"), image("dark", np.uint8), 65535, "imported 4 images"),
        (image("bright", np.uint8), image("dark", np.uint8), 255, "imported 4 images"),
        (image("bright", np.uint8), image("dark"), 65535, "pixels of bright that are full at 255 are not seen"),
        (image("bright", top=4095), image("dark"), 4095, "assumed: pixels are full at 4095 counts"),
    ],
)
def test_saturation_is_that_of_the_files_and_of_the_camera_in_them(tmp_path, bright, dark, full, told):
    (tmp_path / "images").mkdir()
    for well in ("B2", "B3"):
        tifffile.imwrite(tmp_path / "images" / f"{well}_bright.tif", bright)
        tifffile.imwrite(tmp_path / "images" / f"{well}_dark.tif", dark)
    result = imported(tmp_path / "images", *PATTERN, *LIGHT, *SIZE, "--out", tmp_path / "RUN")
    assert result.exit_code == 0, result.output
    assert told in result.output
    assert RunFolder(tmp_path / "RUN").read_profile().camera.saturation_counts == full


def placed_of(folder, names, pattern, levels=()):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    found = find_by_names(folder, [pattern], levels)
    images, derived, odd = without_projections(found.images)
    placed = on_a_plate(images, PLATE)
    return {(i.well, i.site, i.t, i.z): i.path.name for i in placed.images}, placed, [*found.derived, *derived], odd


def test_sites_that_are_numbered_through_the_plate_are_counted_in_each_well(tmp_path):
    names = [f"A{2 + n // 4}_p{n:03d}_dark.tif" for n in range(40) if n not in (0, 5)]
    there, placed, _, _ = placed_of(tmp_path / "x", names, "{well}_p{site}_{level}.tif")
    assert {site for _, site, _, _ in there} == {0, 1, 2, 3}
    assert there["A2", 1, 0, 0] == "A2_p001_dark.tif", "a site that is missing moves no other"
    assert there["A3", 2, 0, 0] == "A3_p006_dark.tif"
    assert placed.assumed == ["sites are numbered through the plate, from 1 to 39: up to 4 in each well"]
    uneven = ["A2_p1_x.tif", "A2_p2_x.tif", "A3_p3_x.tif", "A4_p4_x.tif", "A4_p5_x.tif", "A4_p6_x.tif"]
    there, _, _, _ = placed_of(tmp_path / "y", uneven, "{well}_p{site}_{level}.tif")
    assert there["A4", 2, 0, 0] == "A4_p6_x.tif"
    usual = [f"A{well}_p{n}_x.tif" for well in (2, 3) for n in (1, 2)]
    assert not placed_of(tmp_path / "z", usual, "{well}_p{site}_{level}.tif")[1].assumed


def test_a_date_is_no_site(tmp_path):
    names = [f"B2_s{n}_x.tif" for n in range(40)]
    _, placed, _, _ = placed_of(tmp_path / "x", [*names, "B2_s20240506_x.tif"], "{well}_s{site}_{level}.tif")
    assert len(placed.images) == 40
    assert "B2_s20240506_x.tif: site 20240506 of B2 (from 0), while nearly all others go to" in str(placed.left_out[0])
    with pytest.raises(ProblemsError, match="is this number a site"):
        placed_of(tmp_path / "y", ["B2_s1_x.tif", "B2_s20240506_x.tif"], "{well}_s{site}_{level}.tif")


def test_a_well_is_no_end_of_a_word_and_a_number_is_whole(tmp_path):
    there, _, _, _ = placed_of(tmp_path / "x", ["run5_B02_20240506_s1_x.tif"], "{*}{well}_{*}s{site}_{level}.tif")
    assert set(there) == {("B2", 0, 0, 0)}
    with pytest.raises(ProblemsError, match="no file fits"):
        placed_of(tmp_path / "y", ["A2024_x.tif"], "{well}{*}_{level}.tif")


@pytest.mark.parametrize("mark", ["thumb", "mask", "flatfield", "projection"])
def test_what_software_made_of_images_is_no_image(tmp_path, mark):
    names = [f"{well}_{what}.tif" for well in ("B2", "B3") for what in ("bright", f"bright_{mark}")]
    there, _, derived, _ = placed_of(tmp_path / "x", names, "{well}_{level}.tif")
    assert {*there.values()} == {"B2_bright.tif", "B3_bright.tif"}
    assert len(derived) == 2
    called = [f"{mark} plate_{well}_bright.tif" for well in ("B2", "B3")]
    assert len(placed_of(tmp_path / "y", called, "{*}_{well}_{level}.tif")[0]) == 2, "all are called so"
    asked = placed_of(tmp_path / "z", names, "{well}_{level}.tif", ["bright", f"bright_{mark}"])[1].images
    assert len(asked) == 4, "the user asks for it"


def test_a_single_image_is_no_plane_where_others_are_stacks(tmp_path):
    stacks = [f"ZStep_{z}/B2_w1.tif" for z in (1, 2, 3)]
    names = [*stacks, "B2_w1.tif", "B3_w1.tif"]
    found = [find_by_names_of(tmp_path, names, ["ZStep_{z}/{well}_{level}.tif", "{well}_{level}.tif"])][0]
    planes, projections, odd = without_projections(found.images)
    assert [i.z for i in planes] == [1, 2, 3]
    assert [i.path.name for i in projections] == ["B2_w1.tif"]
    assert "B3_w1.tif: has no height, while others are planes of stacks" in str(odd[0])


def find_by_names_of(folder, names, patterns):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return find_by_names(folder, patterns)


def test_times_are_numbered_in_their_order(tmp_path):
    times = ["00d00h00m", "01d02h00m", "00d06h40m"]
    there, _, _, _ = placed_of(
        tmp_path / "x", [f"P4-x_B2_1_{t}.tif" for t in times], "{*}-{level}_{well}_{site}_{t}.tif"
    )
    assert [there["B2", 0, t, 0].split("_")[-1] for t in (0, 1, 2)] == [f"{t}.tif" for t in sorted(times)]
    there, _, _, _ = placed_of(
        tmp_path / "y", ["B2_x_90min.tif", "B2_x_1h.tif", "B2_x_2h.tif"], "{well}_{level}_{t}.tif"
    )
    assert there["B2", 0, 1, 0] == "B2_x_90min.tif"
    with pytest.raises(ProblemsError, match="has no time, while others have one"):
        placed_of(tmp_path / "z", ["B2_x_1h.tif", "B2_x_2.tif"], "{well}_{level}_{t}.tif")


TABLE = [
    ["file", "well", "site", "level", "exposure_ms", "led_percent"],
    ["img/B02_bright.tif", "B02", "1", "bright", "200", "100"],
    ["img/B02_dark.tif", "B02", "1", "dark", "4", "2.5"],
]


def written(separator=",", change=lambda cell: cell, head=lambda name: name):
    lines = [[head(name) for name in TABLE[0]], *([change(cell) for cell in line] for line in TABLE[1:])]
    return "".join(separator.join(line) + "\r\n" for line in lines)


def decimal_comma(cell):
    return f"{float(cell):.1f}".replace(".", ",") if cell.replace(".", "").isdigit() else cell


LISTS = {
    "excel german": written(";", decimal_comma).encode(),
    "excel german ansi": written(";", decimal_comma).replace("B02_dark", "Zellkörper").encode("cp1252"),
    "utf-16 with tabs": written("\t").encode("utf-16"),
    "utf-16 german": written("\t", decimal_comma).encode("utf-16"),
    "utf-8 with a mark": written().encode("utf-8-sig"),
    "sep line": b"sep=;\r\n" + written(";").encode(),
    "pandas": b"," + written().replace("\r\nimg", "\r\n0,img").replace(",1,", ",1.0,").encode(),
    "windows paths": written(change=lambda cell: cell.replace("/", "\\")).encode(),
    "capitals": written(head=lambda name: {"led_percent": "LED %", "exposure_ms": "Exposure (ms)"}.get(name, name.title())).encode(),
    "empty lines": (written(";") + ";;;;;\r\n\r\n").encode(),
}  # fmt: skip


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_spreadsheets_are_read(tmp_path, kind):
    (tmp_path / "img").mkdir()
    for name in ("B02_bright", "B02_dark", "Zellkörper"):
        (tmp_path / "img" / f"{name}.tif").write_bytes(b"")
    (tmp_path / "list.csv").write_bytes(LISTS[kind])
    images = find_by_list(tmp_path / "list.csv")
    assert [(i.well, i.site, i.level, i.exposure_ms, i.led_percent) for i in images] == [
        ("B2", 1, "bright", 200, 100),
        ("B2", 1, "dark", 4, 2.5),
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (written(change=decimal_comma), ":2: has 9 cells, the heading 6: is a comma in a number or a name?"),
        (written("\t").replace("200", "1,200"), ":2: exposure_ms = '1,200': thousands or decimals?"),
        (written().replace(",1,", ",1.5,"), ":2: site = '1.5': must be a whole number from 0"),
        (written().replace("level", "lefel"), ":1: has no column level"),
        (written().replace("site", "well"), ":1: has the column well more than once"),
        ("PK\x03\x04", "is a workbook; save it as CSV"),
        (written().encode("utf-16-le").decode("latin1"), "is no text; save it as CSV in UTF-8"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused_by_its_line(tmp_path, content, told):
    (tmp_path / "img").mkdir()
    for name in ("B02_bright", "B02_dark"):
        (tmp_path / "img" / f"{name}.tif").write_bytes(b"")
    (tmp_path / "list.csv").write_bytes(content.encode("latin1"))
    with pytest.raises(ProblemsError) as error:
        find_by_list(tmp_path / "list.csv")
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "img.tif,B2,52,bright",
            "list.csv:3: site 52 of well B2, counted from 0: 53 sites in a well cannot be laid out",
        ),
        ("img.tif,Q2,0,bright", "list.csv:3: Q2 is not on a 96-well plate"),
        ("img.tif,B2,0,dark", "list.csv:3: and img.tif are both dark of B2_0: one frame"),
    ],
)
def test_mistakes_of_a_list_are_told_by_its_lines(tmp_path, line, told):
    tifffile.imwrite(tmp_path / "img.tif", image("dark"))
    lines = ["file,well,site,level", "img.tif,B2,0,dark", line, *(f"img.tif,B3,{n},dark" for n in range(52))]
    (tmp_path / "list.csv").write_text("\n".join(lines if "52" in line else lines[:3]))
    plate = ["--plate", "96-well"]
    result = imported(tmp_path, "--list", tmp_path / "list.csv", *LIGHT, *SIZE, *plate, "--out", tmp_path / "RUN")
    assert result.exit_code == 2, result.output
    assert told in result.output


def test_what_made_up_protocols_cannot_be_is_told_by_the_option(plate, tmp_path):
    result = imported(plate, *PATTERN, *LIGHT, *SIZE, "--held-out", 24, "--out", tmp_path / "RUN")
    assert result.exit_code == 2
    assert "error: --held-out: allowed: 0 to 23 of the 24 wells" in result.output


def test_pages_of_files_are_kept_in_the_table(tmp_path):
    (tmp_path / "images").mkdir()
    stack = np.stack([image("bright"), image("dark")])
    tifffile.imwrite(
        tmp_path / "images" / "B02.ome.tif", stack, compression="lzw", metadata={"axes": "CYX", "Channel": {"Name": ["bright", "dark"]}}
    )  # fmt: skip
    tifffile.imwrite(tmp_path / "images" / "B03.ome.tif", image("dark"))
    result = imported(tmp_path / "images", "--pattern", "{well}.ome.tif", *LIGHT, *SIZE, "--out", tmp_path / "RUN")
    assert result.exit_code == 1, result.output
    assert "B03.ome.tif: has the channels 0, of which none is a level (bright, dark)" in result.output
    lines = list(csv.DictReader((tmp_path / "RUN" / "imported.csv").read_text(encoding="utf-8").splitlines()))
    assert [(line["level"], line["page"]) for line in lines] == [("bright", "0"), ("dark", "1")]


COMPRESSIONS = ["lzw", "zlib", "zstd", "packbits", "lzma", "jpeg2000"]


@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
@pytest.mark.parametrize("form", [{}, {"tile": (16, 16)}, {"bigtiff": True}, {"byteorder": ">"}])
def test_tiffs_of_one_or_several_planes_are_read(tmp_path, compression, form):
    if compression == "jpeg2000" and "byteorder" in form:
        pytest.skip("tifffile does not write it")
    path = tmp_path / "x.tif"
    stack = np.stack([image("bright"), image("dark")])
    how = {"lossless": True} if compression == "jpeg2000" else {}
    options = {**{k: v for k, v in form.items() if k == "tile"}, "compression": compression}
    file = {k: v for k, v in form.items() if k != "tile"}
    if how:
        options["compressionargs"] = {"level": 0}
    with tifffile.TiffWriter(path, **file) as writer:
        writer.write(stack, photometric="minisblack", metadata={"axes": "CYX"}, **options)
    for number, plane in enumerate(stack):
        np.testing.assert_array_equal(read_plane(path, plane=number), plane)
    with pytest.raises(ProblemsError, match="several planes or colours"):
        read_plane(path)
    tifffile.imwrite(path, stack[0], **file, **options)
    np.testing.assert_array_equal(read_plane(path), stack[0])


@pytest.mark.parametrize(
    ("pixels", "options", "told"),
    [
        (
            np.zeros((3, 32, 32), np.uint8),
            {"photometric": "rgb", "planarconfig": "separate"},
            "several planes or colours",
        ),
        (np.zeros((32, 32, 3), np.uint8), {"photometric": "rgb"}, "several planes or colours"),
        (np.zeros((32, 32), np.uint16), {"photometric": "miniswhite"}, "white is zero (inverted)"),
        (np.zeros((32, 32), np.complex64), {}, "holds complex64 values, no intensities"),
    ],
)
def test_tiffs_that_are_no_grey_plane_are_refused(tmp_path, pixels, options, told):
    tifffile.imwrite(tmp_path / "x.tif", pixels, **options)
    with pytest.raises(ProblemsError) as error:
        read_plane(tmp_path / "x.tif")
    assert told in str(error.value)
    assert "x.tif" in str(error.value)
