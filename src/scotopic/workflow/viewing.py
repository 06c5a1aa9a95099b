"""A plate in the browser: its files on loopback, for any viewer of OME-Zarr, and one that is served with them."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from scotopic.protocol import Problem, ProblemsError, did_you_mean
from scotopic.reference import finished_frames
from scotopic.store import PlateLayout, read_frame, site_name
from scotopic.workflow.segmentation import opened_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from scotopic.store import PlateStore, RunFolder

LOOPBACK = "127.0.0.1"
_ONLINE = "https://hms-dbmi.github.io/vizarr/?source="
"""Of a whole plate; the page comes from the internet, the images do not leave this computer."""
_SHADER = """#uicontrol invlerp contrast(range=[{low:g}, {high:g}])
void main() {{ emitGrayscale(contrast()); }}"""


@dataclass(frozen=True)
class View:
    """Where the browser finds what."""

    plate_url: str
    """The plate, for any viewer of OME-Zarr."""
    page_url: str = ""
    """A page that shows one site, with its masks; empty without neuroglancer."""


@contextmanager
def served(run_path: Path, site: str | None = None, *, port: int = 0) -> Iterator[View]:
    """Serve the plate of a run, on this computer alone and to read only, for as long as the context lasts.

    Parameters
    ----------
    site : str, optional
        Site for the page, for example `B2_0`; the first finished one without it.
    port : int
        Port of the plate; any free one for 0.

    Raises
    ------
    ProblemsError
        If there is no run or no such site, it is damaged, or the port is taken. Other sites are shown as they are.
    """
    run = opened_run(run_path)
    protocol, profile = run.read_protocol(), run.read_profile()
    plate = run.plate(protocol, profile)
    chosen = _chosen(run, site)
    _refuse_damaged(run, plate, *chosen)
    handler = partial(_Files, directory=str(plate.path), token=secrets.token_urlsafe(12))
    try:
        server = _Server((LOOPBACK, port), handler)
    except OSError as error:
        raise ProblemsError([Problem(f"= {port}: cannot be used: {error.strerror}", key="--port")]) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://{LOOPBACK}:{server.server_address[1]}/{handler.keywords['token']}"
        with _page(url, plate, PlateLayout.of(protocol, profile), *chosen) as page_url:
            yield View(url, page_url)
    finally:
        server.shutdown()
        server.server_close()


def view(run_path: Path, say: Callable[[str], None] = print, *, site: str | None = None, port: int = 0) -> None:
    """Serve the plate of a run until it is interrupted; the addresses are said."""
    with served(run_path, site, port=port) as found:
        say(f"plate: {found.plate_url}")
        if found.page_url:
            say(f"open in a browser on this computer: {found.page_url}")
        else:
            say('a viewer without internet: pip install "scotopic[browser]"')
        say(f"whole plate, viewer from the internet, images from here: {_ONLINE}{found.plate_url}")
        say("Ctrl-C ends it")
        while True:  # a wait without a time is not interrupted on Windows
            time.sleep(1)


class _Server(ThreadingHTTPServer):
    allow_reuse_address = os.name != "nt"  # there it lets two servers have one port

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of what a browser has broken off."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Files(SimpleHTTPRequestHandler):
    """Files to read, also by pages of other origins, for that is what a viewer is; but only by who was told the address."""

    def __init__(self, *args: Any, token: str, **more: Any) -> None:
        self._start = f"/{token}/"
        super().__init__(*args, **more)

    def send_head(self) -> Any:
        """Answer nothing but what lies under the token."""
        if not self.path.startswith(self._start):
            self.send_error(404)
            return None
        self.path = self.path[len(self._start) - 1 :]
        return super().send_head()

    def end_headers(self) -> None:
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Allow-Private-Network", "true")
        self.send_header("Cache-Control", "no-cache")  # a run may grow
        super().end_headers()

    def do_OPTIONS(self) -> None:
        """Answer a browser that asks first."""
        self.send_response(204)
        self.send_header("Access-Control-Allow-Headers", "*")
        self.end_headers()

    def list_directory(self, path: Any) -> None:
        """Show no listing: a store is read by its metadata."""
        del path
        self.send_error(404)

    def log_message(self, *_: Any) -> None:
        """Say nothing: a viewer asks for hundreds of files."""


def _chosen(run: RunFolder, site: str | None) -> tuple[str, int]:
    """Return well and number of the site to show.

    Raises
    ------
    ProblemsError
        If it is not there.
    """
    sites = {site_name(well, number, 0): (well, number) for well, number, t in finished_frames(run) if t == 0}
    if not sites:
        raise ProblemsError([Problem("has no finished site yet", str(run.path))])
    if site is None:
        return sites[min(sites)]
    if site.upper() not in sites:
        hint = did_you_mean(site, sites) or f"finished are {min(sites)} to {max(sites)}, {len(sites)} sites"
        raise ProblemsError([Problem(f"{site} is not among the finished sites; {hint}", str(run.path))])
    return sites[site.upper()]


def _refuse_damaged(run: RunFolder, plate: PlateStore, well: str, site: int) -> None:
    """Read a site before a browser shows it, which would not notice what is damaged.

    Raises
    ------
    ProblemsError
        If images or masks are not what was written.
    """
    for key, frames in finished_frames(run).items():
        for record in frames.values() if key[:2] == (well, site) else ():
            read_frame(plate, record)
    if problems := list(plate.damaged_labels(well, site)):
        raise ProblemsError(problems)


@contextmanager
def _page(url: str, plate: PlateStore, layout: PlateLayout, well: str, site: int) -> Iterator[str]:
    """Serve a page of neuroglancer that shows a site: a layer a light level, and one for each set of masks."""
    try:
        import neuroglancer as ng
    except ImportError:
        yield ""
        return
    field = plate.field_path(well, site)
    source = f"{url}/{field.relative_to(plate.path).as_posix()}"
    ng.set_server_bind_address(LOOPBACK)
    viewer = ng.Viewer()
    try:
        pixel_m, z_m = layout.pixel_size_um * 1e-6, layout.z_step_um * 1e-6
        space = ng.CoordinateSpace(
            names=list("xyzt"), units=["m", "m", "m", "s"], scales=[pixel_m, pixel_m, z_m, layout.interval_s]
        )
        with viewer.txn() as state:
            state.dimensions = space  # the first three are shown; those of the files begin with time
            for number, (level, (low, high)) in enumerate(zip(layout.levels, layout.windows, strict=True)):
                shader = _SHADER.format(low=low, high=high)
                layer = ng.ImageLayer(source=f"{source}/|zarr3:", shader=shader, local_position=[number])
                state.layers.append(name=level, layer=layer, visible=number == 0)
            for labels in sorted(path.name for path in (field / "labels").glob("*") if path.is_dir()):
                layer = ng.SegmentationLayer(source=f"{source}/labels/{labels}/|zarr3:")
                state.layers.append(name=labels, layer=layer, visible=labels == "reference")
            state.layout = "xy"
            state.show_axis_lines = False
        yield str(viewer)
    finally:
        ng.stop()
