from __future__ import annotations

import io

from rich.console import Console

from scotopic.display import _Picture, plate_map
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


def test_one_picture_shows_the_plate_and_what_each_process_does():
    asked = []

    def told(left_s):
        asked.append(left_s)
        return ["training: step 120", "report in about 9 min"]

    picture, console = _Picture(told), Console(width=100, record=True, file=io.StringIO())
    console.print(picture.drawn())
    wells = {"B2": WellProgress(1, 1, sites_planned=4, sites_done=4), "B3": WellProgress(1, 2, sites_planned=4)}
    picture.show(Progress(4, 8, 16, 0, 810, "B2_3", 30.0, 10**9, wells))
    picture._read_s = float("-inf")
    console.print(picture.drawn())
    text = console.export_text()
    for part in ("██··", "B2_3", "4/8", "16 frames", "training: step 120", "report in about 9 min"):
        assert part in text
    assert asked == [30.0], "asked once the acquisition has begun, for the time until the plate is complete"


def test_a_picture_survives_what_cannot_be_told():
    def told(_):
        raise OSError("a status file is being replaced")

    picture = _Picture(told)
    picture.show(Progress(8, 8, 32, 0, 1.6, "B3_3", 0.0, 0, {}))
    picture.drawn()
    assert picture._lines == ["what the other processes do cannot be told: a status file is being replaced"]
