from __future__ import annotations

import json
import os
import signal
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scotopic.microscope import acquire, prepare_run
from scotopic.protocol import ImagingProtocol, MicroscopeProfile, read_model
from scotopic.store import JsonLines, Ledger
from scotopic.workflow import segment_run

if TYPE_CHECKING:
    from collections.abc import Iterator

for _name, _handler in (
    ("SIGINT", signal.default_int_handler),
    ("SIGQUIT", signal.SIG_DFL),
    ("SIGHUP", signal.SIG_DFL),  # `nohup`
):
    # A shell starts background jobs deaf to these, and processes inherit that: tests send them.
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _name), _handler)

if _worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Tests beside each other drive microscopes of the same name: each process of tests has locks of its own.
    os.environ["PROGRAMDATA"] = tempfile.mkdtemp(prefix=f"scotopic-tests-{_worker}-")

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"


def rewrite_json(path: Path, values) -> None:
    """Write a file of a run as an earlier version did, without a seal: a wrong seal would give the change away."""
    path.write_text(json.dumps(without_seal(values)), encoding="utf-8")


def rewrite_lines(path: Path, lines) -> None:
    path.write_text("".join(json.dumps(without_seal(line)) + "\n" for line in lines), encoding="utf-8")


def without_seal(values):
    return {key: value for key, value in values.items() if key != "seal"}


@dataclass
class Job:
    """A protocol, a profile, and the files they came from."""

    protocol: ImagingProtocol
    protocol_path: Path
    profile: MicroscopeProfile
    profile_path: Path


def load_job(protocol: str, microscope: str) -> Job:
    protocol_path = ROOT / "protocols" / f"{protocol}.yaml"
    profile_path = ROOT / "hardware_configs" / f"{microscope}.yaml"
    return Job(
        read_model(protocol_path, ImagingProtocol),
        protocol_path,
        read_model(profile_path, MicroscopeProfile),
        profile_path,
    )


@pytest.fixture(params=["demo", "simulated"])
def job(request: pytest.FixtureRequest) -> Iterator[Job]:
    """The quickstart protocol on each of the microscopes that run here."""
    return load_job("quickstart", request.param)


def small(microscope: str, faults=(), **protocol) -> Job:
    """Two wells of two sites, quick to retry."""
    job = load_job("quickstart", microscope)
    changes = {"wells": "B2:B3", "held_out": 1, "sites": {"rows": 1, "columns": 2}} | protocol
    job.protocol = ImagingProtocol.model_validate(job.protocol.model_dump() | changes)
    data = job.profile.model_dump(mode="json")
    data["verification"] |= {"retry_delay_ms": 1, "stop_after_failures": 2}
    if data["simulator"]:
        data["simulator"]["faults"] = list(faults)
    job.profile = MicroscopeProfile.model_validate(data)
    return job


def acquired(job: Job, out, core=None):
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, out)
    try:
        return run, acquire(job.protocol, job.profile, job.profile_path, run, core=core)
    finally:
        run.unlock()


@contextmanager
def no_line_after(count: int) -> Iterator[None]:
    """Let the ledger take no line after so many, as if the run were killed there; the light goes on for a while."""

    def append(self, records, **more):
        if len(self.read()) == count:
            raise OSError("no further line is written")
        JsonLines.append(self, records, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "append", append)
        yield


def is_dark(core, job: Job) -> bool:
    source = job.profile.light_source("DAPI")
    return float(core.getProperty(source.device, source.property)) == 0 and not core.getShutterOpen()


@pytest.fixture(scope="session")
def segmented_plate(tmp_path_factory) -> Path:
    """A run of four wells of two sites with reference masks, made once; to be copied before it is changed."""
    training = {"steps": 4, "threads": 2, "dtype": "float32", "least_f1": 0}  # nothing is learned in four steps
    job = small("simulated", wells="B2:B5", held_out="B3", training=training)
    run, _ = acquired(job, tmp_path_factory.mktemp("runs") / "run")
    segment_run(run.path, lambda _: None, workers=1)
    return run.path
