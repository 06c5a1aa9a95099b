"""Acquisition on MMCore's demo devices, beside pymmcore-plus' own runner writing OME-Zarr with the same events.

usage: acquisition.py [WELLS]     number of wells of the 96 (default 96: 3,456 frames, some 20 minutes for all three)

Whole-run times, set-up and close included. Ours verifies, reads back, compresses, builds pyramids, checks the light's
proof, writes the ledger and syncs; the stock runner does none of these. Each runs in a process of its own, for its peak
memory. Where our time goes: waiting for exposures, stage and autofocus is the microscope's own time, all else is
overhead; its share is that of the plate in real time, which the demo devices keep.
"""

from __future__ import annotations

import json
import logging
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import machine

from scotopic.microscope import acquire, close_microscope, engine, open_microscope, prepare_run
from scotopic.protocol import ImagingProtocol, MicroscopeProfile, read_model

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
PROFILE = ROOT / "hardware_configs" / "demo.yaml"
PROTOCOL = ROOT / "protocols" / "low_light_96.yaml"
STOCK = ("as it comes", "force_set_xy_position=False")


def ours(protocol: ImagingProtocol, profile: MicroscopeProfile, out: Path) -> dict[str, float]:
    """Acquire, and return the time of the whole and of the microscope's own parts in seconds."""
    spent: dict[str, float] = defaultdict(float)
    first_light: list[float] = []

    def timed(name: str, what: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            if name == "exposures":
                first_light.append(begun)
            try:
                return what(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - begun

        return call

    engine.expose = timed("exposures", engine.expose)
    engine.go_to = timed("stage", engine.go_to)
    engine.autofocus = timed("autofocus", engine.autofocus)
    start = time.perf_counter()
    run = prepare_run(PROTOCOL, PROFILE, protocol, profile, out)
    result = acquire(protocol, profile, PROFILE, run)
    run.unlock()
    if result.end_reason != "completed":
        raise RuntimeError(result.message)
    return dict(spent) | {"total": time.perf_counter() - start, "set-up": first_light[0] - start}


def stock(protocol: ImagingProtocol, profile: MicroscopeProfile, out: Path, *, force_xy: bool) -> dict[str, float]:
    start = time.perf_counter()
    core = open_microscope(profile, PROFILE, protocol)
    engine = core.mda.engine
    if engine is None:
        raise RuntimeError("the core has no engine")
    engine.use_hardware_sequencing = False
    engine.force_set_xy_position = force_xy
    core.mda.run(protocol.to_sequence(profile), output=str(out))
    close_microscope(core)
    return {"total": time.perf_counter() - start}


def job(n_wells: int) -> tuple[ImagingProtocol, MicroscopeProfile]:
    protocol = read_model(PROTOCOL, ImagingProtocol)
    if n_wells < len(protocol.well_names):
        protocol = protocol.with_fewer_wells(n_wells)
    return protocol, read_model(PROFILE, MicroscopeProfile)


def one(what: str, n_wells: int) -> None:
    """Do one of the runs, in this process, and print its figures as JSON."""
    logging.getLogger("pymmcore-plus").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    protocol, profile = job(n_wells)
    folder = Path(tempfile.mkdtemp(prefix="scotopic-benchmark-"))
    try:
        if what == "scotopic":
            figures = ours(protocol, profile, folder / "RUN")
        else:
            figures = stock(protocol, profile, folder / "stock.ome.zarr", force_xy=what == "as it comes")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(figures))


def measured(what: str, n_wells: int) -> dict[str, float]:
    command = [sys.executable, __file__, what, str(n_wells)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main(n_wells: int) -> None:
    protocol, _ = job(n_wells)
    exposures_s = protocol.n_sites * sum(level.exposure_ms for level in protocol.light_levels) / 1000
    print(
        f"# {protocol.n_frames:,} frames of 512² on MMCore's demo devices, exposures alone {exposures_s:.0f} s; {machine()}"
    )
    mine = measured("scotopic", n_wells)
    microscope = sum(mine.get(part, 0) for part in ("exposures", "stage", "autofocus"))
    overhead = mine["total"] - mine["set-up"] - microscope
    print(f"scotopic                          {mine['total']:>7.1f} s, set-up {mine['set-up']:.2f} s (limit 2 s)")
    parts = ", ".join(f"{part} {mine.get(part, 0):.1f} s" for part in ("exposures", "stage", "autofocus"))
    print(
        f"  {parts}; overhead {overhead:.1f} s = {overhead / protocol.n_frames * 1000:.1f} ms a frame, "
        f"{overhead / microscope:.1%} of the plate in real time (limit 3 %)"
    )
    few = measured("scotopic", 3)
    print(
        f"  peak memory {mine['memory_mb']:.0f} MB at {protocol.n_sites} sites, {few['memory_mb']:.0f} MB at 27 "
        f"(limit: 50 MB more)"
    )
    for name in STOCK:
        theirs = measured(name, n_wells)["total"]
        print(f"stock, {name:<27}{theirs:>7.1f} s, scotopic / stock {mine['total'] / theirs:.2f}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        one(sys.argv[1], int(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 96)
