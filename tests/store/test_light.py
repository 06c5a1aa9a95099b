from __future__ import annotations

from scotopic.store import LightCheck, light_verdicts


def line(site, ratio, error, verdict, attempt=1, well="A1", level="0.2%"):
    keys = {"t": 0, "expected": 0.002, "well": well, "level": level, "site": site, "attempt": attempt}
    return LightCheck(**keys, ratio=ratio, error=error, verdict=verdict)


def test_what_one_site_cannot_show_its_well_may():
    dim = [line(site, 0.0021, 0.0003, "undetermined") for site in range(9)]
    finished = {("A1", site, 0): 1 for site in range(9)}
    assert set(light_verdicts(dim, finished).values()) == {"ok"}
    assert set(light_verdicts(dim[:1], finished).values()) == {"undetermined"}
    lying = [line(site, 0.008, 0.0003, "undetermined") for site in range(9)]
    assert set(light_verdicts(lying, finished).values()) == {"wrong"}


def test_a_verdict_of_a_site_itself_stands_and_empty_fields_take_that_of_the_well():
    checks = [
        line(0, 0.008, 0.00001, "wrong"),
        line(1, 0.002, 0.000005, "ok"),
        line(2, None, None, "undetermined"),
        line(2, None, None, "undetermined", well="A2"),
    ]
    finished = {("A1", 0, 0): 1, ("A1", 1, 0): 1, ("A1", 2, 0): 1, ("A2", 2, 0): 1}
    verdicts = light_verdicts(checks, finished)
    assert verdicts["A1", 0, 0, "0.2%"] == "wrong"
    assert verdicts["A1", 1, 0, "0.2%"] == "ok"
    assert verdicts["A2", 2, 0, "0.2%"] == "undetermined"


def test_only_the_visit_that_counts_is_judged():
    checks = [line(0, 0.01, 0.00001, "wrong"), line(0, 0.002, 0.00001, "ok", attempt=2)]
    assert light_verdicts(checks, {("A1", 0, 0): 2}) == {("A1", 0, 0, "0.2%"): "ok"}
    assert light_verdicts(checks, {}) == {}
