from __future__ import annotations

from scotopic.display import plate_map
from scotopic.microscope import Progress
from scotopic.microscope.acquire import WellProgress


def test_the_plate_map_shows_what_is_done_and_what_was_skipped():
    wells = {
        "B2": WellProgress(1, 1, sites_planned=4, sites_done=4),
        "B4": WellProgress(1, 3, sites_planned=4, sites_done=1, frames_skipped=2),
        "C2": WellProgress(2, 1, sites_planned=4),
    }
    picture = plate_map(Progress(5, 12, 20, 2, 100.0, "B4_0", 10, 10**6, wells))
    assert picture.plain.splitlines() == ["       B   ██  ░░", "       C   ··"]
    assert {span.style for span in picture.spans} == {"green", "red"}
