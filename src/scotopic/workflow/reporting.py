"""Reports again: drawn anew, as figures for papers, and several side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from scotopic.protocol import Problem, ProblemsError
from scotopic.workflow.segmentation import opened_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from scotopic.report import Report


def report(run_path: Path, say: Callable[[str], None], *, figures: Path | None = None) -> None:
    """Draw `report.html` anew from `report.json` and what is in the run.

    Parameters
    ----------
    figures : Path, optional
        Folder for each plot as PDF and PNG.

    Raises
    ------
    ProblemsError
        If the run has no report, or one of another version.
    """
    from scotopic.report import write_page
    from scotopic.report.page import write_figures
    from scotopic.report.verdict import verdict

    run, found = opened_run(run_path), read_report(run_path)
    write_page(run, found)
    if figures is not None:
        for path in write_figures(run, found, figures):
            say(f"wrote {path}")
    say(verdict(found, str(run.path)))
    say(f"report: {run.path / 'report.html'}")


def read_report(run_path: Path) -> Report:
    """Return the report of a run.

    Raises
    ------
    ProblemsError
        If it has none, or one of another version.
    """
    from scotopic.report import Report
    from scotopic.report.schema import VERSION
    from scotopic.store.seals import damaged, read_json

    path = opened_run(run_path).path / "report.json"
    if not path.exists():
        raise ProblemsError([Problem("has no report yet: `scotopic validate` makes one", str(run_path))])
    try:
        values = read_json(path)
        if values.get("version") != VERSION:
            told = f"= {values.get('version')!r}; this version reads {VERSION}: validate the run again"
            raise ProblemsError([Problem(told, str(path), key="version")])
        return Report.model_validate(values)
    except ValidationError as error:
        raise ProblemsError([damaged(path, str(error).splitlines()[0])]) from error


COLUMNS = (
    "run",
    "model",
    "light",
    "nuclei",
    "count, %",
    "missed, %",
    "false, %",
    "G2, points",
    "area, %",
    "intensity, %",
    "F1",
    "judged",
)
"""Of `compare`; deviations are against the network of the same run at full light."""
_DEVIATIONS = (
    "count_deviation_percent",
    "miss_percent",
    "false_percent",
    "g2_deviation_points",
    "median_area_deviation_percent",
    "mean_intensity_deviation_percent",
)


def compare(run_paths: Sequence[Path]) -> list[tuple[str, ...]]:
    """Return the network's rows of several runs as lines of a table, headed by `COLUMNS`.

    Raises
    ------
    ProblemsError
        If one of them has no report.
    """
    from scotopic.report.figures import network_rows, partner_of

    lines = []
    for path in run_paths:
        found = read_report(path)
        judgements = found.recommendation.headline.judgements if found.recommendation else ()
        verdicts = {judgement.name: judgement.verdict for judgement in judgements}
        rows = network_rows(found)
        if not rows:
            lines.append((str(path), found.model or "none", *["–"] * (len(COLUMNS) - 2)))
        for row in rows:
            full, score = row.against.get("network_100"), row.against.get(partner_of(found))
            off = [getattr(full, name) if full else None for name in _DEVIATIONS]
            lines.append(
                (
                    str(path),
                    found.model or "none",
                    row.name + ("" if row.measured else " (thinned)"),
                    f"{row.nuclei_count:,}",
                    *(_cell(each.value if each else None, "+.2f") for each in off),
                    _cell(score.f1_at_0_5.value if score else None, ".3f"),
                    ("recommended" if row.name == found.recommended_level else verdicts.get(row.name, "")),
                )
            )
    return lines


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
