from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from yaozarrs import v05
from yaozarrs.write.v05 import prepare_image

from scotopic.photons import block_sums
from scotopic.protocol import Problem, ProblemsError
from scotopic.store.arrays import (
    EVERY_CHUNK,
    FAST,
    LARGEST_CHUNK_PX,
    DamagedChunkError,
    create_array,
    is_sound,
    opened,
    plane,
)
from scotopic.store.files import is_remote, replace_text, sync
from scotopic.store.live import live_labels
from scotopic.store.metadata import group_text, labels_group, listed_labels, ome_part, translated, with_seal
from scotopic.store.seals import damaged, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import zarr
    from numpy.typing import NDArray

    from scotopic.protocol import ImagingProtocol, MicroscopeProfile

_SMALLEST_PYRAMID_PX = 256
_ACQUISITION = 0


@dataclass(frozen=True)
class PlateLayout:
    """Shape of a plate on disk, decided before the first frame."""

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    wells: dict[str, tuple[int, int]]
    """Well -> (row, column), of the wells that are imaged."""
    sites: int
    levels: tuple[str, ...]
    windows: tuple[tuple[float, float], ...]
    """Contrast window of each level, in counts."""
    saturation: int
    time_points: int
    planes: int
    height_px: int
    width_px: int
    pixel_size_um: float
    z_step_um: float
    interval_s: float
    """Time between two time points; 1 where nothing is known of it."""
    live_labels: tuple[str, ...] = ()
    """Groups of masks that are declared with each field: they are written while the run goes on."""

    @classmethod
    def of(cls, protocol: ImagingProtocol, profile: MicroscopeProfile) -> PlateLayout:
        """Return the layout that a protocol has on a microscope."""
        camera, plate = profile.camera, protocol.plate
        columns = tuple(str(c + 1) for c in range(plate.columns))
        names = list(plate.wells)
        rows = tuple(names[r * plate.columns].removesuffix("1") for r in range(plate.rows))
        noise = camera.read_noise_e / camera.gain_e_per_count
        room = (camera.saturation_counts - camera.offset_counts) / 4
        windows = tuple(
            (
                max(camera.offset_counts - 2 * noise, 0.0),
                camera.offset_counts + 4 * noise + room * protocol.relative_dose(level),
            )
            for level in protocol.light_levels
        )
        return cls(
            name=protocol.name,
            rows=rows,
            columns=columns,
            wells={well: plate.wells[well] for well in protocol.well_names},
            sites=protocol.sites.count,
            levels=tuple(level.name for level in protocol.light_levels),
            windows=windows,
            saturation=camera.saturation_counts,
            time_points=protocol.time_points,
            planes=protocol.planes,
            height_px=camera.height_px,
            width_px=camera.width_px,
            pixel_size_um=camera.pixel_size_um,
            z_step_um=protocol.z_stack.step_um if protocol.z_stack else 1.0,
            interval_s=(protocol.time_lapse.interval_s if protocol.time_lapse else 0.0) or 1.0,
            live_labels=tuple(
                live_labels(order)
                for order, level in enumerate(protocol.light_levels)
                if level.name in protocol.live_levels
            ),
        )

    @property
    def pyramid(self) -> tuple[int, ...]:
        """Factor of each pyramid level, from 1."""
        factors = [1]
        while min(self.height_px, self.width_px) // (factors[-1] * 2) >= _SMALLEST_PYRAMID_PX:
            factors.append(factors[-1] * 2)
        return tuple(factors)


class PlateStore:
    """An OME-Zarr 0.5 plate that grows field by field, addressed by (well, site, level, t, z), never by order.

    Arrays have the axes t, c, z, y, x; light levels are channels; one chunk a frame of up to 2048². A field is made
    with its pyramid, in its final form, when it is opened. When its frames are on the disk, its well's metadata name it,
    then the plate's: the plate validates at any moment, and nobody else needs to touch these files. Masks are declared
    in the field's `labels` when they are written, by whoever makes masks of the run (one process at a time).
    """

    def __init__(self, path: Path, layout: PlateLayout) -> None:
        self.path = path
        self.layout = layout
        self._templates: dict[str, dict[str, str]] = {}
        self._fields: dict[str, list[str]] = self._fields_on_disk()
        self._listed_wells = self._wells_on_disk()
        self._made: set[Path] = set()
        self._arrays: dict[Path, list[zarr.Array[Any]]] = {}

    # ------------------------------------------------------------------ writing

    def open_field(self, well: str, site: int, xy_um: tuple[float, float], z_um: float | None = None) -> Path:
        """Make a field if it is not there yet, with its stage position as translation, and return its folder.

        The height is that of the first plane; 0 where nobody has set it.

        No metadata name it before its first frames are committed: until then no reader finds it.
        """
        folder = self.field_path(well, site)
        if folder in self._made or str(site) in self._fields.get(well, []):
            return folder
        corner = [z_um or 0.0] + [
            v - (n - 1) / 2 * self.layout.pixel_size_um
            for v, n in zip(reversed(xy_um), (self.layout.height_px, self.layout.width_px), strict=True)
        ]
        for inner, text in self._field_template().items():
            target = folder / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(translated(text, corner), encoding="utf-8", newline="\n")
        for name in self.layout.live_labels:
            self._make_labels(folder / "labels" / name)
        if self.layout.live_labels:
            (folder / "labels" / "zarr.json").write_text(
                labels_group(self.layout.live_labels), encoding="utf-8", newline="\n"
            )
        self._made.add(folder)
        self._open_arrays(folder)  # as long as there is time
        return folder

    def write(self, well: str, site: int, level: str, t: int, z: int, image: NDArray[np.uint16]) -> None:
        """Write one frame, shape (Y, X), uint16, at full size.

        Raises
        ------
        OSError
            If it cannot be written.
        ValueError
            If its shape or type is not that of the plate.
        """
        expected = self.layout.height_px, self.layout.width_px
        if image.shape != expected or image.dtype != np.uint16:
            raise ValueError(f"frame of shape {image.shape}, {image.dtype}; the plate takes {expected}, uint16")
        self._write(well, site, level, t, z, image, numbers=range(1))

    def write_pyramid(self, well: str, site: int, level: str, t: int, z: int, image: NDArray[np.uint16]) -> None:
        """Write the smaller copies of a frame, shape (Y, X), uint16, that viewers show from afar."""
        self._write(well, site, level, t, z, image, numbers=range(1, len(self.layout.pyramid)))

    def _write(
        self, well: str, site: int, level: str, t: int, z: int, image: NDArray[np.uint16], *, numbers: range
    ) -> None:
        channel = self.layout.levels.index(level)
        folder = self.field_path(well, site)
        for number in numbers:
            binned = _binned(image, self.layout.pyramid[number])
            # zarrs (0.2.3) leaves chunks of zeros out whatever it is told: those go through zarr's own pipeline.
            arrays = self._open_arrays(folder) if binned.any() else opened(folder, self.layout.pyramid, EVERY_CHUNK)
            arrays[number][t, channel, z] = binned

    def clear(self, well: str, site: int, level: str, t: int, z: int) -> None:
        """Take a frame out of the plate, if there is one: what was skipped must not show an earlier visit's pixels.

        Raises
        ------
        OSError
            If it cannot be taken out.
        """
        for chunk in self._chunks(self.field_path(well, site), level, t, z):
            chunk.unlink(missing_ok=True)

    def commit(self, well: str, site: int, frames: Iterable[tuple[str, int, int]]) -> None:
        """Wait until frames (level, t, z) of a field are on the disk, and name the field to the plate's readers.

        zarr itself never syncs.
        """
        field = self.field_path(well, site)
        is_new = str(site) not in self._fields.get(well, [])
        files = [field / inner for inner in self._field_template()] if is_new else []
        files += (chunk for level, t, z in frames for chunk in self._chunks(field, level, t, z))
        folders = {place for path in files for place in path.parents if place.is_relative_to(field)}
        above = (place for place in field.parents if place.is_relative_to(self.path.parent))
        sync([*files, *folders, *(above if is_new else ())])
        if is_new:
            self._fields[well] = sorted([*self._fields.get(well, []), str(site)], key=int)
            self._write_well(well)
        if well not in self._listed_wells:  # also where a kill has come between the well's metadata and the plate's
            self._write_plate()
            self._listed_wells = set(self._fields)

    def _chunks(self, field: Path, level: str, t: int, z: int) -> Iterator[Path]:
        """Yield every chunk file of a frame, in each level of the pyramid."""
        channel = self.layout.levels.index(level)
        for number, factor in enumerate(self.layout.pyramid):
            rows = range(-(-(self.layout.height_px // factor) // LARGEST_CHUNK_PX))
            columns = range(-(-(self.layout.width_px // factor) // LARGEST_CHUNK_PX))
            for row, column in itertools.product(rows, columns):
                yield field / f"{number}/c/{t}/{channel}/{z}/{row}/{column}"

    # ------------------------------------------------------------------ reading

    def read(self, well: str, site: int, level: str, t: int = 0, z: int = 0) -> NDArray[np.uint16]:
        """Return a frame, shape (Y, X), uint16.

        Raises
        ------
        FileNotFoundError
            If the field does not exist. A frame of it that was never written reads as zeros: ask the ledger.
        DamagedChunkError
            If it cannot be decoded; `store.read_frame` looks at the checksum too.
        """
        folder = self.field_path(well, site)
        if not (folder / "0" / "zarr.json").exists():
            raise FileNotFoundError(f"no field {well}_{site} in {self.path}")
        array, channel = self._open_arrays(folder)[0], self.layout.levels.index(level)
        return plane(array, (t, channel, z))

    def frame_path(self, well: str, site: int, level: str, t: int, z: int) -> Path:
        """Return the folder of the chunks of a frame at full size."""
        return self.field_path(well, site) / f"0/c/{t}/{self.layout.levels.index(level)}/{z}"

    def has_pixels(self, well: str, site: int, level: str, t: int = 0, z: int = 0) -> bool:
        """Return whether anything of a frame is on the disk."""
        return any(chunk.exists() for chunk in self._chunks(self.field_path(well, site), level, t, z))

    def wrong_copies(
        self, well: str, site: int, level: str, t: int, z: int, image: NDArray[np.uint16]
    ) -> Iterator[int]:
        """Yield the reductions (2 for half the size) of a frame's smaller copies that are not those of its image.

        Raises
        ------
        DamagedChunkError
            If one cannot be decoded.
        """
        channel, folder = self.layout.levels.index(level), self.field_path(well, site)
        for number, array in list(enumerate(self._open_arrays(folder)))[1:]:
            if not np.array_equal(plane(array, (t, channel, z)), _binned(image, self.layout.pyramid[number])):
                yield self.layout.pyramid[number]

    # ------------------------------------------------------------------ masks

    def write_labels(self, well: str, site: int, name: str, t: int, z: int, labels: NDArray[Any]) -> None:
        """Write masks of a field, shape (Y, X), integer, with smaller copies; they are on the disk when this returns.

        Parameters
        ----------
        name : str
            Group of labels, for example `reference`; letters, digits and underscores.

        Raises
        ------
        FileNotFoundError
            If the field does not exist.
        OSError
            If they cannot be written.
        ValueError
            If their shape is not that of the plate.
        """
        expected = self.layout.height_px, self.layout.width_px
        if labels.shape != expected:
            raise ValueError(f"labels of shape {labels.shape}; the plate takes {expected}")
        group = self._labels_path(well, site, name)
        # Damaged metadata are made again with the masks: they are the same for all masks of a field.
        is_new = not all(is_sound(path) for path in (group, *(group / str(n) for n in range(len(self.layout.pyramid)))))
        if is_new:
            self._make_labels(group)
        for number in range(len(self.layout.pyramid)):
            nearest = self._reduced(labels, number).astype(np.uint32)
            opened(group, self.layout.pyramid, FAST | EVERY_CHUNK)[number][t, z] = nearest
        if is_remote(group):
            self._declare_labels(group)
            return
        files = [
            path for number in range(len(self.layout.pyramid)) for path in (group / f"{number}/c/{t}/{z}").rglob("*")
        ]
        files += group.rglob("zarr.json") if is_new else ()
        sync([*files, *{place for path in files for place in path.parents if place.is_relative_to(group.parent)}])
        self._declare_labels(group)

    def _make_labels(self, group: Path) -> None:
        """Make the metadata of a label group, where its field lies."""
        image = read_json(group.parent.parent / "zarr.json")
        first = image["attributes"]["ome"]["multiscales"][0]["datasets"][0]
        corner = first["coordinateTransformations"][1]["translation"][-3:]
        for inner, text in self._label_template().items():
            target = group / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(translated(text, corner), encoding="utf-8", newline="\n")

    def _declare_labels(self, group: Path) -> None:
        """Name a label group to the readers of its field, once its masks are there.

        The list follows from the folders: other programs add groups too, so it has no seal.
        """
        path, there = group.parent / "zarr.json", self._groups_of_labels(group.parent)
        listed = listed_labels(path)
        if set(there) != set(listed):
            known = [name for name in listed if name in there]
            replace_text(path, labels_group([*known, *(name for name in there if name not in known)]))

    def _groups_of_labels(self, folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir() if (path / "zarr.json").exists())

    def read_labels(self, well: str, site: int, name: str, t: int = 0, z: int = 0) -> NDArray[np.uint32]:
        """Return masks of a field, shape (Y, X), uint32: zeros where none were written.

        Raises
        ------
        FileNotFoundError
            If the field, or such masks of it, do not exist.
        ProblemsError
            If they are damaged.
        """
        return self._read_labels(well, site, name, t, z, 0)

    def _read_labels(self, well: str, site: int, name: str, t: int, z: int, number: int) -> NDArray[np.uint32]:
        folder = self._labels_path(well, site, name)
        array = opened(folder, self.layout.pyramid, FAST)[number]
        try:
            return plane(array, (t, z))
        except DamagedChunkError as error:
            raise ProblemsError([damaged(folder / f"{number}/c/{t}/{z}")]) from error

    def damaged_labels(self, well: str, site: int) -> Iterator[Problem]:
        """Yield what is damaged of the masks of a field, smaller copies and the list of their groups included."""
        folder = self.field_path(well, site) / "labels"
        if not folder.exists():
            return
        names = self._groups_of_labels(folder)
        if set(names) != set(listed_labels(folder / "zarr.json")):
            told = f"is damaged: other programs do not find the masks that are there ({', '.join(names)}) by it"
            yield Problem(told, str(folder / "zarr.json"))
        for name, t, z in itertools.product(names, range(self.layout.time_points), range(self.layout.planes)):
            try:
                labels = self.read_labels(well, site, name, t, z)
                for number in range(1, len(self.layout.pyramid)):
                    if not np.array_equal(
                        self._read_labels(well, site, name, t, z, number), self._reduced(labels, number)
                    ):
                        yield damaged(folder / name / f"{number}/c/{t}/{z}", "not a copy of the masks")
            except ProblemsError as error:
                yield from error.problems

    def _reduced(self, labels: NDArray[Any], number: int) -> NDArray[Any]:
        """Return the smaller copy of masks for a level of the pyramid."""
        factor = self.layout.pyramid[number]
        rows, columns = labels.shape[0] // factor, labels.shape[1] // factor
        return labels[factor // 2 :: factor, factor // 2 :: factor][:rows, :columns]

    def has_labels(self, well: str, site: int, name: str) -> bool:
        """Return whether a field has masks of this name. Which of its images have some, chunks do not say: zarrs drops empty ones."""
        return (self.field_path(well, site) / "labels" / name / "zarr.json").exists()

    def has_label_pixels(self, well: str, site: int, name: str, t: int, z: int) -> bool:
        """Return whether masks of an image are on the disk; of one without nuclei none need be."""
        return (self.field_path(well, site) / "labels" / name / f"0/c/{t}/{z}").exists()

    def _labels_path(self, well: str, site: int, name: str) -> Path:
        folder = self.field_path(well, site)
        if not (folder / "0" / "zarr.json").exists():
            raise FileNotFoundError(f"no field {well}_{site} in {self.path}")
        return folder / "labels" / name

    def field_path(self, well: str, site: int) -> Path:
        """Return the folder of a field."""
        row, column = self.layout.wells[well]
        return self.path / self.layout.rows[row] / self.layout.columns[column] / str(site)

    def _open_arrays(self, folder: Path) -> list[zarr.Array[Any]]:
        """Return the arrays of a field's pyramid; those of the last fields are kept. Two threads may ask at once."""
        arrays = self._arrays.get(folder)
        if arrays is None:
            arrays = opened(folder, self.layout.pyramid, FAST | EVERY_CHUNK)
            self._arrays = dict([*list(self._arrays.items())[-1:], (folder, arrays)])
        return arrays

    def _wells_on_disk(self) -> set[str]:
        """Return the wells that the plate's metadata name."""
        path = self.path / "zarr.json"
        if not path.exists():
            return set()
        wells = ome_part(path, "plate")["wells"]
        places = {(well["rowIndex"], well["columnIndex"]) for well in wells}
        return {well for well, place in self.layout.wells.items() if place in places}

    @property
    def listed_wells(self) -> set[str]:
        """Wells that a reader of the plate finds."""
        return set(self._listed_wells)

    @property
    def fields(self) -> dict[str, list[str]]:
        """Fields that a reader of each well finds."""
        return {well: list(fields) for well, fields in self._fields.items()}

    def _fields_on_disk(self) -> dict[str, list[str]]:
        """Return the fields that the wells' metadata name."""
        found = {}
        for well, (row, column) in self.layout.wells.items():
            path = self.path / self.layout.rows[row] / self.layout.columns[column] / "zarr.json"
            if path.exists():
                images = ome_part(path, "well")["images"]
                found[well] = [image["path"] for image in images]
        return found

    # ------------------------------------------------------------------ metadata

    def _write_plate(self) -> None:
        wells = [self.layout.wells[well] for well in self._fields]
        plate = v05.Plate(
            plate=v05.PlateDef(
                name=self.layout.name,
                rows=[v05.Row(name=name) for name in self.layout.rows],
                columns=[v05.Column(name=name) for name in self.layout.columns],
                wells=[
                    v05.PlateWell(path=f"{self.layout.rows[r]}/{self.layout.columns[c]}", rowIndex=r, columnIndex=c)
                    for r, c in sorted(wells)
                ],
                acquisitions=[
                    v05.Acquisition(id=_ACQUISITION, name=self.layout.name, maximumfieldcount=self.layout.sites)
                ],
                field_count=self.layout.sites,
            )
        )
        self._write_row_groups()
        replace_text(self.path / "zarr.json", group_text(plate))

    def _write_row_groups(self) -> None:
        for r in {r for r, _ in (self.layout.wells[well] for well in self._fields)}:
            path = self.path / self.layout.rows[r] / "zarr.json"
            if not path.exists():
                replace_text(path, with_seal({"zarr_format": 3, "node_type": "group"}, indent=1))

    def _write_well(self, well: str) -> None:
        images = [v05.FieldOfView(path=name, acquisition=_ACQUISITION) for name in self._fields[well]]
        row, column = self.layout.wells[well]
        path = self.path / self.layout.rows[row] / self.layout.columns[column] / "zarr.json"
        replace_text(path, group_text(v05.Well(well=v05.WellDef(images=images))))

    def _field_template(self) -> dict[str, str]:
        """Return the metadata files of a field, by path: made once by yaozarrs, then copied for each field."""
        return self._template("field", self._make_field)

    def _label_template(self) -> dict[str, str]:
        """Return the metadata files of a label group, by path."""
        return self._template("labels", self._make_label)

    def _template(self, what: str, make: Callable[[Path], None]) -> dict[str, str]:
        if what not in self._templates:
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder) / what
                make(root)
                self._templates[what] = {
                    path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
                    for path in sorted(root.rglob("zarr.json"))
                }
        return self._templates[what]

    def _make_field(self, root: Path) -> None:
        layout = self.layout
        channels = [
            v05.OmeroChannel(
                label=level,
                color="FFFFFF",
                active=i == 0,
                window=v05.OmeroWindow(start=start, end=end, min=0, max=layout.saturation),
            )
            for i, (level, (start, end)) in enumerate(zip(layout.levels, layout.windows, strict=True))
        ]
        image = v05.Image(multiscales=[self._multiscale("tczyx", layout.name)], omero=v05.Omero(channels=channels))
        shapes = [(shape, "uint16") for shape in self._shapes(len(layout.levels))]
        prepare_image(root, image, shapes, writer=create_array)

    def _make_label(self, root: Path) -> None:
        label = v05.LabelImage(
            multiscales=[self._multiscale("tzyx", "labels")],
            **{"image-label": v05.ImageLabel(source=v05.LabelSource(image="../../"))},
        )
        prepare_image(root, label, [(shape, "uint32") for shape in self._shapes()], writer=create_array)

    def _shapes(self, *channels: int) -> list[tuple[int, ...]]:
        """Return the shape of each level of the pyramid."""
        layout = self.layout
        return [
            (layout.time_points, *channels, layout.planes, layout.height_px // f, layout.width_px // f)
            for f in layout.pyramid
        ]

    def _multiscale(self, axes: str, name: str) -> v05.Multiscale:
        units = {
            "t": v05.TimeAxis(name="t", unit="second"),
            "c": v05.ChannelAxis(name="c"),
            **{a: v05.SpaceAxis(name=a, unit="micrometer") for a in "zyx"},
        }
        px = self.layout.pixel_size_um
        datasets = []
        for number, factor in enumerate(self.layout.pyramid):
            scale = {
                "t": self.layout.interval_s,
                "c": 1.0,
                "z": self.layout.z_step_um,
                "y": px * factor,
                "x": px * factor,
            }
            # Pixels are points at their centres: those of a coarser level lie in the middle of what they bin.
            centre = (factor - 1) / 2 * px
            shift = {"t": 0.0, "c": 0.0, "z": 0.0, "y": centre, "x": centre}
            datasets.append(
                v05.Dataset(
                    path=str(number),
                    coordinateTransformations=[
                        v05.ScaleTransformation(scale=[scale[a] for a in axes]),
                        v05.TranslationTransformation(translation=[shift[a] for a in axes]),
                    ],
                )
            )
        return v05.Multiscale(name=name, axes=[units[a] for a in axes], datasets=datasets)


def _binned(image: NDArray[np.uint16], factor: int) -> NDArray[np.uint16]:
    """Return the mean over blocks, rounded; what does not fill a block at the far edges is left out."""
    if factor == 1:
        return image
    return ((block_sums(image, factor) + factor**2 // 2) // factor**2).astype(np.uint16)
