"""Memory of the monitor, and of its page in a browser, over many updates of a run.

usage: monitor.py [--updates 1000]

A run of 864 sites is written as fast as the page takes it: images, masks, ledger and status grow as in a real run. Headless Chromium follows. Printed are the
memory of the server (limit: 10 MB more at the end than after a tenth of the updates), and that of the page's script after a collection of garbage (limit: 1 MB more),
errors in the console (limit: none), and whether the page shows the last state. Needs chromium and chromedriver.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
from machine import machine
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from scotopic.protocol import ImagingProtocol, MicroscopeProfile, read_model
from scotopic.store import FrameRecord, ReferenceRecord, RunFolder

ROOT = Path(__file__).parent.parent
PORT, TOKEN = 8765, "0123456789abcdef0123456789"
SERVER_MB, PAGE_MB = 10, 1


def serve(folder: str, run: str) -> None:
    """Serve a run as `scotopic monitor` does, but with a look at it fifty times a second."""
    import os

    from scotopic.overnight.monitor import run_view, server

    os.environ[server.TOKEN] = TOKEN
    run_view._FRESH_S, server._LOOK_S = 0.0, 0.02  # noqa: SLF001
    server.monitor(Path(folder) / "queue", [Path(run)], host="127.0.0.1", port=PORT)


def wait_for_the_port() -> None:
    """Wait until the server answers."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", PORT), 1):
            return
        time.sleep(0.2)
    raise SystemExit("the server does not answer")


def browser() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    for option in (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --window-size=1280,1400"
    ).split():
        options.add_argument(option)
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=1000)
    asked = parser.parse_args()
    print(f"# {machine()}")
    folder = Path(tempfile.mkdtemp(prefix="monitor-"))
    run = RunFolder(folder / "RUN")
    protocol_path, profile_path = ROOT / "protocols" / "low_light_96.yaml", ROOT / "hardware_configs" / "simulated.yaml"
    protocol, profile = read_model(protocol_path, ImagingProtocol), read_model(profile_path, MicroscopeProfile)
    run.path.mkdir()
    run.begin(protocol, profile, protocol_path, profile_path)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(str(folder), str(run.path)), daemon=True)
    server.start()
    wait_for_the_port()
    driver = browser()
    try:
        driver.get(f"http://127.0.0.1:{PORT}/?token={TOKEN}")
        time.sleep(3)
        seen = follow(run, protocol, driver, psutil.Process(server.pid), asked.updates)
        shown = driver.find_element(By.ID, "figures").text
        errors = driver.get_log("browser")
    finally:
        driver.quit()
        server.terminate()
    (n, mb, heap), last = seen[0], seen[-1]
    print(f"server: {mb:.1f} MB after {n} updates, {last[1]:.1f} MB after {last[0]} (limit {SERVER_MB} MB more)")
    print(f"page: {heap:.2f} MB after {n} updates, {last[2]:.2f} MB after {last[0]} (limit {PAGE_MB} MB more)")
    print(f"errors in the console: {len(errors)} (limit 0) {errors[:2]}")
    print(f"the page shows the last state: {f'{protocol.n_sites} of {protocol.n_sites}' in shown}")
    shutil.rmtree(folder)


def follow(
    run: RunFolder, protocol: ImagingProtocol, driver: webdriver.Chrome, server: psutil.Process, updates: int
) -> list[tuple[int, float, float]]:
    """Let the run grow until the page has had so many updates; return (updates, server's MB, page's MB) now and then."""
    sites = [(well, site) for well in protocol.well_names for site in range(protocol.sites.count)]
    seen: list[tuple[int, float, float]] = []
    done = written = 0
    checks: list[dict[str, object]] = []
    while done < updates or written < len(sites):
        while written < len(sites) and written * updates <= done * len(sites):
            write_site(run, protocol, *sites[written], written)
            written += 1
        if len(checks) < 200:
            checks.append({"step": 10 * len(checks), "seconds": 1, "loss": 0.2, "f1": {"100%": 0.9, "2%": 0.8}})
        write_status(run, protocol, written, checks)
        time.sleep(0.05)
        done = int(driver.execute_script("return document.body.dataset.updates || 0"))
        if len(seen) < 10 * done // updates:
            driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
            heap = driver.execute_cdp_cmd("Runtime.getHeapUsage", {})["usedSize"] / 1e6
            seen.append((done, server.memory_info().rss / 1e6, heap))
            print(f"{done:5d} updates, {written:4d} sites: server {seen[-1][1]:.1f} MB, page {heap:.2f} MB", flush=True)
    write_status(run, protocol, written, checks)
    time.sleep(2)
    return seen


def write_site(run: RunFolder, protocol: ImagingProtocol, well: str, site: int, number: int) -> None:
    now = datetime.now(UTC).isoformat()
    plate = run.plate(protocol, run.read_profile())
    plate.open_field(well, site, (0, 0))
    image = np.random.default_rng(number).poisson(300, (512, 512)).astype(np.uint16)
    for level in protocol.light_levels:
        plate.write(well, site, level.name, 0, 0, image)
        plate.write_pyramid(well, site, level.name, 0, 0, image)
    plate.commit(well, site, [(level.name, 0, 0) for level in protocol.light_levels])
    labels = np.zeros((512, 512), np.uint32)
    labels[100:150, 100 + number % 300 : 150 + number % 300] = 1
    plate.write_labels(well, site, "reference", 0, 0, labels)
    place = {"well": well, "site": site, "t": 0, "z": 0, "attempt": 1}
    run.ledger.append(
        [
            FrameRecord(
                **place, index=4 * number + i, level=level.name, time=now, state="written", exposure_ms=level.exposure_ms,
                led_percent=level.led_percent, xy_um=(0, 0),
            )
            for i, level in enumerate(protocol.light_levels)
        ],
        sync=False,
    )  # fmt: skip
    (run.path / "nuclei" / "reference").mkdir(parents=True, exist_ok=True)
    run.reference_lines.append([ReferenceRecord(**place, nuclei=50)], sync=False)


def write_status(run: RunFolder, protocol: ImagingProtocol, written: int, checks: list[dict[str, object]]) -> None:
    frames = {"planned": protocol.n_frames, "written": 4 * written, "skipped": 0, "left_out": 0, "flagged": 0}
    sites = {"planned": protocol.n_sites, "finished": written}
    run.write_status(
        "acquire", state="completed", message="", started="", sites=sites, frames=frames, sample_dose_ms=1.0
    )
    run.write_status("train", state="training", step=10 * len(checks), seconds_left=9, growing=True, checks=checks)


if __name__ == "__main__":
    main()
