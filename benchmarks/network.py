"""What a trained network costs, and whether it sees nuclei where there are none.

usage: network.py MODEL

Prints the time of network and instances for frames of the simulated microscope (limits: 60 ms at 512², 1 s at 2048² on
two cores), the peak memory of a process that does nothing else (limit: 2 GB), and the number of nuclei found in fields
without any: flat background, a slope and a step of it, at every light level (limit: none).
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from machine import machine

from scotopic.learning.model import Model
from scotopic.learning.prediction import Predictor
from scotopic.protocol.simulator_setup import SimulatorSetup
from scotopic.simulator import Instrument

FULL_MS = 200.0
REPEATS = 7
EMPTY_PX = 1024
"""Side of the fields without nuclei."""


def image(size: int, dose: float) -> np.ndarray:
    """Return counts of a field of the pinned specimen at some light."""
    scope = Instrument(SimulatorSetup(width_px=size, height_px=size))
    scope.move_xy(9000.0, 9000.0)
    scope.stage_is_moving()
    scope.set_led_percent(100)
    scope.set_shutter_open(True)
    scope.light_is_pending()
    return scope.expose(FULL_MS * dose)


def backgrounds(peak_e: float) -> dict[str, np.ndarray]:
    """Return fields without nuclei, photo-electrons at full light."""
    y, x = np.mgrid[:EMPTY_PX, :EMPTY_PX].astype(np.float32) / EMPTY_PX
    return {
        "no light": np.zeros_like(x),
        "background": np.full_like(x, 0.1 * peak_e),
        "slope": 0.5 * peak_e * (x + y) / 2,
        "step": np.where(x + 0.3 * y > 0.6, 0.4 * peak_e, 0.05 * peak_e).astype(np.float32),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    model = Model.load(parser.parse_args().model)
    predictor, camera, rng = Predictor(model), model.card.camera, np.random.default_rng(0)
    print(f"# {machine()}; {predictor.computes_in}")
    for size, limit in ((512, 0.06), (2048, 1.0)):
        for level, dose in model.card.levels.items():
            counts = image(size, dose)
            seconds = []
            for _ in range(REPEATS):
                begun = time.perf_counter()
                found = predictor(counts, dose)
                seconds.append(time.perf_counter() - begun)
            print(
                f"{size}² at {level:>6}: {1000 * np.median(seconds):6.0f} ms (limit {1000 * limit:.0f}), "
                f"{found.labels.max()} nuclei"
            )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB (limit 2)")
    for level, dose in model.card.levels.items():
        found_in = {
            name: int(predictor(camera.expose(base * np.float32(dose), rng), dose).labels.max())
            for name, base in backgrounds(model.card.peak_e).items()
        }
        print(f"nuclei in {EMPTY_PX}² without any at {level:>6}: {found_in}")


if __name__ == "__main__":
    main()
