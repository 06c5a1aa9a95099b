"""When jobs are due: a scheduler with a store of its own, which follows the queue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scotopic.overnight.queue import Queue
from scotopic.overnight.times import now
from scotopic.protocol import Problem, ProblemsError

if TYPE_CHECKING:
    from typing import Self


class Schedule:
    """Starts of a queue's jobs in APScheduler, whose store (`schedule.sqlite`) outlives the service.

    Each start is a moment: which one is next is reckoned by `times`, for APScheduler's own trigger for times of day fires
    twice in the night in which clocks go back. A start that nobody was there for comes as soon as somebody is.
    """

    def __init__(self, folder: Path, queue: Queue) -> None:
        try:
            from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
            from apscheduler.schedulers.background import BackgroundScheduler
        except ImportError as error:
            raise ProblemsError([Problem("needs pip install 'scotopic[overnight]'", key="the queue")]) from error
        self._folder, self._queue = folder, queue
        store = SQLAlchemyJobStore(url=f"sqlite:///{(folder / 'schedule.sqlite').as_posix()}")
        defaults = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        self._scheduler = BackgroundScheduler(jobstores={"default": store}, job_defaults=defaults, timezone="UTC")

    def __enter__(self) -> Self:
        """Begin.

        Raises
        ------
        ProblemsError
            If its store cannot be read or written.
        """
        from sqlalchemy.exc import SQLAlchemyError

        try:
            self._scheduler.start()
        except SQLAlchemyError as error:
            why = str(error).partition("\n")[0]
            told = f"cannot be read or written: {why}; delete it: the queue itself knows all starts"
            raise ProblemsError([Problem(told, str(self._folder / "schedule.sqlite"))]) from error
        self.follow()
        return self

    def __exit__(self, *_: object) -> None:
        self._scheduler.shutdown(wait=True)

    def follow(self) -> None:
        """Take over what has changed in the queue, and look at the clock: somebody may have set it."""
        wanted = {str(job.number): job.at for job in self._queue.jobs() if job.state == "scheduled"}
        there = {each.id: each for each in self._scheduler.get_jobs()}
        for name in there.keys() - wanted.keys():
            self._scheduler.remove_job(name)
        for name, at in wanted.items():
            known = there.get(name)
            if known is None or known.trigger.run_date != at:
                self._scheduler.add_job(
                    start, "date", run_date=at, args=(str(self._folder), int(name)), id=name, replace_existing=True
                )
        self._scheduler.wakeup()


def start(folder: str, number: int) -> None:
    """Let a job of a queue begin, whose time has come."""
    Queue(Path(folder)).start_due(number, now())
