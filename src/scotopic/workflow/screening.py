"""From a verdict to the next plate: a protocol at the light that a report recommends, with its model at work."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from scotopic.protocol import (
    ImagingProtocol,
    LightLevel,
    Plate,
    Problem,
    ProblemsError,
    TrainingSettings,
    read_model,
)
from scotopic.store.files import replace_text
from scotopic.workflow.reporting import read_report
from scotopic.workflow.segmentation import opened_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scotopic.report.schema import Purpose, Report
    from scotopic.store import RunFolder

_SENTINELS_EVERY = 20
"""Every how manieth site still gets full light: drift is noticed within a hundred sites, for 5 % of the bright light."""
_NOT_FOR_THE_NEXT_PLATE = (
    "held_out",
    "training",
    "validation",
    "labels",
    "plate_id",
    "light_budget_s",
    "exposure_order",
)


def protocol_from(
    run_path: Path,
    say: Callable[[str], None] = print,
    *,
    out: Path,
    purpose: str | None = None,
    model: Path | None = None,
) -> Path:
    """Write a protocol that images the next plate at the recommended light, segmented as it is taken.

    Wells, sites, focus and channel are those of the run; the setting is the report's, by the measured LED curve and lag. Every
    20th site is a sentinel and gets full light too.

    Parameters
    ----------
    out : Path
        Protocol file to write.
    purpose : str, optional
        Purpose whose light is taken; the protocol's own without it.
    model : Path, optional
        Model file, if it is no longer in the run.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ProblemsError
        If the file is there already, the run has no report, the report recommends no light, or the model is not there.
    """
    if out.exists():
        raise ProblemsError([Problem("is there already; choose another file with --out", str(out))])
    if not out.parent.is_dir():
        raise ProblemsError([Problem("its folder does not exist", str(out))])
    run, report = opened_run(run_path), read_report(run_path)
    best = _recommended(report, purpose, run_path)
    model_path = _model_of(run, report, model)
    protocol = run.read_protocol()
    level = LightLevel(name=str(best.level), exposure_ms=best.exposure_ms or 0, led_percent=best.led_percent or 0)
    values = {
        key: value
        for key, value in _as_given(run, protocol).items()
        if key not in {*_NOT_FOR_THE_NEXT_PLATE, "name", "description", "light_levels", "live"}
    }
    reference = protocol.reference
    levels = [
        {"name": reference.name, "exposure_ms": reference.exposure_ms, "led_percent": reference.led_percent}
        | {"role": "reference", "taken": "at_sentinels"},
        {"name": level.name, "exposure_ms": level.exposure_ms, "led_percent": level.led_percent},
    ]
    if (least_f1 := protocol.training.least_f1) != TrainingSettings().least_f1:
        values["training"] = {"least_f1": least_f1}
    live = {"model": model_path.absolute().as_posix(), "sentinels": {"every": _SENTINELS_EVERY}}
    head = {
        "name": f"{protocol.name} at {level.name}"[:100],
        "description": f"At the light that {run.path.name} recommends.",
    }
    replace_text(out, _text(head | values | {"light_levels": levels, "live": live}, report, best, run))
    try:
        read_model(out, ImagingProtocol)
    except ProblemsError:
        out.unlink()
        raise
    saved = f", {best.light_saving_factor:.0f} times less light than full light" if best.light_saving_factor else ""
    say(f"wrote {out}: {level.exposure_ms:g} ms at {level.led_percent:g} % LED{saved}")
    say(f"then: scotopic check {out} --microscope PROFILE")
    return out


def _recommended(report: Report, purpose: str | None, run_path: Path) -> Purpose:
    from scotopic.report.verdict import purpose_words

    if report.recommendation is None:
        raise ProblemsError(
            [Problem("its report judges no light: it has no model, or no held-out wells", str(run_path))]
        )
    known = report.recommendation.purposes
    name = purpose or report.recommendation.purpose
    if name not in known:
        raise ProblemsError([Problem(f"= {name!r}; allowed: {', '.join(known)}", key="--purpose")])
    if known[name].level is None:
        others = [other for other, each in known.items() if each.level is not None]
        hint = f" There is a light for --purpose {' or '.join(others)}." if others else ""
        raise ProblemsError(
            [Problem(f"recommends no light for {name}. {purpose_words(known[name])}{hint}", str(run_path))]
        )
    return known[name]


def _model_of(run: RunFolder, report: Report, model: Path | None) -> Path:
    """Return the file of the model that was judged."""
    from scotopic.learning.model import model_hash

    path = model or run.models_path / f"{report.model}.safetensors"
    if not path.is_file():
        raise ProblemsError(
            [Problem("the model that was judged does not exist there; name its file", str(path), key="--model")]
        )
    if model_hash(path) != report.model:
        told = f"is the model {model_hash(path)}; the report judges {report.model}"
        raise ProblemsError([Problem(told, str(path), key="--model")])
    return path


def _as_given(run: RunFolder, protocol: ImagingProtocol) -> dict[str, Any]:
    """Return the protocol's values; the plate by its name, where that is the plate's own."""
    import yaml

    values = protocol.model_dump(mode="json", exclude_defaults=True)
    path = run.copy("protocol.yaml")
    given = yaml.safe_load(path.read_text(encoding="utf-8-sig")).get("plate") if path.is_file() else None
    if isinstance(given, str) and not given.endswith(".json") and Plate.model_validate(given) == protocol.plate:
        values = {"plate": given} | {key: value for key, value in values.items() if key != "plate"}
    return values


def _text(values: dict[str, Any], report: Report, best: Purpose, run: RunFolder) -> str:
    """Return the file, with comments that say where the light comes from."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    mapping = CommentedMap(values)
    mapping.yaml_set_start_comment(
        f"Written by `scotopic protocol from {run.path}`. The light is what its report recommends; the model is {report.model}.\n"
        "Check wells and sites, then: scotopic check THIS_FILE --microscope PROFILE"
    )
    dose = f"{100 * (best.relative_dose or 0):.3g} % of full light as measured"
    mapping.yaml_set_comment_before_after_key("light_levels", before=f"{best.level}: {dose}.")
    mapping.yaml_set_comment_before_after_key(
        "live",
        before=f"Every {_SENTINELS_EVERY}th site gets full light too, to notice when the network no longer finds what is there.",
    )
    yaml, stream = YAML(), io.StringIO()
    yaml.width = 120
    yaml.dump(mapping, stream)
    return stream.getvalue()
