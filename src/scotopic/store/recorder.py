from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scotopic.store.ledger import MOST_UNNOTED, PERCENTILES, FrameRecord, checksum
from scotopic.store.light import LightCheck, check_light

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scotopic.photons import CameraNoise
    from scotopic.store.ledger import VisitRecord
    from scotopic.store.plate import PlateStore
    from scotopic.store.run_folder import RunFolder

_WAITS_S = 1.0
_SAMPLED_PX = 256
"""Percentiles are those of a grid of about so many pixels in each direction: sorting takes its time."""
_MOST_UNFINISHED = MOST_UNNOTED - 1
"""Frames whose ledger lines may still be on their way before the next light goes on: what bounds the memory."""


@dataclass
class SiteRecord:
    """What has been recorded of one visit of a site."""

    records: list[FrameRecord] = field(default_factory=list)
    light: list[LightCheck] = field(default_factory=list)


class Recorder:
    """Writes the frames of a run to plate and ledger, in order, beside the thread that moves the hardware.

    Two threads: one makes fields and writes pixels, which are there before the next light goes on (`wait_for_pixels`);
    the other follows with pyramid, statistics and ledger line while the next frame is exposed, and syncs a site while
    the stage moves on. The last ledger line of a site, the mark that it is finished, is written when all its pixels are
    on the disk. After an error nothing that follows is written, and everybody who asks is told.
    """

    def __init__(
        self,
        run: RunFolder,
        plate: PlateStore,
        *,
        compared: Sequence[str],
        camera: CameraNoise | None,
        on_site: Callable[[SiteRecord], None],
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the threads.

        Parameters
        ----------
        compared : sequence of str
            Names of the light levels whose images prove each other's light, the reference first: those of its channel.
        camera : CameraNoise, optional
            Camera whose images prove the light of a site; without it nothing is proved.
        on_site : callable
            Called in a thread of the recorder after each site, when it is on the disk.
        on_wait : callable
            Called every second while somebody waits for the disk.
        """
        self._run, self._plate = run, plate
        self._compared, self._camera = tuple(compared), camera
        self._maps = run.camera_maps() if camera is not None else None
        self._on_site, self._on_wait = on_site, on_wait
        self._first = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pixels")
        self._then = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._error: BaseException | None = None
        self._field: Future[Path] | None = None
        self._pixels: Future[None] | None = None
        self._unfinished: deque[Future[None]] = deque()
        self._site = SiteRecord()
        self._first_planes: dict[str, NDArray[Any]] = {}

    def open_visit(self, visit: VisitRecord, xy_um: tuple[float, float], z_um: float | None = None) -> None:
        """Note that a site is going to be lit, and make its field in the plate, in the background.

        Both are on the disk before its first light goes on (`wait_for_pixels`).
        """
        self._field = self._first.submit(self._begin, visit, xy_um, z_um)

    def _begin(self, visit: VisitRecord, xy_um: tuple[float, float], z_um: float | None) -> Path:
        self._run.visits.append([visit])
        return self._plate.open_field(visit.well, visit.site, xy_um, z_um)

    def exposing(self, exposure: VisitRecord) -> None:
        """Note that a frame is about to be lit: known after a kill, though not after a power cut (nothing waits for the disk)."""
        self._run.visits.append([exposure], sync=False)

    def leave_visit(self, visit: VisitRecord) -> None:
        """Note that a visit was left before its site was done; the site is going to be visited anew."""
        self._unfinished.append(self._then.submit(self._do, self._leave, visit))
        self._awaited(self._unfinished[-1])

    def _leave(self, visit: VisitRecord) -> None:
        self._run.visits.append([visit])
        self._site = SiteRecord()
        self._first_planes = {}

    def frame(self, record: FrameRecord, image: NDArray[np.uint16], *, last: bool) -> None:
        """Record a frame, in the background.

        Parameters
        ----------
        record : FrameRecord
            Its ledger line, but for what follows from the pixels.
        image : NDArray, shape (Y, X), uint16
            Counts. Nobody may change it any more.
        last : bool
            Whether it is the last frame of its site.
        """
        place = record.well, record.site, record.level, record.t, record.z
        self._pixels = self._first.submit(self._plate.write, *place, image)
        self._unfinished.append(self._then.submit(self._do, self._finish_frame, self._pixels, record, image, last))

    def not_taken(self, record: FrameRecord, *, last: bool) -> None:
        """Note a frame that was skipped or left out."""
        self._unfinished.append(self._then.submit(self._do, self._note, record, last))

    def wait_for_pixels(self) -> None:
        """Wait until the pixels of the last frame are written, and complain of whatever went wrong so far.

        Raises
        ------
        OSError, ValueError
            What went wrong first.
        """
        self._complain()
        while len(self._unfinished) > _MOST_UNFINISHED:
            self._awaited(self._unfinished.popleft())

    def close(self) -> None:
        """Wait until everything is recorded, and end the threads. May be called twice.

        Raises
        ------
        OSError, ValueError
            What went wrong first.
        """
        pending: list[Future[Any] | None] = [self._field, self._pixels, *self._unfinished]
        while wait(filter(None, pending), _WAITS_S).not_done:
            self._on_wait()
        self._first.shutdown(wait=True)
        self._then.shutdown(wait=True)
        self._complain()

    def _complain(self) -> None:
        for future in (self._field, self._pixels):
            if future is not None:
                self._awaited(future)
        if self._error is not None:
            raise self._error

    def _awaited(self, future: Future[Any]) -> None:
        while not future.done() and wait([future], _WAITS_S).not_done:
            self._on_wait()
        future.result()

    def _do(self, task: Callable[..., object], *args: object) -> None:
        """Do a task of the ledger's thread, unless one before it has failed."""
        if self._error is not None:
            return
        try:
            task(*args)
        except BaseException as error:
            self._error = error

    def _finish_frame(self, pixels: Future[None], record: FrameRecord, image: NDArray[np.uint16], last: bool) -> None:
        pixels.result()  # a frame that was not written has no line; those before it have theirs
        self._plate.write_pyramid(record.well, record.site, record.level, record.t, record.z, image)
        if record.z == 0:
            self._first_planes[record.level] = image
        step = max(2, max(image.shape) // _SAMPLED_PX)
        found = {
            "mean": round(float(image.mean()), 3),
            "percentiles": tuple(float(p) for p in np.percentile(image[::step, ::step], PERCENTILES)),
            "checksum": checksum(image),
        }
        self._note(record.model_copy(update=found), last)

    def _note(self, record: FrameRecord, last: bool) -> None:
        site = self._site
        site.records.append(record)
        if record.state != "written" and record.attempt > 1:
            self._plate.clear(record.well, record.site, record.level, record.t, record.z)
        if last:
            written = [(r.level, r.t, r.z) for r in site.records if r.state == "written"]
            if written:
                self._plate.commit(record.well, record.site, written)
            if self._camera is not None:  # before the commit mark: no finished site is without its verdict
                first = [r for r in site.records if r.z == 0 and r.state == "written" and r.level in self._compared]
                images = self._first_planes
                if (maps := self._maps) is not None:
                    noise = self._camera
                    images = {r.level: maps.corrected(images[r.level], noise) for r in first if r.level in images}
                site.light = check_light(first, images, self._compared[0], self._camera)
                self._run.light_checks.append(site.light)
        self._run.ledger.append([record], sync=last)
        if last:
            self._site = SiteRecord()
            self._first_planes = {}
            self._on_site(site)
