"""Sustained writing of 2048² frames as an acquisition does it: compressed, pyramids, checksums, ledger, synced per site.

usage: store_throughput.py [SITES]     default 24 sites of four light levels: 805 MB

The frames are made before, with the noise of a camera (which is what compression works against), and handed to the
recorder as fast as it takes them. The limit to hold it against: a camera makes about 70 MB/s in this job. Beside it
the same bytes written plainly to files and synced, without compression: what the disk gives.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import machine
from scipy.ndimage import gaussian_filter

from scotopic.photons import CameraNoise
from scotopic.protocol import ImagingProtocol, MicroscopeProfile, read_model
from scotopic.store import FrameRecord, Recorder, RunFolder

ROOT = Path(__file__).parent.parent
SIDE = 2048
CCD = CameraNoise(offset_counts=200, gain_e_per_count=0.8, read_noise_e=6, saturation_counts=65535)
DOSES = {"0.05%": 0.0005, "0.2%": 0.002, "2%": 0.02, "100%": 1.0}


def site_images() -> dict[str, np.ndarray]:
    """Blobs the size of nuclei at four light levels."""
    rng = np.random.default_rng(1)
    points = np.zeros((SIDE, SIDE))
    points[rng.integers(0, SIDE, 900), rng.integers(0, SIDE, 900)] = 1
    smooth = gaussian_filter(points, 8)
    electrons = 8000 * smooth / smooth.max() + 300
    return {level: CCD.expose(dose * electrons, rng) for level, dose in DOSES.items()}


def recorded(n_sites: int, folder: Path, images: dict[str, np.ndarray]) -> float:
    protocol = read_model(ROOT / "protocols" / "low_light_96.yaml", ImagingProtocol)
    profile = read_model(ROOT / "hardware_configs" / "demo.yaml", MicroscopeProfile)
    profile = profile.model_copy(
        update={"camera": profile.camera.model_copy(update={"width_px": SIDE, "height_px": SIDE})}
    )
    run = RunFolder(folder)
    folder.mkdir()
    recorder = Recorder(run, run.plate(protocol, profile), reference="100%", camera=CCD, on_site=lambda _: None)
    start = time.perf_counter()
    for number, place in enumerate(protocol.sites_in_travel_order(profile.camera.fov_um)[:n_sites]):
        recorder.open_field(place.well, place.index, (0, 0))
        for index, (level, image) in enumerate(images.items()):
            recorder.wait_for_pixels()
            record = FrameRecord(
                index=4 * number + index,
                well=place.well,
                site=place.index,
                level=level,
                t=0,
                z=0,
                attempt=1,
                time="",
                state="written",
                exposure_ms=4,
                led_percent=100,
                xy_um=(0, 0),
                signal_dose_ms=DOSES[level],
            )
            recorder.frame(record, image, last=index == 3)
    recorder.close()
    return time.perf_counter() - start


def plain(n_sites: int, folder: Path, images: dict[str, np.ndarray]) -> float:
    folder.mkdir()
    start = time.perf_counter()
    for site in range(n_sites):
        for level, image in images.items():
            with (folder / f"{site}_{level}").open("wb") as file:
                file.write(image.tobytes())
                file.flush()
                os.fsync(file.fileno())
    return time.perf_counter() - start


def main(n_sites: int) -> None:
    images = site_images()
    megabytes = n_sites * sum(image.nbytes for image in images.values()) / 1e6
    folder = Path(tempfile.mkdtemp(prefix="scotopic-benchmark-"))
    try:
        ours = megabytes / recorded(n_sites, folder / "RUN", images)
        disk = sum(p.stat().st_size for p in (folder / "RUN").rglob("*") if p.is_file()) / 1e6
        shutil.rmtree(folder / "RUN")
        raw = megabytes / plain(n_sites, folder / "plain", images)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"# {n_sites} sites x 4 frames of {SIDE}², {megabytes:.0f} MB raw, {disk:.0f} MB on disk; {machine()}")
    print(f"recorder          {ours:>7.0f} MB/s (limit: at least 100)")
    print(f"plain, synced     {raw:>7.0f} MB/s, recorder / plain {ours / raw:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 24)
