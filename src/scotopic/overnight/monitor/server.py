"""The web server of the monitor: what may be read, what may be asked for, and by whom."""

# No `from __future__ import annotations`: FastAPI reads them, also those with names of a function.

import asyncio
import hashlib
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import uvicorn
import zarr
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic_core import to_json

from scotopic import __version__, workflow
from scotopic.overnight.checks import check_work
from scotopic.overnight.jobs import Job, Number, Work
from scotopic.overnight.monitor.access import LOOPBACK, Access, is_inside, url_host
from scotopic.overnight.monitor.run_view import RunView
from scotopic.overnight.queue import Queue
from scotopic.overnight.service import cancel, resume, told_state
from scotopic.overnight.times import Clock, Days, Moment, told_days
from scotopic.photons import FrozenModel
from scotopic.protocol import Problem, ProblemsError
from scotopic.store.run_folder import Request as RunRequest
from scotopic.store.seals import damaged, is_intact

TOKEN = "SCOTOPIC_MONITOR_TOKEN"  # noqa: S105 - the name of a variable
"""Environment variable: the token, where it is to be the same each time; a new one each time without it."""
_LOOK_S, _STILL_ALIVE_S = 1.0, 15.0
_SHORTEST_TOKEN = 16
_MOST_JOBS_SHOWN = 50
_PAGE_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self'; frame-ancestors 'none'; form-action 'none'"
_REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"


P = ParamSpec("P")
T = TypeVar("T")


class Asked(FrozenModel):
    """What is asked of a run."""

    request: RunRequest
    """Pause, resume, finish after the site, or cancel."""


class NewJob(FrozenModel):
    """A job for the queue."""

    work: Work
    """What is to be done."""
    at: Moment | None = None
    """When it begins, or begins first; as soon as it can without it."""
    every: Days = ()
    """Days of the week on which it begins again: mon, tue, ..."""
    not_after: Clock | None = None
    """Time of day after which it is not begun any more."""
    after: Number | None = None
    """Number of a job that must have ended first."""


class Runs:
    """The runs that may be looked at: those of the queue, and those that were named when the monitor was begun."""

    def __init__(self, queue: Queue, named: Sequence[Path]) -> None:
        self._queue, self._named = queue, [path.absolute() for path in named]
        self._views: dict[str, RunView] = {}

    def views(self) -> dict[str, RunView]:
        """Return the runs, the newest job first, by the name that an address has for them."""
        of_jobs = [job.folder for job in reversed(self._queue.jobs()) if job.work.kind != "segment" and not job.every]
        paths = {run_name(path): path for path in [*self._named, *of_jobs]}
        self._views = {name: self._views.get(name) or RunView(path) for name, path in paths.items()}
        return self._views


def run_name(path: Path) -> str:
    """Return what an address calls a run: nothing from which a path could be made."""
    return hashlib.sha256(str(path).encode()).hexdigest()[:12]


def make_app(queue: Queue, named: Sequence[Path], host: str, port: int, token: str) -> FastAPI:
    """Return the application: pages and JSON to read, and requests, which need a token.

    Parameters
    ----------
    named : sequence of Path
        Runs to show besides those of the queue.
    host, port : str, int
        Address that it is bound to. Reading needs a token too, unless it is of this computer alone.
    """
    runs = Runs(queue, named)
    # One thread reads the runs: C libraries keep some memory for each thread that has read images, and it adds up over a night.
    reading = ThreadPoolExecutor(1, thread_name_prefix="reading")

    async def looked(function: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(reading, partial(function, *args, **more))

    access = Access(host, port, token)
    app = FastAPI(
        title="scotopic", version=__version__, description=(__doc__ or ""), docs_url=None, redoc_url=None,
        openapi_url="/api/openapi.json",
    )  # fmt: skip

    @app.middleware("http")
    async def guarded(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        """Refuse before anything of a request is read but its head."""
        if refusal := access.refusal(request):
            response: Response = JSONResponse({"detail": refusal[1]}, refusal[0])
        else:
            response = await answer(request)
        for name, value in (
            ("Content-Security-Policy", _PAGE_POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Cache-Control", "no-store"),
        ):
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(ProblemsError)
    async def told(_: Request, error: ProblemsError) -> Response:
        return JSONResponse({"detail": "; ".join(map(str, error.problems))}, 409)

    @app.exception_handler(RequestValidationError)
    async def told_of_mistakes(request: Request, error: RequestValidationError) -> Response:
        if request.method == "POST" and "json" not in request.headers.get("content-type", ""):
            return JSONResponse({"detail": "needs JSON, and the header `Content-Type: application/json`"}, 422)
        told = (f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors())
        return JSONResponse({"detail": "; ".join(told)}, 422)

    def run_of(run: str) -> RunView:
        found = runs.views().get(run)
        if found is None:
            raise HTTPException(404, "there is no such run here")
        return found

    Run = Annotated[RunView, Depends(run_of)]  # noqa: N806

    @app.get("/", include_in_schema=False)
    def page(request: Request) -> HTMLResponse:
        is_exchanged = access.brings_token(request)
        knows = is_exchanged or access.has_session(request)
        session = "known" if knows else "former" if access.cookie in request.cookies else ""
        text = (
            _page_file("page.html").replace("{key}", access.key if is_exchanged else "").replace("{session}", session)
        )
        response = HTMLResponse(text)
        if is_exchanged:
            response.set_cookie(access.cookie, access.session, httponly=True, samesite="strict")
        return response

    @app.get("/page.js", include_in_schema=False)
    def script() -> Response:
        return Response(_page_file("page.js"), media_type="text/javascript")

    @app.get("/page.css", include_in_schema=False)
    def style() -> Response:
        return Response(_page_file("page.css"), media_type="text/css")

    @app.get("/api/queue")
    def show_queue() -> dict[str, Any]:
        """Return the jobs, the newest first, whether the queue is paused, and which process does them."""
        return _queue_told(queue)

    @app.post("/api/queue", status_code=201)
    def add_job(new: NewJob) -> Job:
        """Put a job into the queue."""
        check_work(new.work)
        return queue.add(new.work, at=new.at, every=new.every, not_after=new.not_after, after=new.after)

    @app.post("/api/queue/pause")
    def pause_queue() -> dict[str, Any]:
        """Let no job begin; those that are running go on."""
        queue.pause(True)
        return _queue_told(queue)

    @app.post("/api/queue/resume")
    def resume_queue() -> dict[str, Any]:
        """Let jobs begin again."""
        queue.pause(False)
        return _queue_told(queue)

    @app.post("/api/queue/{job}/hold")
    def hold_job(job: int) -> Job:
        """Let a job that waits not begin."""
        return queue.hold(job, True)

    @app.post("/api/queue/{job}/release")
    def release_job(job: int) -> Job:
        """Let it begin."""
        return resume(queue, job)

    @app.post("/api/queue/{job}/retry")
    def retry_job(job: int) -> Job:
        """Go on with a job that has ended."""
        return queue.retry(job)

    @app.post("/api/queue/{job}/cancel")
    def cancel_job(job: int) -> Job:
        """End a running job."""
        cancel(queue, job)
        return queue.job(job)

    @app.delete("/api/queue/{job}", status_code=204)
    def remove_job(job: int) -> None:
        """Take a job that is not running out of the queue."""
        queue.remove(job)

    @app.get("/api/runs")
    async def show_runs() -> list[dict[str, Any]]:
        """Return the runs that can be looked at."""
        return await looked(_runs_told, runs)

    @app.get("/api/runs/{run}")
    async def show_run(run: Run) -> dict[str, Any]:
        """Return how far a run is, well by well, and its training."""
        return await looked(run.snapshot)

    @app.get("/api/runs/{run}/field.png", response_class=Response)
    async def show_field(run: Run) -> Response:
        """Return the newest field with contours."""
        try:
            picture = await looked(run.field_png)
        except Exception as error:  # it is being taken anew, or is damaged: `verify` tells which
            raise HTTPException(404, f"the newest field cannot be read: {error}") from error
        if picture is None:
            raise HTTPException(404, "there is no image yet")
        return Response(picture, media_type="image/png")

    @app.get("/api/runs/{run}/report", response_class=FileResponse)
    def show_report(run: Run) -> FileResponse:
        """Return the report of a run, a page of one file."""
        path = run.path / "report.html"
        if not is_inside(path, run.path) or not path.is_file():
            raise HTTPException(404, "there is no report yet")
        if not is_intact(path.read_bytes()):
            raise ProblemsError([damaged(path)])
        return FileResponse(path.resolve(), media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})

    @app.post("/api/runs/{run}/ask")
    def ask(run: Run, asked: Asked) -> dict[str, Any]:
        """Ask a running acquisition to pause between two sites, to resume, to finish after the site, or to cancel."""
        workflow.ask(run.path, asked.request)
        return {"asked": asked.request}

    @app.get("/api/events", response_class=EventSourceResponse)
    async def events(run: str = "") -> AsyncIterator[ServerSentEvent]:
        """Send queue, runs and one run each time that something in them has changed."""
        before, sent_s = "", 0.0
        while True:
            text = await looked(_state_told, queue, runs, run)
            if text != before:
                before, sent_s = text, time.monotonic()
                yield ServerSentEvent(raw_data=text)
            elif time.monotonic() - sent_s > _STILL_ALIVE_S:
                sent_s = time.monotonic()
                yield ServerSentEvent(comment="still here")
            await asyncio.sleep(_LOOK_S)

    return app


def _state_told(queue: Queue, runs: Runs, run: str) -> str:
    try:
        shown = runs.views().get(run)
        told: dict[str, Any] = {
            "queue": _queue_told(queue),
            "runs": _runs_told(runs),
            "run": None if shown is None else shown.snapshot() | {"id": run},
        }
    except ProblemsError as error:
        told = {"error": str(error)}
    return to_json(told, inf_nan_mode="null", fallback=str).decode()


def _runs_told(runs: Runs) -> list[dict[str, Any]]:
    return [{"id": name, "name": view.path.name, "path": str(view.path)} for name, view in runs.views().items()]


def _queue_told(queue: Queue) -> dict[str, Any]:
    jobs: list[dict[str, Any]] = [
        {"number": number, "state": "unreadable", "seen": "unreadable", "message": why, "what": ""}
        for number, why in queue.unreadable().items()
    ]
    for job in queue.jobs()[: -_MOST_JOBS_SHOWN - 1 : -1]:
        told = job.model_dump(mode="json", exclude={"work", "process", "process_started"})
        seen, why = told_state(job)
        more = {
            "seen": seen,
            "message": why,
            "what": job.told,
            "days": told_days(job.every) if job.every else "",
            "kind": job.work.kind,
            "folder": job.folder.name,
            "run": run_name(job.folder),
        }
        jobs.append(told | more)
    return {"paused": queue.is_paused(), "served_by": queue.served_by(), "jobs": jobs}


def _page_file(name: str) -> str:
    return (files("scotopic.overnight.monitor") / name).read_text(encoding="utf-8")


def monitor(
    queue_folder: Path, named: Sequence[Path], say: Callable[[str], None] = print, *, host: str, port: int
) -> None:
    """Serve the page until it is interrupted; its address, with the token, is said.

    Raises
    ------
    ProblemsError
        If the address cannot be used, the token is too short, or the queue cannot be read.
    """
    token = os.environ.get(TOKEN) or secrets.token_urlsafe(24)
    if len(token) < _SHORTEST_TOKEN:
        raise ProblemsError([Problem(f"is too short: at least {_SHORTEST_TOKEN} characters are needed", key=TOKEN)])
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - refused
        told = f"= {host!r}: name the one address by which the page is to be reached"
        raise ProblemsError([Problem(told, key="--host")])
    queue = Queue(queue_folder)
    zarr.config.set({"threading.max_workers": 1})  # for the same reason as the one thread that reads
    with _bound(host, port) as bound:
        port = bound.getsockname()[1]
        address = f"http://{url_host(host)}:{port}/"
        say(f"open {address}?token={token}")
        if host in LOOPBACK:
            say(f"without the token {address} shows all, but pauses and ends nothing; only this computer reaches it")
        else:
            say(
                "warning: what is sent is not encrypted, the token neither: use it in a network that you trust, or through SSH"
            )
        say("Ctrl-C ends it; runs do not notice")
        app = make_app(queue, named, host, port, token)
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[bound])


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, so that a port that is taken is told before anything begins.

    Raises
    ------
    ProblemsError
        If it cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name != "nt":  # there it lets two servers have one port
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
            bound.listen(128)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        told = f"= {host}:{port}: cannot be used: {error.strerror}; choose another --port"
        raise ProblemsError([Problem(told, key="--host and --port")]) from error
    return bound
