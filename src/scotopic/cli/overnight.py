"""Commands for nights without anybody: queue, service, messages, and the page to watch from."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scotopic.cli.common import fail, told_in_one_line

if TYPE_CHECKING:
    from datetime import datetime

    from scotopic.overnight import Job, Queue, RunWork, SegmentWork, TrainWork, ValidateWork

queue_app = typer.Typer(
    no_args_is_help=True, help="Jobs to be done one after the other, or at a time: runs, trainings."
)
service_app = typer.Typer(no_args_is_help=True, help="The process that does the jobs of the queue.")

QueueFolder = Annotated[
    Path | None,
    typer.Option("--queue", envvar="SCOTOPIC_QUEUE", help="Folder of the queue; this user's own without it."),
]
Number = Annotated[int, typer.Argument(metavar="JOB", help="Number of the job.")]
At = Annotated[
    str | None, typer.Option(help="When to begin: 22:00, or '2026-11-28 22:00'; as soon as it can without it.")
]
Every = Annotated[
    str | None, typer.Option(help="Begin again on each day, weekday, weekend, or on days such as mon,thu (--at).")
]
NotAfter = Annotated[
    str | None, typer.Option(help="Time of day after which it is not begun any more, for example 07:00.")
]
After = Annotated[int | None, typer.Option(help="Job that must have ended first, however it ended.")]
_folder: list[Path] = []


@queue_app.callback()
def _queue_options(queue: QueueFolder = None) -> None:
    _folder[:] = [queue] if queue is not None else []


def _queue() -> Queue:
    from scotopic.overnight import Queue, queue_folder

    return Queue(_folder[0].absolute() if _folder else queue_folder())


def _put(
    work: RunWork | TrainWork | ValidateWork | SegmentWork,
    at: str | None,
    every: str | None,
    not_after: str | None,
    after: int | None,
) -> None:
    """Put a job into the queue, and say when it begins."""
    from scotopic.overnight import check_work, now, parse_clock, parse_days, parse_start

    for warning in check_work(work):
        typer.echo(f"warning: {warning}")
    days = parse_days(every) if every else ()
    begin = parse_start(at, days, now()) if at else None
    queue = _queue()
    job = queue.add(
        work,
        at=begin,
        every=days,
        not_after=parse_clock(not_after, "--not-after") if not_after else None,
        after=after,
    )
    typer.echo(f"job {job.number}: {_when(job)}")
    if not queue.served_by():
        typer.echo("no service does the jobs yet: `scotopic service run`, or `scotopic service install` for each boot")


def _when(job: Job) -> str:
    from scotopic.overnight import now, told_days

    zone = now().tzinfo
    told = (
        f"begins on {job.at.astimezone(zone):%A %Y-%m-%d at %H:%M}"
        if job.state == "scheduled"
        else "begins as soon as it can"
    )
    if job.latest is not None:
        told += f", not after {job.latest.astimezone(zone):%A at %H:%M}"
    if job.after is not None:
        told += f", once job {job.after} has ended"
    return told + (f"; and so on each {told_days(job.every)}" if job.every else "")


@queue_app.command("add")
def queue_add(
    protocol: Annotated[Path, typer.Argument(metavar="PROTOCOL", help="Protocol file (YAML).")],
    microscope: Annotated[Path, typer.Option("--microscope", "-m", help="Microscope profile (YAML).")],
    out: Annotated[Path, typer.Option(help="Run folder; {date} in it is the day of the start.")],
    specimen: Annotated[
        Path | None, typer.Option(help="Folder of bright images to put under a simulated microscope.")
    ] = None,
    at: At = None,
    every: Every = None,
    not_after: NotAfter = None,
    after: After = None,
) -> None:
    """Add a run: the whole job of `scotopic run`. Protocol and profile are checked now, and again when it begins."""
    from scotopic.overnight import RunWork

    with told_in_one_line():
        paths = {"protocol": protocol, "microscope": microscope, "out": out, "specimen": specimen}
        full = {name: path.absolute() for name, path in paths.items() if path is not None}
        _put(RunWork.model_validate(full), at, every, not_after, after)


@queue_app.command("train")
def queue_train(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run that gets the model.")],
    also: Annotated[list[Path] | None, typer.Option(help="Another run to learn from too.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Budget instead of the protocol's.")] = None,
    at: At = None,
    every: Every = None,
    not_after: NotAfter = None,
    after: After = None,
) -> None:
    """Add a training on runs that are there, or that are there by then: another model, which must be better to be used."""
    from scotopic.overnight import TrainWork

    with told_in_one_line():
        others = tuple(path.absolute() for path in also or ())
        work = TrainWork(run=run_folder.absolute(), also=others, minutes=minutes)
        _put(work, at, every, not_after, after)


@queue_app.command("validate")
def queue_validate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run to judge a model on.")],
    model: Annotated[Path | None, typer.Option(help="Model file; the run's latest without it.")] = None,
    at: At = None,
    every: Every = None,
    not_after: NotAfter = None,
    after: After = None,
) -> None:
    """Add a validation: report.json and report.html."""
    from scotopic.overnight import ValidateWork

    with told_in_one_line():
        work = ValidateWork(run=run_folder.absolute(), model=model.absolute() if model else None)
        _put(work, at, every, not_after, after)


@queue_app.command("segment")
def queue_segment(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Images, folders of images, or runs.")],
    out: Annotated[Path, typer.Option(help="Folder for labels and table; {date} in it is the day of the start.")],
    model: Annotated[Path | None, typer.Option(help="Model file; by standard image analysis without it.")] = None,
    light: Annotated[str | None, typer.Option(help="Light level of the images, for example 0.2% (--model).")] = None,
    microscope: Annotated[
        Path | None, typer.Option("--microscope", "-m", help="Profile, for micrometres and photo-electrons.")
    ] = None,
    at: At = None,
    every: Every = None,
    not_after: NotAfter = None,
    after: After = None,
) -> None:
    """Add a segmentation of folders of images."""
    from scotopic.overnight import SegmentWork

    with told_in_one_line():
        work = SegmentWork(
            images=tuple(path.absolute() for path in images),
            out=out.absolute(),
            model=model.absolute() if model else None,
            light=light,
            microscope=microscope.absolute() if microscope else None,
        )
        _put(work, at, every, not_after, after)


@queue_app.command("list")
def queue_list() -> None:
    """Show all jobs, and what those wait for that have not begun."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from scotopic.overnight import now, told_state

    with told_in_one_line():
        queue = _queue()
        jobs, unreadable, moment, is_paused = queue.jobs(), queue.unreadable(), now(), queue.is_paused()
        opened = {job.number for job in jobs if job.is_open}
        here = str(Path.cwd()) + os.sep
        table = Table("job", "state", "when", "what", "why", box=None, padding=(0, 2, 0, 0))
        for job in jobs:
            state, why = told_state(job)
            if state in {"waiting", "scheduled"} and not why:
                why = f"after job {job.after}" if job.after in opened else "the queue is paused" if is_paused else ""
            cells = str(job.number), state, _times(job, moment), job.told.replace(here, ""), why
            table.add_row(*map(escape, cells))
        for number, why in unreadable.items():
            table.add_row(str(number), "unreadable", "", "", escape(why))
        if table.rows:  # a line for each job where it is not for eyes alone
            Console(highlight=False, width=None if sys.stdout.isatty() else 1000).print(table)
        else:
            typer.echo("The queue is empty.")
        if is_paused:
            typer.echo("The queue is paused: `scotopic queue resume`.")
        served = queue.served_by()
        typer.echo(f"Served by {served}." if served else "No service does the jobs: `scotopic service run`.")


def _times(job: Job, moment: datetime) -> str:
    """Return when a job begins, has begun, or ended."""
    from scotopic.overnight import told_days

    def shown(at: datetime) -> str:
        there = at.astimezone(moment.tzinfo)
        return f"{there:%a %d %b %H:%M}" if there.year == moment.year else f"{there:%a %d %b %Y %H:%M}"

    days = f", every {told_days(job.every)}" if job.every else ""
    latest = f", not after {job.latest.astimezone(moment.tzinfo):%a %H:%M}" if job.latest else ""
    if job.ended is not None:
        return shown(job.ended)
    if job.begun is not None:
        return f"since {shown(job.begun)}"
    return f"{shown(job.at)}{latest}{days}" if job.state == "scheduled" else ""


@queue_app.command("remove")
def queue_remove(job: Number) -> None:
    """Take a job out of the queue. What it has written stays."""
    with told_in_one_line():
        _queue().remove(job)
    typer.echo(f"job {job} is removed")


@queue_app.command("pause")
def queue_pause(job: Annotated[int | None, typer.Argument(metavar="[JOB]", help="Number of the job.")] = None) -> None:
    """Let no job begin, or pause one: a run under way pauses between two sites, in the dark."""
    _pause_or_resume(job, paused=True)


@queue_app.command("resume")
def queue_resume(job: Annotated[int | None, typer.Argument(metavar="[JOB]", help="Number of the job.")] = None) -> None:
    """Let jobs begin again, or let one go on."""
    _pause_or_resume(job, paused=False)


def _pause_or_resume(number: int | None, *, paused: bool) -> None:
    from scotopic import workflow
    from scotopic.overnight import resume
    from scotopic.protocol import Problem
    from scotopic.store import RunFolder

    with told_in_one_line():
        queue = _queue()
        if number is None:
            queue.pause(paused)
        elif (job := queue.job(number)).state == "running":
            if paused and not RunFolder(job.folder).is_locked():
                told = f"acquires nothing at present, and only that can be paused; `scotopic queue cancel {number}` ends it"
                fail([Problem(told, key=f"job {number}")])
            workflow.ask(job.folder, "pause" if paused else "resume")
        elif paused:
            queue.hold(number, True)
        else:
            resume(queue, number)
    what = "the queue" if number is None else f"job {number}"
    typer.echo(f"{what} {'is paused' if paused else 'goes on'}")


@queue_app.command("cancel")
def queue_cancel(job: Number) -> None:
    """End a running job before its time; `queue retry` goes on with it. The light of a run is off."""
    from scotopic.overnight import cancel

    with told_in_one_line():
        cancel(_queue(), job)
    typer.echo(f"job {job} was asked to end")


@queue_app.command("retry")
def queue_retry(job: Number) -> None:
    """Go on with a job that has ended before it was done. Finished sites are not exposed again."""
    with told_in_one_line():
        _queue().retry(job)
    typer.echo(f"job {job} begins as soon as it can")


@queue_app.command("log")
def queue_log(
    job: Annotated[int | None, typer.Argument(metavar="[JOB]", help="Number of the job; all without it.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 50,
) -> None:
    """Show what has become of the queue, or of a job, and the last lines that a job has said."""
    with told_in_one_line():
        queue = _queue()
        if job is not None and not queue.log(job, 1):
            queue.job(job)
        for entry in queue.log(job, lines):
            which = f"job {entry.number}: " if entry.number is not None and job is None else ""
            typer.echo(f"{entry.time[:19].replace('T', ' ')} {which}{entry.told}")
        if job is not None and (path := queue.output_path(job)).exists():
            typer.echo(f"--- {path}")
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]:
                typer.echo(line)


@queue_app.command("perform", hidden=True)
def queue_perform(job: Number) -> None:
    """Do a job in this process: what the service begins."""
    from scotopic.overnight import perform

    with told_in_one_line():
        code = perform(_queue().folder, job, _command)
    raise typer.Exit(code)


def _command(words: list[str]) -> int:
    """Do a command of scotopic, and return its exit code."""
    from scotopic.cli import app

    try:
        app(words, prog_name="scotopic")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


@service_app.command("run")
def service_run(
    queue: QueueFolder = None,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="End when no job is left to do.")] = False,
) -> None:
    """Do the jobs of the queue until Ctrl-C. Runs under way go on by themselves then; the next service takes them over."""
    from scotopic.overnight import now, queue_folder, serve
    from scotopic.overnight.telling import teller

    def say(line: str) -> None:
        typer.echo(f"{now():%Y-%m-%d %H:%M:%S} {line}")

    with told_in_one_line():
        to = teller()
        if to is not None:
            say(f"people are told by {', '.join(to.names)}")
        try:
            serve(queue.absolute() if queue else queue_folder(), say, teller=to, until_idle=until_idle)
        finally:
            if to is not None:
                to.close()


@service_app.command("install")
def service_install(
    queue: QueueFolder = None,
    yes: Annotated[bool, typer.Option("--yes", help="Write the files and give the commands.")] = False,
) -> None:
    """Show what the operating system needs to begin the service at boot; with --yes, do it."""
    from scotopic.overnight import queue_folder
    from scotopic.overnight.boot import install

    with told_in_one_line():
        install(queue.absolute() if queue else queue_folder(), typer.echo, really=yes)


def notify() -> None:
    """Send a test message to all that SCOTOPIC_NOTIFY names, Apprise addresses of mail, Slack, Teams, Telegram and others."""
    from scotopic.overnight.telling import ADDRESSES, teller
    from scotopic.overnight.watching import Event
    from scotopic.protocol import Problem

    with told_in_one_line():
        to = teller()
        if to is None:
            told = "no address: set it, or `keyring set scotopic notify`; see https://github.com/caronc/apprise/wiki"
            fail([Problem(told, key=ADDRESSES)])
        with to:
            taken = to.send(Event("test", "", "test", "If you read this, scotopic can tell you how a night goes."))
            typer.echo(("sent to " if taken else "could not be sent to all of ") + ", ".join(to.names))
    raise typer.Exit(0 if taken else 1)


def monitor(
    run_folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Runs to show, besides those of the queue.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to be reached by; of this computer alone without it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; any free one for 0.")] = 8710,
    queue: QueueFolder = None,
) -> None:
    """Serve a page that shows runs and the queue, pauses and ends them; and the same as JSON (/api/openapi.json).

    It reads run folders only: a run does not notice it. SCOTOPIC_MONITOR_TOKEN sets the token.
    """
    from scotopic.overnight import queue_folder
    from scotopic.protocol import Problem

    with told_in_one_line():
        try:
            from scotopic.overnight.monitor import monitor as serve_page
        except ImportError:
            fail([Problem("needs pip install 'scotopic[overnight]'", key="the monitor")])
        folder = queue.absolute() if queue else queue_folder()
        serve_page(folder, run_folders or [], typer.echo, host=host, port=port)
