"""A whole quickstart run from the queue, with the page of the monitor open from its first site to its report.

usage: monitor_quickstart.py [--pictures DIR]

`scotopic queue add`, `scotopic service run` and `scotopic monitor` as a user gives them; headless Chromium has the page open, presses Pause, Resume, Pause the queue and
Resume the queue, looks through all that the map of the plate can show, and opens the report. Pictures of the page are taken at each stage, for people to look at. Printed are the
stages that the page has shown, how often it was sent something, and errors in the console (limit: none). Needs chromium and chromedriver.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from machine import machine
from monitor import ROOT, TOKEN, browser
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from scotopic.overnight import Queue

if TYPE_CHECKING:
    from collections.abc import Callable

    from selenium import webdriver

SCOTOPIC = [sys.executable, "-m", "scotopic"]
LONGEST_S = 1200


class Page:
    """The page, as somebody looks at it."""

    def __init__(self, driver: webdriver.Chrome, pictures: Path) -> None:
        self._driver, self._pictures, self._begun_s = driver, pictures, time.monotonic()

    def text(self, name: str) -> str:
        """Return what an element says."""
        return self._driver.find_element(By.ID, name).text

    def wait(self, what: str, seen: Callable[[], object]) -> None:
        """Wait until something is seen, and take a picture of it."""
        until = time.monotonic() + LONGEST_S
        while not seen():
            if time.monotonic() > until:
                raise SystemExit(
                    f"the page never showed: {what}; it shows {self.text('state')!r}, {self.text('jobs')!r}"
                )
            time.sleep(0.1)
        path = self._pictures / f"{what.replace(' ', '_')}.png"
        self._driver.save_screenshot(str(path))
        print(f"{time.monotonic() - self._begun_s:5.0f} s  {what}: {self.text('state')}  ({path.name})", flush=True)

    def press(self, button: str) -> None:
        """Press a button as soon as it can be pressed."""
        found = self._driver.find_element(By.CSS_SELECTOR, button)
        while not found.is_enabled():
            time.sleep(0.1)
        found.click()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path)
    asked = parser.parse_args()
    print(f"# {machine()}")
    with tempfile.TemporaryDirectory(prefix="night-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        pictures = asked.pictures or Path(tempfile.mkdtemp(prefix="pictures-"))
        pictures.mkdir(parents=True, exist_ok=True)
        queue = Queue(folder / "queue")
        job = [
            str(ROOT / "protocols" / "quickstart.yaml"),
            "--microscope",
            str(ROOT / "hardware_configs" / "simulated.yaml"),
        ]
        more = {"SCOTOPIC_QUEUE": str(folder / "queue"), "SCOTOPIC_MONITOR_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
        surroundings = os.environ | more
        subprocess.run([*SCOTOPIC, "queue", "add", *job, "--out", str(folder / "RUN")], check=True, env=surroundings)
        with (
            subprocess.Popen([*SCOTOPIC, "monitor", "--port", "0"], stdout=subprocess.PIPE, text=True, env=surroundings) as server,
            subprocess.Popen([*SCOTOPIC, "service", "run"], stdout=subprocess.DEVNULL, env=surroundings) as service,
        ):  # fmt: skip
            driver = browser()
            try:
                address = server.stdout.readline().removeprefix("open ").strip()
                follow(driver, address, Page(driver, pictures), queue)
            finally:
                driver.quit()
                service.terminate()
                server.terminate()
        print(f"pictures: {pictures}")


def follow(driver: webdriver.Chrome, address: str, page: Page, queue: Queue) -> None:
    """Look at the page until the report is there, and press what can be pressed."""
    driver.get(address)
    page.wait("running", lambda: page.text("state") == "running")
    page.press("[data-ask=pause]")
    page.wait("paused", lambda: page.text("state").startswith("paused"))
    page.press("[data-ask=resume]")
    page.wait("resumed", lambda: page.text("state") == "running")
    page.press("[data-queue=pause]")
    page.wait("queue paused", queue.is_paused)
    page.press("[data-queue=resume]")
    page.wait("queue resumed", lambda: not queue.is_paused())
    page.wait("masks", lambda: "reference masks" in page.text("field-name"))
    page.wait("acquired", lambda: page.text("state").startswith("completed"))
    page.wait("training", lambda: driver.find_elements(By.CSS_SELECTOR, "#curves path, #curves polyline"))
    page.wait("done", lambda: queue.job(1).state == "done" and "done" in page.text("jobs"))
    features = Select(driver.find_element(By.ID, "features"))
    for option in [each.get_attribute("value") for each in features.options]:
        features.select_by_value(option)
        page.wait(f"map of {option}", lambda: driver.find_elements(By.CSS_SELECTOR, "circle.well"))
    updates = driver.execute_script("return document.body.dataset.updates")
    errors = driver.get_log("browser")
    print(f"updates of the page: {updates}; errors in the console: {len(errors)} (limit 0) {errors[:2]}")
    driver.find_element(By.ID, "report").click()
    driver.switch_to.window(driver.window_handles[-1])
    time.sleep(2)
    print(f"the report that opens: {driver.title!r}, {len(driver.find_elements(By.TAG_NAME, 'img'))} pictures")
    driver.save_screenshot(str(page._pictures / "report.png"))  # noqa: SLF001


if __name__ == "__main__":
    main()
