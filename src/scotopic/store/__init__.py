"""Everything on disk: the run folder, the OME-Zarr plate, the ledger of frames, and their verification."""

from scotopic.store.damage import damaged_files
from scotopic.store.ledger import (
    FinishedSites,
    FrameRecord,
    JsonLines,
    Ledger,
    VisitRecord,
    checksum,
    finished_sites,
    settled,
)
from scotopic.store.light import LightCheck, light_verdicts
from scotopic.store.light_mark import LightMark
from scotopic.store.live import LIVE, LiveRecord, live_labels
from scotopic.store.locks import LockedError, OwnedLock
from scotopic.store.masks import NucleusTables, ReferenceRecord, site_name
from scotopic.store.pixels import read_frame
from scotopic.store.plate import PlateLayout, PlateStore
from scotopic.store.recorder import Recorder, SiteRecord
from scotopic.store.run_folder import RunFolder, differing_keys
from scotopic.store.verify import verify, wrong_light

__all__ = [
    "LIVE",
    "FinishedSites",
    "FrameRecord",
    "JsonLines",
    "Ledger",
    "LightCheck",
    "LightMark",
    "LiveRecord",
    "LockedError",
    "NucleusTables",
    "OwnedLock",
    "PlateLayout",
    "PlateStore",
    "Recorder",
    "ReferenceRecord",
    "RunFolder",
    "SiteRecord",
    "VisitRecord",
    "checksum",
    "damaged_files",
    "differing_keys",
    "finished_sites",
    "light_verdicts",
    "live_labels",
    "read_frame",
    "settled",
    "site_name",
    "verify",
    "wrong_light",
]
