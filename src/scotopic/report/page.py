"""`report.html`: one file, readable offline, drawn from the report and the store."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any

import imageio.v3 as iio
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from scipy import ndimage as ndi

from scotopic.pictures import stretched
from scotopic.protocol import rounded
from scotopic.store.files import replace_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scotopic.report.schema import Level, Partner, Report
    from scotopic.store import RunFolder

_COLOURS = {"network": "#0072b2", "reference": "#000000", "classical": "#d55e00"}
"""Okabe and Ito's, told apart by the colour-blind."""
_MOST_PX = 512
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1rem 0; width: 100% } th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left } tr.first td { border-top: 2px solid #888 }
img { max-width: 100% } .fields { display: flex; flex-wrap: wrap; gap: .5rem } .fields figure { margin: 0; flex: 1 1 13rem }
figcaption, .small { font-size: .85rem; color: #555 } .missing { background: #fff3cd; padding: .5rem 1rem }
"""


def write_page(run: RunFolder, report: Report) -> None:
    """Write `report.html` of a run, whole or not at all."""
    title = f"scotopic: {escape(report.protocol)}"
    parts = [f"<h1>{escape(report.protocol)}</h1>", f"<p><b>{escape(verdict(report))}</b></p>"]
    parts += [f'<p class="missing">Missing: {escape(text)}</p>' for text in report.missing]
    if report.levels:
        parts += [_table(report), _plot(_dose_against_error, report, "Light against error, held-out wells.")]
        parts += _fields(run, report)
        tables = _network_tables(run, report)
        if tables is not None:
            caption = "DNA content: integrated intensity of the network's nuclei, photo-electrons divided by dose."
            parts.append(_plot(lambda canvas: _histograms(canvas, report, tables), None, caption))
    parts.append(_made(report))
    page = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    page += f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head><body>{"".join(parts)}</body></html>'
    replace_text(run.path / "report.html", page)


def verdict(report: Report) -> str:
    """Return the report in a sentence."""
    rows = [row for row in report.levels if row.source == "network"]
    if not rows:
        return "No verdict: " + ("; ".join(report.missing) or "nothing was found") + "."
    partner = _partner(report)
    told = [f"{row.against[partner].f1_at_0_5.value or 0:.3f} at {row.name}" for row in rows if partner in row.against]
    against = "the truth" if partner == "truth" else "the reference masks"
    wells = f"{len(report.held_out_wells)} wells that it never trained on"
    return f"On {wells} the network finds nuclei with an F1 against {against} of {', '.join(told)} of the light."


def _partner(report: Report) -> Partner:
    """Return what rows are scored against: the truth where it is known."""
    return "truth" if any("truth" in row.against for row in report.levels) else "reference"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _table(report: Report) -> str:
    partner = _partner(report)
    head = (
        "source", "light", "nuclei", "count against network at full light", f"count against {partner}", "G1", "G2",
        f"G2 against {partner}", "median area, µm²", f"area against {partner}", "mean intensity per dose, e⁻",
        f"F1 against {partner}", "mean F1", "missed", "false",
    )  # fmt: skip
    lines, before = [], ""
    for row in report.levels:
        network, other = row.against.get("network_100"), row.against.get(partner)
        cells = [
            row.source,
            row.name,
            f"{row.nuclei_count:,}",
            _number(network.count_deviation_percent.value if network else None, "+.2f"),
            _number(other.count_deviation_percent.value if other else None, "+.2f"),
            _number(row.g1_percent, ".1f"),
            _number(row.g2_percent, ".1f"),
            _number(other.g2_deviation_points.value if other else None, "+.1f"),
            _number(row.median_area_um2, ".0f"),
            _number(other.median_area_deviation_percent.value if other else None, "+.1f"),
            _number(row.mean_intensity, ",.0f"),
            _number(other.f1_at_0_5.value if other else None, ".3f"),
            _number(other.mean_f1.value if other else None, ".3f"),
            _number(other.miss_percent.value if other else None, ".1f"),
            _number(other.false_percent.value if other else None, ".1f"),
        ]
        lines.append(_line(cells, "td", "first" if row.source != before else ""))
        before = row.source
    why = sorted({f"{row.source} at {row.name}: {row.cell_cycle}" for row in report.levels if row.cell_cycle})
    notes = f'<p class="small">No split into G1 and G2: {escape("; ".join(why))}.</p>' if why else ""
    caption = (
        f'<p class="small">Held-out wells {escape(", ".join(report.held_out_wells))}, {report.sites} sites. Without a unit: '
        "percent, F1 apart; G2 against another in percentage points. F1 at an overlap (IoU) of 0.5. Confidence intervals are not worked out yet.</p>"
    )
    return f"<h2>The table</h2><table>{_line(head, 'th', '')}{''.join(lines)}</table>{notes}{caption}"


def _line(cells: Any, tag: str, kind: str) -> str:
    return f'<tr class="{kind}">' + "".join(f"<{tag}>{escape(c)}</{tag}>" for c in cells) + "</tr>"


def _plot(draw: Any, report: Report | None, caption: str) -> str:
    canvas = Canvas(figsize=(9, 3.6), layout="constrained")
    draw(canvas, report) if report is not None else draw(canvas)
    file = io.BytesIO()
    canvas.savefig(file, format="png", dpi=130)
    return f"<figure>{_image(file.getvalue(), caption)}<figcaption>{escape(caption)}</figcaption></figure>"


def _image(png: bytes, text: str) -> str:
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _dose_against_error(canvas: Canvas, report: Report) -> None:
    partner = _partner(report)
    left, right = canvas.subplots(1, 2)
    for source in ("network", "classical"):
        rows: list[Level] = [row for row in report.levels if row.source == source and partner in row.against]
        doses = [100 * row.relative_dose for row in rows]
        f1 = [row.against[partner].f1_at_0_5.value for row in rows]
        off = [row.against[partner].count_deviation_percent.value for row in rows]
        for axes, values in ((left, f1), (right, off)):
            axes.plot(doses, values, "o-", color=_COLOURS[source], label=source)
    left.set_ylabel(f"F1 at IoU 0.5 against {partner}")
    right.set_ylabel(f"count against {partner}, %")
    right.set_yscale("symlog", linthresh=10)
    right.axhline(0, color="#999", linewidth=1)
    right.yaxis.set_major_formatter("{x:g}")
    names = {100 * row.relative_dose: row.name.removesuffix("%").strip() for row in report.levels}
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(list(names), list(names.values()), minor=False)
        axes.set_xticks([], minor=True)
        axes.set_xlabel("light, % of full")
        axes.grid(alpha=0.3)
    left.legend()


def _fields(run: RunFolder, report: Report) -> list[str]:
    """Return the held-out field with the most nuclei at every level, with the network's contours."""
    protocol, profile = run.read_protocol(), run.read_profile()
    plate = run.plate(protocol, profile)
    done = [r for r in run.references().values() if r.well in report.held_out_wells]
    if not done:
        return []
    site = max(done, key=lambda r: (r.nuclei, r.name))
    figures = []
    for number, level in enumerate(protocol.light_levels):
        image = plate.read(site.well, site.site, level.name, site.t, site.z)
        name = f"network_{report.model}_{number}" if report.model else "reference"
        labels = plate.read_labels(site.well, site.site, name, site.t, site.z)
        caption = f"{level.name} of the light: {len(np.unique(labels)) - 1} nuclei"
        png = iio.imwrite("<bytes>", _contoured(image, labels), extension=".png")
        figures.append(f"<figure>{_image(png, caption)}<figcaption>{escape(caption)}</figcaption></figure>")
    whose = "the network" if report.model else "the reference segmentation at full light"
    return [f"<h2>{escape(site.name)}, contours of {whose}</h2><div class=fields>{''.join(figures)}</div>"]


def _contoured(image: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the middle of an image, each light with its own contrast, with thin contours."""
    height, width = (min(n, _MOST_PX) for n in image.shape)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    piece = np.s_[top : top + height, left : left + width]
    grey, mine = stretched(image, 0.5, 99.8)[piece], labels[piece]
    picture = np.repeat(grey[..., None], 3, axis=2)
    inner = (ndi.minimum_filter(mine, 3) != mine) & (mine > 0)
    picture[inner] = (255, 176, 0)
    return picture


def _network_tables(run: RunFolder, report: Report) -> pd.DataFrame | None:
    if report.model is None:
        return None
    files = sorted(run.nuclei.folder(report.model).glob("*.parquet"))
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True) if files else None


def _histograms(canvas: Canvas, report: Report, tables: pd.DataFrame) -> None:
    names = [row.name for row in report.levels if row.source == "network"]
    whole = tables[~tables["touches_border"] & (tables["integrated_intensity_e"] > 0)]
    dna = whole["integrated_intensity_e"] / whole["relative_dose"]
    all_axes = canvas.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    for axes, name in zip(all_axes, names, strict=True):
        if len(
            dna
        ):  # the same bins for all, as the brightest level needs them: what lies outside is counted at the rim
            low, high = np.percentile(
                dna[whole["level"] == names[0]] if (whole["level"] == names[0]).any() else dna, [1, 99]
            )
            bins = np.geomspace(low / 2, high * 2, 40)
            axes.hist(dna[whole["level"] == name].clip(bins[0], bins[-1]), bins=bins, color=_COLOURS["network"])
            axes.set_xscale("log")
        axes.set_title(name)
        axes.set_xlabel("integrated intensity, e⁻")
    all_axes[0].set_ylabel("nuclei")


def _quantity(value: float | None, factor: float, form: str, unit: str) -> str:
    return "none" if value is None else f"{factor * value:{form}} {unit}"


def _made(report: Report) -> str:
    card = report.model_card or {}
    facts = {
        "model": report.model or "none",
        "trained on": f"{len(card.get('training_wells', ()))} wells, {card.get('training_sites', 0)} sites, {card.get('steps', 0):,} steps",
        "training": _quantity(report.timing["training"], 1 / 60, ".1f", "min"),
        "prediction": _quantity(report.timing["prediction_per_frame"], 1000, ".0f", "ms a frame"),
        "light on the sample": f"{rounded(report.dose['sample'] / 1000)} s at full power in the whole run",
        "specimen": report.specimen or "on a microscope",
        "versions": ", ".join(f"{name} {number}" for name, number in report.versions.items()),
    }
    rows = "".join(_line((name, text), "td", "") for name, text in facts.items())
    return f"<h2>How it was made</h2><table>{rows}</table>"
