"""A first profile, from a working Micro-Manager configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from scotopic.protocol import Problem, ProblemsError

if TYPE_CHECKING:
    from collections.abc import Callable


def new_profile(config: Path, say: Callable[[str], None], *, out: Path | None = None, name: str = "") -> Path:
    """Load the hardware of a configuration, and write a commented profile from what it says of itself.

    Parameters
    ----------
    config : Path
        Micro-Manager configuration.
    out : Path, optional
        File to write; without it one beside the configuration, of the same name.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ProblemsError
        If the file is there already, the configuration cannot be read, or another process drives the microscope.
    RuntimeError
        If the hardware cannot be loaded.
    """
    from scotopic.microscope import close_microscope, config_lock, load_config, look_at_hardware, profile_text
    from scotopic.microscope.new_profile import UNKNOWN

    path = out or config.with_suffix(".yaml")
    if path.exists():
        raise ProblemsError([Problem("is there already; choose another file with --out", str(path))])
    if not path.parent.is_dir():
        raise ProblemsError([Problem("its folder is not there", str(path))])
    if not config.is_file():
        raise ProblemsError([Problem("is no file; give the .cfg that works in Micro-Manager", str(config))])
    try:
        relative = Path(os.path.relpath(config, path.parent)).as_posix()
    except ValueError:  # on another drive
        relative = config.absolute().as_posix()
    say(f"loading {config}: stages may home")
    with config_lock(config):
        core = load_config(config)
        try:
            hardware = look_at_hardware(core)
        finally:
            close_microscope(core)
    for what, found in (
        ("camera", hardware.cameras),
        ("XY stage", hardware.xy_stages),
        ("Z drive", hardware.z_drives),
        ("autofocus", hardware.autofocus),
        ("shutter", hardware.shutters),
        ("power of a light", tuple(f"{power.device}.{power.property}" for power in hardware.powers)),
        ("lamp to keep off", tuple(f"{switch.device}.{switch.property}" for switch in hardware.lamps)),
        ("switch of a light", tuple(f"{switch.device}.{switch.property}" for switch in hardware.switches)),
    ):
        say(f"{what + ':':<18} {', '.join(found) or 'none found'}")
    text = profile_text(hardware, name or config.stem, relative)
    path.write_text(text, encoding="utf-8")
    unknown = text.count(UNKNOWN) - 1  # one explains them
    say(f"wrote {path}: {unknown} lines with `{UNKNOWN}` are for you to fill in, the others for you to read")
    say(f"then: scotopic check PROTOCOL --microscope {path}")
    return path
