"""Every mistake in a file gets one clear line: file, line, key, value, what is allowed, the nearest valid name."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import yaml

from conftest import ROOT
from scotopic.protocol import ImagingProtocol, MicroscopeProfile, ProblemsError, read_model

GOOD = """\
name: x
plate: 96-well
wells: A1:B3
held_out: 1
sites: {rows: 2, columns: 2}
channel: DAPI
light_levels:
  - {name: full, exposure_ms: 200, led_percent: 100, role: reference}
  - {name: dim, exposure_ms: 4, led_percent: 10}
focus: {strategy: hardware}
"""


class Bad(NamedTuple):
    old: str
    new: str
    expected: str
    """The whole line after the file's name."""


BAD = {
    "unknown key": Bad(
        "channel: DAPI", "chanel: DAPI\nchannel: DAPI", ":6: chanel is no key here; did you mean 'channel'?"
    ),
    "key typo nested": Bad("rows: 2, ", "row: 2, ", ":5: sites.row is no key here; did you mean 'rows'?"),
    "key of nothing near": Bad(
        "{strategy: hardware}",
        "{strategy: hardware, xyz: 1}",
        ":10: focus.xyz is no key here; allowed: on_failure, retries, strategy",
    ),
    "decimal comma in braces": Bad(
        "exposure_ms: 4, ", "exposure_ms: 4,5, ", ":9: light_levels[1].5 is no key here; write 4.5"
    ),
    "useq's typo": Bad("focus:", "time_plann: 3\nfocus:", ":10: time_plann is no key here; did you mean 'time_lapse'?"),
    "key twice": Bad("held_out: 1", "held_out: 1\nheld_out: 2", ":5: held_out is given twice"),
    "key missing": Bad("channel: DAPI\n", "", ":1: channel is missing"),
    "key missing in a list": Bad("exposure_ms: 4, ", "", ":9: light_levels[1].exposure_ms is missing"),
    "plate unknown": Bad(
        "96-well", "96-wel", ":2: plate = \"96-wel\": no plate of this name is known; did you mean '96-well'?"
    ),
    "plate a number": Bad(
        "96-well",
        "96",
        ":2: plate = 96: allowed: a name like 96-well, an Opentrons labware .json file, or the keys of a plate",
    ),
    "plate file missing": Bad(
        "96-well", "none.json", ':2: plate = "none.json": cannot read the labware file: No such file or directory'
    ),
    "plate with negative wells": Bad(
        "96-well",
        "{name: p, rows: 2, columns: 3, spacing_mm: [9, 9], well_size_mm: [6, -6]}",
        ":2: plate: well_size_mm must be positive, not [6.0, -6.0]",
    ),
    "wells off the plate": Bad(
        "A1:B3",
        "A1, Z9:Z10, H13",
        ':3: wells = "A1, Z9:Z10, H13": not on a 96-well plate: Z9:Z10, H13; allowed: A1 to H12, ranges like A1:H12, '
        "separated by commas",
    ),
    "wells with a hole": Bad(
        "A1:B3",
        '"A1,,A2"',
        ':3: wells = "A1,,A2": not on a 96-well plate: (nothing between two commas); allowed: A1 to H12, ranges like A1:H12, '
        "separated by commas",
    ),
    "wells a number": Bad("A1:B3", "12", ":3: wells = 12: should be a valid string"),
    "wells empty": Bad(
        "wells: A1:B3",
        'wells: ""',
        ':3: wells = "": not on a 96-well plate: (nothing between two commas); allowed: A1 to H12, ranges like A1:H12, '
        "separated by commas",
    ),
    "nothing left": Bad(
        "held_out: 1", "exclude: A1:H12", ':4: exclude = "A1:H12": no well is left: every one of `wells` is excluded'
    ),
    "too many held out": Bad(
        "held_out: 1",
        "held_out: 6",
        ":4: held_out = 6: allowed: 0 to 5 of the 6 wells, at least one is needed for training",
    ),
    "held out negative": Bad(
        "held_out: 1",
        "held_out: -1",
        ":4: held_out = -1: allowed: 0 to 5 of the 6 wells, at least one is needed for training",
    ),
    "held out elsewhere": Bad(
        "held_out: 1", "held_out: H12", ':4: held_out = "H12": H12 not among the wells that are imaged'
    ),
    "all held out": Bad(
        "held_out: 1",
        "held_out: A1:B3",
        ':4: held_out = "A1:B3": every well is held out: at least one is needed for training',
    ),
    "labels contradict": Bad(
        "held_out: 1",
        "labels: {A1: {dose: 1}, 'A1:A2': {dose: 2}}",
        ":4: labels: well A1 has two values of 'dose': 1 and 2",
    ),
    "labels off the plate": Bad(
        "held_out: 1",
        "labels: {Q1: {dose: 1}}",
        ":4: labels: not on a 96-well plate: Q1; allowed: A1 to H12, ranges like A1:H12, separated by commas",
    ),
    "no sites": Bad("rows: 2, ", "rows: 0, ", ":5: sites.rows = 0: should be greater than 0"),
    "half a site": Bad("rows: 2, ", "rows: 2.5, ", ":5: sites.rows = 2.5: should be a valid integer"),
    "too much overlap": Bad(
        "columns: 2", "columns: 2, overlap_percent: 100", ":5: sites.overlap_percent = 100: should be less than 100"
    ),
    "random and rows": Bad(
        "{rows: 2, columns: 2}", "{random: 4, rows: 2}", ":5: sites.rows is no key here; allowed: random, seed"
    ),
    "exposure zero": Bad(
        "exposure_ms: 4", "exposure_ms: 0", ":9: light_levels[1].exposure_ms = 0: should be greater than 0"
    ),
    "exposure a word": Bad(
        "exposure_ms: 4", "exposure_ms: fast", ':9: light_levels[1].exposure_ms = "fast": should be a valid number'
    ),
    "exposure with unit": Bad(
        "exposure_ms: 4", "exposure_ms: 4 ms", ':9: light_levels[1].exposure_ms = "4 ms": should be a valid number'
    ),
    "exposure infinite": Bad(
        "exposure_ms: 4", "exposure_ms: .inf", ":9: light_levels[1].exposure_ms = Infinity: should be a finite number"
    ),
    "power a truth": Bad(
        "led_percent: 10}", "led_percent: true}", ":9: light_levels[1].led_percent = true: should be a valid number"
    ),
    "power too high": Bad(
        "led_percent: 10}",
        "led_percent: 110}",
        ":9: light_levels[1].led_percent = 110: should be less than or equal to 100",
    ),
    "role typo": Bad(
        "role: reference",
        "role: refrence",
        ":8: light_levels[0].role = \"refrence\": allowed: reference, reduced; did you mean 'reference'?",
    ),
    "no reference": Bad(
        ", role: reference", "", ":7: light_levels: exactly one level must have role: reference; given: none"
    ),
    "two references": Bad(
        "led_percent: 10}",
        "led_percent: 10, role: reference}",
        ":7: light_levels: exactly one level must have role: reference; given: full, dim",
    ),
    "names twice": Bad("name: dim", "name: full", ":7: light_levels: names must be unique; given more than once: full"),
    "name with comma": Bad(
        "name: dim",
        'name: "a,b"',
        ':9: light_levels[1].name = "a,b": no commas, quotes, colons, slashes or spaces at the ends',
    ),
    "dim is brighter": Bad(
        "exposure_ms: 4", "exposure_ms: 9999", ":7: light_levels: dim is not dimmer than the reference full"
    ),
    "same light twice": Bad(
        "role: reference}",
        "role: reference}\n  - {name: dim2, exposure_ms: 4, led_percent: 10}",
        ":7: light_levels: dim2 and dim have the same exposure and LED power: light for nothing",
    ),
    "no levels": Bad(
        GOOD[GOOD.index("light_levels") : GOOD.index("focus")],
        "light_levels: []\n",
        ":7: light_levels must have at least 1 entry",
    ),
    "levels no list": Bad(
        GOOD[GOOD.index("light_levels") : GOOD.index("focus")],
        "light_levels: bright\n",
        ':7: light_levels = "bright": should be a list, as in [a, b]',
    ),
    "order unknown": Bad(
        "focus:",
        "exposure_order: dimest_first\nfocus:",
        ":10: exposure_order = \"dimest_first\": allowed: dimmest_first, brightest_first, as_listed; did you mean 'dimmest_first'?",
    ),
    "focus missing": Bad(
        "focus: {strategy: hardware}",
        "",
        ":1: focus must be named for more than one well; allowed: {strategy: fixed}, {strategy: plane}, {strategy: hardware}",
    ),
    "focus unknown": Bad(
        "strategy: hardware",
        "strategy: hardwear",
        ":10: focus.strategy = \"hardwear\": allowed: fixed, plane, hardware; did you mean 'hardware'?",
    ),
    "focus without strategy": Bad("{strategy: hardware}", "{retries: 1}", ":10: focus.strategy is missing"),
    "policy unknown": Bad(
        "strategy: hardware",
        "strategy: hardware, on_failure: skip",
        ":10: focus.on_failure = \"skip\": allowed: skip_site, image_and_flag, stop; did you mean 'skip_site'?",
    ),
    "plane of two": Bad(
        "{strategy: hardware}",
        "{strategy: plane, points: {A1: 1, A2: 2}}",
        ":10: focus: points: three wells or more span a plane, not 2",
    ),
    "plane off the plate": Bad(
        "{strategy: hardware}",
        "{strategy: plane, points: {A1: 1, A2: 2, Z1: 3}}",
        ":10: focus: points: Z1 not on a 96-well plate; allowed: A1 to H12",
    ),
    "stack without height": Bad(
        "focus:",
        "z_stack: {planes: 3, step_um: 1}\nfocus:",
        ":11: focus: a z_stack needs a known height: strategy plane, or strategy fixed with z_um",
    ),
    "stack of one": Bad(
        "focus:", "z_stack: {planes: 1, step_um: 1}\nfocus:", ":10: z_stack.planes = 1: should be greater than 1"
    ),
    "time backwards": Bad(
        "focus:",
        "time_lapse: {count: 2, interval_s: -1}\nfocus:",
        ":10: time_lapse.interval_s = -1: should be greater than or equal to 0",
    ),
}


def complaints(path, text, model=ImagingProtocol):
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ProblemsError) as caught:
        read_model(path, model)
    return [str(problem).removeprefix(str(path)) for problem in caught.value.problems]


def test_the_good_file_is_good(tmp_path):
    (tmp_path / "p.yaml").write_text(GOOD)
    assert read_model(tmp_path / "p.yaml", ImagingProtocol).n_frames == 6 * 4 * 2


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_mistake_gets_one_clear_line(bad, tmp_path):
    assert bad.old in GOOD
    assert complaints(tmp_path / "p.yaml", GOOD.replace(bad.old, bad.new, 1)) == [bad.expected]


TOO_MANY = "is not YAML: more than 20000 keys and values; no protocol or profile has so many"
NOT_YAML = {
    "tab": ("name: x\n\tplate: 96-well\n", ":2: is not YAML: found character '\\t' that cannot start any token"),
    "open bracket": ("name: [x\n", ":2: is not YAML: expected ',' or ']', but got '<stream end>'"),
    "a list": ("- x\n", ": must be a list of `key: value` lines"),
    "empty": ("", ": must be a list of `key: value` lines"),
    "a key that is a list": ("wells: {{ wells }}\n", ":1: wells must be a plain word before the colon"),
    "within itself": ("name: &a [*a]\n", ": is nested too deeply, or within itself"),
    "merged into itself": ("name: &a {<<: *a}\n", ": is nested too deeply, or within itself"),
    "too deep": ("name: " + "[" * 3000, ": is nested too deeply, or within itself"),
    "a tag that runs code": (
        "name: !!python/object/apply:os.getcwd []\n",
        ":1: is not YAML: tags are not allowed, such as !!python/object/apply:os.getcwd",
    ),
    "a tag that does not fit": ("name: !!timestamp x\n", ":1: is not YAML: tags are not allowed, such as !!timestamp"),
    "aliases of aliases": (
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
        ":5: " + TOO_MANY,
    ),
    "merges of merges": (
        "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 9)),
        ":5: " + TOO_MANY,
    ),
    "too many values": ("name: [" + "x," * 21_000 + "]\n", ":1: " + TOO_MANY),
    "too large": ("name: " + "x" * 500_000, ": is larger than 0.5 MB: no protocol or profile is"),
    "two documents": ("name: x\n---\nname: y\n", ":2: is not YAML: but found another document"),
    "UTF-16 without a mark": (
        "name: x\n".encode("utf-16-le").decode(),
        ":1: has a character that no text has (number 0)",
    ),
    "half a character": (
        'name: "\\ud800"\n',
        ": is not YAML: an escape in it, such as \\ud800, stands for no character",
    ),
    "no character": (
        'name: "\\UFFFFFFFF"\n',
        ": is not YAML: an escape in it, such as \\ud800, stands for no character",
    ),
    "a long alias": ("name: *" + "x" * 100_000, ":1: is not YAML: found undefined alias 'xxxxxxxx"),
}


@pytest.mark.parametrize(("text", "expected"), NOT_YAML.values(), ids=NOT_YAML.keys())
def test_what_is_no_yaml_is_told(text, expected, tmp_path):
    lines = complaints(tmp_path / "p.yaml", text)
    assert len(lines) == 1
    assert lines[0].startswith(expected)
    assert len(lines[0]) < 400


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_another_encoding_is_told(encoding, tmp_path):
    (tmp_path / "p.yaml").write_bytes((GOOD + "# µm\n").encode(encoding))
    with pytest.raises(ProblemsError, match=r"is not UTF-8 text .* save it as UTF-8"):
        read_model(tmp_path / "p.yaml", ImagingProtocol)


def test_a_key_cannot_write_over_the_terminal(tmp_path):
    assert complaints(tmp_path / "p.yaml", GOOD + '"a\\nb\\e[2J": 1\n')[0].startswith(
        ":11: a\\nb\\x1b[2J is no key here"
    )


def test_a_file_of_another_kind_gets_no_thousand_lines(tmp_path):
    assert len(complaints(tmp_path / "p.yaml", "".join(f"x{number}: 1\n" for number in range(2000)))) == 100


@pytest.mark.parametrize("number", ["1" + "0" * 31, "-1e31", "1e-31", "1" + "0" * 290])
def test_numbers_that_overflow_are_told_once(number, tmp_path):
    (line,) = complaints(tmp_path / "p.yaml", GOOD.replace("exposure_ms: 4,", f"exposure_ms: {number},"))
    assert line.startswith(f":9: light_levels[1].exposure_ms = {number[:57]}")
    assert line.endswith("allowed: 0, and from 1e-30 to 1e+30 with either sign")


def test_a_number_of_thousands_of_digits_is_no_number(tmp_path):
    (line,) = complaints(tmp_path / "p.yaml", GOOD.replace("exposure_ms: 4,", f"exposure_ms: {'9' * 5000},"))
    assert line.endswith("999...: should be a valid number")


def test_aliases_are_good_where_they_stand_for_little(tmp_path):
    text = GOOD.replace("exposure_ms: 200", "exposure_ms: &long 200").replace("exposure_ms: 4,", "exposure_ms: *long,")
    (tmp_path / "p.yaml").write_text(text)
    assert read_model(tmp_path / "p.yaml", ImagingProtocol).light_levels[1].exposure_ms == 200


def test_files_that_cannot_be_read_are_told(tmp_path):
    with pytest.raises(ProblemsError, match=r"none\.yaml: cannot be read: No such file or directory"):
        read_model(tmp_path / "none.yaml", ImagingProtocol)
    with pytest.raises(ProblemsError, match="cannot be read: "):
        read_model(tmp_path, ImagingProtocol)
    (tmp_path / "p.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ProblemsError, match="is not UTF-8 text"):
        read_model(tmp_path / "p.yaml", ImagingProtocol)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"wells": {"A1": {"x": 1' + "0" * 400 + ', "y": 0}}}'])
def test_a_labware_file_that_is_none_is_told(content, tmp_path):
    (tmp_path / "bad.json").write_text(content)
    (line,) = complaints(tmp_path / "p.yaml", GOOD.replace("96-well", "bad.json"))
    assert "not an Opentrons labware file" in line


def test_all_mistakes_are_told_at_once(tmp_path):
    text = GOOD
    for name in ("plate a number", "no sites", "role typo", "power too high", "focus unknown", "unknown key"):
        text = text.replace(BAD[name].old, BAD[name].new, 1)
    assert len(complaints(tmp_path / "p.yaml", text)) == 6


def test_yaml_1_1_traps_are_defused(tmp_path):
    """By YAML 1.1, `off` is false and `1e1` is text."""
    (tmp_path / "p.yaml").write_text(
        GOOD.replace("name: x", "name: off").replace("led_percent: 10}", "led_percent: 1e1}")
    )
    p = read_model(tmp_path / "p.yaml", ImagingProtocol)
    assert p.name == "off"
    assert p.light_levels[1].led_percent == 10
    (tmp_path / "p.yaml").write_text(GOOD.replace("exposure_ms: 200,", "exposure_ms: 0200,"))
    assert read_model(tmp_path / "p.yaml", ImagingProtocol).light_levels[0].exposure_ms == 200
    lines = complaints(tmp_path / "p.yaml", GOOD.replace("exposure_ms: 200,", "exposure_ms: 3:20,"))
    assert lines == [':8: light_levels[0].exposure_ms = "3:20": should be a valid number']


def test_a_byte_order_mark_of_a_windows_editor_does_no_harm(tmp_path):
    (tmp_path / "p.yaml").write_text(GOOD, encoding="utf-8-sig")
    assert read_model(tmp_path / "p.yaml", ImagingProtocol).name == "x"


BAD_PROFILES = {
    "no such light": ({"light_sources": {}}, "light_sources"),
    "step larger than range": ({"light_sources": {"DAPI": {"device": "L", "property": "P", "max": 1, "step": 2, "switch_off": [{"device": "L", "property": "P", "value": 0}]}}}, "step (2) is larger than the range"),
    "no way to switch off": ({"light_sources": {"DAPI": {"device": "L", "property": "P", "max": 1, "step": 0.1, "switch_off": []}}}, "light_sources.DAPI.switch_off"),
    "no shutter": ({"gating": {"how": "core_shutter"}}, "core_shutter needs the label of the shutter device"),
    "limits swapped": ({"stage": {"xy_device": "XY", "z_device": "Z", "x_um": [5, 1], "y_um": [0, 1], "z_um": [0, 1]}}, "x_um must be [smallest, largest], not [5, 1]"),
    "no pixel size": ({"camera": {"device": "C", "width_px": 5, "height_px": 5, "pixel_size_um": 0, "offset_counts": 0, "gain_e_per_count": 1, "read_noise_e": 1, "saturation_counts": 255}}, "camera.pixel_size_um = 0: should be greater than 0"),
    "fault unknown": ({"simulator": {"faults": [{"kind": "snap_fail"}]}}, "did you mean 'snap_fails'?"),
    "too many phases": ({"simulator": {"specimen": {"kind": "synthetic", "g2_fraction": 0.99}}}, "add up to 1.17, more than 1"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), BAD_PROFILES.values(), ids=BAD_PROFILES.keys())
def test_a_mistake_in_a_profile_is_told(change, expected, tmp_path):
    good = yaml.safe_load((ROOT / "hardware_configs" / "simulated.yaml").read_text(encoding="utf-8"))
    lines = complaints(tmp_path / "m.yaml", yaml.safe_dump(good | change), MicroscopeProfile)
    assert len(lines) == 1
    assert expected in lines[0]
