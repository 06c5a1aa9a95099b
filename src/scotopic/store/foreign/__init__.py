"""Images that other software took: which file is which frame, by its name, its OME metadata or a list.

Presets (`presets.py`) and patterns (`patterns.py`) say what names mean, `tiff_stacks.py` which plane of a TIFF is what,
`lists.py` reads what spreadsheets write, and `places.py` turns all numbers into places on a plate.
"""

from scotopic.store.foreign.images import ForeignImage, Found
from scotopic.store.foreign.lists import find_by_list
from scotopic.store.foreign.names import find_by_names
from scotopic.store.foreign.places import Placed, on_a_plate, without_projections
from scotopic.store.foreign.presets import PRESETS

__all__ = [
    "PRESETS",
    "ForeignImage",
    "Found",
    "Placed",
    "find_by_list",
    "find_by_names",
    "on_a_plate",
    "without_projections",
]
