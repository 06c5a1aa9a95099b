"""A plate with masks, opened by viewers of the field."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from scotopic.protocol import ProblemsError
from scotopic.store import RunFolder
from scotopic.workflow.viewing import served

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
OPTIONS = (
    "--headless=new --no-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader --ignore-gpu-blocklist "
    "--disable-background-networking --disable-component-update --disable-sync --window-size=900,700"
)


@pytest.mark.e2e
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no Chromium here")
def test_a_browser_shows_images_and_masks(segmented_plate):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    command = [sys.executable, "-m", "scotopic", "view", str(segmented_plate), "--site", "b2_0"]
    surroundings = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=surroundings) as process:
        lines = [process.stdout.readline() for _ in range(4)]
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for option in OPTIONS.split():
            options.add_argument(option)
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        try:
            driver.get(re.search(r"http\S+", lines[1])[0])
            deadline = time.monotonic() + 60
            while (share := coloured(driver.get_screenshot_as_png())) < 0.02 and time.monotonic() < deadline:
                time.sleep(0.5)
        finally:
            driver.quit()
            process.send_signal(signal.SIGINT)
    run = RunFolder(segmented_plate)
    labels = run.plate(run.read_protocol(), run.read_profile()).read_labels("B2", 0, "reference")
    assert share == pytest.approx((labels > 0).mean(), rel=0.5), "as much of the page as of the image"


def coloured(screenshot: bytes) -> float:
    """Return the share of coloured pixels, which masks have, in the middle of a page."""
    page = np.asarray(Image.open(io.BytesIO(screenshot)).convert("RGB")).astype(int)
    middle = page[150:500, 220:680]
    return float((np.ptp(middle, axis=2) > 30).mean())


def test_the_plate_is_served_to_read_and_nothing_else(segmented_plate):
    with served(segmented_plate) as found:
        with urlopen(f"{found.plate_url}/B/2/0/zarr.json") as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert json.load(answer)["attributes"]["ome"]["version"] == "0.5"
        for path in ("", "B", "../job.json", "%2e%2e/job.json", "B/2/0/../../../../job.json"):
            with pytest.raises(HTTPError):
                urlopen(f"{found.plate_url}/{path}")
        with pytest.raises(HTTPError):  # any page in the browser could guess the port
            urlopen(f"http://{urlsplit(found.plate_url).netloc}/B/2/0/zarr.json")
    with (
        pytest.raises(ProblemsError, match="B9_0 is not among the finished sites; did you mean"),
        served(segmented_plate, "B9_0"),
    ):
        pass


def test_a_port_that_is_taken_is_told(segmented_plate):
    with served(segmented_plate) as found:
        port = urlsplit(found.plate_url).port
        with pytest.raises(ProblemsError, match="cannot be used"), served(segmented_plate, port=port):
            pass


def test_napari_reads_a_field_with_masks_and_the_whole_plate(segmented_plate, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from napari_ome_zarr import napari_get_reader

        plate = segmented_plate / "plate.ome.zarr"
        layers = napari_get_reader(str(plate / "B/2/0"))(str(plate / "B/2/0"))
        whole = napari_get_reader(str(plate))(str(plate))
    capsys.readouterr()
    images, labels = layers[0], next(layer for layer in layers if layer[2] == "labels")
    assert images[0][0].shape == (1, 4, 1, 512, 512)
    assert images[1]["name"][2].endswith("0.2%")
    run = RunFolder(segmented_plate)
    expected = run.plate(run.read_protocol(), run.read_profile()).read_labels("B2", 0, "reference")
    assert np.array_equal(np.squeeze(np.asarray(labels[0][0])), expected)
    assert {layer[2] for layer in whole} == {"image", "labels"}
