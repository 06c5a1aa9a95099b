"""The service: begins jobs when their time has come and what they need is free, and takes over what an earlier one had begun."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil

from scotopic.overnight.jobs import obstacle
from scotopic.overnight.queue import Queue
from scotopic.overnight.schedule import Schedule
from scotopic.overnight.times import now
from scotopic.overnight.watching import Event, RunWatch
from scotopic.protocol import MicroscopeProfile, Problem, ProblemsError, read_model
from scotopic.store import LockedError, RunFolder
from scotopic.workflow.command import begin_apart

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from scotopic.overnight.jobs import Job
    from scotopic.overnight.telling import Teller

logger = logging.getLogger(__name__)
_LOOK_S = 1.0
_SAME_START_S = 1.0
_TIDY_S = 3600.0
_LAST_LINES, _MOST_REASONS = 40, 2
_REASONS = ("error: ", "acquisition ", "missing in the report: ")
"""What the line begins with that says why a command has not ended well."""
_BEGUN = re.compile(r"[-\d]{10} [:\d]{8} scotopic ")
"""What each attempt at a job begins with in its log."""
_LONGEST_END_S = 15.0


def serve(
    folder: Path, say: Callable[[str], None] = print, *, teller: Teller | None = None, until_idle: bool = False
) -> None:
    """Serve a queue until somebody ends it. Jobs that are running then go on by themselves, and the next service takes them over.

    Parameters
    ----------
    folder : Path
        Folder of the queue.
    teller : Teller, optional
        Tells people what happens.
    until_idle : bool
        End once no job is left that could begin.

    Raises
    ------
    ProblemsError
        If another process serves it, or the queue cannot be read or written.
    """
    queue = Queue(folder)
    lock = queue.service_lock()
    try:
        lock.acquire()
    except LockedError as error:
        raise ProblemsError([Problem(f"this queue is served by {error}", str(folder))]) from error
    except OSError as error:
        raise ProblemsError([Problem(f"the queue cannot be written: {error.strerror}", str(folder))]) from error
    try:
        with _ended_by_signals() as ended, Schedule(folder, queue) as schedule:
            service = _Service(queue, say, teller)
            service.take_over()
            told = ""
            while not ended.wait(_LOOK_S):
                try:
                    schedule.follow()
                    service.look()
                    told = ""
                except Exception as error:  # whatever it is, a later look may fare better: a full disk is freed
                    if told != (told := f"{type(error).__name__}: {error}"):  # not each second
                        logger.exception("the service goes on, but")
                if until_idle and service.is_idle():
                    break
            going = service.under_way()
            told = " and ".join(f"job {number}" for number in going)
            say(
                "the service ends"
                + (f"; {told}: under way without it, until the next service takes over" if going else "")
            )
    finally:
        lock.release()


class _Beginning:
    """A process that was begun for a job, and what the job was before."""

    def __init__(self, child: subprocess.Popen[bytes], job: Job) -> None:
        self.child, self.before = child, (job.state, job.begun, job.interruptions)


class _Service:
    def __init__(self, queue: Queue, say: Callable[[str], None], teller: Teller | None) -> None:
        self._queue, self._say, self._teller = queue, say, teller
        self._children: list[subprocess.Popen[bytes]] = []
        self._beginning: dict[int, _Beginning] = {}
        self._watches: dict[int, RunWatch] = {}
        self._states: dict[int, str] = {}
        self._reasons: dict[int, str] = {}
        self._tidied_s = -_TIDY_S
        self._has_gpu = shutil.which("nvidia-smi") is not None

    def take_over(self) -> None:
        """Say what an earlier service has left."""
        jobs = self._queue.jobs()
        self._states = {job.number: job.state for job in jobs}
        running = [job for job in jobs if job.state == "running"]
        self._say(
            f"queue {self._queue.folder}: {sum(job.is_open for job in jobs)} jobs to do, {len(running)} under way"
        )

    def look(self) -> None:
        """Do what is to be done now."""
        moment = now()
        self._children = [child for child in self._children if child.poll() is None]  # else they stay behind as zombies
        self._fail_what_cannot_begin()
        self._interrupt_the_dead()
        self._queue.give_up_late_ones(moment)
        self._begin_what_may(moment)
        self._tell()
        if time.monotonic() - self._tidied_s > _TIDY_S:
            self._tidied_s = time.monotonic()
            self._queue.tidy()

    def is_idle(self) -> bool:
        """Return whether nothing is left to do."""
        return not any(job.is_open and not job.is_recurring for job in self._queue.jobs())

    def under_way(self) -> list[int]:
        """Return the jobs that are running, or are just being begun."""
        running = {job.number for job in self._queue.jobs() if job.state == "running"}
        return sorted(running | self._beginning.keys())

    def _interrupt_the_dead(self) -> None:
        for job in self._queue.jobs():
            if job.state == "running" and not _lives(job):
                with suppress(ProblemsError):  # it may have ended by itself this moment
                    if self._queue.job(job.number).state == "running":
                        self._queue.interrupt(job.number, f"process {job.process} was gone")

    def _begin_what_may(self, moment: datetime) -> None:
        jobs, paused, unreadable = self._queue.jobs(), self._queue.is_paused(), self._queue.unreadable()
        for number, why in unreadable.items():
            self._say_once(number, why)
        # Those that were cut short go on before others begin, and runs begin before what may only run beside them.
        for job in sorted(jobs, key=lambda each: (each.begun is None, each.work.profile is None, each.number)):
            if job.state != "waiting" or job.number in self._beginning:
                continue
            others = [
                each.model_copy(update={"state": "running"}) if each.number in self._beginning else each
                for each in jobs
            ]
            computer: dict[str, Any] = {"cores": os.cpu_count() or 1, "has_gpu": self._has_gpu}
            why_not = partial(obstacle, job, others, moment, paused=paused, unreadable=unreadable, **computer)
            with self._by_itself(job):
                if reason := why_not() or why_not(taken=_driver(job)):  # the profile is read only if it must be
                    self._say_once(job.number, reason)
                    continue
                self._begin(job)

    def _begin(self, job: Job) -> None:
        words = ["queue", "--queue", str(self._queue.folder), "perform", str(job.number)]
        self._reasons.pop(job.number, None)
        child = begin_apart(words, self._queue.output_path(job.number))
        self._children.append(child)
        self._beginning[job.number] = _Beginning(child, job)

    def _fail_what_cannot_begin(self) -> None:
        """Note of jobs whose process ended before it could say that it has begun why that is; what it said is in their log."""
        for number, beginning in list(self._beginning.items()):
            has_ended = beginning.child.poll() is not None  # asked first: what it says comes before its end
            with suppress(ProblemsError):  # somebody has removed it
                job = self._queue.job(number)
                if (job.state, job.begun, job.interruptions) == beginning.before:
                    if not has_ended:
                        continue
                    self._queue.fail(number, f"its process could not begin: {_last_words(self._queue, number)}")
            del self._beginning[number]

    def _say_once(self, number: int, reason: str) -> None:
        if self._reasons.get(number) != reason:
            self._reasons[number] = reason
            self._say(f"job {number} {reason}")

    @contextmanager
    def _by_itself(self, job: Job) -> Iterator[None]:
        """Let what goes wrong with a job, whatever it is, keep no other one from its turn."""
        try:
            yield
        except Exception as error:
            self._say_once(job.number, f"is left for a later look: {type(error).__name__}: {error}")

    def _tell(self) -> None:
        """Say what has changed, and tell people what they want to know."""
        for job in self._queue.jobs():
            before, self._states[job.number] = self._states.get(job.number), job.state
            if before != job.state:
                self._say(f"job {job.number} {job.state}" + (f": {job.message}" if job.message else ""))
                if job.state in {"failed", "incomplete", "missed"}:
                    what = f"job {job.number} is {job.state}: {job.message or 'no reason was given'}"
                    self._tell_people(Event("failure", f"{job.number} {job.ended}", job.folder.name, what))
            if job.work.kind != "segment" and job.begun is not None:
                with self._by_itself(job):
                    self._watch(job)

    def _watch(self, job: Job) -> None:
        """Tell people what has happened in the run of a job."""
        if job.state == "running" or job.number in self._watches:
            since = job.begun or job.at
            watch = self._watches.setdefault(job.number, RunWatch(job.folder, since))
            if job.state != "running":
                del self._watches[job.number]
            for event in watch.look():
                self._tell_people(event)

    def _tell_people(self, event: Event) -> None:
        if self._teller is not None and self._queue.tell_once(event.key):
            self._queue.note(None, f"told: {event.title}: {event.text}")
            self._teller.tell(event)


def _lives(job: Job) -> bool:
    """Return whether the process that does a job lives. Another one may have got its number: it was started at another time."""
    if job.process is None or job.process_started is None:
        return False
    try:
        process = psutil.Process(job.process)
        same = abs(process.create_time() - job.process_started) < _SAME_START_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _driver(job: Job) -> str:
    """Return which process outside of the queue drives a job's microscope; nothing if none does, or the profile cannot be read."""
    path = job.work.profile
    if path is None:
        return ""
    from scotopic.microscope import driven_by

    try:
        return driven_by(read_model(path, MicroscopeProfile), path)
    except ProblemsError:
        return ""  # the job itself tells what is wrong with it


def cancel(queue: Queue, number: int) -> None:
    """Ask a running job to end: a run before its next exposure, anything else as Ctrl-C would.

    Raises
    ------
    ProblemsError
        If it is not running.
    """
    job = queue.end(number)
    run = RunFolder(job.folder)
    if job.work.kind == "run" and run.exists and run.is_locked():
        run.ask("cancel")
    elif _lives(job):
        # A process that was begun apart hears no Ctrl-C; what it has begun ends with it, and goes on from its last checkpoint.
        with suppress(psutil.Error):  # it ended this moment
            process = psutil.Process(job.process)
            process.terminate()
            process.wait(_LONGEST_END_S)
    if not _lives(job) and queue.job(number).state == "running":
        queue.interrupt(number, "its process has ended")  # no service may be there to see it


def told_state(job: Job) -> tuple[str, str]:
    """Return the state of a job and why it is in it, as somebody sees them who looks at its run too."""
    try:
        return _told_state(job)
    except (OSError, ValueError) as error:
        return job.state, f"its run cannot be looked at: {error}"


def _told_state(job: Job) -> tuple[str, str]:
    if job.held and job.is_open:
        return "paused", job.message
    if job.state == "running" and not _lives(job):
        return "cut short", "its process is gone; the service goes on with it"
    if job.work.kind == "run" and job.state in {"running", "waiting"} and job.begun is not None:
        run = RunFolder(job.folder)
        status = run.read_status("acquire") if job.state == "running" else {}
        if status.get("state") == "paused":
            return "paused", str(status.get("message", ""))
        if job.state == "waiting" and run.request() == "pause":
            return "paused", "it was paused before it was cut short"
    return job.state, job.message


def resume(queue: Queue, number: int) -> Job:
    """Let a job that waits begin, and not in a pause that it was cut short in.

    Raises
    ------
    ProblemsError
        If there is no such job, or it has ended.
    """
    job = queue.hold(number, False)
    run = RunFolder(job.folder)
    if job.work.kind == "run" and run.request() == "pause":
        run.forget_request()
    return job


def perform(folder: Path, number: int, command: Callable[[list[str]], int]) -> int:
    """Do a job in this process, and note how it has ended.

    Parameters
    ----------
    command : callable
        Takes the words of a command of scotopic, and returns its exit code.

    Raises
    ------
    ProblemsError
        If the job does not wait to be begun.
    """
    queue, me = Queue(folder), psutil.Process()
    job = queue.begin(number, me.pid, me.create_time())
    words = job.words
    sys.argv[1:] = words  # what others are told who wait for a lock of ours
    sys.stderr.write(f"{now():%Y-%m-%d %H:%M:%S} scotopic {' '.join(words)}\n")
    code = command(words)
    queue.finish(number, code, _last_words(queue, number) if code else "", was_asked=_was_asked(job))
    return code


def _last_words(queue: Queue, number: int) -> str:
    """Return why a command has not ended well, by its own words."""
    path = queue.output_path(number)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    begun = max((number for number, line in enumerate(lines) if _BEGUN.match(line)), default=0)
    lines = lines[max(begun, len(lines) - _LAST_LINES) :]
    told = [line for line in lines if line.startswith(_REASONS) and line != "acquisition completed"]
    return "; ".join(dict.fromkeys(told[:_MOST_REASONS] or lines[-1:] or ["it said nothing"])).removeprefix("error: ")


def _was_asked(job: Job) -> bool:
    """Return whether somebody has asked the run of a job to end, through its folder."""
    return RunFolder(job.folder).read_status("acquire").get("ended_by") == "request"


@contextmanager
def _ended_by_signals() -> Iterator[threading.Event]:
    """Let Ctrl-C, a polite kill and a shutdown set an event."""
    ended, before = threading.Event(), {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            number = getattr(signal, name)
            before[number] = signal.signal(number, lambda *_: ended.set())
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
