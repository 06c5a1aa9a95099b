from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import zipfile
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import psutil
import xxhash
from pydantic import BaseModel, ValidationError

from scotopic.photons import CameraMaps
from scotopic.protocol import ImageSpecimenSettings, ImagingProtocol, MicroscopeProfile, Problem, ProblemsError
from scotopic.store.files import contradicts_its_name, replace_text, sync
from scotopic.store.ledger import JsonLines, Ledger, VisitRecord, finished_sites, settled
from scotopic.store.light import LightCheck
from scotopic.store.light_mark import LightMarkFile
from scotopic.store.live import LiveRecord
from scotopic.store.locks import LockedError, OwnedLock
from scotopic.store.masks import NucleusTables, ReferenceRecord
from scotopic.store.plate import PlateLayout, PlateStore
from scotopic.store.seals import damaged, read_json, sealed_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scotopic.store.light_mark import LightMark

M = TypeVar("M", bound=BaseModel)
_JOB_FORMAT = 1
Request = Literal["pause", "resume", "finish", "cancel"]
REQUESTS: tuple[Request, ...] = get_args(Request)
"""What can be asked of a running acquisition."""
UNREADABLE = "cannot be read"
"""State of a part of a run whose status is damaged."""
_MAPS = "camera_maps.npz"
_HAND_OVER_S = 3.0
"""A process whose parent was killed gives its locks back within this time."""


class RunFolder:
    """One run on disk: the only code that knows a path inside it. Every file has one writer.

    `protocol.yaml`, `microscope.yaml` and the configuration are copies as given; `job.json` is what became of them (a
    specimen from the command line, wells that had to be left out), and what everything else goes by.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = Ledger(path / "frames.jsonl")
        self.visits = JsonLines(path / "visits.jsonl", VisitRecord)
        self.light_checks = JsonLines(path / "light.jsonl", LightCheck)
        self.reference_lines = JsonLines(path / "nuclei" / "reference" / "sites.jsonl", ReferenceRecord)
        self.live = JsonLines(path / "live.jsonl", LiveRecord)
        self.nuclei = NucleusTables(path / "nuclei")
        self.light_mark = LightMarkFile(path / "status" / "light.json")
        self._job_path = path / "job.json"
        self._request_path = path / "request.txt"
        self._lock = OwnedLock(path / "run.lock")

    @property
    def exists(self) -> bool:
        """Whether an acquisition was begun here."""
        return self._job_path.exists()

    def lock(self) -> None:
        """Take the run for this process; a dead process holds nothing.

        Raises
        ------
        ProblemsError
            If another process is acquiring into it (saying which), or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            sync([self.path.parent])
        except LockedError as error:
            told = f"another process is acquiring into this run: {error}"
            raise ProblemsError([Problem(told, str(self.path))]) from error
        except OSError as error:
            raise ProblemsError([Problem(f"cannot be written: {error.strerror}", str(self.path))]) from error

    def is_locked(self) -> bool:
        """Return whether a process is acquiring into it. Looking does not lock it."""
        return bool(self._lock.owner())

    def unlock(self) -> None:
        """Give the run back. May be called twice."""
        self._lock.release()

    @contextmanager
    def masks_lock(self) -> Iterator[None]:
        """Let one process at a time make masks of this run.

        Raises
        ------
        ProblemsError
            If another one does.
        """
        with self._only_one("masks.lock", "another process makes masks of it"):
            yield

    def maker_of_masks(self) -> str:
        """Return which process makes masks of this run, for a message; nothing if none does."""
        return OwnedLock(self.path / "masks.lock").owner()

    @contextmanager
    def training_lock(self) -> Iterator[None]:
        """Let one process at a time train on this run.

        Raises
        ------
        ProblemsError
            If another one does.
        """
        with self._only_one("train.lock", "another process trains on it"):
            yield

    @contextmanager
    def _only_one(self, name: str, told: str) -> Iterator[None]:
        lock = OwnedLock(self.path / name, timeout_s=_HAND_OVER_S)
        try:
            lock.acquire()
        except LockedError as error:
            raise ProblemsError([Problem(f"{told}: {error}", str(self.path))]) from error
        try:
            yield
        finally:
            lock.release()

    @property
    def run_id(self) -> str:
        """Identity of what was acquired here, the same in each copy: hash of the ledger's first line; empty before there is one."""
        path = self.path / "frames.jsonl"
        if not path.exists():
            return ""
        with path.open("rb") as file:
            line = file.readline()
        return hashlib.sha256(line).hexdigest()[:12] if line.endswith(b"\n") else ""

    def references(self) -> dict[tuple[str, int, int], ReferenceRecord]:
        """Return what is known of the reference masks of each finished site, by (well, site, t)."""
        finished = finished_sites(self.ledger.read(), self.read_protocol().frames_per_site)
        records = {record.site_key: record for record in self.reference_lines.read()}
        return {key: record for key, record in records.items() if finished.get(key) == record.attempt}

    def sample_dose_ms(self) -> float:
        """Return the light that the sample has got, milliseconds at full power; what a kill left unnoted counts as given."""
        records, visits = self.ledger.read(), self.visits.read()
        visits += settled(records, visits, self.read_protocol().planes, psutil.boot_time())
        return sum(record.sample_dose_ms for record in records) + sum(
            visit.unnoted_ms for visit in visits if visit.left
        )

    def note_light_until_now(self, mark: LightMark) -> None:
        """Note the light of an exposure that its process, which is gone, has left on until this moment."""
        lit_ms = (time.time() - mark.since) * 1000 * mark.power
        last = next(iter(self.visits.tail(1)), None)
        if lit_ms > 0 and last is not None and last.level and last.unnoted_ms < lit_ms:
            self.visits.cut_torn_line()
            self.visits.append([last.model_copy(update={"unnoted_ms": round(lit_ms, 6)})])

    def settle_visits(self) -> None:
        """End the visits that a kill has cut short, and note the light that is in no line of the ledger."""
        self.visits.cut_torn_line()
        if ends := settled(self.ledger.read(), self.visits.read(), self.read_protocol().planes, psutil.boot_time()):
            self.visits.append(ends)

    def begin(
        self, protocol: ImagingProtocol, profile: MicroscopeProfile, protocol_path: Path, profile_path: Path
    ) -> None:
        """Note what is to be done, and copy protocol, profile and configuration into the run as given.

        Raises
        ------
        ProblemsError
            If the folder holds other files of these names: they are not ours to replace.
        """
        config_path = profile.config_path(profile_path)
        copies = {"protocol.yaml": protocol_path, "microscope.yaml": profile_path, config_path.name: config_path}
        if profile.camera.maps is not None:
            copies[_MAPS] = profile_path.parent / profile.camera.maps
            if not copies[_MAPS].is_file():
                raise ProblemsError(
                    [Problem(f"= {profile.camera.maps!r}: no such file", str(profile_path), key="camera.maps")]
                )
        others = [
            name
            for name, source in copies.items()
            if (self.path / name).exists() and (self.path / name).read_bytes() != source.read_bytes()
        ]
        if others:
            told = f"holds another {' and another '.join(others)}, and no run; choose another --out"
            raise ProblemsError([Problem(told, str(self.path))])
        for name, source in copies.items():
            if not (self.path / name).exists():
                shutil.copyfile(source, self.path / name)
        sync(self.path / name for name in copies)
        job = {
            "format": _JOB_FORMAT,
            "protocol": protocol.model_dump(mode="json"),
            "profile": profile.model_dump(mode="json"),
            "specimen_files": specimen_files(profile),
            "copies": {name: _checksum(self.path / name) for name in copies},
            "edits": [],
        }
        replace_text(self._job_path, sealed_json(job))

    def note_edits(
        self, protocol: ImagingProtocol, profile: MicroscopeProfile, edits: list[tuple[str, Any, Any]]
    ) -> None:
        """Note what was changed in protocol and profile since the run was begun, and go by it from now on."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        job = self._read_job()
        job["edits"] = job.get("edits", []) + [
            {"time": now, "key": key, "was": was, "is": value} for key, was, value in edits
        ]
        job |= {"protocol": protocol.model_dump(mode="json"), "profile": profile.model_dump(mode="json")}
        replace_text(self._job_path, sealed_json(job))

    def has_specimen_of(self, profile: MicroscopeProfile) -> bool:
        """Return whether a profile's folder of images has the files, by name and size, that the run was begun with."""
        return bool(self._read_job().get("specimen_files") == specimen_files(profile))

    def remains(self) -> list[str]:
        """Return the names of a run's files that are here."""
        names = ("frames.jsonl", "visits.jsonl", "light.jsonl", "plate.ome.zarr")
        return [name for name in names if (self.path / name).exists()]

    def differing_config_line(self, config_path: Path) -> int | None:
        """Return the first line in which a Micro-Manager configuration differs from the run's copy; nothing if none does.

        White space at the ends of lines, how lines end, and where the file lies, make no difference.

        Raises
        ------
        ProblemsError
            If the copy is damaged.
        """
        copy = self.copy(PurePath(self.read_profile().config).name)
        if not copy.exists():
            return 1
        old, new = ([line.rstrip() for line in path.read_bytes().splitlines()] for path in (copy, config_path))
        return next((n for n, (a, b) in enumerate(zip_longest(old, new, fillvalue=b""), start=1) if a != b), None)

    def copy(self, name: str) -> Path:
        """Return the run's copy of a file that it was begun with.

        Raises
        ------
        ProblemsError
            If it is damaged.
        """
        path, known = self.path / name, self.copies.get(name)
        if known is not None and path.exists() and _checksum(path) != known:
            raise ProblemsError([damaged(path)])
        return path

    @property
    def copies(self) -> dict[str, str]:
        """Checksum of each copy of a file that the run was begun with; none in runs of earlier versions."""
        return dict(self._read_job().get("copies", {}))

    def _read_job(self) -> dict[str, Any]:
        """Return job.json.

        Raises
        ------
        ProblemsError
            If it is damaged, or of a version of scotopic that this one does not know.
        """
        job = read_json(self._job_path)
        missing = {"protocol", "profile"} - set(job)
        if (found := job.get("format", _JOB_FORMAT)) != _JOB_FORMAT:
            told = f"= {found!r}: written by another version of scotopic; this one knows {_JOB_FORMAT}"
            raise ProblemsError([Problem(told, str(self._job_path), key="format")])
        if missing:
            raise ProblemsError([Problem(f"has no {' and no '.join(sorted(missing))}", str(self._job_path))])
        return job

    def _job_part(self, model: type[M], key: str) -> M:
        try:
            return model.model_validate(self._read_job()[key])
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join([key, *map(str, first["loc"])])
            told = f"{first['msg']}: written by another version of scotopic, or damaged"
            raise ProblemsError([Problem(told, str(self._job_path), key=place)]) from error

    def read_protocol(self) -> ImagingProtocol:
        """Return the protocol of the run."""
        return self._job_part(ImagingProtocol, "protocol")

    def read_profile(self) -> MicroscopeProfile:
        """Return the microscope profile of the run."""
        return self._job_part(MicroscopeProfile, "profile")

    def camera_maps(self) -> CameraMaps | None:
        """Return what tells the pixels of the run's camera apart; nothing where they are taken for equal.

        Raises
        ------
        ProblemsError
            If they cannot be read.
        """
        if self.read_profile().camera.maps is None:
            return None
        path = self.copy(_MAPS)
        try:
            return CameraMaps.load(path)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ProblemsError([Problem(f"cannot be read as maps of a camera: {error}", str(path))]) from error

    def plate(self, protocol: ImagingProtocol, profile: MicroscopeProfile) -> PlateStore:
        """Return the plate of images."""
        return PlateStore(self.path / "plate.ome.zarr", PlateLayout.of(protocol, profile))

    @property
    def models_path(self) -> Path:
        """Folder of the models that learned from this run."""
        return self.path / "models"

    @property
    def checkpoint_path(self) -> Path:
        """Where a training stands."""
        return self.models_path / "checkpoint.safetensors"

    def latest_model(self) -> Path | None:
        """Return the file of the best model so far, if there is one.

        Raises
        ------
        ProblemsError
            If it, or the file that names it, is damaged.
        """
        path = self.models_path / "latest.json"
        if not path.exists():
            return None
        if not isinstance(name := read_json(path).get("model"), str):
            raise ProblemsError([damaged(path)])
        model = self.models_path / name
        if not model.is_file() or contradicts_its_name(model, model.read_bytes()):
            raise ProblemsError([damaged(model)])
        return model

    def note_latest_model(self, name: str, f1: dict[str, float]) -> None:
        """Name the file in `models` that is the best model so far, with its F1 at each light level."""
        replace_text(self.models_path / "latest.json", sealed_json({"model": name, "f1": f1}))

    def write_status(self, part: str, **values: Any) -> None:
        """Replace `status/<part>.json`; each part (acquire, train, ...) has one writer.

        On a disk without room for another file the old one is written over, so that no state outlives its process.

        Raises
        ------
        OSError
            If it cannot be written at all.
        """
        folder = self.path / "status"
        folder.mkdir(exist_ok=True)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        values = {"heartbeat": now} | values | {"process": os.getpid()}
        path = folder / f"{part}.json"
        try:
            replace_text(path, sealed_json(values))
        except OSError as error:
            if error.errno != errno.ENOSPC or not path.exists():
                raise
            with path.open("r+", encoding="utf-8") as file:  # its blocks are there already
                file.write(sealed_json(values, indent=None))
                file.truncate()

    def read_status(self, part: str, *, strict: bool = False) -> dict[str, Any]:
        """Return what a part says of itself, or nothing if it has not been started.

        An acquisition that was killed cannot say so: it is called `interrupted`. What a damaged file said is not known: its
        state is `UNREADABLE`, with the damage as message, which is good enough to be shown.

        Raises
        ------
        ProblemsError
            If the file is damaged, and `strict`.
        """
        path = self.path / "status" / f"{part}.json"
        try:
            status = read_json(path)
        except FileNotFoundError:
            return {}
        except ProblemsError as error:
            if strict:
                raise
            return {"state": UNREADABLE, "message": str(error)}
        if part == "acquire" and status.get("state") in {"running", "paused"} and not self.is_locked():
            status["state"] = "interrupted"
        return status

    def guard_has_acted(self) -> bool:
        """Return whether a guard had to switch the light off since the last acquisition into it began."""
        guard, begun = self.read_status("guard"), self.read_status("acquire").get("started")
        acted = guard.get("state") != "watching" and guard.get("heartbeat")
        return bool(acted and begun and datetime.fromisoformat(acted) >= datetime.fromisoformat(begun))

    def ask(self, request: Request) -> None:
        """Ask the acquisition that is running into this folder for something; nobody hears it if none is."""
        replace_text(self._request_path, request)

    def request(self) -> Request | None:
        """Return what is asked of the acquisition, if anything."""
        try:
            text = self._request_path.read_text(encoding="utf-8").strip()
        except (FileNotFoundError, PermissionError):  # Windows: it is being replaced this moment
            return None
        return next((request for request in REQUESTS if request == text), None)

    def forget_request(self) -> None:
        """Take a request from the folder: it is done, or was meant for an earlier acquisition."""
        with suppress(PermissionError):  # Windows, while another reads it: it is tried again
            self._request_path.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Return the free space of the disk that the run is on."""
        return shutil.disk_usage(self.path).free


def _checksum(path: Path) -> str:
    return xxhash.xxh3_64_hexdigest(path.read_bytes())


def specimen_files(profile: MicroscopeProfile) -> dict[str, int]:
    """Return path in the folder and size of each file of the specimen of a simulated microscope that shows a folder of images."""
    settings = profile.simulator.specimen if profile.simulator else None
    folder = Path(settings.folder) if isinstance(settings, ImageSpecimenSettings) else None
    if folder is None or not folder.is_dir():
        return {}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def differing_keys(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, old value, new value) for every difference between two models' dumps."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            yield from differing_keys(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from differing_keys(*pair, f"{key}[{number}]")
    elif old != new:
        yield key, old, new
