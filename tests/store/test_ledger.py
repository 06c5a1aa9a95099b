from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scotopic.protocol import ProblemsError
from scotopic.store import FrameRecord, Ledger, VisitRecord, checksum, finished_sites, settled
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


def unnoted_ms(records, visits, planes=1, boot=0.0):
    return sum(visit.unnoted_ms for visit in settled(records, visits, planes, boot))


def test_after_a_power_cut_so_much_light_is_reckoned_as_can_have_been_given():
    visit = VisitRecord(well="A1", site=0, t=0, attempt=1, frame_dose_ms={"100%": 200, "2%": 4}, boot=1000)
    assert settled([], [], 1, 2000) == []
    assert unnoted_ms([], [visit], boot=2000) == 204
    assert unnoted_ms([record("2%")], [visit], boot=2000) == 200
    assert settled([record("2%"), record("100%")], [visit], 1, 2000) == []
    assert unnoted_ms([record("2%", attempt=2)], [visit], boot=2000) == 204, "another visit"
    assert settled([], [visit, visit.model_copy(update={"left": True})], 1, 2000) == []
    assert unnoted_ms([], [visit], 50, 2000) == MOST_UNNOTED * 200, "no more can have been under way"


def test_after_a_kill_the_light_is_that_of_the_frames_that_were_begun():
    visit = VisitRecord(well="A1", site=0, t=0, attempt=1, frame_dose_ms={"100%": 200, "2%": 4}, boot=1000)
    begun = [visit.model_copy(update={"level": level}) for level in ("2%", "100%")]
    assert unnoted_ms([], [visit], boot=1001) == 0
    assert unnoted_ms([], [visit, begun[0]], boot=1001) == 4
    assert unnoted_ms([record("2%")], [visit, *begun], boot=1001) == 200
    hanging = begun[0].model_copy(update={"unnoted_ms": 900})
    assert unnoted_ms([], [visit, begun[0], hanging], boot=1001) == 900, "as far as the watchdog has noted it"
    ends = settled([record("2%")], [visit, *begun], 1, 1001)
    assert [(end.left, end.unnoted_ms) for end in ends] == [(True, 200)]
    assert settled([record("2%")], [visit, *begun, *ends], 1, 5000) == [], "settled once and for all"


def test_only_a_tail_of_zeros_is_a_tail(tmp_path):
    path = tmp_path / "frames.jsonl"
    Ledger(path).append([record("a"), record("b"), record("c")])
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(100))
    assert len(Ledger(path).read()) == 3
    path.write_bytes(whole[:20] + b"\0" + whole[21:])
    with pytest.raises(ProblemsError, match=r"frames\.jsonl:1: damaged line"):
        Ledger(path).read()
    assert Ledger(path).cut_torn_line() == 0, "nothing that follows is lost"


def test_a_visit_that_was_given_up_no_longer_counts():
    lines = [record("a"), record("b")]
    assert finished_sites(lines, 2) == {("A1", 0, 0): 1}
    assert finished_sites([*lines, record("a", state="given_up")], 2) == {}
    again = [record("a", attempt=2), record("b", attempt=2)]
    assert finished_sites([*lines, record("a", state="given_up"), *again], 2) == {("A1", 0, 0): 2}


def test_the_last_lines_are_read_without_the_whole_file(tmp_path):
    from scotopic.store import LiveRecord
    from scotopic.store.ledger import JsonLines

    lines = JsonLines(tmp_path / "live.jsonl", LiveRecord)
    assert lines.tail(3) == []
    records = [LiveRecord(well="B2", site=site, attempt=1, level="2%", state="dropped") for site in range(500)]
    lines.append(records)
    with (tmp_path / "live.jsonl").open("ab") as file:
        file.write(b'{"well": "torn')
    assert lines.tail(3) == records[-3:]
    assert lines.tail(1000) == records
    (tmp_path / "live.jsonl").write_bytes((tmp_path / "live.jsonl").read_bytes() + b"\n")
    assert lines.tail(3) == records[-2:], "a damaged line is left out"
