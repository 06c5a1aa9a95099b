"""The fast noise of the camera model beside exact Poisson variates: time, and distance between distributions."""

from __future__ import annotations

import time

import numpy as np
from machine import machine, use_one_core
from scipy.stats import ks_2samp

from scotopic.photons import CameraNoise

SHAPE = (2048, 2048)


def main() -> None:
    use_one_core()
    print(f"# noise of one 2048² image, one core; {machine()}")
    print("# mean e-  read noise    fast      exact     fast / exact   largest difference of distribution functions")
    for read_noise_e in (1.6, 6.0):
        camera = CameraNoise(
            offset_counts=2000, gain_e_per_count=0.05, read_noise_e=read_noise_e, saturation_counts=65535
        )
        for mean_e in (0.5, 4.0, 100.0):
            mean = np.full(SHAPE, mean_e, np.float32)
            rng = np.random.Generator(np.random.SFC64(1))
            start = time.perf_counter()
            fast = camera.to_electrons(camera.expose(mean, rng))
            middle = time.perf_counter()
            exact = rng.poisson(mean) + read_noise_e * rng.standard_normal(SHAPE, dtype=np.float32)
            end = time.perf_counter()
            dithered = fast.ravel()[:1_000_000] + camera.gain_e_per_count * (rng.random(1_000_000) - 0.5)
            distance = ks_2samp(dithered, exact.ravel()[:1_000_000]).statistic
            fast_ms, exact_ms = (middle - start) * 1000, (end - middle) * 1000
            print(
                f"{mean_e:>8}  {read_noise_e:>7} e- {fast_ms:>7.0f} ms {exact_ms:>7.0f} ms"
                f"   {fast_ms / exact_ms:>8.2f}       {distance:.4f}"
            )


if __name__ == "__main__":
    main()
