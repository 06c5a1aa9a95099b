from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scotopic.store import FrameRecord, Ledger, VisitRecord, checksum, finished_sites, unnoted_dose_ms
from scotopic.store.ledger import MOST_UNNOTED


def record(level="a", site=0, attempt=1, state="written", **changes):
    keys = {
        "index": 0,
        "well": "A1",
        "t": 0,
        "z": 0,
        "time": "now",
        "exposure_ms": 1,
        "led_percent": 1,
        "xy_um": (0, 0),
    }
    return FrameRecord(**keys | changes, level=level, site=site, attempt=attempt, state=state)


def test_what_is_appended_is_read_again(tmp_path):
    ledger = Ledger(tmp_path / "frames.jsonl")
    records = [record(level=name, reason='why, "quoted"\nand broken') for name in "abc"]
    ledger.append(records[:1], sync=False)
    ledger.append(records[1:])
    assert Ledger(tmp_path / "frames.jsonl").read() == records
    assert len((tmp_path / "frames.jsonl").read_text().splitlines()) == 3


def test_a_torn_line_is_ignored_and_cut_off_before_anything_is_appended(tmp_path):
    path = tmp_path / "frames.jsonl"
    ledger = Ledger(path)
    ledger.append([record("a"), record("b")])
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert [r.level for r in ledger.read()] == ["a"]
    assert ledger.cut_torn_line() > 0
    ledger.append([record("c")])
    assert [r.level for r in ledger.read()] == ["a", "c"]
    assert ledger.cut_torn_line() == 0


def test_a_damaged_line_in_the_middle_is_told(tmp_path):
    path = tmp_path / "frames.jsonl"
    Ledger(path).append([record("a"), record("b")])
    path.write_bytes(b"{damaged}\n" + path.read_bytes())
    with pytest.raises(ValueError, match=r"frames\.jsonl:1: damaged line"):
        Ledger(path).read()


def test_a_site_is_finished_by_one_attempt_that_accounts_for_every_frame():
    partly = [record("a"), record("b")]
    assert finished_sites(partly, 3) == {}
    assert finished_sites([*partly, record("c", attempt=2)], 3) == {}
    again = [
        record(level, attempt=2, state=state)
        for level, state in zip("abc", ("written", "skipped", "written"), strict=True)
    ]
    assert finished_sites([*partly, *again], 3) == {("A1", 0, 0): 2}


@given(st.binary(min_size=2, max_size=200).filter(lambda b: len(b) % 2 == 0))
def test_a_checksum_is_of_the_pixels_alone(data):
    image = np.frombuffer(data, np.uint16).reshape(1, -1)
    assert checksum(image) == checksum(np.array(image, order="F"))
    changed = image.copy()
    changed[0, 0] ^= 1
    assert checksum(changed) != checksum(image)


def test_of_a_killed_visit_so_much_light_is_reckoned_as_can_have_been_given():
    visit = VisitRecord(well="A1", site=0, t=0, attempt=1, frame_dose_ms={"100%": 200, "2%": 4})
    assert unnoted_dose_ms([], [], 1) == 0
    assert unnoted_dose_ms([], [visit], 1) == 204
    assert unnoted_dose_ms([record("2%")], [visit], 1) == 200
    assert unnoted_dose_ms([record("2%"), record("100%")], [visit], 1) == 0
    assert unnoted_dose_ms([record("2%", attempt=2)], [visit], 1) == 204, "another visit"
    assert unnoted_dose_ms([], [visit, visit.model_copy(update={"left": True})], 1) == 0
    assert unnoted_dose_ms([], [visit], 50) == MOST_UNNOTED * 200, "no more can have been under way"
