"""Draw the pictures of the README: one simulated and one real field at the four light levels.

usage: readme_picture.py [OUT_FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scotopic.pictures import stretched
from scotopic.protocol import ImageSpecimenSettings, ImagingProtocol, SimulatorSettings, read_model
from scotopic.protocol.simulator_setup import SimulatorSetup
from scotopic.simulator import Instrument

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
SIZE_PX = 384


def levels_of(name: str, scope: Instrument, protocol: ImagingProtocol) -> NDArray[np.uint8]:
    """Return the field under the microscope at each light level, side by side, each with its own contrast."""
    tiles = []
    for level in protocol.light_levels:
        scope.set_led_percent(level.led_percent)
        scope.set_shutter_open(True)
        scope.light_is_pending()
        image = scope.expose(level.exposure_ms)
        scope.set_shutter_open(False)
        text = f"{name}   {level.name}   {level.exposure_ms:g} ms, LED {level.led_percent:g} %"
        tiles.append(labelled(stretched(image, 0.5, 99.7), text))
    return np.hstack(tiles)


def labelled(tile: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    picture = Image.fromarray(tile)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, SIZE_PX, 22), fill=0)
    draw.text((6, 3), text, fill=255, font=ImageFont.load_default(14))
    return np.asarray(picture)


def main(out: Path) -> None:
    protocol = read_model(ROOT / "protocols" / "quickstart.yaml", ImagingProtocol)
    specimens = {
        "simulated": SimulatorSettings(),
        "real": SimulatorSettings(
            specimen=ImageSpecimenSettings(kind="images", folder=str(ROOT / "tests" / "data" / "nuclei"))
        ),
    }
    rows = []
    for name, settings in specimens.items():
        fov = (SIZE_PX * 0.65, SIZE_PX * 0.65)
        one_site = ImagingProtocol.model_validate(protocol.model_dump() | {"sites": {"rows": 1, "columns": 1}})
        sites = one_site.sites_in_travel_order(fov)
        scope = Instrument(SimulatorSetup(settings=settings, width_px=SIZE_PX, height_px=SIZE_PX, sites=sites))
        site = sites[0] if name == "simulated" else sites[1]
        scope.move_xy(*scope.setup.placement.to_stage(site.plate_x_um, site.plate_y_um))
        scope.stage_is_moving()
        rows.append(levels_of(name, scope, protocol))
    out.mkdir(parents=True, exist_ok=True)
    iio.imwrite(out / "four_light_levels.png", np.vstack(rows))
    print(f"wrote {out / 'four_light_levels.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
