"""A simulated night: a queue of whole plates while one operation in a hundred goes wrong, with kills, reboots and a full disk.

usage: soak.py --work DIR [--plates 6] [--share 0.01] [--seed 1] [--minutes 180] [--no-kills]

Plates of 864 sites each are put into a queue, and `scotopic service` does them, on a simulated microscope with its fast clock, in which each operation of each
kind (camera, LED, shutter, stage, autofocus, slow device) fails with a probability. Every one to two and a half minutes the job's processes, the
service, or all of them at once (a reboot) are killed without warning; the service is begun again, as at boot. Once, the disk is filled to its last byte,
and freed half a minute later; for that DIR must lie on a file system of less than 8 GB made for the purpose (Linux: `mount -t tmpfs -o size=5g tmpfs DIR`),
else that part is left out, and said. A job whose run has ended before its plate was complete, which is what some faults are to lead to, is told to go on, as
a person would. After `--minutes` everything is killed, and what is there is judged: frames of sites that were not begun are not missed then.
With `--no-kills` processes live as long as they like, which shows what memory and handles do in the long run.

The judge is the log of the simulated LED and camera, which no kill reaches. Limits: no frame lost, misplaced or mislabelled; light given and recorded within 1 %;
memory and file handles flat (20 MB and 5 handles over 1,000 sites). POSIX.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soak_devices
import yaml
from kills import kill_all
from machine import machine

from scotopic.overnight import Queue, RunWork
from scotopic.store import RunFolder, verify

ROOT = Path(__file__).parent.parent
SMALL_DISK_BYTES = 8e9
AGREE, FLAT_MB, FLAT_HANDLES = 0.01, 20, 5


@dataclass
class Night:
    """What is done, and what was seen."""

    work: Path
    queue: Queue
    rng: np.random.Generator
    service: subprocess.Popen[bytes] | None = None
    done: Counter[str] = field(default_factory=Counter)
    memory: dict[int, list[tuple[int, float, int]]] = field(default_factory=lambda: defaultdict(list))
    """Process -> (sites of its run finished, MB, open handles)."""

    def serve(self) -> None:
        """Begin the service, if it does not live."""
        if self.service is not None and self.service.poll() is None:
            return
        surroundings = {
            soak_devices.LOGS: str(self.work / "logs"),
            "PYTHONPATH": _python_path(self.work / "begin", ROOT / "benchmarks"),
        }
        words = [sys.executable, "-m", "scotopic", "service", "run", "--queue", str(self.queue.folder), "--until-idle"]
        with (self.work / "service.log").open("ab") as out:
            self.service = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, env=os.environ | surroundings)

    def hit(self) -> None:
        """Kill the job, the service, or everything."""
        what = str(self.rng.choice(["job", "service", "everything"]))
        running = [job.process for job in self.queue.jobs() if job.state == "running" and job.process]
        if what != "job" and self.service is not None:
            self.service.kill()
            self.service.wait()
        if what != "service":
            for number in running:
                with suppress(psutil.NoSuchProcess):
                    kill_all(number)
        self.done[f"killed: {what}"] += 1
        print(f"{time.strftime('%H:%M:%S')} killed {what}", flush=True)

    def look(self) -> None:
        """Note memory and handles of the process that acquires and of the service."""
        for job in self.queue.jobs():
            status = RunFolder(job.folder).read_status("acquire") if job.state == "running" else {}
            if status.get("state") == "running" and job.process:
                self._note(job.process, job.number * 10_000 + int(status["sites"]["finished"]))
        if self.service is not None and self.service.poll() is None:
            self._note(self.service.pid, sum(self.finished()))

    def _note(self, number: int, sites: int) -> None:
        with suppress(psutil.Error):
            process = psutil.Process(number)
            self.memory[number].append((sites, process.memory_info().rss / 1e6, process.num_fds()))

    def finished(self) -> list[int]:
        """Return the finished sites of each run."""
        states = [RunFolder(job.folder).read_status("acquire") for job in self.queue.jobs()]
        return [int(state["sites"]["finished"]) if state else 0 for state in states]

    def go_on_with_what_ended_early(self) -> bool:
        """Tell jobs to go on that ended before their plate was complete; return whether there were any."""
        early = [
            job.number
            for job in self.queue.jobs()
            if not job.is_open
            and (
                job.exit_code not in {0, 1}
                or not str(RunFolder(job.folder).read_status("acquire").get("state")).startswith("completed")
            )
        ]
        for number in early:
            self.done["ended early, told to go on"] += 1
            print(f"{time.strftime('%H:%M:%S')} job {number}: {self.queue.job(number).message}", flush=True)
            self.queue.retry(number)
        return bool(early)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--plates", type=int, default=6)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=180)
    parser.add_argument("--no-kills", action="store_true")
    asked = parser.parse_args()
    work: Path = asked.work.absolute()
    (work / "logs").mkdir(parents=True)
    print(f"# {machine()}", flush=True)
    os.environ[soak_devices.SHARE] = str(asked.share)
    night = Night(work, Queue(work / "queue"), np.random.default_rng(asked.seed))
    protocol, profile = write_job(work)
    for number in range(asked.plates):
        night.queue.add(RunWork(protocol=protocol, microscope=profile, out=work / f"plate_{number + 1}"))
    begun = time.monotonic()
    go_through(night, asked.minutes, kills=not asked.no_kills)
    print(f"{sum(night.finished()):,} sites in {(time.monotonic() - begun) / 60:.0f} min; {dict(night.done)}")
    judge(night)


def write_job(work: Path) -> tuple[Path, Path]:
    """Write protocol, profile and configuration: small images, so that a night takes minutes."""
    protocol = yaml.safe_load((ROOT / "protocols" / "low_light_96.yaml").read_text(encoding="utf-8"))
    protocol["training"] = {"steps": 5, "threads": 2, "dtype": "float32", "least_f1": 0}
    protocol["focus"]["on_failure"] = "skip_site"
    profile = yaml.safe_load((ROOT / "hardware_configs" / "simulated.yaml").read_text(encoding="utf-8"))
    profile["camera"] |= {"width_px": 256, "height_px": 256}
    profile["verification"] = {"retry_delay_ms": 5, "camera_timeout_s": 0.5}
    shutil.copyfile(ROOT / "hardware_configs" / "simulated.cfg", work / "simulated.cfg")
    # Python begins each process with this file.
    begin = "import sys\nif 'perform' in sys.orig_argv:\n    import soak_devices\n\n    soak_devices.take_over()\n"
    (work / "begin").mkdir()
    (work / "begin" / "sitecustomize.py").write_text(begin, encoding="utf-8")
    for name, data in (("protocol.yaml", protocol), ("microscope.yaml", profile)):
        (work / name).write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return work / "protocol.yaml", work / "microscope.yaml"


def go_through(night: Night, minutes: float, *, kills: bool) -> None:
    """Serve the queue to its end, and let things happen to it."""
    deadline = time.monotonic() + 60 * minutes
    next_hit = time.monotonic() + night.rng.uniform(60, 150)
    disk_at = night.queue.jobs()[0].number if shutil.disk_usage(night.work).total < SMALL_DISK_BYTES else 0
    if not disk_at:
        print("the disk is too large to be filled: that part is left out")
    while time.monotonic() < deadline:
        night.serve()
        time.sleep(2)
        night.look()
        if disk_at and night.finished()[0] > 200:
            disk_at = 0
            fill_and_free(night)
        if kills and time.monotonic() > next_hit:
            next_hit = time.monotonic() + night.rng.uniform(60, 150)
            night.hit()
            time.sleep(2)
        has_ended = night.service is None or night.service.poll() is not None
        if not night.go_on_with_what_ended_early() and has_ended and not any(j.is_open for j in night.queue.jobs()):
            return
    print("the time is over: everything is killed, and what is there is judged")
    if night.service is not None:
        kill_all(night.service.pid)
    for job in night.queue.jobs():
        if job.state == "running" and job.process:
            kill_all(job.process)


def fill_and_free(night: Night) -> None:
    """Fill the disk to its last byte, wait until the run has noticed, free it, and see that it goes on."""
    ballast = night.work / "ballast"
    run = RunFolder(night.queue.jobs()[0].folder)
    before = night.finished()[0]
    with ballast.open("wb") as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    full_for = time.monotonic() + 30
    told = ""
    while time.monotonic() < full_for:
        status = run.read_status("acquire")
        told = f"{status.get('state')}: {status.get('message')}" if status else told
        time.sleep(1)
    ballast.unlink()
    night.done["disk filled and freed"] += 1
    print(f"{time.strftime('%H:%M:%S')} the disk was full at {before} sites; the run said `{told}`", flush=True)


def judge(night: Night) -> None:
    """Hold the runs against the log of the devices, and print what came out."""
    images: dict[str, list[dict[str, Any]]] = defaultdict(list)
    faults, given = Counter[str](), 0.0
    for path in (night.work / "logs").glob("*.jsonl"):
        delivered = 0.0
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            delivered = max(delivered, line.get("delivered", 0.0))
            if "image" in line:
                images[line["image"]].append(line)
            faults.update([line["fault"]] if "fault" in line else [])
        given += delivered
    recorded, cut, counts, wrong = 0.0, 0.0, Counter[str](), Counter[str]()
    for job in night.queue.jobs():
        run = RunFolder(job.folder)
        if not run.exists:
            continue
        recorded += run.sample_dose_ms()
        cut += sum(visit.unnoted_ms for visit in run.visits.read() if visit.left)
        is_whole = str(run.read_status("acquire").get("state")).startswith("completed")
        problems = [each for each in verify(run) if is_whole or "planned frames are missing" not in each.message]
        counts["lost"] += len(problems)
        for problem in problems[:5]:
            print(f"    {problem}")
        judge_frames(run, images, counts, wrong)
    print(f"faults: {dict(sorted(faults.items()))}")
    print(
        f"frames: {counts['written']:,} written, {counts['skipped']:,} skipped with a reason; taken anew after kills and moves: {counts['older']:,}"
    )
    for what in ("lost", "misplaced", "mislabelled"):
        print(f"frames {what}: {counts[what]} (limit 0)")
    print(f"frames whose LED had lied: {wrong['all']}, found out by their images {wrong['found']}")
    print(
        f"light given by the LED's own log {given:,.0f} ms, recorded {recorded:,.0f} ms at full power, {cut:,.0f} of it cut by kills: {recorded / given - 1:+.2%} (limit {AGREE:.0%})"
    )
    judge_memory(night)


def judge_frames(
    run: RunFolder, images: dict[str, list[dict[str, Any]]], counts: Counter[str], wrong: Counter[str]
) -> None:
    """Hold every written frame against what the devices say of the exposure that its pixels come from."""
    levels = {level.name: level for level in run.read_protocol().light_levels}
    records = run.ledger.read()
    last = {record.site_key: record.attempt for record in records}
    found_out = {(c.well, c.site, c.t, c.level) for c in run.light_checks.read() if c.verdict != "ok"}
    for record in records:
        counts["older"] += record.attempt != last[record.site_key] and record.state == "written"
        if record.attempt != last[record.site_key]:
            continue
        counts[record.state] += 1
        if record.state != "written":
            continue
        taken, level = images.get(record.checksum or "", []), levels[record.level]
        counts["misplaced"] += not any(np.hypot(*np.subtract(each["xy"], record.xy_um)) < 2 for each in taken)
        of_level = [each for each in taken if abs(each["exposure"] - level.exposure_ms) < 0.01]
        if any(abs(each["led"] - level.led_percent) < 0.3 for each in of_level):
            continue
        if any(abs(each["led"] - soak_devices.AMOUNTS["led_misreports"]) < 0.3 for each in of_level):
            wrong["all"] += 1
            wrong["found"] += (*record.site_key, record.level) in found_out or any(
                key[:3] == record.site_key for key in found_out
            )
        else:
            counts["mislabelled"] += 1


def judge_memory(night: Night) -> None:
    """Print how memory and handles of each long process changed from its first hundred sites on."""
    for number, seen in night.memory.items():
        settled = [each for each in seen if each[0] >= seen[0][0] + 100]
        if len(settled) < 10 or settled[-1][0] - settled[0][0] < 300:
            continue
        sites, mb, handles = (np.array(column, float) for column in zip(*settled, strict=True))
        slope = np.polyfit(sites, mb, 1)[0] * 1000
        print(
            f"process {number}: {sites[-1] - sites[0]:.0f} sites, {mb.min():.0f} to {mb.max():.0f} MB, {slope:+.1f} MB for 1,000 sites (limit {FLAT_MB}), "
            f"handles {handles.min():.0f} to {handles.max():.0f}, {np.polyfit(sites, handles, 1)[0] * 1000:+.1f} for 1,000 sites (limit {FLAT_HANDLES})"
        )


def _python_path(*folders: Path) -> str:
    return os.pathsep.join(filter(None, [*map(str, folders), os.environ.get("PYTHONPATH", "")]))


if __name__ == "__main__":
    main()
