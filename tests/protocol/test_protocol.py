from __future__ import annotations

import json
import math
from itertools import pairwise

import jsonschema
import pytest
import useq
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import DATA, ROOT, load_job
from scotopic.protocol import (
    ImagingProtocol,
    LiveSettings,
    MicroscopeProfile,
    Plate,
    Rules,
    Sentinels,
    expand_wells,
    read_model,
    rounded,
)

PROTOCOLS = sorted((ROOT / "protocols").glob("*.yaml"))
PROFILES = sorted((ROOT / "hardware_configs").glob("*.yaml"))
MINIMAL = {
    "name": "x",
    "plate": "96-well",
    "wells": "B2",
    "channel": "DAPI",
    "light_levels": [
        {"name": "full", "exposure_ms": 200, "led_percent": 100, "role": "reference"},
        {"name": "dim", "exposure_ms": 4, "led_percent": 10},
    ],
}


def protocol(**changes: object) -> ImagingProtocol:
    return ImagingProtocol.model_validate(MINIMAL | changes)


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda p: p.stem)
def test_shipped_protocols_load_and_fit_their_schema(path):
    read_model(path, ImagingProtocol)
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), ImagingProtocol.model_json_schema())


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_shipped_profiles_load_and_fit_their_schema(path):
    read_model(path, MicroscopeProfile)
    data = json.loads(json.dumps(yaml.safe_load(path.read_text(encoding="utf-8"))))
    jsonschema.validate(data, MicroscopeProfile.model_json_schema())


def test_every_key_of_the_schema_is_described():
    schemas = [ImagingProtocol.model_json_schema(), MicroscopeProfile.model_json_schema()]
    models = [m for s in schemas for m in (s, *s["$defs"].values()) if "properties" in m]
    bare = [
        f"{m['title']}.{key}"
        for m in models
        if m["title"] != "Site"
        for key, value in m["properties"].items()
        if "description" not in value
    ]
    assert not bare


def test_the_white_papers_plate():
    p = read_model(ROOT / "protocols" / "low_light_96.yaml", ImagingProtocol)
    assert p.n_frames == 3456
    assert len(p.training_wells) == 90
    assert len(p.held_out_wells) == 6
    assert [p.relative_dose(level) for level in p.light_levels] == pytest.approx([1, 0.02, 0.002, 0.0005])
    assert [level.name for level in p.levels_in_exposure_order] == ["0.05%", "0.2%", "2%", "100%"]


WELLS = {
    "one": ("B2", ("B2",)),
    "list and range": ("b02, C3:C5", ("B2", "C3", "C4", "C5")),
    "rectangle": ("A1:B2", ("A1", "A2", "B1", "B2")),
    "backwards": ("B2:A1", ("A1", "A2", "B1", "B2")),
    "twice the same": ("A1, A1:A2", ("A1", "A2")),
}


@pytest.mark.parametrize(("text", "expected"), WELLS.values(), ids=WELLS.keys())
def test_wells_are_expanded(text, expected):
    assert expand_wells(text, Plate.model_validate("96-well")) == expected


def test_large_plates_have_double_letter_rows():
    assert expand_wells("AF48", Plate.model_validate("1536-well")) == ("AF48",)


def test_excluded_wells_are_left_out_and_labels_are_found():
    p = protocol(
        wells=["A1:A3", "B1"],
        exclude="A2",
        focus={"strategy": "fixed"},
        labels={"A1:H6": {"drug": "none"}, "A3": {"dose_um": 2.5}},
    )
    assert p.well_names == ("A1", "A3", "B1")
    assert p.well_labels("A3") == {"drug": "none", "dose_um": 2.5}


@given(count=st.integers(0, 95))
@settings(max_examples=25)
def test_held_out_wells_are_as_many_as_asked_and_always_the_same(count):
    p = protocol(wells="A1:H12", held_out=count, focus={"strategy": "fixed"})
    again = protocol(wells="A1:H12", held_out=count, focus={"strategy": "fixed"})
    assert len(set(p.held_out_wells)) == count
    assert p.held_out_wells == again.held_out_wells
    assert set(p.training_wells) | set(p.held_out_wells) == set(p.well_names)
    assert not set(p.training_wells) & set(p.held_out_wells)


def test_held_out_wells_are_spread_over_the_plate():
    p = protocol(wells="A1:H12", held_out=6, focus={"strategy": "fixed"})
    places = [p.plate.wells[w] for w in p.held_out_wells]
    assert len({r for r, _ in places}) >= 5
    assert len({c for _, c in places}) == 6


def test_opentrons_labware_becomes_a_plate(tmp_path):
    path = tmp_path / "p.yaml"
    (tmp_path / "labware_24.json").write_text((DATA / "labware_24.json").read_text())
    path.write_text(yaml.safe_dump(MINIMAL | {"plate": "labware_24.json"}))
    plate = read_model(path, ImagingProtocol).plate
    assert (plate.rows, plate.columns) == (4, 6)
    assert plate.spacing_mm == pytest.approx((19.3, 19.3))
    assert plate.centre_um("B3") == pytest.approx((38600, 19300))
    assert plate.round_wells


# -------------------------------------------------------------------- sequences


def test_z_is_never_moved_unless_asked():
    """useq's WellPlatePlan would drive the focus to Z = 0."""
    job = load_job("low_light_96", "simulated")
    assert {e.z_pos for e in job.protocol.to_sequence(job.profile)} == {None}
    stock = useq.WellPlatePlan(plate="96-well", a1_center_xy=(0, 0), selected_wells=slice(None))
    assert {p.z for p in stock} == {0}, "useq has mended it: delete the trap"


def test_sites_lie_one_field_of_view_apart():
    """useq collapses a 3x3 grid to 1 um where nobody tells it the field of view."""
    job = load_job("low_light_96", "simulated")
    sequence = job.protocol.to_sequence(job.profile)
    b2 = {p.name: (p.x, p.y) for p in sequence.stage_positions if p.name.startswith("B2_")}
    fov = job.profile.camera.fov_um
    assert len(b2) == 9
    assert b2["B2_1"][0] - b2["B2_0"][0] == pytest.approx(fov[0])
    assert b2["B2_3"][1] - b2["B2_0"][1] == pytest.approx(fov[1])
    assert b2["B2_4"] == pytest.approx((9000, 9000))


def test_a_z_stack_is_centred_on_a_known_height_only():
    stack = {"planes": 3, "step_um": 2}
    with pytest.raises(ValueError, match="known height"):
        protocol(z_stack=stack, focus={"strategy": "fixed"})
    profile = load_job("quickstart", "simulated").profile
    events = list(protocol(z_stack=stack, focus={"strategy": "fixed", "z_um": 1200}).to_sequence(profile))
    assert [e.z_pos for e in events] == [1198, 1200, 1202] * 2
    assert [e.channel.config for e in events] == ["dim"] * 3 + ["full"] * 3


def test_a_focus_plane_gives_each_site_its_height():
    profile = load_job("quickstart", "simulated").profile
    focus = {"strategy": "plane", "points": {"A1": 1000, "A12": 1099, "H1": 1063}}
    sequence = protocol(wells="A1:H12", focus=focus).to_sequence(profile)
    heights = {p.name: p.z for p in sequence.stage_positions}
    assert heights["C5_0"] == pytest.approx(1000 + 4 * 9 + 2 * 9, abs=0.01)


def test_travel_is_saved_by_going_there_and_back():
    job = load_job("low_light_96", "simulated")
    places = [(p.x, p.y) for p in job.protocol.to_sequence(job.profile).stage_positions]
    assert sum(math.dist(a, b) for a, b in pairwise(places)) / 1e6 < 1.1  # row-major order takes 1.8 m
    rows = [p.plate_row for p in job.protocol.to_sequence(job.profile).stage_positions]
    assert rows == sorted(rows)


def test_sites_at_random_are_in_the_well_apart_and_always_the_same():
    p = protocol(sites={"random": 12, "seed": 7})
    fov = (332.8, 332.8)
    sites = p.sites_in_travel_order(fov)
    assert sites == protocol(sites={"random": 12, "seed": 7}).sites_in_travel_order(fov)
    assert sites != protocol(sites={"random": 12, "seed": 8}).sites_in_travel_order(fov)
    assert {s.index for s in sites} == set(range(12))
    x0, y0 = p.plate.centre_um("B2")
    for s in sites:
        corner = abs(s.plate_x_um - x0) + fov[0] / 2, abs(s.plate_y_um - y0) + fov[1] / 2
        assert p.plate.contains_um(*corner)
    for i, a in enumerate(sites):
        for b in sites[:i]:
            assert abs(a.plate_x_um - b.plate_x_um) >= fov[0] or abs(a.plate_y_um - b.plate_y_um) >= fov[1]


def test_too_many_random_sites_are_refused():
    with pytest.raises(ValueError, match="random sites fit into well B2"):
        protocol(sites={"random": 400}).sites_in_travel_order((332.8, 332.8))


def test_sequences_round_trip_through_json():
    job = load_job("quickstart", "simulated")
    lapse = ImagingProtocol.model_validate(job.protocol.model_dump() | {"time_lapse": {"count": 2, "interval_s": 60}})
    for p in (job.protocol, lapse):
        sequence = p.to_sequence(job.profile)
        again = useq.MDASequence.model_validate_json(sequence.model_dump_json())
        frames = [(dict(e.index), e.channel, e.exposure, e.x_pos, e.y_pos, e.z_pos, e.min_start_time) for e in sequence]
        assert frames == [
            (dict(e.index), e.channel, e.exposure, e.x_pos, e.y_pos, e.z_pos, e.min_start_time) for e in again
        ]
        images = [e for e in sequence if e.action is None or e.action.type == "acquire_image"]
        assert len(images) == p.n_frames


def test_fewer_wells_keep_a_share_of_held_out_ones():
    p = protocol(wells="A1:H12", held_out=6, focus={"strategy": "fixed"}).with_fewer_wells(8)
    assert len(p.well_names) == 8
    assert len(p.held_out_wells) == 1


# -------------------------------------------------------------------- laws

names = st.text("abcXYZ019%._-", min_size=1, max_size=8)
levels = st.lists(
    st.tuples(names, st.floats(0.1, 100), st.floats(0.1, 100)), min_size=0, max_size=5, unique_by=lambda x: x[0]
).map(
    lambda reduced: (
        [{"name": "Full light", "exposure_ms": 1000, "led_percent": 100, "role": "reference"}]
        + [
            {"name": n, "exposure_ms": e, "led_percent": p}
            for i, (n, e, p) in enumerate(reduced)
            if (e, p) not in [(r[1], r[2]) for r in reduced[:i]]
        ]
    )
)
protocols = st.fixed_dictionaries(
    {
        "name": st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=30),
        "plate": st.sampled_from(["6-well", "24-well", "96-well", "384-well"]),
        "wells": st.sampled_from(["A1", "A1:B3", "A1, B2:B3", ["A1", "B1:B3"]]),
        "channel": names,
        "light_levels": levels,
        "sites": st.one_of(
            st.fixed_dictionaries({"rows": st.integers(1, 4), "columns": st.integers(1, 4)}),
            st.fixed_dictionaries({"random": st.integers(1, 9), "seed": st.integers(0, 99)}),
        ),
        "focus": st.sampled_from(
            [
                {"strategy": "fixed"},
                {"strategy": "fixed", "z_um": 12.5},
                {"strategy": "hardware", "retries": 0, "on_failure": "stop"},
                {"strategy": "plane", "points": {"A1": 1, "A2": 2, "B1": 3}},
            ]
        ),
    },
    optional={
        "held_out": st.one_of(st.just(0), st.just("A1")).filter(lambda v: v == 0),
        "exposure_order": st.sampled_from(["dimmest_first", "brightest_first", "as_listed"]),
        "labels": st.dictionaries(st.sampled_from(["A1", "B2:B3"]), st.dictionaries(names, st.integers(0, 9))),
        "time_lapse": st.fixed_dictionaries(
            {"count": st.integers(1, 9), "interval_s": st.just(0.0) | st.floats(1e-30, 1e4)}
        ),
    },
)


@given(data=protocols)
@settings(max_examples=60, deadline=None)
def test_a_protocol_is_the_same_after_writing_and_reading(data, tmp_path_factory):
    original = ImagingProtocol.model_validate(data)
    path = tmp_path_factory.mktemp("law") / "p.yaml"
    path.write_text(original.model_dump_json(), encoding="utf-8")  # JSON is YAML
    assert read_model(path, ImagingProtocol) == original


def test_the_protocol_with_everything_in_it_that_the_readme_shows_is_valid(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = readme.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "p.yaml").write_text(example, encoding="utf-8")
    p = read_model(tmp_path / "p.yaml", ImagingProtocol)
    assert p.n_frames == 10 * 4 * 2 * 3 * 10
    assert len(list(p.to_sequence(load_job("quickstart", "simulated").profile))) == p.n_frames
    given = set(p.model_fields_set)
    assert set(ImagingProtocol.model_fields) - given == {"description", "live"}


def test_the_live_part_that_the_readme_shows_is_valid():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(readme.split("```yaml\n")[2].split("```")[0])
    protocol = load_job("live_low_light", "simulated").protocol
    live = ImagingProtocol.model_validate(protocol.model_dump() | shown).live
    assert live.model_fields_set == set(LiveSettings.model_fields)
    assert live.rules.model_fields_set == set(Rules.model_fields)
    assert live.sentinels.model_fields_set == set(Sentinels.model_fields)


@pytest.mark.parametrize(("value", "text"), [(3000.0, "3000"), (0.125, "0.125"), (12345, "12300"), (4, "4"), (0, "0")])
def test_numbers_are_written_out(value, text):
    assert rounded(value) == text
