"""The page and its JSON: what is shown, what is done, and who is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import imageio.v3 as iio
import pytest
import yaml
from fastapi.testclient import TestClient
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from conftest import ROOT
from scotopic.microscope import give_up_site
from scotopic.overnight import Queue, RunWork, TrainWork
from scotopic.overnight.monitor.run_view import RunView
from scotopic.overnight.monitor.server import make_app, run_name
from scotopic.store import RunFolder

TOKEN = "a-token-that-nobody-guesses"  # noqa: S105
HEADER = {"Authorization": f"Bearer {TOKEN}"}
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1280,1400"
)


@pytest.fixture
def jobs(tmp_path):
    return Queue(tmp_path / "queue")


def client(jobs, *runs, host="127.0.0.1", **more):
    return TestClient(make_app(jobs, runs, host, 8710, TOKEN), base_url=f"http://{host}:8710", **more)


def test_a_run_is_shown_as_its_folder_has_it(segmented_plate, jobs):
    page = client(jobs, segmented_plate)
    (listed,) = page.get("/api/runs").json()
    assert listed["path"] == str(segmented_plate)
    told = page.get(f"/api/runs/{listed['id']}").json()
    run = RunFolder(segmented_plate)
    records = run.ledger.read()
    assert told["state"] == "completed"
    assert told["sites"] == {"planned": 8, "finished": 8}
    assert told["frames"]["written"] == len(records) == 32
    assert told["sample_dose_s"] == pytest.approx(sum(r.sample_dose_ms for r in records) / 1000, abs=1e-3)
    assert set(told["wells"]) == {"B2", "B3", "B4", "B5"}
    nuclei = [r.nuclei for r in run.reference_lines.read() if r.well == "B3"]
    assert told["wells"]["B3"]["nuclei"] == pytest.approx(sum(nuclei) / 2)
    table = run.nuclei.read("reference", "B3", 0, 0)
    first = table[table["level"] == "100%"]["area_um2"].median()
    assert told["wells"]["B3"]["area_um2"] == pytest.approx(first, rel=0.2)
    picture = iio.imread(page.get(f"/api/runs/{listed['id']}/field.png").content)
    assert picture.shape == (512, 512, 3)
    assert (picture[..., 0].astype(int) - picture[..., 1] > 150).any(), "contours are red"
    assert page.get(f"/api/runs/{listed['id']}/report").status_code == 404


def test_what_has_come_since_is_read_and_nothing_twice(segmented_plate, tmp_path):
    grows = tmp_path / "run"
    shutil.copytree(segmented_plate, grows)
    lines = (grows / "frames.jsonl").read_bytes().splitlines(keepends=True)
    (grows / "frames.jsonl").write_bytes(b"".join(lines[:8]) + lines[8][:20])
    view = RunView(grows)
    view._known_s = -1
    assert sum(well["sites"] for well in view._looked_at()["wells"].values()) == 2
    (grows / "frames.jsonl").write_bytes(b"".join(lines))
    assert sum(well["sites"] for well in view._looked_at()["wells"].values()) == 8
    assert sum(well["sites"] for well in view._looked_at()["wells"].values()) == 8
    (grows / "frames.jsonl").write_bytes(b"".join(lines[:4]))
    assert sum(well["sites"] for well in view._looked_at()["wells"].values()) == 1, "somebody has cut it"


@pytest.mark.parametrize(
    ("state", "guarded", "told"),
    [
        ("completed", "2020-01-01T00:00:00+00:00", "off"),
        ("completed", "2999-01-01T00:00:00+00:00", "switched off by the guard"),
        ("failed", None, "not known: look, or `scotopic light-off`"),
        ("running", None, "not known: look, or `scotopic light-off`"),
    ],
    ids=["an old guard", "a guard", "failed", "killed"],
)
def test_light_is_called_off_only_where_that_was_read_back(segmented_plate, tmp_path, state, guarded, told):
    run = RunFolder(shutil.copytree(segmented_plate, tmp_path / "run"))
    run.write_status("acquire", **(run.read_status("acquire") | {"state": state}))
    if guarded:
        text = json.dumps({"state": "light switched off", "heartbeat": guarded})
        (run.path / "status" / "guard.json").write_text(text, encoding="utf-8")
    assert RunView(run.path).snapshot()["light"] == told


def test_a_field_that_cannot_be_read_is_told(segmented_plate, jobs, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(segmented_plate, damaged)
    shutil.rmtree(damaged / "plate.ome.zarr")
    page = client(jobs, damaged)
    run = run_name(damaged)
    assert page.get(f"/api/runs/{run}").json()["sites"]["finished"] == 8
    answer = page.get(f"/api/runs/{run}/field.png")
    assert (answer.status_code, "cannot be read" in answer.json()["detail"]) == (404, True)


def test_what_changes_something_needs_the_token_in_a_header(segmented_plate, jobs):
    jobs.add(TrainWork(run=segmented_plate))
    page = client(jobs, segmented_plate)
    run = run_name(segmented_plate)
    asked = {"json": {"request": "pause"}}
    ways = [
        ("post", f"/api/runs/{run}/ask", asked),
        ("post", "/api/queue/pause", {}),
        ("post", "/api/queue/1/hold", {}),
        ("post", "/api/queue", {"json": {"work": {"kind": "train", "run": str(segmented_plate)}}}),
        ("delete", "/api/queue/1", {}),
    ]
    with_cookie = client(jobs, segmented_plate)
    assert with_cookie.get(f"/?token={TOKEN}").cookies
    for method, path, more in ways:
        assert getattr(page, method)(path, **more).status_code == 401
        assert getattr(page, method)(f"{path}?token={TOKEN}", **more).status_code == 401, "an address is no header"
        assert getattr(with_cookie, method)(path, **more).status_code == 401, "a browser sends a cookie by itself"
        for foreign in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
            answer = getattr(page, method)(path, headers=HEADER | foreign, **more)
            assert answer.status_code == 403
    assert jobs.job(1).held is False
    assert not jobs.is_paused()
    assert page.post("/api/queue/1/hold", headers=HEADER).json()["held"] is True
    answer = page.post(f"/api/runs/{run}/ask", headers=HEADER, **asked)
    assert (answer.status_code, "no acquisition is running" in answer.json()["detail"]) == (409, True)
    assert page.post(f"/api/runs/{run}/ask", headers=HEADER, json={"request": "explode"}).status_code == 422


def test_an_address_that_others_reach_needs_the_token_to_read_too(segmented_plate, jobs):
    page = client(jobs, segmented_plate, host="127.0.0.2")
    for path in ("/", "/page.js", "/api/queue", "/api/runs", "/api/events", "/api/openapi.json"):
        answer = page.get(path)
        assert answer.status_code == 401, path
        assert TOKEN not in answer.text
    assert page.get("/api/runs", headers={"Authorization": "Bearer another"}).status_code == 401
    assert page.get("/api/runs", headers=HEADER).status_code == 200
    assert page.get(f"/?token={TOKEN}").status_code == 200
    assert page.get("/api/runs").status_code == 200, "by the cookie that the page was given"


def key_in(page):
    return re.search(r'name="scotopic-key" content="([^"]*)"', page.text)[1]


def test_a_browser_gets_for_the_token_what_ends_with_the_monitor(segmented_plate, jobs):
    page, hold = client(jobs, segmented_plate, host="127.0.0.2"), "/api/queue/1/hold"
    jobs.add(TrainWork(run=segmented_plate))
    first = page.get(f"/?token={TOKEN}")
    cookie = first.headers["Set-Cookie"]
    assert "HttpOnly; Path=/; SameSite=strict" in cookie
    assert TOKEN not in cookie + first.text
    key = key_in(first)
    assert key not in cookie
    assert key_in(page.get("/")) == "", "whoever has got the cookie, at another port, gets no key for it"
    assert page.post(hold, headers={"Authorization": f"Bearer {key}"}).json()["held"] is True
    assert page.post(hold, headers={"Authorization": f"Bearer {page.cookies['scotopic_8710']}"}).status_code == 401
    assert client(jobs, host="127.0.0.2").get(f"/api/runs?token={TOKEN}").status_code == 401, (
        "only where it is exchanged"
    )
    later = client(jobs, segmented_plate, host="127.0.0.2", cookies=dict(page.cookies))
    for answer in (
        later.get("/"),
        later.get("/api/runs"),
        later.post(hold, headers={"Authorization": f"Bearer {key}"}),
    ):
        assert answer.status_code == 401
        assert "is of a monitor that has ended" in answer.json()["detail"]
    assert 'session" content="former"' in client(jobs, cookies=dict(page.cookies)).get("/").text


def test_another_site_reads_nothing_with_the_cookie(segmented_plate, jobs):
    page = client(jobs, segmented_plate)
    page.get(f"/?token={TOKEN}")
    for foreign in (
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        assert page.get("/api/runs", headers=foreign).status_code == 403
        assert page.get("/", headers=foreign).status_code == 200, "a link to it may be anywhere"


@pytest.mark.parametrize(
    "linked", ["report.html", "job.json", "frames.jsonl", "status", "status/acquire.json", "nuclei"]
)
def test_a_link_out_of_the_run_is_not_followed(linked, segmented_plate, jobs, tmp_path):
    run = shutil.copytree(segmented_plate, tmp_path / "run")
    (run / "report.html").write_text("<p>mine</p>", encoding="utf-8")
    page, address = client(jobs, run), f"/api/runs/{run_name(run)}"
    assert page.get(f"{address}/report").text == "<p>mine</p>"
    (run / linked).rename(tmp_path / "other")
    (run / linked).symlink_to(tmp_path / "other")
    page = client(jobs, run)
    if linked == "report.html":
        assert page.get(f"{address}/report").status_code == 404
        (run / "page.html").write_text("<p>here</p>", encoding="utf-8")
        (run / linked).unlink()
        (run / linked).symlink_to("page.html")
        assert page.get(f"{address}/report").text == "<p>here</p>"
    else:
        told = page.get(address).json()
        assert told["state"] == "cannot be read"
        assert told["message"].endswith(f"{linked}: leads out of the run's folder: it is not shown")


@pytest.mark.parametrize("linked", ["plate.ome.zarr", "plate.ome.zarr/B/5/1", "plate.ome.zarr/B/5/1/0/zarr.json"])
def test_no_picture_is_made_of_what_lies_elsewhere(linked, segmented_plate, jobs, tmp_path):
    run = shutil.copytree(segmented_plate, tmp_path / "run")
    (run / linked).rename(tmp_path / "other")
    (run / linked).symlink_to(tmp_path / "other")
    answer = client(jobs, run).get(f"/api/runs/{run_name(run)}/field.png")
    assert (answer.status_code, "leads out of the run's folder" in answer.text) == (404, True)


def test_a_site_that_was_given_up_is_not_finished(segmented_plate, tmp_path):
    run = RunFolder(shutil.copytree(segmented_plate, tmp_path / "run"))
    view = RunView(run.path)
    before = view.snapshot()
    give_up_site(run, "B3", 1)
    view._known_s = -1
    for told in (view.snapshot(), RunView(run.path).snapshot()):
        assert told["sites"] == {"planned": 8, "finished": 7}
        assert (before["wells"]["B3"]["sites"], told["wells"]["B3"]["sites"]) == (2, 1)
        (nuclei,) = [r.nuclei for r in run.reference_lines.read() if r.site_key == ("B3", 0, 0)]
        assert told["wells"]["B3"]["nuclei"] == nuclei


def test_what_is_wrong_with_one_run_hides_no_other(segmented_plate, jobs, tmp_path):
    odd = RunFolder(shutil.copytree(segmented_plate, tmp_path / "odd"))
    odd.write_status(
        "train", state="training", step=1, growing=False, checks=[{"step": 1, "f1": {}, "loss": float("nan")}]
    )
    page = client(jobs, segmented_plate, odd.path)
    told = page.get(f"/api/runs/{run_name(odd.path)}").json()
    assert told["training"]["checks"] == [{"step": 1, "f1": {}, "loss": None}]
    (odd.path / "status" / "acquire.json").write_text(
        '{"sample_dose_ms": "x", "seconds_left": 1e999}', encoding="utf-8"
    )
    assert client(jobs, odd.path).get(f"/api/runs/{run_name(odd.path)}").json()["state"] == "cannot be read"
    with jobs._changing() as file:
        file.execute("insert into jobs (document) values ('{}')")
    (shown,) = page.get("/api/queue").json()["jobs"]
    assert (shown["seen"], "cannot be read" in shown["message"]) == ("unreadable", True)


@pytest.mark.parametrize(
    "change",
    [{"at": at} for at in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", 1e300, 10**23, "2026-11-28T22:00:00")]
    + [{"every": ["someday"]}, {"after": 10**23}, {"not_after": "07:00:00+02:00"}, {"after": -1}],
    ids=str,
)
def test_values_that_no_job_can_have_are_refused(change, jobs, tmp_path):
    body = {"work": {"kind": "train", "run": str(tmp_path)}} | change
    answer = client(jobs).post("/api/queue", headers=HEADER, json=body)
    assert (answer.status_code, next(iter(change)) in answer.json()["detail"]) == (422, True)
    assert client(jobs).post(f"/api/queue/{10**23}/hold", headers=HEADER).status_code == 409


def test_nothing_is_read_outside_of_the_runs(segmented_plate, jobs, tmp_path):
    page = client(jobs, segmented_plate)
    (tmp_path / "other").mkdir()
    for path in (
        "/api/runs/..%2f..%2fetc",
        "/api/runs/../../etc/passwd",
        f"/api/runs/{run_name(tmp_path / 'other')}",
        "/job.json",
    ):
        assert page.get(path).status_code == 404, path
    answer = page.get("/api/runs", headers={"Host": "evil.example:8710"})
    assert answer.status_code == 421, "a name that was pointed here"
    headers = page.get("/").headers
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_robots_put_jobs_into_the_queue(jobs, tmp_path):
    page = client(jobs)
    schema = page.get("/api/openapi.json").json()
    assert {"/api/queue", "/api/runs/{run}", "/api/runs/{run}/ask"} <= set(schema["paths"])
    profile, protocol = (str(ROOT / name) for name in ("hardware_configs/simulated.yaml", "protocols/quickstart.yaml"))
    work = {"kind": "run", "protocol": protocol, "microscope": profile, "out": str(tmp_path / "RUN")}
    answer = page.post("/api/queue", headers=HEADER, json={"work": work, "not_after": "07:00"})
    assert (answer.status_code, answer.json()["number"]) == (201, 1)
    assert page.get("/api/queue").json()["jobs"][0]["what"].startswith("run quickstart.yaml on simulated")
    for wrong, code in (
        (work, 409),
        (work | {"out": "relative"}, 422),
        (work | {"protocol": str(tmp_path / "none.yaml")}, 409),
        (work | {"kind": "rm"}, 422),
    ):
        assert page.post("/api/queue", headers=HEADER, json={"work": wrong}).status_code == code
    assert page.delete("/api/queue/1", headers=HEADER).status_code == 204
    assert page.delete("/api/queue/1", headers=HEADER).json()["detail"].startswith("job 1: there is no such job")


@contextmanager
def monitor(folder, *words):
    command = [sys.executable, "-m", "scotopic", "monitor", "--queue", str(folder), *map(str, words)]
    surroundings = os.environ | {"SCOTOPIC_MONITOR_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=surroundings) as process:
        try:
            yield process.stdout.readline().removeprefix("open ").strip()
        finally:
            process.terminate()


def test_an_address_that_cannot_be_used_is_told_in_a_line(tmp_path):
    with monitor(tmp_path / "queue", "--port", 0) as address:
        port = address.split(":")[2].split("/")[0]
        for words, told in (
            (["--port", port], "cannot be used: Address already in use; choose another --port"),
            (["--host", "0.0.0.0"], "name the one address"),  # noqa: S104 - refused
            (["--host", "192.0.2.1"], "cannot be used"),
        ):
            command = [sys.executable, "-m", "scotopic", "monitor", "--queue", str(tmp_path / "queue"), *words]
            result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert result.returncode == 2
            assert told in result.stderr
            assert "Traceback" not in result.stderr


@contextmanager
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in OPTIONS.split():
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def wait_for(what, seconds=180):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.1)
    return found


@pytest.mark.e2e
@pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver")
def test_a_browser_follows_a_run_pauses_it_and_ends_it(tmp_path, jobs):
    data = yaml.safe_load((ROOT / "hardware_configs" / "simulated.yaml").read_text(encoding="utf-8"))
    data["simulator"]["clock"] = "real"
    data["config"] = str(ROOT / "hardware_configs" / "simulated.cfg")
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    protocol = yaml.safe_load((ROOT / "protocols" / "quickstart.yaml").read_text(encoding="utf-8"))
    protocol |= {"wells": "B2:C7", "sites": {"rows": 3, "columns": 3}, "training": {"steps": 4, "least_f1": 0}}
    (tmp_path / "plate.yaml").write_text(yaml.safe_dump(protocol), encoding="utf-8")
    out = tmp_path / "RUN"
    jobs.add(RunWork(protocol=tmp_path / "plate.yaml", microscope=tmp_path / "real.yaml", out=out))
    run, serve = RunFolder(out), [sys.executable, "-m", "scotopic", "service", "run", "--queue", str(jobs.folder)]
    with (
        monitor(jobs.folder, "--port", 0) as address,
        browser() as driver,
        subprocess.Popen(serve, stdout=subprocess.DEVNULL) as service,
    ):

        def text(name):
            return driver.find_element(By.ID, name).text

        def press(request):
            button = driver.find_element(By.CSS_SELECTOR, f"[data-ask={request}]")
            wait_for(button.is_enabled)
            button.click()

        try:
            driver.get(address)
            wait_for(lambda: "running" in text("state"))
            assert TOKEN not in driver.current_url
            press("pause")
            wait_for(lambda: "paused: as asked; the light is off" in text("state"))
            assert run.read_status("acquire")["state"] == "paused"
            press("resume")
            wait_for(lambda: text("state") == "running")
            wait_for(lambda: driver.find_element(By.ID, "field").get_property("naturalWidth") == 512)
            assert len(driver.find_elements(By.CSS_SELECTOR, "circle.well")) == 12
            press("finish")
            wait_for(lambda: jobs.job(1).state == "cancelled")
            wait_for(lambda: "cancelled" in text("state"))
            done = run.read_status("acquire")["sites"]["finished"]
            assert f"{done} of 108" in text("figures")
            wait_for(lambda: "Go on" in text("jobs"))
            assert not driver.get_log("browser"), "no error in the console"
            driver.get(address.partition("?")[0])  # another visit, by its cookie
            wait_for(lambda: "RUN" in text("run-name"))
            assert not driver.find_element(By.ID, "readonly").is_displayed()
            driver.delete_all_cookies()
            driver.get(address.partition("?")[0])
            wait_for(lambda: "RUN" in text("run-name"))
            assert driver.find_element(By.ID, "readonly").is_displayed(), "it says what is missing"
            assert not driver.find_element(By.CSS_SELECTOR, "[data-queue=pause]").is_enabled()
        finally:
            service.terminate()


@pytest.mark.e2e
@pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver")
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no 127.0.0.2")
def test_a_browser_without_the_token_is_refused_where_others_reach_the_page(segmented_plate, jobs):
    with monitor(jobs.folder, segmented_plate, "--host", "127.0.0.2", "--port", 0) as address, browser() as driver:
        plain = address.partition("?")[0]
        driver.get(plain)
        body = driver.find_element(By.TAG_NAME, "body").text
        assert json.loads(body)["detail"].startswith("needs the token")
        driver.get(address)
        wait_for(lambda: driver.find_element(By.ID, "run-name").text == segmented_plate.name)
        wait_for(lambda: "8 of 8" in driver.find_element(By.ID, "figures").text)
