"""The plots of the report, each drawn on a canvas of its own: for the page, and as files for papers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from scotopic.nuclei import SPLIT_DNA_CONTENT, NoFitError, evenly_lit, fit_cell_cycle
from scotopic.reference import REFERENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from scotopic.report.schema import Figure, Level, Partner, Report
    from scotopic.store import RunFolder

COLOURS = {"network": "#0072b2", "reference": "#000000", "classical": "#d55e00"}
"""Okabe and Ito's, told apart by the colour-blind."""
LEVEL_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#0072b2")
"""Of light levels, by falling light."""
_MOST_POINTS = 3000
_ERRORS = (
    ("count_percent", "count_deviation_percent", "count, %"),
    ("missed_percent", "miss_percent", "missed, %"),
    ("false_percent", "false_percent", "false, %"),
    ("dna_spread_percent", "dna_spread_percent", "spread of DNA, %"),
    ("g2_points", "g2_deviation_points", "share of G2, points"),
    ("area_percent", "median_area_deviation_percent", "median area, %"),
    ("intensity_percent", "mean_intensity_deviation_percent", "mean intensity per dose, %"),
    ("dna_percent", "intensity_bias_percent", "DNA of the same nuclei, %"),
)
"""Tolerance, figure, and what the axis says."""
SIGNLESS = {"missed_percent", "false_percent", "dna_spread_percent"}
"""Figures that have no sign."""
_LIMIT_GREY = "#777777"


@dataclass(frozen=True)
class Plot:
    """A plot: its name as a file, what it shows, and how it is drawn."""

    name: str
    caption: str
    size: tuple[float, float]
    draw: Callable[[Canvas], None]

    def canvas(self) -> Canvas:
        """Return it drawn."""
        canvas = Canvas(figsize=self.size, layout="constrained")
        self.draw(canvas)
        return canvas


def partner_of(report: Report) -> Partner:
    """Return what rows are scored against: the truth where it is known."""
    return "truth" if any("truth" in row.against for row in report.levels) else "reference"


def network_rows(report: Report) -> list[Level]:
    """Return the network's rows, by falling light."""
    return [row for row in report.levels if row.source == "network"]


def is_stained(report: Report, row: Level) -> bool:
    """Return whether a row is of images that show the stain of the DNA, as those have that the reference masks come from."""
    stained = {each.channel for each in report.levels if each.source == "reference"}
    return not stained or row.channel in stained


def level_colour(report: Report, name: str) -> str:
    """Return the colour of a light level."""
    names = list(dict.fromkeys(row.name for row in report.levels if row.measured))
    number = (
        names.index(name) if name in names else len(names)
    )  # the training may know a level that could not be judged
    return LEVEL_COLOURS[number % len(LEVEL_COLOURS)]


def error_plot(report: Report) -> Plot | None:
    """Light against the errors that the recommendation goes by; nothing without a network."""
    rows = [row for row in network_rows(report) if "network_100" in row.against]
    if not rows or report.recommendation is None:
        return None
    purposes = {report.recommendation.purpose: report.recommendation.headline} | report.recommendation.purposes

    def draw(canvas: Canvas) -> None:
        for axes, (tolerance, figure, label) in zip(canvas.subplots(2, 4).flat, _ERRORS, strict=True):
            most = next((p.tolerances[tolerance] for p in purposes.values() if p.tolerances.get(tolerance)), None)
            if most is not None:
                least = 0 if tolerance in SIGNLESS else -most
                axes.axhspan(least, most, color="#009e73", alpha=0.15, linewidth=0)
            axes.axhline(0, color="#888", linewidth=0.8)
            for measured, marker in ((True, "o"), (False, "D")):
                some = [row for row in rows if row.measured == measured]
                _with_bars(axes, some, [getattr(row.against["network_100"], figure) for row in some], "network", marker)
            if tolerance == "missed_percent":
                _photon_limit(axes, rows)
            _light_axis(axes, report)
            axes.set_title(label, fontsize=10)

    caption = (
        "Light against error: the network at each light level against itself at full light, with 95 % intervals over wells. Green: "
        "the tolerance of the protocol's purpose, or of the first one that has any. Grey: what any method must miss at an overlap of 0.5, for "
        "lack of photons (bound of an isolated nucleus). Diamonds: levels between those measured, made by thinning the photons of the bright images."
    )
    return Plot("light_against_error", caption, (13, 6), draw)


def _photon_limit(axes: Axes, rows: list[Level]) -> None:
    known = sorted(
        (100 * row.relative_dose, 100 * (1 - row.best_recall["0.5"])) for row in rows if "0.5" in row.best_recall
    )
    if known:
        doses, missed = zip(*known, strict=True)
        (line,) = axes.plot(doses, missed, color=_LIMIT_GREY, linewidth=1.5, label="photon limit")
        axes.legend(handles=[line], fontsize=8)


def score_plot(report: Report) -> Plot:
    """Light against F1 and count, of the network and the classical method."""
    partner = partner_of(report)

    def draw(canvas: Canvas) -> None:
        left, right = canvas.subplots(1, 2)
        for source in ("network", "classical"):
            rows = [row for row in report.levels if row.source == source and partner in row.against]
            for row in (row for row in rows if not is_stained(report, row)):  # its light is not that of the axis
                for axes, figure in (
                    (left, row.against[partner].f1_at_0_5),
                    (right, row.against[partner].count_deviation_percent),
                ):
                    if figure.value is not None:
                        axes.axhline(figure.value, color=COLOURS[source], linestyle="--", label=f"{source}, {row.name}")
            rows = [row for row in rows if is_stained(report, row)]
            _with_bars(left, rows, [row.against[partner].f1_at_0_5 for row in rows], source, "o")
            _with_bars(right, rows, [row.against[partner].count_deviation_percent for row in rows], source, "o")
        left.set_ylabel(f"F1 at an overlap of 0.5 against {_named(partner)}")
        right.set_ylabel(f"count against {_named(partner)}, %")
        right.set_yscale("symlog", linthresh=10)
        right.yaxis.set_major_formatter("{x:g}")
        right.axhline(0, color="#888", linewidth=0.8)
        for axes in (left, right):
            _light_axis(axes, report)
        left.legend()

    return Plot(
        "light_against_score", f"The network and the classical method against {_named(partner)}.", (9, 3.4), draw
    )


def _named(partner: Partner) -> str:
    return {"truth": "the truth", "reference": "the reference masks", "network_100": "the network at full light"}[
        partner
    ]


def _with_bars(axes: Axes, rows: list[Level], figures: list[Figure], source: str, marker: str) -> None:
    known = [(100 * row.relative_dose, f) for row, f in zip(rows, figures, strict=True) if f.value is not None]
    doses, values = [dose for dose, _ in known], [f.value for _, f in known if f.value is not None]
    off = [[abs(f.value - (f.confidence_95 or (f.value,))[0]), abs((f.confidence_95 or (f.value,))[-1] - f.value)]
           for _, f in known if f.value is not None]  # fmt: skip
    line = "" if marker == "D" else "-"
    axes.errorbar(
        doses, values, np.array(off).T if off else None, fmt=f"{marker}{line}", color=COLOURS[source], label=source,
        capsize=3, markersize=5, linewidth=1.2,
    )  # fmt: skip


def _light_axis(axes: Axes, report: Report) -> None:
    rows = [row for row in report.levels if row.measured and is_stained(report, row)]
    names = {100 * row.relative_dose: row.name.removesuffix("%").strip() for row in rows}
    axes.set_xscale("log")
    axes.set_xticks(list(names), list(names.values()), minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("light, % of full")
    axes.grid(alpha=0.3)


def cell_cycle_plots(report: Report, nuclei: pd.DataFrame) -> list[Plot]:
    """Area against DNA content, and histograms of it, at each level, of the network's nuclei that do not touch the border."""
    names = [row.name for row in network_rows(report) if row.measured and is_stained(report, row)]
    if not names:
        return []
    whole = nuclei[~nuclei["touches_border"].astype(bool) & (nuclei["integrated_intensity_e"] > 0)]
    by_level = {name: whole[whole["level"] == name] for name in names}
    peaks = {name: _peaks(table) for name, table in by_level.items()}

    def areas(canvas: Canvas) -> None:
        for axes, (name, table) in zip(_row(canvas, len(names)), by_level.items(), strict=True):
            some = table.sample(min(len(table), _MOST_POINTS), random_state=0)
            axes.scatter(
                some["integrated_intensity_e"],
                some["area_um2"],
                s=3,
                alpha=0.35,
                color=COLOURS["network"],
                linewidths=0,
            )
            _cut(axes, some)
            axes.set_title(f"{name}: {len(table):,} nuclei", fontsize=10)
            axes.set_xlabel("DAPI, e⁻")

    def histograms(canvas: Canvas) -> None:
        for axes, (name, table) in zip(_row(canvas, len(names)), by_level.items(), strict=True):
            values = table["integrated_intensity_e"].to_numpy()
            if values.size:
                low, high = np.percentile(values, [0.5, 99.5])
                axes.hist(values.clip(low, high), bins=np.linspace(low, high, 60).tolist(), color="#999")
            for peak, phase in zip(peaks[name], ("G1", "G2"), strict=False):
                axes.axvline(peak, color=COLOURS["network"], linewidth=1.2)
                axes.annotate(phase, (peak, 1), xycoords=("data", "axes fraction"), ha="left", va="top", fontsize=9)
            axes.set_title(name, fontsize=10)
            axes.set_xlabel("DAPI, e⁻")

    def labelled(draw: Callable[[Canvas], None], label: str) -> Callable[[Canvas], None]:
        def both(canvas: Canvas) -> None:
            draw(canvas)
            canvas.axes[0].set_ylabel(label)

        return both

    size = (3.2 * max(len(names), 1), 3.1)
    return [
        Plot("area_against_dna", "Cell cycle: area of each nucleus against its integrated DAPI intensity (photo-electrons above "
             "background); the axis of each light level has its own scale.", size, labelled(areas, "area, µm²")),
        Plot("dna", "DNA content at each light level, with the peaks that were fitted; the axis of each level has its own scale.",
             size, labelled(histograms, "nuclei")),
    ]  # fmt: skip


def _row(canvas: Canvas, count: int) -> list[Axes]:
    return list(canvas.subplots(1, max(count, 1), squeeze=False)[0])[:count]


def _cut(axes: Axes, table: pd.DataFrame) -> None:
    if len(table) > 10:
        axes.set_xlim(0, float(np.percentile(table["integrated_intensity_e"], 99.5)) * 1.1)
        axes.set_ylim(0, float(np.percentile(table["area_um2"], 99.5)) * 1.1)


def _peaks(table: pd.DataFrame) -> tuple[float, ...]:
    try:
        fit = fit_cell_cycle(table["integrated_intensity_e"], 0.0)
    except NoFitError:
        return ()
    return fit.g1_intensity, fit.g1_intensity * fit.peak_ratio


def plate_plot(run: RunFolder) -> Plot | None:
    """Count, share of G2, intensity and quality of each well, by the reference masks; nothing where there are none."""
    protocol, profile = run.read_protocol(), run.read_profile()
    records = run.references()
    if not records:
        return None
    nuclei = pd.concat([run.nuclei.read(REFERENCE, *key) for key in sorted(records)], ignore_index=True)
    nuclei = nuclei[nuclei["level"] == protocol.reference.name]
    camera = profile.camera
    measured = profile.light_source(protocol.channel).illumination
    nuclei, _ = evenly_lit(nuclei, {(camera.height_px, camera.width_px)}, measured=measured)
    usable = pd.Series([record.usable for record in records.values()], [key[0] for key in records], float)
    whole = nuclei[~nuclei["touches_border"].astype(bool)]
    maps: dict[str, Any] = {
        "nuclei": nuclei.groupby("well").size(),
        "mean DAPI, e⁻": whole.groupby("well")["mean_intensity_e"].mean(),
        "usable sites, %": 100 * usable.groupby(level=0).mean(),
    }
    if peaks := _peaks(whole[whole["integrated_intensity_e"] > 0]):
        is_g2 = whole["integrated_intensity_e"] > SPLIT_DNA_CONTENT * peaks[0]
        maps["share of G2, %"] = 100 * is_g2.groupby(whole["well"]).mean()
    places = {well: protocol.plate.wells[well] for well in (*protocol.training_wells, *protocol.held_out_wells)}
    rows, columns = (sorted({place[axis] for place in places.values()}) for axis in (0, 1))

    def draw(canvas: Canvas) -> None:
        for axes, (title, values) in zip(canvas.subplots(1, 4, squeeze=False)[0], maps.items(), strict=False):
            grid = np.full((len(rows), len(columns)), np.nan)
            for well, (row, column) in places.items():
                if well in values.index:
                    grid[rows.index(row), columns.index(column)] = values[well]
            shown = axes.imshow(grid, cmap="viridis", aspect="equal")
            canvas.colorbar(shown, ax=axes, shrink=0.7)
            axes.set_title(title, fontsize=10)
            axes.set_yticks(range(len(rows)), [_row_name(row) for row in rows], fontsize=7)
            axes.set_xticks(range(len(columns)), [str(column + 1) for column in columns], fontsize=7)
            for well in protocol.held_out_wells:
                row, column = places[well]
                axes.plot(columns.index(column), rows.index(row), "s", color="white", fillstyle="none", markersize=8)
        for axes in canvas.axes:
            if not axes.images and not axes.collections and not axes.lines:
                axes.set_axis_off()

    caption = "The plate, by the reference masks at full light. White squares: wells held out from training. Blank: nothing finished."
    return Plot("plate", caption, (13, 2.6), draw)


def _row_name(row: int) -> str:
    letters = ""
    row += 1
    while row:
        row, letter = divmod(row - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return letters


def training_plot(report: Report) -> Plot | None:
    """Loss and F1 on the validation wells over the training; nothing where there are no two checks."""
    checks = report.training
    if len(checks) < 2:
        return None

    def draw(canvas: Canvas) -> None:
        left, right = canvas.subplots(1, 2)
        minutes = [check["seconds"] / 60 for check in checks]
        left.plot(minutes, [check["loss"] for check in checks], "o-", color="#555", markersize=3)
        left.set_ylabel("loss")
        for level in checks[-1]["f1"]:
            values = [check["f1"].get(level, np.nan) for check in checks]
            right.plot(minutes, values, "o-", markersize=3, color=level_colour(report, level), label=level)
        right.set_ylabel("F1 on validation wells")
        right.legend(fontsize=8)
        for axes in (left, right):
            axes.set_xlabel("minutes of training")
            axes.grid(alpha=0.3)

    caption = (
        "The training: loss, and F1 against the reference masks of wells kept to check on; the last point with the cut-offs of the "
        "model, on more sites."
    )
    return Plot("training", caption, (9, 3), draw)
