"""Live segmentation beside a running acquisition, in real time: latency, drops, and what it costs the acquisition.

usage: live.py MODEL [--wells 96] [--large]

A pass over a 96-well plate, one site a well, on the simulated microscope with its real clock: exposures of 4 ms, 300 ms from well
to well. Once without and once with the hook; limits: nothing dropped, 250 ms from frame to record for 95 % of them, the
acquisition at most 3 % slower. `--large`: frames of 2048² as fast as they come; drops are counted, memory is measured.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from machine import machine

from scotopic.live import LiveHook
from scotopic.microscope import acquire, prepare_run
from scotopic.protocol import ImagingProtocol, MicroscopeProfile, read_model

ROOT = Path(__file__).parent.parent
STAGE_S = 0.3
LIMIT_MS, LIMIT_SLOWER, LIMIT_COPY_MS = 250, 3, 5


def job(wells: int, side: int) -> tuple[ImagingProtocol, MicroscopeProfile, Path, Path]:
    protocol_path, profile_path = ROOT / "protocols/live_low_light.yaml", ROOT / "hardware_configs/simulated.yaml"
    protocol = read_model(protocol_path, ImagingProtocol)
    levels = [
        {"name": "100%", "exposure_ms": 200, "led_percent": 100, "role": "reference", "taken": "at_sentinels"},
        {"name": "0.05%", "exposure_ms": 4, "led_percent": 2.5},
    ]
    rows, columns = "ABCDEFGH"[-(-wells // 12) - 1], min(wells, 12)
    changes = {"wells": f"A1:{rows}{columns}", "sites": {"rows": 1, "columns": 1}, "time_lapse": None}
    changes |= {"light_levels": levels, "live": {"sentinels": {"every": 10**6}}}
    profile = read_model(profile_path, MicroscopeProfile).model_dump(mode="json")
    profile["simulator"] |= {"clock": "real", "stage_um_per_s": 9000 / STAGE_S}
    profile["camera"] |= {"width_px": side, "height_px": side}
    return (
        ImagingProtocol.model_validate(protocol.model_dump() | changes),
        MicroscopeProfile.model_validate(profile),
        protocol_path,
        profile_path,
    )


def run(wells: int, side: int, model: Path | None, folder: Path) -> tuple[float, dict, list[float], float]:
    """Return the time of the acquisition, what the hook did, the times of hand-over in ms, and the peak memory of all in MB."""
    protocol, profile, protocol_path, profile_path = job(wells, side)
    run_folder = prepare_run(protocol_path, profile_path, protocol, profile, folder)
    memory, ended = [0.0], threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not ended.wait(0.2):
            processes = [me, *me.children(recursive=True)]
            memory[0] = max(memory[0], sum(p.memory_info().rss for p in processes if p.is_running()) / 1e6)

    threading.Thread(target=watch, daemon=True).start()
    copies: list[float] = []
    summary: dict = {}
    try:
        if model is None:
            begun = time.monotonic()
            acquire(protocol, profile, profile_path, run_folder)
            took = time.monotonic() - begun
        else:
            hook = LiveHook(run_folder, protocol, profile, model)
            plain = hook.frame

            def timed(*arguments: object) -> None:
                begun = time.perf_counter()
                plain(*arguments)  # type: ignore[arg-type]
                copies.append(1000 * (time.perf_counter() - begun))

            hook.frame = timed  # type: ignore[method-assign]
            with hook:
                begun = time.monotonic()
                acquire(protocol, profile, profile_path, run_folder, director=hook)
                took = time.monotonic() - begun
            summary = hook.summary()
    finally:
        ended.set()
        run_folder.unlock()
    return took, summary, copies, memory[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--wells", type=int, default=96)
    parser.add_argument("--large", action="store_true")
    asked = parser.parse_args()
    side = 2048 if asked.large else 512
    print(f"# {machine()}; {asked.wells} frames of {side}² at 0.05 % light")
    with tempfile.TemporaryDirectory() as name:
        without, *_ = run(asked.wells, side, None, Path(name) / "without")
        with_hook, told, copies, memory = run(asked.wells, side, asked.model, Path(name) / "with")
    images, latency = told["images"], told["latency_ms"]
    print(
        f"segmented {images['segmented']} of {asked.wells}, dropped {images['dropped']}, computed in {told['computes_in']}"
    )
    print(
        f"frame to record: median {latency['median']} ms, 95 % within {latency['percentile_95']} ms (limit {LIMIT_MS} at 512²)"
    )
    median, most, worst = np.percentile(copies, [50, 95, 100])
    print(
        f"hand-over in the acquisition's thread: median {median:.2f} ms, 95 % within {most:.2f} ms, the longest {worst:.2f} ms "
        f"(limit {LIMIT_COPY_MS} at 2048²)"
    )
    slower = 100 * (with_hook / without - 1)
    print(
        f"acquisition {without:.1f} s without, {with_hook:.1f} s with the hook: {slower:+.1f} % (limit {LIMIT_SLOWER})"
    )
    print(f"peak memory of all processes {memory:.0f} MB")


if __name__ == "__main__":
    main()
