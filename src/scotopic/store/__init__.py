"""Everything on disk: the run folder, the OME-Zarr plate, the ledger of frames, and their verification."""

from scotopic.store.ledger import FrameRecord, JsonLines, Ledger, LightCheck, checksum, finished_sites
from scotopic.store.plate import PlateLayout, PlateStore
from scotopic.store.run_folder import RunFolder, differing_keys
from scotopic.store.verify import verify

__all__ = [
    "FrameRecord",
    "JsonLines",
    "Ledger",
    "LightCheck",
    "PlateLayout",
    "PlateStore",
    "RunFolder",
    "checksum",
    "differing_keys",
    "finished_sites",
    "verify",
]
