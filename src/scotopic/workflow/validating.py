"""Validation: from a run and its model to the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scotopic.workflow.run_log import run_log
from scotopic.workflow.segmentation import opened_run, segment_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scotopic.photons import CameraNoise
    from scotopic.report import Report
    from scotopic.store import RunFolder


def validate(run_path: Path, say: Callable[[str], None] = print, *, model: Path | None = None) -> Report:
    """Segment the held-out wells with a model at every light level, compare, and write `report.json` and `report.html`.

    Parameters
    ----------
    model : Path, optional
        Model file; the run's latest without it.

    Raises
    ------
    ProblemsError
        If there is no run, nothing of it is finished, or the model does not fit it.
    """
    run = opened_run(run_path)
    with run_log(say, run.path) as log:
        return _validate(run, log.say, model)


def _validate(run: RunFolder, say: Callable[[str], None], model: Path | None) -> Report:
    from scotopic.report import validate as validate_run
    from scotopic.report import write_page
    from scotopic.store.files import replace_text
    from scotopic.store.seals import sealed_json

    segment_run(run.path, say)
    path = model or run.latest_model()
    protocol, profile = run.read_protocol(), run.read_profile()
    if path is not None:
        fits(path, profile.camera.pixel_size_um, *protocol.channels)
    setup = None
    if profile.simulator is not None:
        from scotopic.protocol.simulator_setup import SimulatorSetup

        setup = SimulatorSetup.of(profile, protocol)
    report = validate_run(run, path, setup, say)
    run.write_status("report", state="completed", model=report.model, missing=report.missing, is_whole=report.is_whole)
    replace_text(run.path / "report.json", sealed_json(report.model_dump(mode="json", by_alias=True)))
    write_page(run, report)
    from scotopic.report.verdict import judged_sites, verdict

    say(verdict(report, str(run.path)))
    if left_out := judged_sites(report):
        say(left_out)
    for text in report.missing:
        say(f"missing in the report: {text}")
    say(f"report: {run.path / 'report.html'}")
    return report


def fits(
    model_path: Path,
    pixel_size_um: float,
    *channels: str,
    rescale: bool = False,
    camera: CameraNoise | None = None,
    least_f1: float = 0,
) -> None:
    """Refuse a model that was trained on other pixels (unless they are to be rescaled), another channel, or a better camera, or has not learned.

    Raises
    ------
    ProblemsError
        If it does not fit.
    """
    from scotopic.learning.model import Model
    from scotopic.protocol import Problem, ProblemsError

    card = Model.load(model_path).card
    if why := card.misfit(pixel_size_um, *channels, rescale=rescale, camera=camera, least_f1=least_f1):
        raise ProblemsError([Problem(why, str(model_path))])
