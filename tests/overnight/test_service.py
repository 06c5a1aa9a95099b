"""The service with real processes, which are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import psutil
import pytest
import yaml

from conftest import ROOT
from scotopic.overnight import Queue, RunWork, TrainWork, ValidateWork, cancel, now, told_state
from scotopic.store import RunFolder
from scotopic.workflow import ask, verify

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends signals that Windows does not have")


@pytest.fixture
def files(tmp_path):
    """A microscope that takes its time, and a plate that it is busy with for some seconds."""
    data = yaml.safe_load((ROOT / "hardware_configs" / "simulated.yaml").read_text(encoding="utf-8"))
    data["simulator"]["clock"] = "real"
    data["config"] = str(ROOT / "hardware_configs" / "simulated.cfg")
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    protocol = yaml.safe_load((ROOT / "protocols" / "quickstart.yaml").read_text(encoding="utf-8"))
    protocol |= {
        "wells": "B2:B5",
        "held_out": "B3",
        "training": {"steps": 4, "threads": 2, "dtype": "float32", "least_f1": 0},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(protocol), encoding="utf-8")
    return tmp_path


def a_run(files, out="RUN"):
    return RunWork(protocol=files / "small.yaml", microscope=files / "real.yaml", out=files / out)


@contextmanager
def service(folder, *options, **surroundings):
    words = [sys.executable, "-m", "scotopic", "service", "run", "--queue", str(folder), *options]
    with (folder / "service.out").open("a", encoding="utf-8") as out:
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, env=os.environ | surroundings)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


def wait_for(what, seconds=240):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.1)
    return found


def kill_tree(number):
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(number)
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


@contextmanager
def listening():
    """Somebody who is told: what was posted to an address."""
    told: list[dict] = []

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Ear)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield told, f"json://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.e2e
def test_after_a_reboot_a_run_goes_on_and_its_validation_follows_and_people_are_told(files):
    """Service and run are killed in the middle, as a power cut would; the next service goes on with both jobs."""
    jobs = Queue(files / "queue")
    job = jobs.add(a_run(files))
    jobs.add(ValidateWork(run=files / "RUN"), after=job.number)
    ledger = files / "RUN" / "frames.jsonl"
    with service(jobs.folder) as process:
        wait_for(lambda: ledger.exists() and ledger.read_bytes().count(b"\n") >= 12)
        assert jobs.job(1).state == "running"
        os.kill(process.pid, signal.SIGKILL)
        kill_tree(jobs.job(1).process)
    assert jobs.job(1).state == "running", "nobody was left to say otherwise"
    before = [(r.site_key, r.level) for r in RunFolder(files / "RUN").ledger.read()]
    with listening() as (told, address), service(jobs.folder, "--until-idle", SCOTOPIC_NOTIFY=address) as process:
        process.wait(240)
    run = RunFolder(files / "RUN")
    assert [each.state for each in jobs.jobs()] == ["done", "done"], (jobs.folder / "service.out").read_text()
    assert jobs.job(1).interruptions == 1
    assert not verify(run.path)
    finished = [key for key in {key for key, _ in before} if sum(key == each for each, _ in before) == 4]
    attempts = {r.site_key: r.attempt for r in run.ledger.read()}
    assert {attempts[key] for key in finished} == {1}, "a site that was finished is not exposed again"
    kinds = [message["title"] for message in told]
    assert "scotopic RUN: model ready" in kinds
    assert "scotopic RUN: report ready" in kinds
    assert not [kind for kind in kinds if "failure" in kind]


@pytest.mark.e2e
def test_a_pause_outlasts_a_kill_and_no_light_is_given_until_it_is_resumed(files):
    jobs = Queue(files / "queue")
    job = jobs.add(a_run(files))
    run = RunFolder(files / "RUN")

    def state():
        return run.read_status("acquire").get("state")

    with service(jobs.folder):
        wait_for(lambda: state() == "running" and len(run.ledger.read()) > 4)
        ask(run.path, "pause")
        wait_for(lambda: state() == "paused")
        frames = len(run.ledger.read())
        kill_tree(jobs.job(job.number).process)
        wait_for(lambda: jobs.job(job.number).interruptions == 1)
        assert told_state(jobs.job(job.number))[0] == "paused"
        wait_for(lambda: jobs.job(job.number).state == "running" and state() == "paused")
        time.sleep(2)
        assert len(run.ledger.read()) == frames
        ask(run.path, "resume")
        wait_for(lambda: len(run.ledger.read()) > frames)
        cancel(jobs, job.number)
        wait_for(lambda: jobs.job(job.number).state == "cancelled")


@pytest.mark.e2e
def test_a_service_that_dies_leaves_its_run_alone_and_the_next_one_takes_it_over(files):
    jobs = Queue(files / "queue")
    jobs.add(a_run(files))
    with service(jobs.folder) as process:
        wait_for(lambda: RunFolder(files / "RUN").read_status("acquire").get("state") == "running")
        os.kill(process.pid, signal.SIGKILL)
    number = jobs.job(1).process
    with service(jobs.folder):
        time.sleep(3)
        assert jobs.job(1).process == number
        assert psutil.pid_exists(number)
        with subprocess.Popen(
            [sys.executable, "-m", "scotopic", "service", "run", "--queue", str(jobs.folder)],
            stderr=subprocess.PIPE,
            text=True,
        ) as other:
            assert "this queue is served by process" in other.communicate()[1]
        assert other.returncode == 2
        cancel(jobs, 1)
        wait_for(lambda: jobs.job(1).state == "cancelled")
    assert jobs.job(1).interruptions == 0
    assert "no light" not in jobs.output_path(1).read_text(encoding="utf-8")


@pytest.mark.e2e
def test_a_job_whose_process_cannot_begin_fails_and_is_not_tried_for_ever(files):
    jobs = Queue(files / "queue")
    jobs.add(TrainWork(run=files / "RUN"))
    (files / "broken").mkdir()
    broken = "import sys\nif 'perform' in sys.orig_argv:\n    sys.exit('no such thing')\n"
    (files / "broken" / "sitecustomize.py").write_text(broken, encoding="utf-8")
    with service(jobs.folder, "--until-idle", PYTHONPATH=str(files / "broken")) as process:
        process.wait(60)
    assert jobs.job(1).state == "failed"
    assert "its process could not begin: SystemExit: no such thing" in jobs.job(1).message


@pytest.mark.e2e
def test_jobs_that_cannot_be_done_say_why_and_are_told(files):
    jobs = Queue(files / "queue")
    gone = files / "gone.yaml"
    gone.write_text((files / "small.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    jobs.add(RunWork(protocol=gone, microscope=files / "real.yaml", out=files / "A"))
    jobs.add(TrainWork(run=files / "no run"))
    later = jobs.add(ValidateWork(run=files / "B"), at=now() + timedelta(seconds=3))
    gone.unlink()
    with listening() as (told, address), service(jobs.folder, "--until-idle", SCOTOPIC_NOTIFY=address) as process:
        process.wait(120)
    found = jobs.jobs()
    assert [job.state for job in found] == ["failed"] * 3
    assert "gone.yaml: cannot be read" in found[0].message
    assert "no run" in found[1].message
    assert found[2].begun >= later.at
    texts = [message["message"] for message in told]
    assert sum("is failed" in text for text in texts) == 3
    gone.write_text((files / "small.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    assert jobs.retry(1).state == "waiting", "nothing is lost"
