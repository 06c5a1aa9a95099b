from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.special import ndtri

from scotopic.simulator.life import REACH_UM, later
from scotopic.simulator.specimen import Field, Scene, Truth, nuclei_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scotopic.protocol import Plate, SyntheticSpecimenSettings

VERSION = 1
"""Raise it with every change that makes the same settings another specimen."""

PHASES = ("G1", "S", "G2", "M", "dim")

_TILE_UM = 100.0
"""The plane is cut into tiles with a random generator each, so that a nucleus is the same from wherever it is seen."""
_EXCLUSION = 0.62
"""Centres of two nuclei are at least this fraction of their mean diameter apart: below 1, so that many touch."""
_CLUSTERING = 0.3
"""Strength of the variation of density over some 100 um, which makes crowded places beside empty ones."""
_DENSEST = 2.5
"""Largest density of a place relative to the mean."""
_REACH_UM = 32.0
"""No nucleus reaches farther from its centre."""
_DRAWS = 24
"""Random numbers that a nucleus is made of."""
_HAZE_UM = 7.0
_HAZE_BLOCK_PX = 4
_G1_PLATEAU = 0.6
"""Mean brightness of a G1 nucleus of the mean size; G2 has 0.8, so that 1 is a bright interphase nucleus."""
_SIZE_SPREAD = 0.17
"""Standard deviation of the logarithm of the diameter of nuclei with the same DNA content."""
_WOBBLE = (0.06, 0.055, 0.04)
"""Standard deviation of the second to fourth harmonic of an outline, relative to its radius."""
_MITOTIC_DIAMETER = 0.58
"""Diameter of mitotic chromatin relative to the interphase nucleus."""
_TEXTURE_PX = 256


@dataclass(frozen=True)
class _Nuclei:
    """Nuclei of a region; every array has one value (or row) a nucleus. Lengths in micrometres on the plate."""

    x: NDArray[Any]
    y: NDArray[Any]
    phase: NDArray[Any]
    dna_content: NDArray[Any]
    long_radius: NDArray[Any]
    short_radius: NDArray[Any]
    angle: NDArray[Any]
    wobble: NDArray[Any]
    texture: NDArray[Any]

    def __len__(self) -> int:
        return len(self.x)


class SyntheticSpecimen:
    """An endless plate of nuclei with known truth.

    Nuclei are a Matérn II hard-core process (B. Matérn, *Spatial Variation*, 1960): candidates with random marks,
    of which one is kept when no neighbour has a lower mark. That rule needs the neighbourhood only, so any
    piece of the plane can be made on its own and neighbouring pieces agree. The density of candidates varies over
    some 100 um, which makes clusters, and from well to well.
    """

    def __init__(self, settings: SyntheticSpecimenSettings, plate: Plate) -> None:
        self._settings = settings
        self._plate = plate
        self._hours = 0.0
        self._tile = lru_cache(maxsize=4096)(self._make_tile)
        self._debris = lru_cache(maxsize=4096)(self._make_debris)
        self._texture = lru_cache(maxsize=2)(self._make_texture)
        rng = np.random.default_rng((settings.seed, 1))
        self._waves = rng.normal(0, 2 * np.pi / 160, (6, 2)), rng.uniform(0, 2 * np.pi, 6)

    is_imaged = False

    @cached_property
    def fingerprint(self) -> str:
        """Version and hash over settings, plate and the nuclei of one field: any change of them shows."""
        nuclei = self.at(0)._nuclei_in(-300, -300, 300, 300)  # noqa: SLF001 - itself
        rounded = np.rint(np.column_stack([nuclei.x, nuclei.y, nuclei.long_radius, nuclei.dna_content]) * 100)
        without_life = {"life"} if self._settings.life is None else None  # the pinned specimen is older than life
        text = (
            self._settings.model_dump_json(exclude=without_life)
            + self._plate.model_dump_json()
            + str(rounded.astype(int).tolist())
        )
        return f"synthetic-{VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def description(self) -> str:
        """Seed and density."""
        s = self._settings
        return f"synthetic nuclei with known truth, seed {s.seed}, {s.nuclei_per_mm2:g} in a square millimetre"

    def at(self, hours: float) -> Self:
        """Return the same specimen at another time."""
        other = copy.copy(self)
        other._hours = hours  # noqa: SLF001 - itself
        return other

    def scene(self, origin_px: tuple[float, float], shape: tuple[int, int], pixel_size_um: float) -> Scene:
        """Return the fluorescence of a piece of the plate (see `Specimen.scene`), on whole pixels from A1."""
        left, top = (int(np.floor(o)) for o in origin_px)
        # A margin wide enough that a nucleus cut by the edge, and all that squeeze it, are made whole; in blocks
        # of the haze's lattice, so that two overlapping pieces make the same haze.
        block = _HAZE_BLOCK_PX
        margin = int(np.ceil(2 * _REACH_UM / pixel_size_um / block)) * block
        x0, y0 = ((o - margin) // block * block for o in (left, top))
        height, width = (
            -(-(o + n + margin - start) // block) * block
            for o, n, start in zip((top, left), shape, (y0, x0), strict=True)
        )
        canvas = np.zeros((height, width), np.float32)
        nuclei = self._nuclei_on((x0, y0), (height, width), pixel_size_um)
        owner, patches = self._owners(nuclei, (x0, y0), (height, width), pixel_size_um)
        self._stain(canvas, nuclei, owner, patches, pixel_size_um)
        self._add_debris(canvas, (x0, y0), pixel_size_um)
        canvas += _haze(canvas, _HAZE_UM / pixel_size_um) * np.float32(self._settings.haze_fraction)
        canvas += np.float32(self._settings.background_fraction)
        return Scene(canvas[top - y0 : top - y0 + shape[0], left - x0 : left - x0 + shape[1]], (left, top))

    def truth(self, field: Field) -> Truth:
        """Return label image and table of the nuclei in a field of view, at its exact sub-pixel position."""
        px = field.pixel_size_um
        margin = int(np.ceil(2 * _REACH_UM / px))
        x0, y0 = (o - margin for o in field.origin_px)
        shape = field.height_px + 2 * margin, field.width_px + 2 * margin
        nuclei = self._nuclei_on((x0, y0), shape, px)
        owner, _ = self._owners(nuclei, (x0, y0), shape, px)
        inside = owner[margin:-margin, margin:-margin]
        # Seen = at least 5 um² in the image: less is a sliver at the border that nobody could count.
        areas = np.bincount(inside.ravel(), minlength=len(nuclei) + 1)[1:] * px**2
        seen = np.flatnonzero(areas >= 5)
        new_label = np.zeros(len(nuclei) + 1, np.int32)
        new_label[seen + 1] = np.arange(1, len(seen) + 1)
        labels = new_label[inside]
        table = nuclei_table(labels, px).assign(
            phase=np.array(PHASES)[nuclei.phase[seen]], dna_content=nuclei.dna_content[seen]
        )
        return Truth(labels, table)

    # ------------------------------------------------------------------ where nuclei are, and what they are

    @cached_property
    def _candidates_per_mm2(self) -> float:
        """Density of candidates that leaves the wanted density after thinning."""
        area_mm2 = np.pi * (_EXCLUSION * self._settings.g1_diameter_um * 1.06e-3) ** 2
        filled = min(self._settings.nuclei_per_mm2 * area_mm2, 0.95)
        return float(-np.log1p(-filled) / area_mm2)

    def _make_tile(self, ix: int, iy: int) -> NDArray[np.float64]:
        """Return the candidates of a tile: x, y (um) and `_DRAWS` uniform numbers each."""
        rng = np.random.default_rng((self._settings.seed, 2, ix + 2**24, iy + 2**24))
        draws = rng.random((rng.poisson(_DENSEST * self._candidates_per_mm2 * (_TILE_UM / 1000) ** 2), _DRAWS + 2))
        draws[:, 0] = (ix + draws[:, 0]) * _TILE_UM
        draws[:, 1] = (iy + draws[:, 1]) * _TILE_UM
        density = self._relative_density(draws[:, 0], draws[:, 1])
        return draws[draws[:, 2] * _DENSEST < density]

    def _relative_density(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        """Return the density of candidates at points of the plate, relative to the mean; 0 outside wells."""
        vectors, phases = self._waves
        waves = np.cos(x[:, None] * vectors[:, 0] + y[:, None] * vectors[:, 1] + phases).sum(1) / np.sqrt(3)
        column, dx = _nearest_well(x, self._plate.spacing_mm[0] * 1000, self._plate.columns)
        row, dy = _nearest_well(y, self._plate.spacing_mm[1] * 1000, self._plate.rows)
        half_x, half_y = (s * 500 - _REACH_UM for s in self._plate.well_size_mm)
        if self._plate.round_wells:
            inside = (dx / half_x) ** 2 + (dy / half_y) ** 2 <= 1
        else:
            inside = (np.abs(dx) <= half_x) & (np.abs(dy) <= half_y)
        density = np.maximum(1 + _CLUSTERING * waves, 0) * self._density_of_wells[row, column]
        return np.where(inside, np.minimum(density, _DENSEST), 0)

    @cached_property
    def _density_of_wells(self) -> NDArray[np.float64]:
        """Density of each well relative to the mean, shape (rows, columns)."""
        shape = self._plate.rows, self._plate.columns
        draws = np.array([[np.random.default_rng((self._settings.seed, 3, *at)).random(2) for at in np.ndindex(shape)]])
        empty, spread = draws.reshape(*shape, 2).transpose(2, 0, 1)
        density = np.clip(1 + self._settings.well_density_spread * ndtri(spread), 0.25, 2)
        return np.where(empty < self._settings.empty_well_fraction, 0.0, density)

    def _nuclei_on(self, origin_px: tuple[float, float], shape: tuple[int, int], px: float) -> _Nuclei:
        (x0, y0), (height, width) = origin_px, shape
        return self._nuclei_in(
            x0 * px - _REACH_UM, y0 * px - _REACH_UM, (x0 + width) * px + _REACH_UM, (y0 + height) * px + _REACH_UM
        )

    def _nuclei_in(self, x0: float, y0: float, x1: float, y1: float) -> _Nuclei:
        """Return the nuclei with their centres in a box, sorted by position (so always in the same order)."""
        came_from = REACH_UM if self._hours and self._settings.life else 0.0
        tiles = _tiles(x0 - came_from, y0 - came_from, x1 + came_from, y1 + came_from)
        draws = np.concatenate([self._tile(*tile) for tile in tiles])
        nuclei = self._from_draws(draws)
        kept = _matern_ii(np.column_stack([nuclei.x, nuclei.y]), nuclei.long_radius + nuclei.short_radius, draws[:, 3])
        draws = later(draws[kept], self._hours, self._settings)
        x, y = draws[:, 0], draws[:, 1]
        return self._from_draws(draws[(x >= x0) & (x < x1) & (y >= y0) & (y < y1)])

    def _from_draws(self, draws: NDArray[np.float64]) -> _Nuclei:
        """Turn uniform random numbers into nuclei."""
        s = self._settings
        u = draws[:, 4:]
        n = ndtri(np.clip(u, 1e-9, 1 - 1e-9))
        edges = np.cumsum([s.dim_fraction, s.mitotic_fraction, s.g2_fraction, s.s_fraction])
        phase = np.array([4, 3, 2, 1, 0])[np.searchsorted(edges, u[:, 0], side="right")]
        dna = np.choose(phase, [1.0, 1 + u[:, 1], 2.0, 2.0, 1.0])
        stain = dna * np.maximum(1 + s.dna_cv * n[:, 2], 0.2)
        stain = np.where(phase == 4, 0.2 + 0.2 * u[:, 1], stain)
        mitotic = phase == 3
        # Spread nuclei double their volume but not their height: area grows by about half from G1 to G2.
        diameter = s.g1_diameter_um * dna**0.3 * np.exp(_SIZE_SPREAD * n[:, 3])
        diameter = np.where(mitotic, _MITOTIC_DIAMETER * diameter, diameter)
        aspect = np.where(mitotic, 0.35 + 0.3 * u[:, 4], np.clip(0.80 + 0.09 * n[:, 4], 0.55, 1))
        long_radius = np.minimum(diameter / 2 / np.sqrt(aspect), _REACH_UM / 1.3)
        wobble = n[:, 6:12].reshape(-1, 3, 2) * np.array(_WOBBLE)[None, :, None]
        return _Nuclei(
            x=draws[:, 0],
            y=draws[:, 1],
            phase=phase,
            dna_content=stain,
            long_radius=long_radius,
            short_radius=long_radius * aspect,
            angle=np.pi * u[:, 5],
            wobble=np.clip(wobble, -0.1, 0.1),
            texture=u[:, 12:14],
        )

    # ------------------------------------------------------------------ what nuclei look like

    def _owners(
        self, nuclei: _Nuclei, origin_px: tuple[float, float], shape: tuple[int, int], px: float
    ) -> tuple[NDArray[np.int32], list[tuple[slice, slice, NDArray[np.float32]]]]:
        """Return which nucleus each pixel belongs to (1-based, 0 none), and each one's piece of normalised distance.

        Where two outlines cross, a pixel goes to the nucleus in which it lies deeper: they squeeze each other.
        """
        owner = np.zeros(shape, np.int32)
        nearest = np.ones(shape, np.float32)
        patches = []
        for i in range(len(nuclei)):
            cx, cy = nuclei.x[i] / px - origin_px[0], nuclei.y[i] / px - origin_px[1]
            reach = 1.3 * nuclei.long_radius[i] / px + 1
            rows = slice(max(int(cy - reach), 0), max(int(cy + reach) + 2, 0))
            columns = slice(max(int(cx - reach), 0), max(int(cx + reach) + 2, 0))
            seen = owner[rows, columns]
            dy = np.arange(rows.start, rows.start + seen.shape[0], dtype=np.float32) - np.float32(cy)
            dx = np.arange(columns.start, columns.start + seen.shape[1], dtype=np.float32) - np.float32(cx)
            depth = _normalised_distance(dx, dy, nuclei, i, px)
            deeper = depth < nearest[rows, columns]
            nearest[rows, columns][deeper] = depth[deeper]
            seen[deeper] = i + 1
            patches.append((rows, columns, depth))
        return owner, patches

    def _stain(
        self,
        canvas: NDArray[np.float32],
        nuclei: _Nuclei,
        owner: NDArray[np.int32],
        patches: list[tuple[slice, slice, NDArray[np.float32]]],
        px: float,
    ) -> None:
        """Add the nuclei's light: flat-topped, textured, and summing up to the stain that each has bound."""
        texture = self._texture(px)
        unit = _G1_PLATEAU * np.pi / 4 * (self._settings.g1_diameter_um / px) ** 2
        for i, (rows, columns, depth) in enumerate(patches):
            mine = owner[rows, columns] == i + 1
            height, width = mine.shape
            ty, tx = (nuclei.texture[i] * (len(texture) // 2 - 1)).astype(int)
            squared = depth * depth
            light = np.sqrt(np.maximum(1 - squared * squared, 0))
            light *= texture[ty : ty + height, tx : tx + width]
            light *= mine
            if (total := light.sum()) > 0:
                canvas[rows, columns] += light * np.float32(nuclei.dna_content[i] * unit / total)

    def _make_texture(self, px: float) -> NDArray[np.float32]:
        """Return chromatin with nucleoli: mean about 1, doubled along both axes so that any piece can be cut out."""
        rng = np.random.default_rng((self._settings.seed, 4))
        size = max(_TEXTURE_PX, int(np.ceil(3 * _REACH_UM / px)))  # larger than any nucleus

        def smooth(sigma_um: float) -> NDArray[np.float64]:
            noise: NDArray[np.float64] = rng.standard_normal((size, size))
            noise = ndimage.gaussian_filter(noise, sigma_um / px, mode="wrap")
            noise /= noise.std()
            return noise

        nucleoli = 1 / (1 + np.exp(-4 * (smooth(1.1) - 1.3)))
        texture = np.clip(1 + 0.10 * smooth(0.5) + 0.08 * smooth(1.6) - 0.4 * nucleoli, 0.3, None)
        return np.tile(texture, (2, 2)).astype(np.float32)

    def _add_debris(self, canvas: NDArray[np.float32], origin_px: tuple[int, int], px: float) -> None:
        """Add specks: small and sharp, or (one in eight) large and faint, floating above."""
        (x0, y0), (height, width) = origin_px, canvas.shape
        specks = np.concatenate(
            [self._debris(*tile) for tile in _tiles(x0 * px, y0 * px, (x0 + width) * px, (y0 + height) * px)]
        )
        specks = specks[self._relative_density(specks[:, 0], specks[:, 1]) > 0]
        for x_um, y_um, kind, size, brightness in specks:
            floating = kind < 0.125
            sigma_um = 5 + 5 * size if floating else 0.4 + 0.9 * size
            peak = 0.04 + 0.08 * brightness if floating else 0.08 * 15**brightness
            _add_spot(canvas, x_um / px - x0, y_um / px - y0, sigma_um / px, peak)

    def _make_debris(self, ix: int, iy: int) -> NDArray[np.float64]:
        """Return the specks of a tile: x, y (um), and three uniform numbers each."""
        rng = np.random.default_rng((self._settings.seed, 5, ix + 2**24, iy + 2**24))
        specks = rng.random((rng.poisson(self._settings.debris_per_mm2 * (_TILE_UM / 1000) ** 2), 5))
        specks[:, 0] = (ix + specks[:, 0]) * _TILE_UM
        specks[:, 1] = (iy + specks[:, 1]) * _TILE_UM
        return specks


def _tiles(x0: float, y0: float, x1: float, y1: float) -> list[tuple[int, int]]:
    """Return the tiles of the plane from which something may reach into a box, in micrometres."""
    reach = 2 * _REACH_UM
    rows = range(int((y0 - reach) // _TILE_UM), int((y1 + reach) // _TILE_UM) + 1)
    columns = range(int((x0 - reach) // _TILE_UM), int((x1 + reach) // _TILE_UM) + 1)
    return [(ix, iy) for iy in rows for ix in columns]


def _nearest_well(position_um: NDArray[Any], spacing_um: float, count: int) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """Return the index of the nearest well along an axis, and the distance from its centre."""
    if count == 1:
        return np.zeros(len(position_um), np.intp), position_um
    index = np.clip(np.rint(position_um / spacing_um), 0, count - 1).astype(np.intp)
    return index, position_um - index * spacing_um


def _matern_ii(xy: NDArray[Any], diameters: NDArray[Any], marks: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which points have no neighbour of a lower mark within the exclusion distance."""
    kept = np.ones(len(xy), bool)
    if len(xy) < 2:
        return kept
    a, b = cKDTree(xy).query_pairs(2 * _REACH_UM * _EXCLUSION, output_type="ndarray").T
    close = np.hypot(*(xy[a] - xy[b]).T) < _EXCLUSION * (diameters[a] + diameters[b]) / 2
    a, b = a[close], b[close]
    kept[np.where(marks[a] < marks[b], b, a)] = False
    return kept


def _normalised_distance(
    dx: NDArray[np.float32], dy: NDArray[np.float32], nuclei: _Nuclei, i: int, px: float
) -> NDArray[np.float32]:
    """Return the distance from a nucleus's centre relative to its outline in that direction (1 on the outline).

    The outline is an ellipse with three harmonics; cosines of multiples of the angle come from powers of a
    complex number, without one call of a trigonometric function a pixel.
    """
    z = (dx[None, :] + np.complex64(1j) * dy[:, None]) * np.complex64(np.exp(-1j * nuclei.angle[i]))
    distance = np.abs(z)
    direction = z / np.maximum(distance, np.float32(1e-6))
    second = direction * direction
    a, b = nuclei.long_radius[i] / px, nuclei.short_radius[i] / px
    eccentricity_sq = np.float32(1 - (b / a) ** 2)
    outline = np.float32(b) / np.sqrt(1 - eccentricity_sq * (1 + second.real) / 2)
    wobble = nuclei.wobble[i].astype(np.float32)
    ripple = np.float32(1) + wobble[0, 0] * second.imag
    third = second * direction
    ripple += wobble[1, 0] * third.real + wobble[1, 1] * third.imag
    fourth = second * second
    ripple += wobble[2, 0] * fourth.real + wobble[2, 1] * fourth.imag
    result: NDArray[np.float32] = distance / (outline * ripple)
    return result


def _haze(canvas: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    """Return the out-of-focus light of a scene: a wide blur, made on a coarse lattice."""
    block = _HAZE_BLOCK_PX
    height, width = canvas.shape
    coarse = canvas.reshape(height // block, block, width // block, block).mean((1, 3))
    coarse = ndimage.gaussian_filter(coarse, sigma_px / block, mode="nearest")
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def _add_spot(canvas: NDArray[np.float32], x: float, y: float, sigma: float, peak: float) -> None:
    reach = int(np.ceil(4 * sigma))
    rows = slice(max(int(y) - reach, 0), max(int(y) + reach + 2, 0))
    columns = slice(max(int(x) - reach, 0), max(int(x) + reach + 2, 0))
    piece = canvas[rows, columns]
    if piece.size:
        gy = np.exp(-0.5 * ((np.arange(rows.start, rows.start + piece.shape[0]) - y) / sigma) ** 2)
        gx = np.exp(-0.5 * ((np.arange(columns.start, columns.start + piece.shape[1]) - x) / sigma) ** 2)
        piece += (peak * gy[:, None] * gx).astype(np.float32)
