"""Acquisition on MMCore's demo devices, beside pymmcore-plus' own runner writing OME-Zarr with the same events.

usage: acquisition.py [WELLS]     number of wells of the 96 (default 96: 3,456 frames, some 20 minutes for all three)

Whole-run times, set-up and close included. Ours verifies, reads back, compresses, builds pyramids, checks the light's
proof, writes the ledger and syncs; the stock runner does none of these.
"""

from __future__ import annotations

import logging
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

from scotopic.microscope import acquire, close_microscope, open_microscope, prepare_run
from scotopic.protocol import ImagingProtocol, MicroscopeProfile, read_model

ROOT = Path(__file__).parent.parent
PROFILE = ROOT / "hardware_configs" / "demo.yaml"
PROTOCOL = ROOT / "protocols" / "low_light_96.yaml"


def ours(protocol: ImagingProtocol, profile: MicroscopeProfile, out: Path) -> float:
    start = time.perf_counter()
    run = prepare_run(PROTOCOL, PROFILE, protocol, profile, out)
    result = acquire(protocol, profile, PROFILE, run)
    run.unlock()
    if result.end_reason != "completed":
        raise RuntimeError(result.message)
    return time.perf_counter() - start


def stock(protocol: ImagingProtocol, profile: MicroscopeProfile, out: Path, *, force_xy: bool) -> float:
    start = time.perf_counter()
    core = open_microscope(profile, PROFILE, protocol)
    engine = core.mda.engine
    if engine is None:
        raise RuntimeError("the core has no engine")
    engine.use_hardware_sequencing = False
    engine.force_set_xy_position = force_xy
    core.mda.run(protocol.to_sequence(profile), output=str(out))
    close_microscope(core)
    return time.perf_counter() - start


def main(n_wells: int) -> None:
    logging.getLogger("pymmcore-plus").setLevel(logging.ERROR)
    protocol = read_model(PROTOCOL, ImagingProtocol)
    if n_wells < len(protocol.well_names):
        protocol = protocol.with_fewer_wells(n_wells)
    profile = read_model(PROFILE, MicroscopeProfile)
    exposures_s = protocol.n_sites * sum(level.exposure_ms for level in protocol.light_levels) / 1000
    print(
        f"# {protocol.n_frames:,} frames of 512² on MMCore's demo devices, exposures alone {exposures_s:.0f} s; {machine()}"
    )
    folder = Path(tempfile.mkdtemp(prefix="scotopic-benchmark-"))
    try:
        mine = ours(protocol, profile, folder / "RUN")
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        shutil.rmtree(folder / "RUN")
        print(f"scotopic                          {mine:>7.1f} s, peak memory {peak_mb:.0f} MB")
        for force_xy, name in ((True, "as it comes"), (False, "force_set_xy_position=False")):
            theirs = stock(protocol, profile, folder / "stock.ome.zarr", force_xy=force_xy)
            shutil.rmtree(folder / "stock.ome.zarr")
            print(f"stock, {name:<27}{theirs:>7.1f} s, scotopic / stock {mine / theirs:.2f}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 96)
