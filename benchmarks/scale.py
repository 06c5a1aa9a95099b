"""A hundred microscopes, each a plate an hour: bytes, files, trainers, and what breaks first. A simulation, with figures of one run.

usage: scale.py [RUN] [--microscopes 100] [--side-px 512] [--days 2]

RUN is a finished run: bytes and files of a plate are counted in it; without one those of a whole plate of `low_light_96.yaml` are taken.
Plates end at random moments of their hour; masks, training and validation wait for a free trainer (a computer of two cores, as in
docs/results.md), first come first served, and a trainer fails once in `MEAN_HOURS_TO_FAILURE` and does its job again from the last checkpoint.
"""

from __future__ import annotations

import argparse
import heapq
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PLATE = {"bytes": 1_461_112_152, "files": 16_813, "frames": 3456}
"""Of a run of `low_light_96.yaml` with masks, model and report, frames of 512 x 512."""
SYNCS_A_SITE = 3
"""Times that the disk is waited for at a site: visit, pixels, ledger."""
JOB_MIN = {"masks": 2.5, "training": 12.0, "final check": 1.0, "validation": 2.5}
"""Minutes of a trainer with two cores for a plate of 512 x 512 px: docs/results.md."""
MEAN_HOURS_TO_FAILURE, LOST_MIN = 500.0, 3.0
MEASURED_FILES_PER_S = 2_000
"""New small files a second that a file server is reckoned to take; local disks take more, and `store_throughput.py` measures yours."""


@dataclass(frozen=True)
class Outcome:
    """What became of the plates of a simulated fleet."""

    waited_min: np.ndarray
    """From the last frame to the report, of each plate."""
    load: float
    """Work of all plates, as a share of the time that the trainers have."""
    waiting_at_the_end: int
    """Plates without a report at the end."""


def simulate(microscopes: int, trainers: int, hours: float, seed: int = 0, job_min: float | None = None) -> Outcome:
    """Let plates come and wait for a trainer."""
    rng = np.random.default_rng(seed)
    needed = job_min or sum(JOB_MIN.values())
    phase = rng.uniform(0, 60, microscopes)
    ends = np.sort(np.concatenate([phase + 60 * hour for hour in range(int(hours))]))
    free = [0.0] * trainers
    heapq.heapify(free)
    waited, worked, late = [], 0.0, 0
    for end in ends:
        begin = max(end, heapq.heappop(free))
        takes = needed * rng.uniform(0.9, 1.2)
        takes += LOST_MIN * rng.poisson(takes / 60 / MEAN_HOURS_TO_FAILURE)
        heapq.heappush(free, begin + takes)
        waited.append(begin + takes - end)
        worked += takes
        late += begin + takes > 60 * hours
    return Outcome(np.array(waited), worked / (trainers * 60 * hours), late)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--microscopes", type=int, default=100)
    parser.add_argument("--side-px", type=int, default=512)
    parser.add_argument("--days", type=float, default=2)
    asked = parser.parse_args()
    plate = counted(asked.run) if asked.run else PLATE
    larger = (asked.side_px / 512) ** 2
    size_gb, files = plate["bytes"] * larger / 1e9, plate["files"]
    rate = asked.microscopes / 3600
    print(f"a plate: {plate['frames']:,} frames, {size_gb:.1f} GB, {files:,} files")
    print(f"{asked.microscopes} microscopes: {size_gb * rate * 1000:,.0f} MB/s, {size_gb * rate * 86.4:,.1f} TB a day")
    per_s = files * rate
    share = per_s / MEASURED_FILES_PER_S
    print(
        f"  {per_s:,.0f} new files a second ({share:.0%} of {MEASURED_FILES_PER_S:,}), {per_s * 86_400 / 1e6:,.0f} million a day"
    )
    print(f"  {SYNCS_A_SITE * plate['frames'] / 4 * rate:,.0f} waits for the disk a second")
    needed = JOB_MIN["training"] + larger * (sum(JOB_MIN.values()) - JOB_MIN["training"])
    least = asked.microscopes * needed / 60
    print(f"  {needed:.0f} minutes of a trainer a plate: {least:.1f} trainers at the least")
    print("| trainers | load | report after the last frame: median | 95 % | longest | plates waiting at the end |")
    print("|---|---|---|---|---|---|")
    for trainers in sorted({round(least * factor) for factor in (0.9, 1.0, 1.1, 1.2, 1.5, 2.0)}):
        found = simulate(asked.microscopes, trainers, 24 * asked.days, job_min=needed)
        median, most, longest = np.percentile(found.waited_min, (50, 95, 100))
        print(
            f"| {trainers} | {found.load:.0%} | {median:,.0f} min | {most:,.0f} min | {longest:,.0f} min | {found.waiting_at_the_end} |"
        )


def counted(run: Path) -> dict[str, int]:
    """Return bytes, files and frames of a run."""
    files = [path for path in run.rglob("*") if path.is_file()]
    frames = sum(b'"written"' in line for line in (run / "frames.jsonl").read_bytes().splitlines())
    return {"bytes": sum(path.stat().st_size for path in files), "files": len(files), "frames": frames}


if __name__ == "__main__":
    main()
