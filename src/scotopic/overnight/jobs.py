"""What a job is, and what keeps it from beginning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field

from scotopic.overnight.times import Clock, Days, Moment, here, latest_start
from scotopic.photons import FrozenModel

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from datetime import datetime

State = Literal["scheduled", "waiting", "running", "done", "incomplete", "failed", "cancelled", "missed"]
OPEN: tuple[State, ...] = ("scheduled", "waiting", "running")
"""States of jobs that have not ended."""
_CORES_A_JOB = 2
DATE = "{date}"
"""Stands for the day of the start, in the folder of a job that begins again and again."""


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    try:
        is_text = b"\0" not in str(path).encode()
    except UnicodeEncodeError:  # a name that was written in another encoding
        is_text = False
    if not is_text:
        raise ValueError("must be a path whose name is text in UTF-8")
    return path


MOST_NUMBER = 2**63 - 1
"""The largest number that SQLite keeps."""
Number = Annotated[int, Field(gt=0, le=MOST_NUMBER)]
"""Number of a job."""
_Count = Annotated[int, Field(ge=0, le=MOST_NUMBER)]
FullPath = Annotated[Path, AfterValidator(_absolute)]
"""A path that means the same from wherever the job is begun."""


class _Work(FrozenModel):
    @property
    def writes_into(self) -> Path:
        """Run or folder that the work writes into."""
        raise NotImplementedError

    @property
    def profile(self) -> Path | None:
        """Profile of the microscope that it drives."""
        return None

    def words(self, day: datetime) -> list[str]:
        """Return the words of the command that does it, begun on a day."""
        raise NotImplementedError


class RunWork(_Work):
    """The whole job: acquire, train, validate, report."""

    kind: Literal["run"] = "run"
    """A run."""
    protocol: FullPath
    """Protocol file."""
    microscope: FullPath
    """Microscope profile."""
    out: FullPath
    """Run folder; `{date}` in it is the day of the start."""
    specimen: FullPath | None = None
    """Folder of images to put under a simulated microscope."""

    @property
    def writes_into(self) -> Path:
        """Run folder."""
        return self.out

    @property
    def profile(self) -> Path | None:
        """Profile of its microscope."""
        return self.microscope

    def words(self, day: datetime) -> list[str]:
        """Return the words of `scotopic run`."""
        words = ["run", self.protocol, "--microscope", self.microscope, "--out", dated(self.out, day)]
        return _texts([*words, *_option("--specimen", self.specimen)])


class TrainWork(_Work):
    """Training on a run that is there, together with others if wanted."""

    kind: Literal["train"] = "train"
    """A training."""
    run: FullPath
    """Run that gets the model."""
    also: tuple[FullPath, ...] = ()
    """Other runs to learn from."""
    minutes: float | None = Field(default=None, gt=0, le=10_000)
    """Budget in minutes, instead of the protocol's."""
    again: bool = True
    """Also where the run has a model already."""

    @property
    def writes_into(self) -> Path:
        """Run that gets the model."""
        return self.run

    def words(self, day: datetime) -> list[str]:
        """Return the words of `scotopic train`."""
        del day
        others = [word for run in self.also for word in ("--also", run)]
        return _texts(["train", self.run, *others, *_option("--minutes", self.minutes), *["--again"] * self.again])


class ValidateWork(_Work):
    """A model judged on the held-out wells of a run."""

    kind: Literal["validate"] = "validate"
    """A validation."""
    run: FullPath
    """Run to judge it on."""
    model: FullPath | None = None
    """Model file; the run's latest without it."""

    @property
    def writes_into(self) -> Path:
        """Run that gets the report."""
        return self.run

    def words(self, day: datetime) -> list[str]:
        """Return the words of `scotopic validate`."""
        del day
        return _texts(["validate", self.run, *_option("--model", self.model)])


class SegmentWork(_Work):
    """Nuclei of folders of images: by a model, or without one by standard image analysis."""

    kind: Literal["segment"] = "segment"
    """A segmentation."""
    images: tuple[FullPath, ...] = Field(min_length=1)
    """Images, folders of images, or runs."""
    out: FullPath
    """Folder for labels, overlays and table; `{date}` in it is the day of the start."""
    model: FullPath | None = None
    """Model file; bright images need none."""
    light: str | None = None
    """Light level of dark images, for example `0.2%`."""
    microscope: FullPath | None = None
    """Profile, for micrometres and photo-electrons. The microscope itself is not driven."""

    @property
    def writes_into(self) -> Path:
        """Folder for what is found."""
        return self.out

    def words(self, day: datetime) -> list[str]:
        """Return the words of `scotopic segment`."""
        how = ["--reference"] if self.model is None else ["--model", self.model]
        options = [*_option("--light", self.light), *_option("--microscope", self.microscope)]
        return _texts(["segment", *self.images, "--out", dated(self.out, day), *how, *options])


Work = Annotated[RunWork | TrainWork | ValidateWork | SegmentWork, Discriminator("kind")]


def _option(name: str, value: object) -> list[Any]:
    return [] if value is None else [name, value]


def _texts(words: Iterable[object]) -> list[str]:
    return [str(word) for word in words]


def dated(path: Path, day: datetime) -> Path:
    """Return a path with the day of a start put in."""
    return Path(str(path).replace(DATE, f"{day:%Y-%m-%d}"))


def told_work(work: RunWork | TrainWork | ValidateWork | SegmentWork, day: datetime | None = None) -> str:
    """Return a job's work in a few words, begun on a day."""
    folder = work.writes_into if day is None else dated(work.writes_into, day)
    match work:
        case RunWork():
            return f"run {work.protocol.name} on {work.microscope.stem} into {folder}"
        case TrainWork():
            return f"train on {' and '.join(map(str, (folder, *work.also)))}"
        case ValidateWork():
            return f"validate {folder}"
    return f"segment {', '.join(path.name for path in work.images)} into {folder}"


class Job(FrozenModel):
    """Work, when it is to be done, and what has become of it."""

    number: Number
    """Number in the queue."""
    work: Work
    """What is to be done."""
    at: Moment
    """When it begins, or begins next; without a time of its own, when it was added."""
    clock: Clock | None = None
    """Time of day at which a job begins that begins again and again."""
    every: Days = ()
    """Days of the week on which it does so."""
    not_after: Clock | None = None
    """Time of day after which it is not begun any more."""
    after: Number | None = None
    """Number of the job that must have ended first, however it ended."""
    of: Number | None = None
    """Number of the job that begins again and again, and of which this is one."""
    held: bool = False
    """It is not to begin as long as this is set."""
    state: State = "waiting"
    """How far it is."""
    message: str = ""
    """Why it is in this state."""
    exit_code: Annotated[int, Field(ge=-MOST_NUMBER, le=MOST_NUMBER)] | None = None
    """Exit code of its command."""
    process: Annotated[int, Field(gt=0, lt=2**32)] | None = None
    """Number of the process that does it."""
    process_started: float | None = None
    """When that process was started, in seconds since the epoch: another one may get its number."""
    begun: Moment | None = None
    """When it was begun first."""
    ended: Moment | None = None
    """When it ended."""
    interruptions: _Count = 0
    """How often it was cut short, and went on."""
    quick_ends: _Count = 0
    """How often, one after the other, it was cut short within a minute of its start."""
    not_before: Moment | None = None
    """It does not go on before this time."""
    is_to_end: bool = False
    """Somebody has asked for its end, which is not to be taken for an interruption."""

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.state in OPEN

    @property
    def is_recurring(self) -> bool:
        """Whether it begins again and again, each time as a job of its own."""
        return bool(self.every)

    @property
    def folder(self) -> Path:
        """Run or folder that it writes into."""
        return dated(self.work.writes_into, self.at)

    @property
    def words(self) -> list[str]:
        """Words of the command that does it."""
        return self.work.words(self.at)

    @property
    def told(self) -> str:
        """What it does, in a few words."""
        return told_work(self.work, None if self.is_recurring else self.at)

    @property
    def latest(self) -> datetime | None:
        """When it is too late to begin."""
        return None if self.not_after is None else latest_start(self.at.astimezone(here()), self.not_after)


def obstacle(
    job: Job,
    jobs: Iterable[Job],
    moment: datetime,
    *,
    paused: bool,
    cores: int,
    has_gpu: bool,
    taken: str = "",
    unreadable: Container[int] = (),
) -> str:
    """Return what keeps a waiting job from beginning; nothing if it may begin.

    One job at a time drives a microscope. Others compute beside it: one for each two cores that no job has, or one where all
    share a GPU, and one in any case where no microscope is driven.

    Parameters
    ----------
    jobs : iterable of Job
        All jobs.
    paused : bool
        Whether the whole queue is paused.
    taken : str
        Who drives the job's microscope, if it is no job.
    unreadable : container of int
        Jobs of which nobody can tell whether they have ended.
    """
    jobs = list(jobs)
    running = [each for each in jobs if each.state == "running"]
    if job.held:
        return "paused"
    if paused:
        return "the queue is paused"
    if job.not_before is not None and moment < job.not_before:
        return f"goes on at {job.not_before.astimezone(moment.tzinfo):%H:%M:%S}"
    if any(each.number == job.after and each.is_open for each in jobs):
        return f"waits for job {job.after}"
    if job.after is not None and job.after in unreadable:
        return f"waits for job {job.after}, which cannot be read; `scotopic queue remove {job.after}` takes it out"
    if others := [each.number for each in running if each.folder == job.folder]:
        return f"waits for job {others[0]}, which works on the same folder"
    if job.work.profile is not None:
        of_it = [each for each in jobs if each.number != job.number and each.work.profile == job.work.profile]
        if drivers := [each.number for each in of_it if each.state == "running"]:
            return f"waits for job {drivers[0]}, which drives the microscope"
        cut_short = [each.number for each in of_it if each.state == "waiting" and each.begun and not each.held]
        if cut_short and job.begun is None:  # its plate lies on the stage
            return f"waits for job {cut_short[0]}, which was cut short and goes on first"
        return f"waits for the microscope, which is driven by {taken}" if taken else ""
    driving = sum(each.work.profile is not None for each in running)
    computing = len(running) - driving
    places = max(cores // _CORES_A_JOB - driving, 0 if driving else 1)
    if computing >= (min(places, 1) if has_gpu else places):
        return "waits for processors that no job has"
    return ""
