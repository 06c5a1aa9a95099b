from __future__ import annotations

from typing import TYPE_CHECKING

from pymmcore_plus._discovery import PYMMCORE_DIV, DiscoveredMM, discover_mm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_TEST_ADAPTERS = "mm_test_adapters"


def installations() -> Iterator[str]:
    """Yield what there is of Micro-Manager on this computer, and whether it fits, in words."""
    for mm in discover_mm():
        fits = "fits" if mm.div_compatible else f"does not fit: MMCore needs {PYMMCORE_DIV}"
        yield f"{mm.path}: device interface {mm.device_interface}, {fits}"


def adapter_folder(libraries: Iterable[str]) -> Path | None:
    """Return the folder with the device adapters to use, or None if the microscope needs none.

    pymmcore-plus would take the package mm-test-adapters before a Micro-Manager in `C:/Program Files`, and the
    microscope's own adapters would then be missing. Here a real installation always comes first, and the test
    adapters serve only where they hold every library that is asked for.

    Parameters
    ----------
    libraries : iterable of str
        Names of the adapter libraries that the configuration loads.

    Raises
    ------
    RuntimeError
        With the line that mends it, if no installation fits.
    """
    needed = set(libraries)
    if not needed:
        return None
    discovered = list(discover_mm())
    real = [mm for mm in discovered if _TEST_ADAPTERS not in mm.path.parts]
    if chosen := next((mm for mm in real if mm.div_compatible), None):
        return chosen.path
    tests = next((mm for mm in discovered if mm not in real and mm.div_compatible), None)
    if tests is not None and not (needed - _libraries_in(tests.path)):
        return tests.path
    at_hand = _libraries_in(tests.path) if tests is not None else set()
    raise RuntimeError(_how_to_mend(needed - at_hand, real, tests))


def _libraries_in(folder: Path) -> set[str]:
    """Return the names of the adapter libraries in a folder, on any operating system."""
    names = (path.name for path in folder.glob("*mmgr_dal_*"))
    return {name.split("mmgr_dal_", 1)[1].split(".", 1)[0] for name in names}


def _how_to_mend(needed: set[str], real: list[DiscoveredMM], tests: DiscoveredMM | None) -> str:
    wanted = ", ".join(sorted(needed))
    if real:
        mm = real[0]
        return (
            f"Micro-Manager at {mm.path} has device interface {mm.device_interface}, MMCore needs {PYMMCORE_DIV}: "
            f"install a Micro-Manager with interface {PYMMCORE_DIV} (mmcore install), or the matching core: "
            f'pip install "pymmcore==*.{mm.device_interface}.*"'
        )
    if tests is None and needed <= {"DemoCamera", "Utilities", "SequenceTester", "NotificationTester"}:
        return f"no Micro-Manager found for {wanted}: pip install mm-test-adapters=={PYMMCORE_DIV}.*, or mmcore install"
    return f"no Micro-Manager found for {wanted}: run `mmcore install`, or set MICROMANAGER_PATH to its folder"
