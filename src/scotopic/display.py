"""What a person at a terminal sees of a run that is under way."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType
    from rich.text import Text

    from scotopic.microscope import Progress

_READ_S = 1.0
"""Between two looks at what the other processes say."""
_SHADES = "·░▒▓█"
"""A well: not begun, ..., done."""


@contextmanager
def progress_display(told: Callable[[float | None], list[str]]) -> Iterator[Callable[[Progress], None] | None]:
    """Show plate map, bar and figures on a terminal; elsewhere nothing, so that one line a site is printed.

    Parameters
    ----------
    told : callable
        What the other processes of the run say of themselves, in lines; it is given the time until the plate is complete.
    """
    if not sys.stdout.isatty():
        yield None
        return
    from rich.live import Live

    picture = _Picture(told)
    with Live(get_renderable=picture.drawn, transient=False, refresh_per_second=4):
        yield picture.show


class _Picture:
    """What is shown: the acquisition as it was told last, the other processes as their status files say."""

    def __init__(self, told: Callable[[float | None], list[str]]) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._told = told
        self._progress: Progress | None = None
        self._bar = Bar(
            TextColumn("{task.fields[site]:>8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("sites"),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task("", total=None, site="")
        self._lines: list[str] = []
        self._read_s = -_READ_S

    def show(self, progress: Progress) -> None:
        self._progress = progress
        self._bar.update(
            self._task, total=progress.sites_planned, completed=progress.sites_done, site=progress.last_site
        )

    def drawn(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        if time.monotonic() - self._read_s >= _READ_S:
            self._read_s = time.monotonic()
            try:
                self._lines = self._of_the_others()
            except Exception as error:  # a picture must not end what it shows
                self._lines = [f"what the other processes do cannot be told: {error}"]
        of_the_others = [Text(line) for line in self._lines]
        return Group(*(_picture(self._progress, self._bar) if self._progress else ()), *of_the_others)

    def _of_the_others(self) -> list[str]:
        if self._progress is None:
            return []
        whole = self._progress.sites_done >= self._progress.sites_planned
        return self._told(0 if whole else self._progress.seconds_left)


def _picture(progress: Progress, bar: RenderableType) -> list[RenderableType]:
    from rich.text import Text

    from scotopic.protocol import rounded

    figures = (
        f"{progress.frames_written:,} frames, {progress.bytes_left / 1e9:.2f} GB to go (before compression), "
        f"{rounded(progress.sample_dose_ms / 1000)} s of full light on the sample"
    )
    lines: list[RenderableType] = [plate_map(progress), bar, Text(figures)]
    if progress.frames_skipped:
        lines.append(Text(f"{progress.frames_skipped} frames skipped", style="red"))
    if progress.frames_left_out:
        lines.append(
            Text(
                f"{progress.frames_left_out} frames left out, {rounded(progress.saved_dose_ms / 1000)} s of light saved"
            )
        )
    if progress.frames_flagged:
        lines.append(Text(f"{progress.frames_flagged} frames flagged", style="yellow"))
    if progress.frames_saturated:
        lines.append(Text(f"{progress.frames_saturated} frames saturated", style="yellow"))
    if progress.paused or progress.waiting:
        lines.append(Text(f"paused: {progress.paused}" if progress.paused else progress.waiting, style="yellow"))
    return lines


def plate_map(progress: Progress) -> Text:
    """Return the wells of a plate, each the darker the more of its sites are done; red where frames were skipped."""
    from rich.text import Text

    places = progress.wells
    text = Text()
    for row in sorted({well.row for well in places.values()}):
        wells = {well.column: well for well in places.values() if well.row == row}
        text.append(f"{next(name for name, well in places.items() if well.row == row).rstrip('0123456789'):>8} ")
        for column in range(max(wells) + 1):
            well = wells.get(column)
            if well is None:
                text.append("  ")
                continue
            shade = _SHADES[-(-well.sites_done * (len(_SHADES) - 1) // well.sites_planned)]
            text.append(shade * 2, style="red" if well.frames_skipped else "green")
        text.append("\n")
    return text
