"""To begin a run, or to go on with one: only as it was begun, and only where its record is whole."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from scotopic.protocol import Problem, ProblemsError
from scotopic.store import FrameRecord, RunFolder, differing_keys, finished_sites, read_frame

if TYPE_CHECKING:
    from pathlib import Path

    from scotopic.protocol import ImagingProtocol, MicroscopeProfile
    from scotopic.store import PlateStore

logger = logging.getLogger(__name__)

_SITES_CHECKED = 2
"""So many of the sites that were finished last are read again before a run goes on."""
_ASKED = ("index", "well", "site", "level", "t", "z", "attempt", "exposure_ms", "led_percent", "xy_um", "z_um")
"""What a ledger line says of what was asked for."""
_HARMLESS = (
    "protocol.name",
    "protocol.description",
    "protocol.labels",
    "protocol.light_budget_s",
    "protocol.training",
    "protocol.live.model",
    "profile.name",
    "profile.objective",
    "profile.config",
)
"""What can be changed while a run is under way: the images do not depend on it (of the configuration, the lines count)."""
_SPECIMEN_FOLDER = "profile.simulator.specimen.folder"


def prepare_run(
    protocol_path: Path, profile_path: Path, protocol: ImagingProtocol, profile: MicroscopeProfile, out: Path
) -> RunFolder:
    """Return the locked run folder of a job: a new one, or one that was begun with the same protocol and profile.

    Raises
    ------
    ProblemsError
        If the folder holds another run (saying which key differs), or another process has it.
    """
    run = RunFolder(out)
    run.lock()
    try:
        if (
            run.request() != "pause"
        ):  # what somebody has paused stays paused, however it ended and whoever begins it again
            run.forget_request()  # it was meant for an acquisition before this one
        if run.exists:
            _refuse_another_run(run, protocol, profile, profile.config_path(profile_path))
            run.plate(protocol, profile)  # damaged metadata are told before another process stumbles over them
        else:
            if remains := run.remains():
                raise ProblemsError(
                    [Problem(f"holds {', '.join(remains)}, but no job.json: no run goes on from that", str(run.path))]
                )
            run.begin(protocol, profile, protocol_path, profile_path)
    except BaseException:
        run.unlock()
        raise
    return run


def _refuse_another_run(
    run: RunFolder, protocol: ImagingProtocol, profile: MicroscopeProfile, config_path: Path
) -> None:
    problems, edits = [], []
    if differs_in := run.differing_config_line(config_path):
        problems.append(
            Problem(
                f"line {differs_in} is not that of the configuration which this run was begun with; choose another --out",
                str(config_path),
            )
        )
    began_with, now_with = _specimen_folder(run.read_profile()), _specimen_folder(profile)
    if began_with and not now_with:
        told = f"was begun with --specimen {began_with}: give it again, or choose another --out"
        raise ProblemsError([*problems, Problem(told, str(run.path))])
    for what, old, new in (("protocol", run.read_protocol(), protocol), ("profile", run.read_profile(), profile)):
        for key, was, now in differing_keys(old.model_dump(mode="json"), new.model_dump(mode="json"), what):
            if key.startswith(_HARMLESS) or (key == _SPECIMEN_FOLDER and run.has_specimen_of(profile)):
                edits.append((key, was, now))
                continue
            problems.append(
                Problem(
                    f"= {was!r} in the run that was begun here, {now!r} now; choose another --out",
                    str(run.path),
                    key=key,
                )
            )
    if problems:
        raise ProblemsError(problems)
    if edits:
        run.note_edits(protocol, profile, edits)
        for key, was, now in edits:
            logger.warning("%s was %r when the run was begun, and is %r from now on (noted in job.json)", key, was, now)


def _specimen_folder(profile: MicroscopeProfile) -> str:
    """Return the folder of images on a simulated microscope, or nothing."""
    return str(getattr(profile.simulator.specimen, "folder", "")) if profile.simulator else ""


def refuse_a_ledger_that_forgets(
    run: RunFolder, plate: PlateStore, records: list[FrameRecord], frames_per_site: int
) -> None:
    """Where others know of more finished sites than the ledger, it is not whole: going on would light them again.

    Plate and proof of the light are on the disk before the last line of their site: one of them may be ahead.
    """
    visited = {(record.site_key, record.attempt) for record in records}
    fields = {(record.well, record.site) for record in records}
    given_up = sum(record.state == "given_up" for record in records)
    finished = len(finished_sites(records, frames_per_site)) + given_up
    told = run.read_status("acquire").get("sites", {}).get("finished", 0)
    proofs = {((c.well, c.site, c.t), c.attempt) for c in run.light_checks.read()} - visited
    unknown = {(well, int(site)) for well, sites in plate.fields.items() for site in sites} - fields
    for what, ahead in (
        (f"the status knows of {told} finished sites", told - finished),
        (f"light.jsonl has proofs of {len(proofs)} visits that it has no line of", len(proofs) - 1),
        (f"the plate has {len(unknown)} fields that it has no line of", len(unknown) - 1),
    ):
        if ahead > 0:
            message = (
                f"is not whole: it has {finished} finished sites, but {what}; going on would light them again. "
                "Bring the file back from a copy, or choose another --out"
            )
            raise ProblemsError([Problem(message, str(run.path / "frames.jsonl"))])


def check_last_sites(run: RunFolder, plate: PlateStore, records: list[FrameRecord], frames_per_site: int) -> None:
    """Compare the last finished sites with their checksums before anything is added after them."""
    finished = finished_sites(records, frames_per_site)
    last = list(dict.fromkeys(r.site_key for r in reversed(records) if finished.get(r.site_key) == r.attempt))
    wrong = [
        Problem(f"{r.level} of {r.well}_{r.site} {told}; run `scotopic verify`", str(run.path))
        for r in records
        if r.site_key in last[:_SITES_CHECKED]
        and finished.get(r.site_key) == r.attempt
        and r.state == "written"
        and (told := _odd(plate, r))
    ]
    if wrong:
        raise ProblemsError(wrong)


def _odd(plate: PlateStore, record: FrameRecord) -> str:
    """Return what is wrong with a frame as it lies on the disk, if anything is."""
    try:
        read_frame(plate, record)
    except (ProblemsError, OSError):
        logger.debug("a frame cannot be read", exc_info=True)
        return "is not what the ledger says (checksum)"
    return ""


def give_up_site(run: RunFolder, well: str, site: int, t: int = 0) -> None:
    """Give up the finished visit of a site, so that the next acquisition takes it anew.

    Its images stay until then; what was found in them is forgotten.

    Raises
    ------
    ProblemsError
        If the site is not in the protocol, or not finished, or a process is acquiring into the run.
    """
    name = f"{well}_{site}"
    run.lock()
    try:
        protocol, records = run.read_protocol(), run.ledger.read()
        if well not in protocol.well_names or not 0 <= site < protocol.sites.count:
            allowed = f"wells {', '.join(protocol.well_names)}, sites 0 to {protocol.sites.count - 1}"
            raise ProblemsError([Problem(f"is not in the protocol; allowed: {allowed}", key=name)])
        attempt = finished_sites(records, protocol.frames_per_site).get((well, site, t))
        if attempt is None:
            raise ProblemsError([Problem(f"at time point {t} is not finished: it is taken anyway", key=name)])
        last = next(r for r in records if r.site_key == (well, site, t) and r.attempt == attempt)
        run.ledger.cut_torn_line()
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        changes = {"state": "given_up", "reason": "given up, to be taken anew", "time": now, "checksum": None}
        kept = last.model_dump(include=set(_ASKED))
        run.ledger.append([FrameRecord.model_validate(kept | changes)])
        run.nuclei.forget(well, site, t)
    finally:
        run.unlock()
