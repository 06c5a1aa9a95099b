"""The queue: jobs in a file that several processes read and write, and that survives them."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from platformdirs import user_data_path
from pydantic import ValidationError

from scotopic.overnight.jobs import DATE, MOST_NUMBER, Job, RunWork, SegmentWork, TrainWork, ValidateWork, told_work
from scotopic.overnight.times import here, latest_start, next_start, now
from scotopic.protocol import Problem, ProblemsError
from scotopic.store import OwnedLock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime, time
    from pathlib import Path

    from scotopic.overnight.times import Days

MOST_OPEN = 200
"""Jobs that have not ended: more are a mistake in somebody's script."""
_KEPT_JOBS, _KEPT_LINES = 1000, 20_000
_PATIENCE_S = 30.0
_GOES_ON_AFTER_S = 10
"""A job that was cut short goes on after this time: a computer that shuts down ends jobs before it ends the service."""
_QUICK_S, _MOST_QUICK_ENDS = 60, 5
_TABLES = """
create table if not exists jobs (number integer primary key autoincrement, document text not null);
create table if not exists log (time text not null, number integer, told text not null);
create table if not exists facts (key text primary key, value text not null);
"""


class Entry(NamedTuple):
    """A line of the queue's log."""

    time: str
    """When it was written, ISO 8601."""
    number: int | None
    told: str


def queue_folder() -> Path:
    """Return the folder of this user's queue on this computer."""
    return user_data_path("scotopic", appauthor=False) / "queue"


class Queue:
    """Jobs of one computer, in `queue.sqlite`. Each change is whole or not there, whoever else is at work."""

    def __init__(self, folder: Path) -> None:
        """Open a queue, or make an empty one.

        Raises
        ------
        ProblemsError
            If its file cannot be written, or is none.
        """
        self.folder = folder
        self._path = folder / "queue.sqlite"
        try:
            (folder / "logs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ProblemsError([Problem(f"the queue cannot be written: {error.strerror}", str(folder))]) from error
        with self._connected() as file:
            file.executescript(_TABLES)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            file = sqlite3.connect(self._path, timeout=_PATIENCE_S, isolation_level=None)
            file.text_factory = lambda data: data.decode(errors="replace")  # a damaged line must not hide the others
            try:
                yield file
            finally:
                file.close()
        except sqlite3.Error as error:
            raise ProblemsError([Problem(f"the queue cannot be read or written: {error}", str(self._path))]) from error

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Have the file alone; what is done inside is done as a whole, or not at all."""
        with self._connected() as file:
            file.execute("begin immediate")
            try:
                yield file
            except BaseException:
                if file.in_transaction:  # SQLite itself rolls back what a full disk has cut short
                    file.execute("rollback")
                raise
            file.execute("commit")

    # ------------------------------------------------------------------ what users do

    def add(
        self,
        work: RunWork | TrainWork | ValidateWork | SegmentWork,
        *,
        at: datetime | None = None,
        every: Days = (),
        not_after: time | None = None,
        after: int | None = None,
    ) -> Job:
        """Put a job into the queue.

        Parameters
        ----------
        at : datetime, optional
            When it begins, or begins first; as soon as it can without it.
        every : Days
            Days of the week on which it begins again.
        not_after : time, optional
            Time of day after which it is not begun any more.
        after : int, optional
            Number of a job that must have ended first.

        Raises
        ------
        ProblemsError
            If the queue is full, another job writes into the same folder, there is no such job, or a job that begins again
            and again would write into one folder.
        """
        moment = now()
        if at is not None and not_after is not None and at.astimezone(here()).time() == not_after:
            told = f"= {not_after:%H:%M}: is the time of the start itself; a start is never so punctual"
            raise ProblemsError([Problem(told, key="--not-after")])
        if every and at is None:
            raise ProblemsError([Problem("needs --at: the time of day", key="--every")])
        if every and isinstance(work, RunWork | SegmentWork) and DATE not in str(work.out):
            told = f"= {str(work.out)!r}: a job that begins again and again needs {DATE} in it, for each start a folder"
            raise ProblemsError([Problem(told, key="--out")])
        with self._changing() as file:
            opened = [job for job in _jobs(file) if job.is_open]
            if len(opened) >= MOST_OPEN:
                told = f"the queue is full: {len(opened)} jobs have not ended; nothing was added"
                raise ProblemsError([Problem(told, str(self._path))])
            if after is not None:
                _job(file, after)
            for job in opened:
                if isinstance(work, RunWork | SegmentWork) and job.work.writes_into == work.writes_into:
                    told = f"= {str(work.out)!r}: job {job.number} writes into it; choose another --out"
                    raise ProblemsError([Problem(told, key="--out")])
            begin = at or moment
            job = Job(
                number=1,  # the file gives it
                work=work,
                at=begin,
                clock=begin.astimezone(here()).time() if every else None,
                every=every,
                not_after=not_after,
                after=after,
                state="scheduled" if at is not None else "waiting",
            )
            return _insert(file, job, "added: " + told_work(work))

    def remove(self, number: int) -> None:
        """Take a job out of the queue; one that is running must be ended first.

        Raises
        ------
        ProblemsError
            If there is no such job, or it is running.
        """
        with self._changing() as file:
            unreadable = _read(file)[1]
            job = None if number in unreadable else _job(file, number)
            if job is not None and job.state == "running":
                told = f"is running; `scotopic queue cancel {number}` ends it"
                raise ProblemsError([Problem(told, key=f"job {number}")])
            file.execute("delete from jobs where number = ?", (number,))
            _note(file, number, f"removed: {unreadable[number] if job is None else job.told}")

    def hold(self, number: int, held: bool) -> Job:
        """Pause a job that has not begun, or let it begin."""
        with self._changing() as file:
            job = _job(file, number)
            if not job.is_open:
                raise ProblemsError([Problem(f"has ended: {job.state}", key=f"job {number}")])
            return _replace(file, job, "paused" if held else "goes on", held=held)

    def pause(self, paused: bool) -> None:
        """Let no job begin, or let them begin again. Jobs that are running go on."""
        with self._changing() as file:
            _set(file, "paused", "yes" if paused else "")
            _note(file, None, "the queue is paused" if paused else "the queue goes on")

    def end(self, number: int) -> Job:
        """Note that a running job is to end, which is then no interruption.

        Raises
        ------
        ProblemsError
            If it is not running.
        """
        with self._changing() as file:
            job = _job(file, number)
            if job.state != "running":
                told = f"is {job.state}; `scotopic queue remove {number}` takes it out of the queue"
                raise ProblemsError([Problem(told, key=f"job {number}")])
            return _replace(file, job, "asked to end", is_to_end=True)

    def retry(self, number: int) -> Job:
        """Let a job that has ended go on where it stopped, or begin again.

        Raises
        ------
        ProblemsError
            If it has not ended, or is done.
        """
        with self._changing() as file:
            job = _job(file, number)
            if job.is_open or job.state == "done":
                raise ProblemsError([Problem(f"is {job.state}: there is nothing to go on with", key=f"job {number}")])
            fresh: dict[str, Any] = {"exit_code": None, "ended": None, "quick_ends": 0, "is_to_end": False}
            return _replace(
                file, job, "is to go on", state="waiting", message="", not_after=None, not_before=None, **fresh
            )

    # ------------------------------------------------------------------ what is asked

    def jobs(self) -> list[Job]:
        """Return all jobs that can be read, by number."""
        with self._connected() as file:
            return _jobs(file)

    def unreadable(self) -> dict[int, str]:
        """Return why jobs cannot be read, by number: they were written by hand, or by another version, or are damaged."""
        with self._connected() as file:
            return _read(file)[1]

    def job(self, number: int) -> Job:
        """Return a job.

        Raises
        ------
        ProblemsError
            If there is none of this number.
        """
        with self._connected() as file:
            return _job(file, number)

    def is_paused(self) -> bool:
        """Return whether no job is to begin."""
        with self._connected() as file:
            return _get(file, "paused") == "yes"

    def log(self, number: int | None = None, count: int = 100) -> list[Entry]:
        """Return the last lines of the log, of one job or of all."""
        if number is not None and not _can_be(number):
            return []
        which, values = ("", []) if number is None else ("where number = ?", [number])
        question = f"select time, number, told from log {which} order by rowid desc limit ?"  # noqa: S608 - no user's text
        with self._connected() as file:
            rows = file.execute(question, (*values, min(count, _KEPT_LINES))).fetchall()
        return [Entry(*row) for row in reversed(rows)]

    def output_path(self, number: int) -> Path:
        """Return the file of what a job has said."""
        return self.folder / "logs" / f"job-{number}.log"

    def served_by(self) -> str:
        """Return which process serves the queue, or nothing if none does."""
        return self.service_lock().owner()

    def service_lock(self) -> OwnedLock:
        """Return the lock that the one service of this queue has."""
        return OwnedLock(self.folder / "service.lock")

    # ------------------------------------------------------------------ what the service does

    def note(self, number: int | None, told: str) -> None:
        """Write a line into the log."""
        with self._changing() as file:
            _note(file, number, told)

    def tell_once(self, key: str) -> bool:
        """Return whether something has not been told yet; from now on it has."""
        with self._changing() as file:
            if _get(file, f"told {key}"):
                return False
            _set(file, f"told {key}", now().isoformat())
            return True

    def start_due(self, number: int, moment: datetime) -> None:
        """Let a job that is due wait for its turn; or note that it was missed. One that recurs gets a job for this start.

        The policy for starts that nobody was there for: a job begins as soon as it can, unless that is after its
        `not_after`; of several missed starts of a job that recurs, only the last is made up for.
        """
        with self._changing() as file:
            job = _job(file, number)
            if job.state != "scheduled" or job.at > moment:
                return
            planned = job.at.astimezone(here())
            if not job.is_recurring or job.clock is None:
                if (late := _too_late(job, planned, moment)) and job.after is None:
                    _replace(file, job, late, state="missed", message=late, ended=moment)
                else:
                    _replace(file, job, "its time has come", state="waiting")
                return
            while (later := next_start(job.clock, job.every, planned)) <= moment:
                _note(file, number, f"the start of {planned:%Y-%m-%d %H:%M} was missed")
                planned = later
            _replace(file, job, f"begins next on {later:%A %Y-%m-%d %H:%M}", at=later)
            if late := _too_late(job, planned, moment):
                _note(file, number, late)
                return
            if waits := [each.number for each in _jobs(file) if each.of == number and each.state == "waiting"]:
                _note(file, number, f"job {waits[0]}, of an earlier start, still waits: no other one is added")
                return
            one = job.model_copy(update={"at": planned, "clock": None, "every": (), "of": number, "state": "waiting"})
            _insert(file, one, f"the start of job {number} on {planned:%Y-%m-%d}")

    def give_up_late_ones(self, moment: datetime) -> None:
        """Note of jobs that wait, and never began, that it is too late for them."""
        with self._changing() as file:
            for job in _jobs(file):
                latest = job.latest
                if job.state == "waiting" and job.begun is None and latest is not None and moment > latest:
                    told = f"it is after {job.not_after:%H:%M}, and it could not begin before"
                    _replace(file, job, told, state="missed", message=told, ended=moment)

    def begin(self, number: int, process: int, started: float) -> Job:
        """Note that a process has begun to do a job.

        Raises
        ------
        ProblemsError
            If the job does not wait to be begun.
        """
        with self._changing() as file:
            job = _job(file, number)
            if job.state != "waiting":
                raise ProblemsError([Problem(f"is {job.state}: it is not begun", key=f"job {number}")])
            told = "begun" if job.begun is None else "goes on"
            began = {"process": process, "process_started": started, "begun": job.begun or now(), "message": ""}
            return _replace(file, job, f"{told}, process {process}", state="running", **began)

    def finish(self, number: int, exit_code: int, message: str, *, was_asked: bool) -> Job:
        """Note that a job's command has ended by itself.

        Parameters
        ----------
        was_asked : bool
            Whether somebody has asked for its end: then an exit code of 130 is no interruption.
        """
        if exit_code == 130 and not (was_asked or self.job(number).is_to_end):
            return self.interrupt(number, "it was interrupted")
        states = {0: "done", 1: "incomplete", 130: "cancelled"}
        with self._changing() as file:
            job = _job(file, number)
            state = states.get(exit_code, "failed")
            told = state + (f": {message}" if message else "")
            ended = {"exit_code": exit_code, "message": message, "ended": now(), "process": None, "quick_ends": 0}
            return _replace(file, job, told, state=state, **ended)

    def fail(self, number: int, why: str) -> Job:
        """Note that a job could not be begun."""
        with self._changing() as file:
            return _replace(file, _job(file, number), f"failed: {why}", state="failed", message=why, ended=now())

    def interrupt(self, number: int, why: str) -> Job:
        """Let a job that was cut short go on; not for ever, if each time it ends as soon as it has begun."""
        moment = now()
        with self._changing() as file:
            job = _job(file, number)
            started = job.process_started
            is_quick = started is not None and moment.timestamp() - started < _QUICK_S
            quick = job.quick_ends + 1 if is_quick else 0
            gone: dict[str, Any] = {"process": None, "process_started": None, "quick_ends": quick}
            if job.is_to_end:
                return _replace(file, job, f"cancelled: {why}", state="cancelled", ended=moment, **gone)
            if quick >= _MOST_QUICK_ENDS:
                told = f"{why}, {quick} times within a minute of its start: it is not begun again"
                return _replace(file, job, told, state="failed", message=told, ended=moment, **gone)
            later = moment + timedelta(seconds=_GOES_ON_AFTER_S)
            gone |= {"not_before": later, "interruptions": job.interruptions + 1}
            return _replace(file, job, f"{why}: it goes on", state="waiting", message=why, **gone)

    def tidy(self) -> None:
        """Forget the oldest jobs that have ended, and the oldest lines of the log."""
        with self._changing() as file:
            ended = [job.number for job in _jobs(file) if not job.is_open]
            old = ended[: max(0, len(ended) - _KEPT_JOBS)]
            file.executemany("delete from jobs where number = ?", [(number,) for number in old])
            file.execute("delete from log where rowid <= (select max(rowid) from log) - ?", (_KEPT_LINES,))
            for number in old:
                self.output_path(number).unlink(missing_ok=True)


def _too_late(job: Job, planned: datetime, moment: datetime) -> str:
    """Return that a start is too late, if it is."""
    if job.not_after is None or moment <= latest_start(planned, job.not_after):
        return ""
    return f"the start of {planned:%Y-%m-%d %H:%M} was missed, and it is after {job.not_after:%H:%M}"


def _read(file: sqlite3.Connection) -> tuple[list[Job], dict[int, str]]:
    """Return the jobs, and for those that cannot be read, by number, why."""
    jobs: list[Job] = []
    unreadable: dict[int, str] = {}
    for number, document in file.execute("select number, document from jobs order by number"):
        try:
            jobs.append(_parsed(number, document))
        except ProblemsError as error:
            unreadable[number] = error.problems[0].message
    return jobs, unreadable


def _jobs(file: sqlite3.Connection) -> list[Job]:
    return _read(file)[0]


def _job(file: sqlite3.Connection, number: int) -> Job:
    question = "select number, document from jobs where number = ?"
    row = file.execute(question, (number,)).fetchone() if _can_be(number) else None
    if row is None:
        raise ProblemsError([Problem("there is no such job; `scotopic queue list` shows all", key=f"job {number}")])
    return _parsed(*row)


def _can_be(number: int) -> bool:
    """Return whether SQLite can have a job of a number."""
    return abs(number) <= MOST_NUMBER


def _parsed(number: int, document: str) -> Job:
    try:
        if number < 1:
            raise ValueError("its number is not greater than 0")
        return Job.model_validate_json(document).model_copy(update={"number": number})
    except ValueError as error:
        why = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            why = (f"{key}: " if key else "") + first["msg"].removeprefix("Value error, ")
        told = f"cannot be read: {why}: written by another version of scotopic, or damaged"
        raise ProblemsError([Problem(told, key=f"job {number}")]) from error


def _insert(file: sqlite3.Connection, job: Job, told: str) -> Job:
    number = file.execute("insert into jobs (document) values (?)", (job.model_dump_json(),)).lastrowid
    _note(file, number, told)
    return job.model_copy(update={"number": number})


def _replace(file: sqlite3.Connection, job: Job, told: str, **values: Any) -> Job:
    changed = Job.model_validate(job.model_dump() | values)
    file.execute("update jobs set document = ? where number = ?", (changed.model_dump_json(), job.number))
    _note(file, job.number, told)
    return changed


def _note(file: sqlite3.Connection, number: int | None, told: str) -> None:
    file.execute("insert into log values (?, ?, ?)", (now().isoformat(timespec="seconds"), number, told))


def _get(file: sqlite3.Connection, key: str) -> str:
    row: Sequence[str] | None = file.execute("select value from facts where key = ?", (key,)).fetchone()
    return row[0] if row else ""


def _set(file: sqlite3.Connection, key: str, value: str) -> None:
    file.execute("insert or replace into facts values (?, ?)", (key, value))
