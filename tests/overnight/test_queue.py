"""What is put into the queue, what it becomes, and what is refused."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import psutil
import pytest
from typer.testing import CliRunner

from conftest import ROOT
from scotopic.cli import app
from scotopic.overnight import Queue, RunWork, TrainWork, cancel, now, queue, resume, serve, times, told_state, watching
from scotopic.overnight.jobs import Job, obstacle
from scotopic.overnight.service import _last_words, _Service
from scotopic.overnight.watching import RunWatch
from scotopic.protocol import ProblemsError
from scotopic.store import RunFolder

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def jobs(tmp_path) -> Queue:
    return Queue(tmp_path / "queue")


def a_run(folder: Path, out: str = "RUN", profile: str = "m.yaml") -> RunWork:
    return RunWork(protocol=folder / "p.yaml", microscope=folder / profile, out=folder / out)


def states(jobs: Queue) -> list[str]:
    return [job.state for job in jobs.jobs()]


def told(jobs: Queue) -> str:
    return "\n".join(entry.told for entry in jobs.log())


def test_a_job_survives_the_process_that_added_it(tmp_path, jobs):
    added = jobs.add(a_run(tmp_path), not_after=time(7))
    again = Queue(jobs.folder).job(added.number)
    assert again == added
    assert again.words == [
        "run",
        str(tmp_path / "p.yaml"),
        "--microscope",
        str(tmp_path / "m.yaml"),
        "--out",
        str(tmp_path / "RUN"),
    ]


def test_a_job_waits_for_its_time_and_then_for_its_turn(tmp_path, jobs):
    at = now() + timedelta(hours=1)
    job = jobs.add(a_run(tmp_path), at=at)
    jobs.start_due(job.number, at - timedelta(seconds=1))
    assert states(jobs) == ["scheduled"]
    jobs.start_due(job.number, at)
    assert states(jobs) == ["waiting"]


def test_a_start_that_nobody_was_there_for_is_made_up_for_until_it_is_too_late(tmp_path, jobs):
    at = (now() + timedelta(days=1)).replace(hour=22, minute=0)
    for out, hours, state in (("A", 8, "waiting"), ("B", 10, "missed")):
        job = jobs.add(a_run(tmp_path, out), at=at, not_after=time(7))
        jobs.start_due(job.number, at + timedelta(hours=hours))
        assert jobs.job(job.number).state == state
    assert "it is after 07:00" in jobs.jobs()[-1].message
    job = jobs.add(a_run(tmp_path, "C"), at=at)
    jobs.start_due(job.number, at + timedelta(days=9))
    assert jobs.job(job.number).state == "waiting", "without a limit it is never too late"


def test_a_job_that_could_not_begin_in_time_is_given_up(tmp_path, jobs):
    at = (now() + timedelta(days=1)).replace(hour=22, minute=0)
    job = jobs.add(a_run(tmp_path), at=at, not_after=time(7))
    jobs.start_due(job.number, at)
    jobs.give_up_late_ones(at + timedelta(hours=8))
    assert states(jobs) == ["waiting"]
    jobs.give_up_late_ones(at + timedelta(hours=10))
    assert states(jobs) == ["missed"]


def test_of_several_missed_starts_the_last_is_made_up_for_in_a_folder_of_its_own(tmp_path, jobs, monkeypatch):
    monkeypatch.setattr(times, "here", lambda: BERLIN)
    monkeypatch.setattr(queue, "here", lambda: BERLIN)
    at = datetime(2026, 11, 27, 22, tzinfo=BERLIN)  # a Friday
    nightly = jobs.add(a_run(tmp_path, "plate_{date}"), at=at, every=("mon", "fri"))
    jobs.start_due(nightly.number, datetime(2026, 12, 1, 6, tzinfo=BERLIN))
    parent, one = jobs.jobs()
    assert parent.state == "scheduled"
    assert parent.at == datetime(2026, 12, 4, 22, tzinfo=BERLIN)
    assert (one.of, one.state, one.folder.name) == (parent.number, "waiting", "plate_2026-11-30")
    assert "the start of 2026-11-27 22:00 was missed" in told(jobs)
    jobs.start_due(nightly.number, datetime(2026, 12, 4, 22, tzinfo=BERLIN))
    assert len(jobs.jobs()) == 2, "the one before still waits"
    assert "still waits" in told(jobs)


def test_a_night_in_which_clocks_go_back_begins_one_job(tmp_path, jobs, monkeypatch):
    monkeypatch.setattr(times, "here", lambda: BERLIN)
    monkeypatch.setattr(queue, "here", lambda: BERLIN)
    first = datetime(2026, 10, 24, 2, 30, tzinfo=BERLIN)
    nightly = jobs.add(a_run(tmp_path, "plate_{date}"), at=first, every=times.DAYS)
    for moment in (first, *(datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=fold) for fold in (0, 1))):
        jobs.start_due(nightly.number, moment)
        for job in jobs.jobs():
            if job.state == "waiting":
                jobs.begin(job.number, 1, 0.0)
                jobs.finish(job.number, 0, "", was_asked=False)
    assert [job.folder.name for job in jobs.jobs()[1:]] == ["plate_2026-10-24", "plate_2026-10-25"]
    assert jobs.job(nightly.number).at == datetime(2026, 10, 26, 2, 30, tzinfo=BERLIN)


def test_what_was_cut_short_goes_on_and_what_always_ends_at_once_does_not(tmp_path, jobs):
    job = jobs.add(a_run(tmp_path))
    for count in range(1, 6):
        jobs.begin(job.number, os.getpid(), now().timestamp())
        job = jobs.interrupt(job.number, "process 1 was gone")
        assert job.state == ("waiting" if count < 5 else "failed")
    assert "5 times within a minute" in job.message
    assert jobs.retry(job.number).state == "waiting"
    jobs.begin(job.number, os.getpid(), now().timestamp() - 3600)
    assert jobs.interrupt(job.number, "process 1 was gone").quick_ends == 0


@pytest.mark.parametrize(
    ("code", "asked", "state"),
    [
        (0, False, "done"),
        (1, False, "incomplete"),
        (2, False, "failed"),
        (130, True, "cancelled"),
        (130, False, "waiting"),
    ],
)
def test_an_exit_code_says_how_a_job_ended(tmp_path, jobs, code, asked, state):
    job = jobs.add(a_run(tmp_path))
    jobs.begin(job.number, os.getpid(), 0.0)
    assert jobs.finish(job.number, code, "", was_asked=asked).state == state


def test_a_job_is_begun_by_one_process_only(tmp_path, jobs):
    job = jobs.add(a_run(tmp_path))
    jobs.begin(job.number, 1, 0.0)
    with pytest.raises(ProblemsError, match="is running: it is not begun"):
        jobs.begin(job.number, 2, 0.0)
    with pytest.raises(ProblemsError, match="queue cancel 1"):
        jobs.remove(job.number)


def obstacle_of(jobs: Queue, number: int, **more) -> str:
    given = {"paused": False, "cores": 2, "has_gpu": False} | more
    job = jobs.job(number).model_copy(update=given.pop("change", {}))
    return obstacle(job, jobs.jobs(), now(), **given)


def test_one_job_at_a_time_drives_a_microscope_and_others_compute_as_cores_allow(tmp_path, jobs):
    first, same, other = (jobs.add(a_run(tmp_path, *names)) for names in (("A",), ("B",), ("C", "n.yaml")))
    trains = [jobs.add(TrainWork(run=tmp_path / name)).number for name in ("X", "Y")]
    assert obstacle_of(jobs, trains[0]) == ""
    jobs.begin(first.number, 1, 0.0)
    assert obstacle_of(jobs, same.number) == "waits for job 1, which drives the microscope"
    assert obstacle_of(jobs, other.number) == ""
    assert (
        obstacle_of(jobs, other.number, taken="process 7") == "waits for the microscope, which is driven by process 7"
    )
    assert "processors" in obstacle_of(jobs, trains[0]), "two cores are the run's"
    assert obstacle_of(jobs, trains[0], cores=4) == ""
    jobs.begin(trains[0], 1, 0.0)
    assert "processors" in obstacle_of(jobs, trains[1], cores=4)
    assert obstacle_of(jobs, trains[1], cores=6) == ""
    assert "processors" in obstacle_of(jobs, trains[1], cores=6, has_gpu=True), "one GPU"
    assert obstacle_of(jobs, other.number, paused=True) == "the queue is paused"


def test_a_microscope_is_kept_for_the_job_that_was_cut_short(tmp_path, jobs):
    first, other = (jobs.add(a_run(tmp_path, name)) for name in "AB")
    jobs.begin(first.number, 1, 0.0)
    jobs.interrupt(first.number, "process 1 was gone")
    assert "goes on at" in obstacle_of(jobs, first.number)
    assert obstacle_of(jobs, other.number) == "waits for job 1, which was cut short and goes on first"
    jobs.hold(first.number, held=True)
    assert obstacle_of(jobs, other.number) == "", "unless somebody pauses it"


def test_a_job_waits_for_another_and_for_its_folder(tmp_path, jobs):
    first = jobs.add(TrainWork(run=tmp_path / "X"))
    then = jobs.add(a_run(tmp_path), after=first.number)
    same = jobs.add(TrainWork(run=tmp_path / "X"))
    assert obstacle_of(jobs, then.number) == "waits for job 1"
    jobs.begin(first.number, 1, 0.0)
    assert "works on the same folder" in obstacle_of(jobs, same.number, cores=64)
    jobs.finish(first.number, 2, "", was_asked=False)
    assert obstacle_of(jobs, then.number) == "", "however it ended"
    jobs.hold(then.number, held=True)
    assert obstacle_of(jobs, then.number) == "paused"


def test_what_would_lose_something_is_refused(tmp_path, jobs, monkeypatch):
    jobs.add(a_run(tmp_path))
    for refused, match in (
        ({"work": a_run(tmp_path)}, "job 1 writes into it"),
        ({"work": a_run(tmp_path, "B"), "after": 9}, "there is no such job"),
        ({"work": a_run(tmp_path, "B"), "at": now(), "every": times.DAYS}, "{date}"),
        ({"work": a_run(tmp_path, "B"), "every": times.DAYS}, "needs --at"),
    ):
        with pytest.raises(ProblemsError, match=match):
            jobs.add(**refused)
    monkeypatch.setattr(queue, "MOST_OPEN", 1)
    with pytest.raises(ProblemsError, match="the queue is full: 1 jobs have not ended; nothing was added"):
        jobs.add(a_run(tmp_path, "C"))
    assert states(jobs) == ["waiting"]


def add_many(folder: str, name: str) -> None:
    jobs = Queue(Path(folder))
    for number in range(20):
        jobs.add(TrainWork(run=Path(folder) / f"{name}{number}"))


def test_processes_that_write_at_the_same_time_lose_nothing(jobs):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=add_many, args=(str(jobs.folder), name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert [job.number for job in jobs.jobs()] == list(range(1, 41))
    assert len({job.folder for job in jobs.jobs()}) == 40


def test_a_queue_that_cannot_be_read_or_written_is_told_in_a_line_and_left_as_it_is(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine", encoding="utf-8")
    with pytest.raises(ProblemsError, match="the queue cannot be written"):
        Queue(file)
    folder = tmp_path / "queue"
    (folder / "logs").mkdir(parents=True)
    (folder / "queue.sqlite").write_text("no data base, but something of mine " * 100, encoding="utf-8")
    with pytest.raises(ProblemsError, match="the queue cannot be read or written: file is not a database"):
        Queue(folder)
    assert "something of mine" in (folder / "queue.sqlite").read_text(encoding="utf-8")


def test_the_oldest_that_ended_are_forgotten(tmp_path, jobs, monkeypatch):
    monkeypatch.setattr(queue, "_KEPT_JOBS", 1)
    for name in "ABC":
        job = jobs.add(a_run(tmp_path, name))
        jobs.output_path(job.number).write_text(name, encoding="utf-8")
        if name != "C":
            jobs.begin(job.number, 1, 0.0)
            jobs.finish(job.number, 0, "", was_asked=False)
    jobs.tidy()
    assert [job.number for job in jobs.jobs()] == [2, 3]
    assert not jobs.output_path(1).exists()


def test_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("SCOTOPIC_QUEUE", str(tmp_path / "queue"))
    monkeypatch.chdir(tmp_path)
    protocol, profile = (str(ROOT / name) for name in ("protocols/quickstart.yaml", "hardware_configs/simulated.yaml"))
    runner = CliRunner()

    def said(*words: str, code: int = 0) -> str:
        result = runner.invoke(app, ["queue", *words])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result.output

    assert "The queue is empty" in said("list")
    assert "begins as soon as it can" in said("add", protocol, "--microscope", profile, "--out", "RUN")
    nightly = said("train", "RUN", "--at", "02:00", "--every", "weekday", "--not-after", "06:00", "--after", "1")
    assert "job 2: begins on" in nightly
    assert ", not after" in nightly
    assert "once job 1 has ended; and so on each weekday" in nightly
    assert "RUN is not there yet" in nightly
    assert "no service does the jobs" in nightly
    assert "no such file" in said("add", "none.yaml", "--microscope", profile, "--out", "B", code=2).lower()
    assert "is over" in said("validate", "RUN", "--at", "2020-01-01 22:00", code=2)
    listed = said("list")
    assert "quickstart.yaml on simulated" in listed
    assert " into RUN" in listed, "as seen from here"
    assert len(listed.splitlines()) == 4, "a line for each job"
    assert "every weekday" in listed
    assert "paused" in said("pause", "1")
    assert "goes on" in said("resume", "1")
    assert "the queue is paused" in said("pause") + said("list")
    refused = said("add", protocol, "--microscope", profile, "--out", protocol, code=2)
    assert "error: 2" not in refused, "told once"
    said("resume")
    said("remove", "2")
    assert "removed: train" in said("log", "2")
    assert "there is no such job" in said("log", "7", code=2)
    assert "is waiting" in said("cancel", "1", code=2)
    assert "job 1: added: run quickstart.yaml" in said("log")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["segment", "images", "--out", "M", "--model", "m.safetensors", "--light", "0.2%"],
            "needs the camera's offset",
        ),
        (["segment", "images", "--out", "M", "--light", "0.2%"], "is for dark images, which need --model"),
        (["segment", "images", "--out", "M", "--model", "nope"], "nope: --model is not there"),
        (["segment", "images", "--out", "{dat}"], "{dat} means nothing; allowed: {date}"),
        (["validate", "RUN", "--model", "nope"], "nope: --model is not there"),
        (["train", "RUN", "--at", "22:00", "--not-after", "22:00"], "is the time of the start itself"),
        (["train", "RUN", "--minutes", "inf"], "minutes: Input should be a finite number"),
    ],
    ids=["no camera", "no model", "model gone", "placeholder", "model to judge gone", "no time to begin", "endless"],
)
def test_what_could_only_fail_is_refused_in_the_evening(words, told, tmp_path, monkeypatch):
    monkeypatch.setenv("SCOTOPIC_QUEUE", str(tmp_path / "queue"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "m.safetensors").touch()
    result = CliRunner().invoke(app, ["queue", *words])
    assert (result.exit_code, told in result.output.replace("\n", " ")) == (2, True), result.output
    assert Queue(tmp_path / "queue").jobs() == []


def test_a_job_is_shown_as_its_run_is(tmp_path, jobs):
    run = RunFolder(tmp_path / "RUN")
    job = jobs.add(a_run(tmp_path))
    me = psutil.Process()
    job = jobs.begin(job.number, me.pid, me.create_time())
    assert told_state(job) == ("running", "")
    run.lock()
    run.write_status("acquire", state="paused", message="as asked; the light is off")
    assert told_state(job) == ("paused", "as asked; the light is off")
    run.unlock()
    assert told_state(job.model_copy(update={"process": 2**22 + 1}))[0] == "cut short"
    run.ask("pause")
    job = jobs.interrupt(job.number, "process 1 was gone")
    assert told_state(job) == ("paused", "it was paused before it was cut short")
    assert told_state(resume(jobs, job.number)) == ("waiting", "process 1 was gone")
    assert run.request() is None


def test_a_pause_that_may_be_forgotten_is_told(tmp_path, segmented_plate, monkeypatch):
    run = RunFolder(shutil.copytree(segmented_plate, tmp_path / "run"))
    status = run.read_status("acquire")
    run.lock()
    run.write_status("acquire", **(status | {"state": "paused", "message": "as asked; the light is off"}))
    watch = RunWatch(run.path, now() - timedelta(days=1))
    assert not [event for event in watch.look() if event.kind == "stalled"]
    monkeypatch.setattr(watching, "_LONG_PAUSE_S", 0)
    (event,) = [event for event in watch.look() if event.kind == "stalled"]
    assert "as asked; the light is off" in event.text
    run.unlock()


def test_a_job_that_is_done_is_not_done_again_by_retry(tmp_path, jobs):
    job = jobs.add(a_run(tmp_path))
    jobs.begin(job.number, os.getpid(), 0.0)
    jobs.finish(job.number, 0, "", was_asked=False)
    with pytest.raises(ProblemsError, match="is done: there is nothing to go on with"):
        jobs.retry(job.number)


def test_a_job_says_why_it_is_incomplete(tmp_path, jobs):
    lines = ["acquisition completed", "missing in the report: there is no model: one well only", "report: x.html"]
    jobs.output_path(1).write_text("\n".join(lines), encoding="utf-8")
    assert _last_words(jobs, 1) == "missing in the report: there is no model: one well only"
    jobs.output_path(1).write_text("\n".join([*lines, "error: the disk is full"]), encoding="utf-8")
    assert _last_words(jobs, 1).endswith("; error: the disk is full")
    again = ["2026-11-27 22:00:00 scotopic run p.yaml", "acquisition completed with errors: 3 frames were skipped"]
    jobs.output_path(1).write_text("\n".join([*lines, *again]), encoding="utf-8")
    assert _last_words(jobs, 1) == again[1], "of this attempt alone"


def test_a_cancelled_job_has_ended_also_where_no_service_is(tmp_path, jobs):
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    job = jobs.add(TrainWork(run=tmp_path / "RUN"))
    jobs.begin(job.number, sleeper.pid, psutil.Process(sleeper.pid).create_time())
    cancel(jobs, job.number)
    sleeper.wait(10)
    assert jobs.job(job.number).state == "cancelled"


TRAINS = '{"number": 1, "work": {"kind": "train", "run": "/RUN"}, "at": "2026-11-28T22:00:00Z"'
UNREADABLE = {
    "another version": ("{}", "number: Field required"),
    "no text": (b"\xff{", "Invalid JSON"),
    "no object": ("[]", "should be an object"),
    "too deep": ("[" * 9999, "recursion limit exceeded"),
    "the year 1": (TRAINS.replace("2026", "0001") + "}", "at: must be from 1970 to 2199"),
    "the year 9999": (TRAINS.replace("2026", "9999") + "}", "at: must be from 1970 to 2199"),
    "no moment": (TRAINS.replace('"2026-11-28T22:00:00Z"', "1e300") + "}", "at: Input should be a valid datetime"),
    "no zone": (TRAINS.replace("Z", "") + "}", "at: Input should have timezone info"),
    "a zone of its own": (TRAINS + ', "not_after": "07:00:00+02:00"}', "not_after: must have no time zone"),
    "no day": (TRAINS + ', "every": ["someday"]}', "every.0: Input should be 'mon'"),
    "no process": (TRAINS + ', "state": "running", "process": -5}', "process: Input should be greater than 0"),
    "a long number": (
        TRAINS + f', "after": {10**23}}}',
        "after: Input should be less than or equal to 9223372036854775807",
    ),
    "no path": (TRAINS.replace("/RUN", "/R\\u0000") + "}", "work.train.run: must be a path"),
    "no minutes": (
        TRAINS.replace('"/RUN"', '"/RUN", "minutes": NaN') + "}",
        "minutes: Input should be a finite number",
    ),
}


@pytest.mark.parametrize(("document", "why"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_job_that_cannot_be_read_hides_no_other(document, why, tmp_path, jobs):
    with jobs._changing() as file:
        file.execute("insert into jobs (document) values (cast(? as text))", (document,))
    then = jobs.add(TrainWork(run=tmp_path / "RUN"))
    assert [job.number for job in jobs.jobs()] == [then.number]
    assert jobs.unreadable()[1].startswith("cannot be read: ")
    assert why in jobs.unreadable()[1]
    assert "waits for job 1, which cannot be read" in obstacle_of(
        jobs, then.number, change={"after": 1}, unreadable=jobs.unreadable()
    )
    with pytest.raises(ProblemsError, match="job 1: cannot be read"):
        jobs.retry(1)
    jobs.remove(1)
    assert not jobs.unreadable()


def test_what_cannot_be_read_is_listed_and_served_around(tmp_path, jobs):
    with jobs._changing() as file:
        file.execute("insert into jobs (document) values ('{}')")
        file.execute("insert into jobs (number, document) values (-1, ?)", (TRAINS + "}",))
        file.execute("insert into log values ('never', 1, 'said')")
    long = jobs.add(TrainWork(run=Path("/" + 5000 * "x").absolute()))  # no system has such a name
    jobs.begin(long.number, os.getpid(), psutil.Process().create_time())
    jobs.add(TrainWork(run=tmp_path / "RUN"))
    jobs.pause(True)
    printed = [CliRunner().invoke(app, ["queue", "--queue", str(jobs.folder), word]).output for word in ("list", "log")]
    assert [printed[0].count(told) for told in ("unreadable", "its number is not greater than 0", "running")] == [
        2,
        1,
        1,
    ]
    assert "never job 1: said" in printed[1]
    said: list[str] = []
    service = _Service(jobs, said.append, None)
    service.look()
    service.look()
    assert [line.partition(":")[0] for line in said] == [
        "job -1 cannot be read",
        "job 1 cannot be read",
        "job 3 the queue is paused",
        "job 2 running",
        "job 2 is left for a later look",
        "job 3 waiting",
    ]


def test_a_number_that_no_job_can_have_is_told(tmp_path, jobs):
    for number in (10**23, -(10**23), 2**63, 0):
        for do in (jobs.job, jobs.remove, jobs.retry, jobs.end):
            with pytest.raises(ProblemsError, match=f"job {number}: there is no such job"):
                do(number)
        assert jobs.log(number) == []
        with pytest.raises(ProblemsError, match="there is no such job"):
            jobs.add(TrainWork(run=tmp_path / "RUN"), after=number)
    assert jobs.log(count=10**23) == []


def test_a_start_in_another_zone_recurs_at_the_time_of_this_clock(tmp_path, jobs, monkeypatch):
    monkeypatch.setattr(queue, "here", lambda: BERLIN)
    at = datetime(2026, 11, 27, 21, tzinfo=UTC)
    assert jobs.add(TrainWork(run=tmp_path / "RUN"), at=at, every=times.DAYS).clock == time(22)


def test_a_store_of_starts_that_is_none_is_told(jobs):
    (jobs.folder / "schedule.sqlite").write_text("no data base, but something of mine " * 100, encoding="utf-8")
    with pytest.raises(ProblemsError, match=r"schedule\.sqlite: cannot be read or written: .* delete it"):
        serve(jobs.folder)


def test_a_job_knows_its_words(tmp_path):
    job = Job(number=1, at=now(), work=TrainWork(run=tmp_path / "A", also=(tmp_path / "B",), minutes=5))
    assert job.words == ["train", str(tmp_path / "A"), "--also", str(tmp_path / "B"), "--minutes", "5.0", "--again"]
