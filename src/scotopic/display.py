"""What a person at a terminal sees of a run that is under way."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType
    from rich.text import Text

    from scotopic.microscope import Progress

_SHADES = "·░▒▓█"
"""A well: not begun, ..., done."""


@contextmanager
def progress_display() -> Iterator[Callable[[Progress], None] | None]:
    """Show plate map, bar and figures on a terminal; elsewhere nothing, so that one line a site is printed."""
    if not sys.stdout.isatty():
        yield None
        return
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.fields[site]:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("sites"),
        TimeRemainingColumn(),
    )
    task = bar.add_task("", total=None, site="")
    with Live(bar, transient=False, refresh_per_second=4) as live:

        def show(progress: Progress) -> None:
            bar.update(task, total=progress.sites_planned, completed=progress.sites_done, site=progress.last_site)
            live.update(_picture(progress, bar))

        yield show


def _picture(progress: Progress, bar: RenderableType) -> RenderableType:
    from rich.console import Group
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
    return Group(*lines)


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
