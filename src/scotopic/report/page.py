"""`report.html`: one file, readable offline, drawn from the report and the store."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any

import imageio.v3 as iio
import numpy as np
import pandas as pd
from scipy import ndimage as ndi

from scotopic.pictures import stretched
from scotopic.protocol import rounded
from scotopic.report.figures import (
    Plot,
    cell_cycle_plots,
    error_plot,
    is_stained,
    level_colour,
    network_rows,
    partner_of,
    plate_plot,
    score_plot,
    training_plot,
)
from scotopic.report.findings import HeldOutSites
from scotopic.report.verdict import (
    FIGURES,
    judged_sites,
    judgement_words,
    purpose_name,
    purpose_words,
    verdict,
)
from scotopic.store import read_frame
from scotopic.store.files import replace_bytes
from scotopic.store.seals import BLANK, sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scotopic.report.schema import Figure, Purpose, Report
    from scotopic.store import PlateStore, ReferenceRecord, RunFolder

_MOST_PX, _FIELDS = 512, 3
_THUMBNAIL_PX, _THUMBNAILS = 160, 24
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1rem 0; width: 100% } th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top }
th:first-child, td:first-child, .words td, .words th { text-align: left } tr.first td { border-top: 2px solid #888 } td small { color: #555; display: block; white-space: nowrap } .dense { font-size: .8rem }
img { max-width: 100% } figure { margin: 1rem 0 } .fields { display: flex; flex-wrap: wrap; gap: .5rem } .fields figure { margin: 0; flex: 1 1 13rem }
.thumbs figure { flex: 0 0 160px } figcaption, .small { font-size: .85rem; color: #555 } .missing { background: #fff3cd; padding: .5rem 1rem }
.verdict { font-size: 1.25rem; font-weight: 600 } .stack { position: relative; max-width: 640px; margin-top: .5rem }
.stack img { width: 100%; display: block; image-rendering: pixelated } .stack .over { position: absolute; inset: 0; display: none }
.wide { overflow-x: auto } label { margin-right: 1rem; border-bottom: 3px solid; cursor: pointer } details { margin: 1rem 0 }
@media print { details { display: block } body { max-width: none } }
"""


def write_page(run: RunFolder, report: Report) -> None:
    """Write `report.html` of a run, whole or not at all."""
    title = f"scotopic: {escape(report.protocol)}"
    parts = [f"<h1>{escape(report.protocol)}</h1>", f'<p class="verdict">{escape(verdict(report, str(run.path)))}</p>']
    if left_out := judged_sites(report):
        parts.append(f'<p class="missing">{escape(left_out)}</p>')
    parts += [f'<p class="missing">Missing: {escape(text)}</p>' for text in report.missing]
    parts.append(_recommended(report))
    parts += _table(report)
    drawn = {plot.name: _drawn(plot) for plot in plots(run, report)}
    parts.append(drawn.get("light_against_error", ""))
    chosen = _chosen(run, report)
    parts += _contours(run, report, chosen) + _fields(run, report, chosen)
    parts += [drawn[name] for name in ("area_against_dna", "dna", "light_against_score", "plate") if name in drawn]
    parts += [
        *_ground_truth(run, report),
        drawn.get("training", ""),
        _stability(report),
        _details(report),
        _made(report),
    ]
    style = _STYLE + _switches(report)
    page = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    page += f'<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><style>{style}</style></head>'
    page += f"<body>{''.join(parts)}<!-- {BLANK} --></body></html>"
    replace_bytes(run.path / "report.html", sealed(page.encode()))


def plots(run: RunFolder, report: Report) -> list[Plot]:
    """Return the plots of a report that there is something to draw of."""
    found: list[Plot | None] = []
    if report.levels:
        found += [error_plot(report), score_plot(report)]
        if (nuclei := _network_tables(run, report)) is not None:
            found += cell_cycle_plots(report, nuclei)
    found += [plate_plot(run), training_plot(report)]
    return [plot for plot in found if plot is not None]


def write_figures(run: RunFolder, report: Report, folder: Path) -> list[Path]:
    """Write each plot as PDF and PNG for papers, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for plot in plots(run, report):
        canvas = plot.canvas()
        for suffix in ("pdf", "png"):
            paths.append(folder / f"{plot.name}.{suffix}")
            canvas.savefig(paths[-1], dpi=300)
    return paths


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _with_interval(value: float | None, interval: Sequence[float] | None, form: str) -> str:
    """Return a cell: a figure, and its interval below."""
    text = escape(_number(value, form))
    return text + (
        f"<small>{interval[0]:{form}} … {interval[1]:{form}}</small>" if interval and value is not None else ""
    )


def _cell(figure: Figure | None, form: str) -> str:
    return _with_interval(figure.value, figure.confidence_95, form) if figure else "–"


def _table(report: Report) -> list[str]:
    """Return the white paper's table, and the same nuclei beside it: the network at each light level."""
    rows = [row for row in network_rows(report) if is_stained(report, row)]
    if not rows:
        return []
    head = ("light", "nuclei", "count, %", "missed, %", "false, %", "G1, %", "G2, %", "G2, points", "change class",
            "median area, µm²", "area, %", "mean DAPI per dose, e⁻", "DAPI, %", "DNA spread, %")  # fmt: skip
    lines = []
    for row in rows:
        full, own = row.against.get("network_100"), row.confidence_95
        changed = None if full is None or full.g1_to_g2 is None else (full.g1_to_g2 or 0) + (full.g2_to_g1 or 0)
        cells = [
            escape(row.name + ("" if row.measured else " (thinned)")),
            f"{row.nuclei_count:,}",
            _cell(full.count_deviation_percent if full else None, "+.2f"),
            _cell(full.miss_percent if full else None, ".1f"),
            _cell(full.false_percent if full else None, ".1f"),
            _with_interval(row.g1_percent, own.get("g1_percent"), ".1f"),
            _with_interval(row.g2_percent, own.get("g2_percent"), ".1f"),
            _cell(full.g2_deviation_points if full else None, "+.2f"),
            "–" if changed is None or not full else f"{changed:,} of {full.matched:,}",
            _with_interval(row.median_area_um2, own.get("median_area_um2"), ".1f"),
            _cell(full.median_area_deviation_percent if full else None, "+.1f"),
            _with_interval(row.mean_intensity, own.get("mean_intensity"), ",.0f"),
            _cell(full.mean_intensity_deviation_percent if full else None, "+.1f"),
            _cell(full.dna_spread_percent if full else None, ".1f"),
        ]
        lines.append(_line(cells, "td"))
    caption = (
        f"Held-out wells {', '.join(report.held_out_wells)}, {report.sites} sites; all rows found by the network. Count, missed, false, "
        "and what follows a figure in % or points: against the network at full light on the same sites. Missed and false: nuclei "
        "without a partner at an overlap (IoU) above 0.5. Change class: of the same nuclei, those on the other side of a DNA content of "
        "1.5. DNA spread: robust coefficient of variation of the DNA of the same nuclei. Small: 95 % confidence intervals over wells "
        "(jackknife, Student's t); none with fewer than three wells."
    )
    table = f'<div class="wide dense"><table>{_heads(head)}{"".join(lines)}</table></div>'
    return ["<h2>The table</h2>", table, f'<p class="small">{escape(caption)}</p>', _paper(report)]


def _paper(report: Report) -> str:
    """Return the table once more from two wells a light level."""
    if not report.as_in_the_paper:
        return ""
    head = ("light", "wells", "nuclei", "count against full light in the same wells, %", "G1, %", "G2, %")
    lines = [
        _line(
            [
                escape(row.name),
                escape(", ".join(row.wells)),
                f"{row.nuclei_count:,}",
                _number(row.count_deviation_percent, "+.2f"),
                _number(row.g1_percent, ".1f"),
                _number(row.g2_percent, ".1f"),
            ],
            "td",
        )
        for row in report.as_in_the_paper
    ]
    return f"<details><summary>The same from two wells a light level, as in the white paper</summary><table>{_heads(head)}{''.join(lines)}</table></details>"


def _details(report: Report) -> str:
    """Return all rows of all sources, against truth or reference masks."""
    if not report.levels:
        return ""
    partner = partner_of(report)
    against = {"truth": "truth", "reference": "reference masks"}.get(partner, partner)
    head = ("source", "light", "nuclei", f"count against {against}, %", "G2, %", f"G2 against {against}, points", "median area, µm²",
            f"area against {against}, %", "F1", "mean F1", "missed, %", "false, %", "split", "merged", "area correlation",
            "intensity correlation")  # fmt: skip
    lines, before = [], ""
    for row in report.levels:
        other = row.against.get(partner)
        cells = [
            escape(row.source),
            escape(row.name + ("" if row.measured else " (thinned)")),
            f"{row.nuclei_count:,}",
            _cell(other.count_deviation_percent if other else None, "+.2f"),
            _number(row.g2_percent, ".1f"),
            _cell(other.g2_deviation_points if other else None, "+.1f"),
            _number(row.median_area_um2, ".0f"),
            _cell(other.median_area_deviation_percent if other else None, "+.1f"),
            _cell(other.f1_at_0_5 if other else None, ".3f"),
            _cell(other.mean_f1 if other else None, ".3f"),
            _cell(other.miss_percent if other else None, ".1f"),
            _cell(other.false_percent if other else None, ".1f"),
            f"{other.splits:,}" if other else "–",
            f"{other.merges:,}" if other else "–",
            _number(other.area_correlation.value if other else None, ".3f"),
            _number(other.intensity_correlation.value if other else None, ".3f"),
        ]
        lines.append(_line(cells, "td", "first" if row.source != before else ""))
        before = row.source
    why = sorted({f"{row.source} at {row.name}: {row.cell_cycle}" for row in report.levels if row.cell_cycle})
    notes = f'<p class="small">No split into G1 and G2: {escape("; ".join(why))}.</p>' if why else ""
    caption = (
        f"Against {against}. F1, missed and false at an overlap (IoU) above 0.5; mean F1 over overlaps of 0.5 to 0.95. The classical method "
        "is the reference segmentation on the dark image itself; the reference has the masks of the bright image at every level."
    )
    table = f'<div class="wide dense"><table>{_heads(head)}{"".join(lines)}</table></div>'
    return (
        f'<h2>Network, reference masks, and classical method</h2>{table}{notes}<p class="small">{escape(caption)}</p>'
    )


def _heads(texts: Iterable[str]) -> str:
    return _line([escape(text) for text in texts], "th")


def _line(cells: Iterable[str], tag: str, kind: str = "") -> str:
    """Return a line of a table; its cells are HTML."""
    return f'<tr class="{kind}">' + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _drawn(plot: Plot) -> str:
    file = io.BytesIO()
    plot.canvas().savefig(file, format="png", dpi=110)
    return f"<figure>{_image(file.getvalue(), plot.caption)}<figcaption>{escape(plot.caption)}</figcaption></figure>"


def _image(png: bytes, text: str, kind: str = "") -> str:
    return f'<img class="{kind}" alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _recommended(report: Report) -> str:
    """Return the lowest light for each purpose, and how each level was judged."""
    if report.recommendation is None:
        return ""
    purposes = {report.recommendation.purpose: report.recommendation.headline} | report.recommendation.purposes
    lines = []
    for name, purpose in purposes.items():
        setting = (
            f"{rounded(purpose.exposure_ms)} ms at {rounded(purpose.led_percent or 0)} % LED"
            if purpose.exposure_ms
            else "–"
        )
        saved = f"{rounded(purpose.light_saving_factor)} times" if purpose.light_saving_factor else "–"
        stopped = next((each for each in purpose.judgements if each.verdict != "within"), None)
        why = purpose_words(purpose)
        if not why:
            why = f"{stopped.name}: {judgement_words(stopped)}" if stopped else "the dimmest level is within"
        cells = [purpose_name(name), purpose.level or "–", setting, saved, why]
        lines.append(_line(map(escape, cells), "td"))
    head = ("purpose", "lowest light", "setting", "less light", "why not lower")
    table = f'<h2>How low the light may go</h2><table class="words">{_heads(head)}{"".join(lines)}</table>'
    return table + "".join(_judged(name, each, report) for name, each in purposes.items() if each.judgements)


def _judged(name: str, purpose: Purpose, report: Report) -> str:
    """Return how each level was judged for a purpose."""
    lines = [
        _line([escape(each.name), each.verdict, escape(judgement_words(each))], "td") for each in purpose.judgements
    ]
    confidence = report.recommendation.confidence if report.recommendation else 0.95
    tolerances = ", ".join(
        f"{FIGURES[figure][0]} {value:g} {FIGURES[figure][1]}"
        for figure, value in purpose.tolerances.items()
        if value is not None
    )
    note = f"Tolerances: {tolerances}; {confidence:.0%} intervals must lie within."
    table = f'<table class="words">{_heads(("light", "verdict", "why"))}{"".join(lines)}</table>'
    heading = f"For {escape(purpose_name(name))}: each level"
    return f'<details><summary>{heading}</summary>{table}<p class="small">{escape(note)}</p></details>'


def _chosen(run: RunFolder, report: Report) -> list[ReferenceRecord]:
    """Return a few held-out sites: those with the most, the median and the fewest nuclei."""
    shown = {row.name for row in network_rows(report) if row.measured}
    frames = HeldOutSites(run).frames
    judged = {key for key, levels in frames.items() if key[0] in report.held_out_wells and shown <= levels.keys()}
    done = sorted(
        (record for key, record in run.references().items() if key in judged), key=lambda r: (-r.nuclei, r.name)
    )
    return [done[i] for i in sorted({0, len(done) // 2, len(done) - 1})][:_FIELDS] if done else []


def _reader(run: RunFolder, plate: PlateStore) -> Callable[[ReferenceRecord, str], NDArray[Any]]:
    """Return what reads the image of a site at a light level, in the plane of its masks: zeros where none was taken."""
    frames = {(r.site_key, r.attempt, r.z, r.level): r for r in run.ledger.read() if r.state == "written"}

    def read(site: ReferenceRecord, level: str) -> NDArray[Any]:
        record = frames.get((site.site_key, site.attempt, site.z, level))
        return plate.read(site.well, site.site, level, site.t, site.z) if record is None else read_frame(plate, record)

    return read


def _contours(run: RunFolder, report: Report, chosen: Sequence[ReferenceRecord]) -> list[str]:
    """Return a few fields: contours of all levels over the darkest image, each to be switched on and off."""
    protocol, found = run.read_protocol(), {row.name for row in network_rows(report) if row.measured}
    levels = [(number, level) for number, level in enumerate(protocol.light_levels) if level.name in found]
    if report.model is None or not levels:
        return []
    plate = run.plate(protocol, run.read_profile())
    darkest = min((level for _, level in levels), key=lambda level: level.nominal_dose)
    parts = ["<h2>What the network sees at each light, over the darkest image</h2>"]
    read = _reader(run, plate)
    for number, site in enumerate(chosen):
        image = read(site, darkest.name)
        piece = _middle(image.shape)
        over, switches = [], []
        for index, level in levels:
            labels = plate.read_labels(site.well, site.site, f"network_{report.model}_{index}", site.t, site.z)[piece]
            colour = level_colour(report, level.name)
            png = iio.imwrite("<bytes>", _outline(labels, colour), extension=".png")
            over.append(_image(png, f"contours at {level.name}", f"over level{index}"))
            on = " checked" if level in {levels[0][1], levels[-1][1]} else ""
            switches.append(
                f'<input type="checkbox" class="show{index}" id="f{number}l{index}"{on}><label for="f{number}l{index}" '
                f'style="border-color:{colour}">{escape(level.name)}: {len(np.unique(labels)) - 1} nuclei</label>'
            )
        grey = iio.imwrite("<bytes>", stretched(image, 0.5, 99.8)[piece], extension=".png")
        base = _image(grey, f"{site.name} at {darkest.name}")
        caption = f"{site.name} at {darkest.name}; contours found at each level, in its colour. Switch them on and off."
        parts.append(
            f'<figure class="switched">{"".join(switches)}<div class="stack">{base}{"".join(over)}</div>'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    return parts


def _switches(report: Report) -> str:
    count = len({row.name for row in report.levels if row.measured}) + 1  # that of another channel may be any level's
    return "".join(f".show{n}:checked ~ .stack .level{n} {{ display: block }}" for n in range(count))


def _middle(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice((n - min(n, _MOST_PX)) // 2, (n - min(n, _MOST_PX)) // 2 + min(n, _MOST_PX)) for n in shape)


def _outline(labels: NDArray[Any], colour: str) -> NDArray[np.uint8]:
    """Return the inner contours of labels in a colour on nothing, shape (Y, X, 4)."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    inner = (ndi.minimum_filter(labels, 3) != labels) & (labels > 0)
    return np.where(inner[..., None], np.array([*rgb, 255], np.uint8), np.uint8(0))


def _fields(run: RunFolder, report: Report, chosen: Sequence[ReferenceRecord]) -> list[str]:
    """Return the held-out field with the most nuclei at every level, with the network's contours."""
    protocol = run.read_protocol()
    found = {row.name for row in network_rows(report) if row.measured}
    if not chosen or not report.levels:
        return []
    plate, site = run.plate(protocol, run.read_profile()), chosen[0]
    figures, read = [], _reader(run, plate)
    for number, level in enumerate(protocol.light_levels):
        image = read(site, level.name)
        name = f"network_{report.model}_{number}" if level.name in found else "reference"
        labels = plate.read_labels(site.well, site.site, name, site.t, site.z)
        masks = "" if level.name in found or not found else ", by the reference masks"
        caption = f"{level.name}: {len(np.unique(labels)) - 1} nuclei{masks}"
        png = iio.imwrite("<bytes>", _contoured(image, labels), extension=".png")
        figures.append(f"<figure>{_image(png, caption)}<figcaption>{escape(caption)}</figcaption></figure>")
    whose = "the network" if report.model else "the reference segmentation at full light"
    return [
        f"<h2>The same field at every light: {escape(site.name)}</h2><div class=fields>{''.join(figures)}</div>"
        f'<p class="small">Contours of {whose}; each image with its own contrast.</p>'
    ]


def _contoured(image: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the middle of an image, each light with its own contrast, with thin contours."""
    piece = _middle(image.shape)
    grey, mine = stretched(image, 0.5, 99.8)[piece], labels[piece]
    picture = np.repeat(grey[..., None], 3, axis=2)
    inner = (ndi.minimum_filter(mine, 3) != mine) & (mine > 0)
    picture[inner] = (255, 176, 0)
    return picture


def _ground_truth(run: RunFolder, report: Report) -> list[str]:
    """Return what is known of the masks that the network learned from, and the sites that were refused."""
    truth = report.ground_truth
    if truth is None:
        return []
    flags = ", ".join(f"{count:,} {name}" for name, count in truth.flagged.items())
    facts = (
        f"{truth.sites:,} sites with {truth.nuclei:,} nuclei; {len(truth.refused)} sites refused by the quality gate. Nuclei flagged: {flags}. "
        f"As bright as nuclei, but without a label: {truth.unlabelled:,}."
    )
    row = next((row for row in network_rows(report) if "reference" in row.against), None)
    if row is not None:
        other = row.against["reference"]
        off = _number(other.count_deviation_percent.value, "+.2f")
        where = "at full light" if is_stained(report, row) else f"at {row.name}"
        facts += f" The network {where} counts {off} % against these masks on the held-out wells, with an F1 of {_number(other.f1_at_0_5.value, '.3f')}."
    parts = [f"<h2>Ground truth</h2><p>{escape(facts)}</p>"]
    if truth.refused:
        shown = truth.refused[:_THUMBNAILS]
        records = {record.name: record for record in run.references().values()}
        thumbs = [
            _thumbnail(run, records[site.name], "; ".join(site.reasons)) for site in shown if site.name in records
        ]
        more = f" The first {len(shown)} of {len(truth.refused)}." if len(truth.refused) > len(shown) else ""
        parts.append(
            f'<div class="fields thumbs">{"".join(thumbs)}</div><p class="small">Refused sites at full light, and why.{more}</p>'
        )
    return parts


def _thumbnail(run: RunFolder, site: ReferenceRecord, reasons: str) -> str:
    protocol = run.read_protocol()
    plate = run.plate(protocol, run.read_profile())
    image = _reader(run, plate)(site, protocol.reference.name)
    step = max(1, -(-max(image.shape) // _THUMBNAIL_PX))
    png = iio.imwrite("<bytes>", stretched(image, 0.5, 99.8)[::step, ::step], extension=".png")
    caption = f"{site.name}: {reasons}"
    return f"<figure>{_image(png, caption)}<figcaption>{escape(caption)}</figcaption></figure>"


def _stability(report: Report) -> str:
    """Return whether signal follows light."""
    stable = report.stability
    if stable is None:
        return ""
    lines = [
        _line([escape(name), _cell(figure, "+.2f")], "td") for name, figure in stable.signal_per_dose_percent.items()
    ]
    lines.append(_line(["from the first to the last site, full light", _cell(stable.drift_percent, "+.2f")], "td"))
    text = (
        "Signal of the same nuclei per dose, relative to the reference level, in order of exposure: what is exposed later has bleached, and a "
        "LED or shutter that gives other light than asked for shows here. Below: the drift of mean intensity over the run."
    )
    head = _heads(("exposure", "signal per dose, %"))
    return f'<h2>Bleaching and drift</h2><table>{head}{"".join(lines)}</table><p class="small">{escape(text)}</p>'


def _network_tables(run: RunFolder, report: Report) -> pd.DataFrame | None:
    """Return what the network found on the sites that were judged."""
    if report.model is None or (tables := run.nuclei.read_sites(report.model)) is None:
        return None
    judged = [key for key in HeldOutSites(run).frames if key[0] in report.held_out_wells]
    sites = pd.MultiIndex.from_tuples(judged, names=["well", "site", "t"])
    return tables[pd.MultiIndex.from_frame(tables[["well", "site", "t"]]).isin(sites)]


def _quantity(value: float | None, factor: float, form: str, unit: str) -> str:
    return "none" if value is None else f"{factor * value:{form}} {unit}"


def _made(report: Report) -> str:
    card = report.model_card or {}
    facts = {
        "model": report.model or "none",
        "trained on": f"{len(card.get('training_wells', ()))} wells, {card.get('training_sites', 0)} sites, {card.get('steps', 0):,} steps",
        "training": _quantity(report.timing["training"], 1 / 60, ".1f", "min"),
        "prediction": _quantity(report.timing["prediction_per_frame"], 1000, ".0f", "ms a frame"),
        "computed in": card.get("predicted_in", "none"),
        "light on the sample": f"{rounded(report.dose['sample'] / 1000)} s at full power in the whole run",
        **{
            f"of it, {channel}": f"{rounded(dose / 1000)} s at the full power of its light source"
            for channel, dose in report.sample_dose_by_channel.items()
            if len(report.sample_dose_by_channel) > 1
        },
        **{f"calibration, {what}": told for what, told in report.calibrations.items()},
        "specimen": report.specimen or "on a microscope",
        "versions": ", ".join(f"{name} {number}" for name, number in report.versions.items()),
    }
    rows = "".join(_line((escape(name), escape(str(text))), "td") for name, text in facts.items())
    return f"<h2>How it was made</h2><table>{rows}</table>"
