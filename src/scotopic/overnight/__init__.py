"""Nights without anybody: a queue of jobs, the service that does them, messages to people, and the page to watch from."""

from scotopic.overnight.checks import check_work
from scotopic.overnight.jobs import (
    Job,
    RunWork,
    SegmentWork,
    State,
    TrainWork,
    ValidateWork,
    Work,
    told_work,
)
from scotopic.overnight.queue import Queue, queue_folder
from scotopic.overnight.service import cancel, perform, resume, serve, told_state
from scotopic.overnight.times import Days, now, parse_clock, parse_days, parse_start, told_days

__all__ = [
    "Days",
    "Job",
    "Queue",
    "RunWork",
    "SegmentWork",
    "State",
    "TrainWork",
    "ValidateWork",
    "Work",
    "cancel",
    "check_work",
    "now",
    "parse_clock",
    "parse_days",
    "parse_start",
    "perform",
    "queue_folder",
    "resume",
    "serve",
    "told_days",
    "told_state",
    "told_work",
]
