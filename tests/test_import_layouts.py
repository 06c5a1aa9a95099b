"""Folders as other software leaves them, made small: each image gets its place, what is no image is none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import tifffile

from scotopic.nuclei.images import read_plane
from scotopic.protocol import Plate, ProblemsError
from scotopic.store.foreign import PRESETS, find_by_names, on_a_plate, without_projections

GUID = "71AE91C0-75E6-426C-8B41-71A5693784E3"
DEEP = "051DAA7C-7042-435F-99F0-1E847D9B42CB"


@dataclass(frozen=True)
class Layout:
    """Files of a folder, and the place of each: well, site, t, z, level; None for what is no image of the run."""

    preset: str
    files: dict[str, tuple[str, int, int, int, str] | None]
    levels: tuple[str, ...] = ()
    left_out: int = 0


LAYOUTS = {
    "scanr": Layout(
        "scanr",
        {
            "data/B2--W00014--P00001--Z00000--T00000--DAPI.tif": ("B2", 0, 0, 0, "DAPI"),
            "data/W00015--P00002--Z00001--T00003--DAPI.tif": ("B3", 1, 3, 1, "DAPI"),
        },
    ),
    "imagexpress": Layout(
        "imagexpress",
        {
            "TimePoint_1/exp_1_B02_s1_w1.TIF": ("B2", 0, 0, 0, "w1"),
            f"TimePoint_2/exp_1_B02_s2_w1{DEEP}.tif": ("B2", 1, 1, 0, "w1"),
            f"TimePoint_2/exp_1_B02_s2_w2{GUID}.tif": ("B2", 1, 1, 0, "w2"),
            f"TimePoint_2/exp_1_B02_s2_w2_thumb{GUID}.tif": None,
        },
    ),
    "imagexpress stack with projections": Layout(
        "imagexpress",
        {
            f"TimePoint_1/ZStep_1/H2_B02_s1_w1{GUID}.tif": ("B2", 0, 0, 0, "w1"),
            f"TimePoint_1/ZStep_2/H2_B02_s1_w1{GUID}.tif": ("B2", 0, 0, 1, "w1"),
            f"TimePoint_1/ZStep_0/H2_B02_s1_w1{GUID}.tif": None,
            f"TimePoint_1/H2_B02_s1_w1_thumb{GUID}.tif": None,
        },
        ("w1",),
    ),
    "imagexpress one site": Layout("imagexpress", {"H2_B02_w1.tif": ("B2", 0, 0, 0, "w1")}),
    "micro-manager files of an HCS plate": Layout(
        "micro-manager",
        {
            "B2-Site_0/img_channel000_position013_time000000000_z000.tif": ("B2", 0, 0, 0, "000"),
            "B2-Site_1/img_000000000_000_000.tif": ("B2", 1, 0, 0, "000"),
        },
    ),
    "micro-manager 1.4": Layout(
        "micro-manager",
        {
            "Pos0/img_000000000_DAPI_000.tif": ("A1", 0, 0, 0, "DAPI"),
            "Pos1/img_000000000_DAPI_001.tif": ("A2", 0, 0, 1, "DAPI"),
            "Pos1/img_000000001_DAPI_001.tif": ("A2", 0, 1, 1, "DAPI"),
            "Pos1/metadata.txt": None,
        },
    ),
    "harmony": Layout(
        "harmony",
        {
            "Images/r02c03f01p01-ch1sk1fk1fl1.tiff": ("B3", 0, 0, 0, "ch1"),
            "Images/r02c03f02p02-ch2sk3fk1fl1.tiff": ("B3", 1, 2, 1, "ch2"),
            "Images/r16c24f01p01-ch1sk1fk1fl1.tiff": ("P24", 0, 0, 0, "ch1"),
            "Images/Index.idx.xml": None,
        },
    ),
    "operetta, earlier": Layout("harmony", {"r02c03f01p01rc2-ch1sk1fk1fl1.tiff": ("B3", 0, 0, 0, "rc2")}),
    "cellvoyager": Layout(
        "cellvoyager",
        {
            "AssayPlate_Greiner_#655090_B02_T0001F001L01A01Z01C01.tif": ("B2", 0, 0, 0, "C01"),
            "AssayPlate_Greiner_#655090_B02_T0002F004L01A02Z03C02.tif": ("B2", 3, 1, 2, "C02"),
            "DC_sCMOS #1_CAM1.tif": None,
            "SC_BP445-45_40x_M10_CH01.tif": None,
            "MeasurementData.mlf": None,
        },
    ),
    "incell": Layout(
        "incell",
        {
            "B - 02(fld 1 wv DAPI - DAPI).tif": ("B2", 0, 0, 0, "DAPI - DAPI"),
            "B - 3(fld 2 wv 390 - Blue).tif": ("B3", 1, 0, 0, "390 - Blue"),
        },
    ),
    "incell stack": Layout(
        "incell",
        {
            "A - 01(fld 1 wv Green - dsRed z 1).tif": ("A1", 0, 0, 0, "Green - dsRed"),
            "A - 01(fld 1 wv Green - dsRed z 3).tif": ("A1", 0, 0, 2, "Green - dsRed"),
        },
    ),
    "incucyte": Layout(
        "incucyte",
        {
            "P4_Green_B2_1_00d00h00m.tif": ("B2", 0, 0, 0, "Green"),
            "P4_Green_B2_2_01d02h00m.tif": ("B2", 1, 2, 0, "Green"),
            "P4_Green_B2_1_00d06h40m.tif": ("B2", 0, 1, 0, "Green"),
        },
    ),
    "incucyte with dates": Layout(
        "incucyte",
        {
            "P4_Green_B2_1_2024y12m31d_23h50m.tif": ("B2", 0, 0, 0, "Green"),
            "P4_Green_B2_1_2025y01m01d_00h10m.tif": ("B2", 0, 1, 0, "Green"),
        },
        ("Green",),
    ),
    "gen5": Layout(
        "gen5",
        {
            "B2_01_1_1_DAPI_001.tif": ("B2", 0, 0, 0, "DAPI"),
            "B2_01_2_4_GFP 469,525_002.tif": ("B2", 3, 1, 0, "GFP"),
            "B2_-1_1_1_Stitched[DAPI 377,447]_001.tif": None,
        },
    ),
    "gen5 stack": Layout("gen5", {f"B2_01_1_1Z{z}_DAPI_001.tif": ("B2", 0, 0, z, "DAPI") for z in (0, 1)}),
    "leica matrix screener": Layout(
        "leica-matrix",
        {
            "slide--S00/image--L0000--S00--U01--V00--J15--E04--O01--X00--Y00--T0000--Z00--C00.ome.tif": (
                "A2", 0, 0, 0, "C00",
            ),
            "slide--S00/image--L0000--S00--U00--V01--J15--E04--O01--X01--Y01--T0001--Z02--C01.ome.tif": (
                "B1", 3, 1, 2, "C01",
            ),
        },
    ),
    "cellomics": Layout(
        "cellomics",
        {
            "MFGTMP_140206180002_B02f00d0.TIF": ("B2", 0, 0, 0, "d0"),
            "MFGTMP_140206180002_B02f13d2.TIF": ("B2", 13, 0, 0, "d2"),
        },
    ),
    "evos": Layout(
        "evos",
        {
            "scan_Plate_R_p00_0_B02f00d0.TIF": ("B2", 0, 0, 0, "d0"),
            "scan_Plate_R_p00_0_B02f01d1.TIF": ("B2", 1, 0, 0, "d1"),
        },
    ),
    "evos stack": Layout("evos", {f"x_Plate_R_p00_z0{z}_0_B02f00d0.tif": ("B2", 0, 0, z, "d0") for z in (0, 1)}),
    "squid": Layout(
        "squid",
        {
            "0/B2_0_0_Fluorescence_405_nm_Ex.tiff": ("B2", 0, 0, 0, "Fluorescence_405_nm_Ex"),
            "1/B2_3_1_Fluorescence_405_nm_Ex.bmp": ("B2", 3, 1, 1, "Fluorescence_405_nm_Ex"),
            "0/coordinates.csv": None,
        },
    ),
    "squid without a plate": Layout(
        "squid", {f"0/manual_{n}_0_BF_LED_matrix_full.bmp": (f"A{n + 1}", 0, 0, 0, "BF_LED_matrix_full") for n in (0, 1)}
    ),
    "bd pathway": Layout(
        "bd-pathway",
        {
            "2009-05-01_000/Well D11/DsRed - Confocal - n000000.tif": ("D11", 0, 0, 0, "DsRed - Confocal"),
            "2009-05-01_000/Well D011/DsRed - Confocal - n000002.tif": ("D11", 0, 2, 0, "DsRed - Confocal"),
        },
    ),
    "nis-elements": Layout(
        "nis",
        {
            "WellA01_PointA01_0000_ChannelCam-DIA DIC_Seq0000.tiff": ("A1", 0, 0, 0, "Cam-DIA DIC"),
            "20260728_143951_318__WellB12_PointB12_0003_ChannelDAPI_Seq0007.tiff": ("B12", 3, 0, 0, "DAPI"),
        },
    ),
    "zen": Layout(
        "zen",
        {
            "LA MDCK 49hrs_s02t01z1c1_ORG.tif": ("A1", 0, 0, 0, "c1"),
            "LA MDCK 49hrs_s02t02z3c2_ORG.tif": ("A1", 0, 1, 2, "c2"),
        },
    ),
}  # fmt: skip


def placed_of(folder, patterns, levels=()):
    """Return the places of the images of a folder, by file, and what is left out."""
    found = find_by_names(folder, patterns, levels)
    images, projections, odd = without_projections(found.images)
    fields = {i.well for i in images}
    plate = Plate.model_validate("384-well" if fields & {"P24"} else "96-well")
    placed = on_a_plate(images, plate)
    names = {
        i.path.relative_to(folder).as_posix() + ("" if i.plane is None else f"#{i.plane}"): (
            i.well, i.site, i.t, i.z, i.level,
        )
        for i in placed.images
    }  # fmt: skip
    return names, [*found.left_out, *odd, *placed.left_out], [*found.derived, *projections]


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_get_the_places_that_their_names_tell(name, tmp_path):
    layout = LAYOUTS[name]
    for file in layout.files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    there, left_out, _ = placed_of(tmp_path, PRESETS[layout.preset], layout.levels)
    assert there == {file: place for file, place in layout.files.items() if place is not None}
    assert not left_out, "derived files and tables are no images"


def test_each_preset_has_a_layout():
    assert {layout.preset for layout in LAYOUTS.values()} == set(PRESETS)


def ome(images, uuid, names=("bright", "dark"), size_t=1):
    """Return OME-XML of several positions: each with its planes (file, uuid, c, t, page)."""
    channels = "".join(f'<Channel ID="Channel:0:{n}" Name="{name}"/>' for n, name in enumerate(names))
    text = ""
    for n, planes in enumerate(images):
        data = "".join(
            f'<TiffData FirstC="{c}" FirstT="{t}" FirstZ="0" IFD="{page}" PlaneCount="1">'
            f'<UUID FileName="{file}">urn:uuid:{owner}</UUID></TiffData>'
            for file, owner, c, t, page in planes
        )
        text += (
            f'<Image ID="Image:{n}"><Pixels ID="Pixels:{n}" DimensionOrder="XYCZT" Type="uint16" SizeX="8" SizeY="8" '
            f'SizeZ="1" SizeC="{len(names)}" SizeT="{size_t}">{channels}{data}</Pixels></Image>'
        )
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{schema}" UUID="urn:uuid:{uuid}">{text}</OME>'


def uuid_of(number):
    return f"00000000-0000-0000-0000-{number:012d}"


def write_set(folder, files, names=("bright", "dark"), size_t=1):
    """Write a set of OME-TIFF files, each with the metadata of all: file -> (position, planes (c, t) in it); pixels count up."""
    positions = {}
    for number, (file, (position, planes)) in enumerate(files.items()):
        entries = [(file, uuid_of(number), c, t, page) for page, (c, t) in enumerate(planes)]
        positions.setdefault(position, []).extend(entries)
    value = 0
    for number, (file, (_, planes)) in enumerate(files.items()):
        xml = ome(positions.values(), uuid_of(number), names, size_t)
        with tifffile.TiffWriter(folder / file) as writer:
            for page in range(len(planes)):
                value += 1
                description = {"description": xml.encode()} if page == 0 else {}
                writer.write(np.full((8, 8), value, np.uint16), metadata=None, contiguous=False, **description)


STACK = "{*}_MMStack_{well}-Site_{site}.ome.tif"


def test_each_file_of_an_ome_set_has_its_own_planes(tmp_path):
    both = [(0, 0), (1, 0)]
    names = [f"n_MMStack_{well}-Site_0.ome.tif" for well in ("B2", "B3", "C2")]
    write_set(tmp_path, {name: (n, both) for n, name in enumerate(names)})
    found = find_by_names(tmp_path, [STACK], ["bright", "dark"])
    pixels = {(i.well, i.level): int(read_plane(i.path, plane=i.plane)[0, 0]) for i in found.images}
    wells = ("B2", "B3", "C2")
    assert pixels == {
        (w, level): 2 * n + m + 1 for n, w in enumerate(wells) for m, level in enumerate(("bright", "dark"))
    }


@pytest.mark.parametrize("patterns", [PRESETS["micro-manager"], [STACK]])
def test_a_stack_goes_on_in_its_next_file(tmp_path, patterns):
    files = {
        "n_MMStack_B2-Site_0.ome.tif": ("B2", [(0, 0), (1, 0)]),
        "n_MMStack_B2-Site_0_1.ome.tif": ("B2", [(0, 1), (1, 1)]),
        "n_MMStack_B3-Site_0.ome.tif": ("B3", [(0, 0), (1, 0), (0, 1), (1, 1)]),
    }
    write_set(tmp_path, files, size_t=2)
    there, left_out, _ = placed_of(tmp_path, patterns)
    assert there["n_MMStack_B2-Site_0_1.ome.tif#0"] == ("B2", 0, 1, 0, "bright")
    assert len(there) == 8
    assert not left_out
    (tmp_path / "n_MMStack_B2-Site_0_1.ome.tif").unlink()
    there, left_out, _ = placed_of(tmp_path, patterns)
    assert len(there) == 6
    assert [
        str(p).endswith("is part of n_MMStack_B2-Site_0.ome.tif by its metadata, and is not there") for p in left_out
    ] == [True]


def test_positions_without_wells_and_renamed_files_are_read(tmp_path):
    files = {f"n_MMStack_Pos{n}.ome.tif": (n, [(0, 0), (1, 0)]) for n in (0, 1)}
    write_set(tmp_path, files)
    there, _, _ = placed_of(tmp_path, PRESETS["micro-manager"])
    assert there["n_MMStack_Pos1.ome.tif#1"] == ("A2", 0, 0, 0, "dark")
    (tmp_path / "n_MMStack_Pos1.ome.tif").rename(tmp_path / "B03.ome.tif")
    there, _, _ = placed_of(tmp_path, ["{well}.ome.tif"])
    assert there["B03.ome.tif#1"] == ("B3", 0, 0, 0, "dark")


XML = {
    "prefix": '<O:OME xmlns:O="http://www.openmicroscopy.org/Schemas/OME/2016-06"><O:Image ID="Image:0"><O:Pixels {size}>'
    '<O:Channel ID="Channel:0:0" Name="a &amp; b"/><O:Channel ID="Channel:0:1" Name="dark"/><O:TiffData/></O:Pixels></O:Image></O:OME>',
    "quotes": "<?xml version='1.0'?><OME xmlns='http://www.openmicroscopy.org/Schemas/OME/2016-06'><Image ID='Image:0'><Pixels {size}>"
    "<Channel ID='Channel:0:0' Fluor='x&gt;y' Name='a &amp; b'/><Channel Name='dark' ID='Channel:0:1'/><TiffData/></Pixels></Image></OME>"
    "<!-- written by hand -->",
}
SIZE = 'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="8" SizeY="8" SizeZ="1" SizeC="2" SizeT="1"'


@pytest.mark.parametrize("kind", XML)
def test_ome_metadata_are_xml(kind, tmp_path):
    with tifffile.TiffWriter(tmp_path / "B02.ome.tif") as writer:
        for n in (0, 1):
            description = XML[kind].format(size=SIZE).encode() if n == 0 else None
            writer.write(np.full((8, 8), n, np.uint16), metadata=None, contiguous=False, description=description)
    there, left_out, _ = placed_of(tmp_path, ["{well}.ome.tif"])
    assert {place[-1] for place in there.values()} == {"a & b", "dark"}
    assert not left_out


def test_metadata_may_lie_beside_the_images(tmp_path):
    write_set(tmp_path, {"B02_c0.ome.tif": (0, [(0, 0)]), "B02_c1.ome.tif": (0, [(1, 0)])})
    with tifffile.TiffFile(tmp_path / "B02_c0.ome.tif") as file:
        (tmp_path / "plate.companion.ome").write_text(file.pages[0].description, encoding="utf-8")
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    for n in (0, 1):
        xml = f'<OME xmlns="{schema}" UUID="urn:uuid:{uuid_of(n)}"><BinaryOnly MetadataFile="plate.companion.ome" UUID="urn:uuid:{uuid_of(9)}"/></OME>'
        tifffile.imwrite(tmp_path / f"B02_c{n}.ome.tif", np.full((8, 8), n, np.uint16), metadata=None, description=xml)
    there, _, _ = placed_of(tmp_path, ["{well}_c{*}.ome.tif"])
    assert there["B02_c1.ome.tif#0"] == ("B2", 0, 0, 0, "dark")
    (tmp_path / "plate.companion.ome").unlink()
    with pytest.raises(ProblemsError, match="its OME metadata are in plate"):
        find_by_names(tmp_path, ["{well}_c{*}.ome.tif"])


def test_stacks_of_imagej_have_channels_heights_and_times(tmp_path):
    stack = np.arange(2 * 3 * 2, dtype=np.uint16).reshape(2, 3, 2, 1, 1) * np.ones((8, 8), np.uint16)
    tifffile.imwrite(tmp_path / "B02.tif", stack, imagej=True, metadata={"axes": "TZCYX"})
    found = find_by_names(tmp_path, ["{well}.tif"])
    values = {(i.t, i.z, i.level): int(read_plane(i.path, plane=i.plane)[0, 0]) for i in found.images}
    assert values == {(t, z, str(c)): stack[t, z, c, 0, 0] for t in (0, 1) for z in (0, 1, 2) for c in (0, 1)}


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda p: p.write_bytes(b"no image"), "cannot be read as TIFF"),
        (lambda p: tifffile.imwrite(p, np.zeros((8, 8), np.uint16), ome=False), "has the axes YX: without {level}"),
        (lambda p: tifffile.imwrite(p, np.zeros((3, 8, 8), np.uint8), photometric="rgb"), "is a colour image"),
        (lambda p: tifffile.imwrite(p, np.zeros((3, 8, 8), np.uint8), photometric="rgb", ome=False), "has the axes SYX"),
        (lambda p: tifffile.imwrite(p, np.zeros((8, 8), np.uint16), metadata=None, description=ome([[("x.tif", uuid_of(7), 0, 0, 0)]] * 2, uuid_of(8))), "describe other files, such as x.tif"),
        (lambda p: tifffile.imwrite(p, np.zeros((8, 8), np.uint16), metadata=None, description=ome([[(p.name, uuid_of(7), 0, 0, 0)]] * 2, uuid_of(7))), "holds 2 images by its OME metadata"),
        (lambda p: tifffile.imwrite(p, np.zeros((8, 8), np.uint16), metadata=None, description="<OME xmlns='http://www.openmicroscopy.org/Schemas/OME/2016-06'><Image"), "its OME metadata cannot be read"),
    ],
)  # fmt: skip
def test_one_odd_stack_is_left_out_with_a_reason(write, told, tmp_path):
    write_set(tmp_path, {"B02.ome.tif": (0, [(0, 0), (1, 0)])})
    write(tmp_path / "B03.ome.tif")
    found = find_by_names(tmp_path, ["{well}.ome.tif"])
    assert {i.well for i in found.images} == {"B2"}
    assert len(found.left_out) == 1
    assert told in str(found.left_out[0])
    assert "B03.ome.tif" in str(found.left_out[0])


def test_a_file_of_an_ome_set_is_read_alone(tmp_path):
    write_set(tmp_path, {"B02_bright.ome.tif": (0, [(0, 0)]), "B02_dark.ome.tif": (0, [(1, 0)])})
    found = find_by_names(tmp_path, ["{well}_{level}.ome.tif"])
    assert {i.level: int(read_plane(i.path)[0, 0]) for i in found.images} == {"bright": 1, "dark": 2}
