"""File names of common software, ready made: add a line here, and an example to `tests/test_import_layouts.py`.

The patterns were written from names in published data and public repositories; nobody has run them on an instrument's own folders.
"""

from __future__ import annotations

PRESETS: dict[str, tuple[str, ...]] = {
    # Evident scanR: B2--W00014--P00001--Z00000--T00000--DAPI.tif; wells are numbered row by row from 1.
    "scanr": (
        "{well}--W{*}--P{site}--Z{z}--T{t}--{level}.tif",
        "W{number}--P{site}--Z{z}--T{t}--{level}.tif",
    ),
    # MetaXpress / ImageXpress: TimePoint_1/plate_B02_s1_w1<GUID>.tif, ZStep_1 above it for stacks; ZStep_0 and what lies
    # beside the ZStep folders are projections, ..._w1_thumb<GUID>.tif thumbnails.
    "imagexpress": (
        r"TimePoint_{t}/ZStep_{z:0*[1-9]\d*}/{*}{well}_s{site}_{level:w\d+}.tif",
        r"TimePoint_{t}/ZStep_{z:0*[1-9]\d*}/{*}{well}_{level:w\d+}.tif",
        r"TimePoint_{t}/ZStep_{*:0+}/{*}{well}_s{site}_{level:w\d+}.tif",
        r"TimePoint_{t}/ZStep_{*:0+}/{*}{well}_{level:w\d+}.tif",
        r"TimePoint_{t}/{*}{well}_s{site}_{level:w\d+}.tif",
        r"TimePoint_{t}/{*}{well}_{level:w\d+}.tif",
        r"{*}{well}_s{site}_{level:w\d+}.tif",
        r"{*}{well}_{level:w\d+}.tif",
    ),
    # Micro-Manager, separate image files, positions of the HCS site generator or any others (Pos0, 1-Pos_000_001); and
    # stacks, one a position, of as many files as are needed.
    "micro-manager": (
        "{well}-Site_{site}/img_channel{level}_position{*}_time{t}_z{z}.tif",
        "{well}-Site_{site}/img_{t}_{level}_{z}.tif",
        "{field}/img_channel{level}_position{*}_time{t}_z{z}.tif",
        "{field}/img_{t}_{level}_{z}.tif",
        "{*}_MMStack_{well}-Site_{site}.ome.tif",
        "{*}_MMStack_{field}.ome.tif",
    ),
    # Revvity Harmony, of the Opera Phenix and the Operetta: r02c03f01p01-ch1sk1fk1fl1.tiff; sk is the time point. Earlier
    # versions wrote the channel as rc: r02c03f01p01rc1-ch1sk1fk1fl1.tiff.
    "harmony": (
        r"r{row}c{column}f{site}p{z}-{level:ch\d+}sk{t}fk{*}.tiff",
        r"r{row}c{column}f{site}p{z}{level:rc\d+}-ch{*}sk{t}fk{*}.tiff",
        r"r{row}c{column}f{site}p{z}-{level:ch\d+}.tiff",
    ),
    # Yokogawa CellVoyager CV7000 and CV8000: plate_B02_T0001F001L01A01Z01C01.tif; DC_ and SC_ files are its corrections.
    "cellvoyager": (
        r"{*}_{well}_T{t}F{site}L{*:\d+}A{*:\d+}Z{z}{level:C\d+}.tif",
        r"{*}_{well}_T{t}F{site}L{*:\d+}A{*:\d+}Z{z}{level:C\d+}.png",
    ),
    # IN Cell Analyzer: B - 02(fld 1 wv DAPI - DAPI).tif, with z 3 at the end in a stack.
    "incell": (
        "{*}{row} - {column}(fld {site} wv {level} z {z}).tif",
        "{*}{row} - {column}(fld {site} wv {level}).tif",
        "{*}{row} - {column}(wv {level}).tif",
    ),
    # Incucyte: exports plate_Green_B2_1_00d06h40m.tif or plate_Green_B2_1_2024y05m06d_10h00m.tif.
    "incucyte": (
        "{*}_{level}_{well}_{site}_{t}.tif",
        "{*}-{level}_{well}_{site}_{t}.tif",
    ),
    # BioTek Gen5, of the Cytation: B2_01_1_1_DAPI_001.tif is well, step, channel, image in the well, channel, reading; 1Z0 in a stack.
    "gen5": (
        r"{well}_{*:\d+}_{*:\d+}_{site}Z{z}_{level}{*:(?: \d+,\d+)?}_{t}.tif",
        r"{well}_{*:\d+}_{*:\d+}_{site}_{level}{*:(?: \d+,\d+)?}_{t}.tif",
    ),
    # Leica Matrix Screener: U is the column and V the row of the chamber, X and Y those of the field, from 0; J the job.
    "leica-matrix": (
        r"{*}--L{*}--S{*}--U{column0}--V{row0}--J{*}--X{tile_column}--Y{tile_row}--T{t}--Z{z}--{level:C\d+}.ome.tif",
        r"{*}--L{*}--S{*}--U{column0}--V{row0}--J{*}--X{tile_column}--Y{tile_row}--T{t}--Z{z}--{level:C\d+}.tif",
    ),
    # Thermo Cellomics and CellInsight, as TIFF: MFGTMP_140206180002_B02f00d0.TIF; and EVOS M7000: scan_Plate_R_p00_z00_0_B02f00d0.TIF.
    "cellomics": (r"{*}{well}f{site}{level:d\d+}.tif",),
    "evos": (
        r"{*}_R_p{t}_z{z}_{*:\d+}_{well}f{site}{level:d\d+}.tif",
        r"{*}_R_p{t}_{*:\d+}_{well}f{site}{level:d\d+}.tif",
    ),
    # Cephla Squid: a folder for each time point, 0/B2_0_0_Fluorescence_405_nm_Ex.tiff is region, field and plane.
    "squid": (
        "{t}/{well}_{site}_{z}_{level}.tiff",
        "{t}/{well}_{site}_{z}_{level}.bmp",
        r"{t}/{field:[^/]+_\d+}_{z}_{level}.tiff",
        r"{t}/{field:[^/]+_\d+}_{z}_{level}.bmp",
    ),
    # BD Pathway: Well B02/DAPI - n000000.tif; n counts the images of a well, which are time points unless it took a stack.
    "bd-pathway": ("Well {well}/{level} - n{t}.tif",),
    # Nikon NIS-Elements: WellB02_PointB02_0000_ChannelDAPI_Seq0000.tiff, with Time00000 in a time lapse.
    "nis": (
        "{*}Well{well}_Point{*}_{site}_Time{t}_Channel{level}_Seq{*}.tiff",
        "{*}Well{well}_Point{*}_{site}_Channel{level}_Seq{*}.tiff",
        "{*}Well{well}_Channel{level}_Seq{*}.tiff",
    ),
    # Zeiss ZEN, image export: name_s01t01z1c1_ORG.tif; s is the scene. What is missing was not varied.
    "zen": (
        r"{field:[^/]+_s\d+}t{t}z{z}{level:c\d+}_ORG.tif",
        r"{field:[^/]+_s\d+}t{t}{level:c\d+}_ORG.tif",
        r"{field:[^/]+_s\d+}z{z}{level:c\d+}_ORG.tif",
        r"{field:[^/]+_s\d+}{level:c\d+}_ORG.tif",
    ),
}
