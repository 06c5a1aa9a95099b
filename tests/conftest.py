from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scotopic.protocol import ImagingProtocol, MicroscopeProfile, read_model

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"


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
