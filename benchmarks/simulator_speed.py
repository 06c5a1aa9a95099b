"""Time of a new simulated site and of each further light level of it, on one core."""

from __future__ import annotations

import statistics
import time

from machine import machine, use_one_core

from scotopic.protocol.simulator_setup import SimulatorSetup
from scotopic.simulator import Instrument

LIMITS_MS = {512: (80, 10), 2048: (1000, 120)}
SITES = 12
LEVELS = ((4, 2.5), (4, 10), (4, 100), (200, 100))


def expose(scope: Instrument, exposure_ms: float, led_percent: float) -> float:
    """Return the time of one exposure in milliseconds."""
    scope.set_led_percent(led_percent)
    scope.set_shutter_open(True)
    scope.light_is_pending()
    start = time.perf_counter()
    scope.expose(exposure_ms)
    taken = (time.perf_counter() - start) * 1000
    scope.set_shutter_open(False)
    return taken


def measure(size: int) -> tuple[list[float], list[float]]:
    scope = Instrument(SimulatorSetup(width_px=size, height_px=size))
    new_site, further_level = [], []
    for site in range(SITES + 1):
        x_um, y_um = (site % 4) * 9000.0, (site // 4) * 9000.0
        scope.move_xy(x_um, y_um)
        scope.stage_is_moving()
        times = [expose(scope, *level) for level in LEVELS]
        if site:  # the first one also makes tables that all sites share
            new_site.append(times[0])
            further_level += times[1:]
    return new_site, further_level


def main() -> None:
    use_one_core()
    print(f"# simulator speed, one core, {SITES} sites; {machine()}")
    print(f"# {'':18}{'median':>10}{'slowest':>10}{'limit':>10}   median / limit")
    for size, limits in LIMITS_MS.items():
        for name, times, limit in zip(("new site", "further level"), measure(size), limits, strict=True):
            middle = statistics.median(times)
            print(f"{size:>5}² {name:<14}{middle:>7.1f} ms{max(times):>7.1f} ms{limit:>7} ms   {middle / limit:.2f}")


if __name__ == "__main__":
    main()
