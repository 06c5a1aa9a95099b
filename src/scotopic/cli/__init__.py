"""Commands: parse, call one function, print; nothing else. Heavy imports stay inside the functions."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scotopic import __version__
from scotopic.cli import overnight
from scotopic.cli.common import counted, fail, let_ending_signals_interrupt, told_in_one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scotopic.microscope import CheckReport

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A microscope controller that teaches itself to find nuclei in the dark.",
)
_protocol_app = typer.Typer(no_args_is_help=True, help="What to image: help with protocol files.")
_profile_app = typer.Typer(no_args_is_help=True, help="With what: help with microscope profiles.")
app.add_typer(_protocol_app, name="protocol")
app.add_typer(_profile_app, name="profile")
_model_app = typer.Typer(no_args_is_help=True, help="Model files: what they say, and their export.")
app.add_typer(_model_app, name="model")
_calibrate_app = typer.Typer(
    no_args_is_help=True, help="Measure the microscope, and write what was found into its profile."
)
app.add_typer(_calibrate_app, name="calibrate")
app.add_typer(overnight.queue_app, name="queue")
app.add_typer(overnight.service_app, name="service")
app.command("notify")(overnight.notify)
app.command("monitor")(overnight.monitor)

ProtocolFile = Annotated[Path, typer.Argument(metavar="PROTOCOL", help="Protocol file (YAML).")]
ProfileFile = Annotated[Path, typer.Option("--microscope", "-m", help="Microscope profile (YAML).")]


def _path(text: str) -> Path:
    """Return a path, here or in an object store."""
    from scotopic.protocol import ProblemsError
    from scotopic.store.files import path_of

    try:
        return path_of(text)
    except ProblemsError as error:
        fail(error.problems)


StoredRun = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run folder, here or in an object store (s3://...).", parser=_path)
]
RunOption = Annotated[Path, typer.Option("--out", help="Run folder to write, or to go on with.")]
Specimen = Annotated[Path | None, typer.Option(help="Folder of bright images to put under a simulated microscope.")]


class _Unbreakable:
    """A stream that ends nothing when whoever read it has gone: a closed terminal or pipe must not stop a run."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            self._to_nowhere()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._to_nowhere()

    def _to_nowhere(self) -> None:
        """Send what is still in the buffer, and all that follows, to nowhere: Python would complain at its end."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"scotopic {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the console's code page lacks must not stop a run
            setattr(sys, name, _Unbreakable(stream))
    if "SCOTOPIC_ENDS_WITH_STDIN" in os.environ:  # `scotopic run` has begun this process
        from scotopic.workflow.command import end_with_the_process_that_began_this_one

        end_with_the_process_that_began_this_one()


@_protocol_app.command("schema")
def protocol_schema() -> None:
    """Print the JSON schema of protocol files, for editors."""
    from scotopic.protocol import ImagingProtocol

    typer.echo(json.dumps(ImagingProtocol.model_json_schema(), indent=2))


@_protocol_app.command("from")
def protocol_from(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder with a report.")],
    out: Annotated[Path, typer.Option(help="Protocol to write.")],
    purpose: Annotated[
        str | None, typer.Option(help="Purpose whose light is taken. [default: that of the run's protocol]")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Model file, if it is no longer in the run.")] = None,
) -> None:
    """Write a protocol for the next plate, at the light that a run's report recommends."""
    from scotopic import workflow

    with told_in_one_line():
        workflow.protocol_from(run_folder, typer.echo, out=out, purpose=purpose, model=model)


@_profile_app.command("schema")
def profile_schema() -> None:
    """Print the JSON schema of microscope profiles, for editors."""
    from scotopic.protocol import MicroscopeProfile

    typer.echo(json.dumps(MicroscopeProfile.model_json_schema(), indent=2))


@_profile_app.command("new")
def profile_new(
    config: Annotated[Path, typer.Argument(metavar="CFG", help="Working Micro-Manager configuration (.cfg).")],
    out: Annotated[Path | None, typer.Option(help="Profile to write; beside the configuration without it.")] = None,
    name: Annotated[str, typer.Option(help="Name of the microscope.")] = "",
) -> None:
    """Write a first profile of a microscope, with comments, from what its hardware says of itself.

    Loads the hardware as Micro-Manager does: stages may home, the configuration's startup preset is applied. scotopic itself switches no light on.
    """
    from scotopic import workflow

    with told_in_one_line():
        workflow.new_profile(config, typer.echo, out=out, name=name)


Channel = Annotated[str | None, typer.Option(help="Channel; the profile's first one without it.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not wait for what the user is to do: it is done.")]


def _ask(yes: bool) -> Callable[[str], None]:
    """Return what tells the user to do something, and waits until it is done."""

    def ask(told: str) -> None:
        typer.echo(told)
        if not yes and not typer.confirm("Done, and go on?", default=True):
            raise typer.Abort

    return ask


@_calibrate_app.command("camera")
def calibrate_camera(
    microscope: ProfileFile,
    channel: Channel = None,
    led_percent: Annotated[float, typer.Option(min=0.01, max=100, help="Power of the light.")] = 100,
    yes: Yes = False,
) -> None:
    """Measure offset, gain, read noise, dark current, linearity, saturation and hot pixels, on an even fluorescent slide."""
    from scotopic import workflow

    with told_in_one_line():
        let_ending_signals_interrupt()
        workflow.calibrate_camera(microscope, typer.echo, _ask(yes), channel=channel, led_percent=led_percent)


@_calibrate_app.command("light")
def calibrate_light(microscope: ProfileFile, channel: Channel = None, yes: Yes = False) -> None:
    """Measure the light against power and exposure, on an even fluorescent slide: doses are the measured ones from then on."""
    from scotopic import workflow

    with told_in_one_line():
        let_ending_signals_interrupt()
        workflow.calibrate_light(microscope, typer.echo, _ask(yes), channel=channel)


@_calibrate_app.command("plate")
def calibrate_plate(
    microscope: ProfileFile,
    plate: Annotated[str, typer.Option(help="Plate format, for example 384-well.")] = "96-well",
    well: Annotated[
        list[str] | None, typer.Option(help="Well to find (three or more); three corners without it.")
    ] = None,
    verify: Annotated[str | None, typer.Option(help="Well to verify on; the last one without it.")] = None,
    at: Annotated[
        list[str] | None, typer.Option(help="Centre that is known already: WELL=X,Y in um on the stage.")
    ] = None,
    edges: Annotated[
        bool, typer.Option("--edges", help="Three points of the edge of each well, instead of its centre.")
    ] = False,
    focus: Annotated[bool, typer.Option("--focus", help="Measure the focus in these wells too.")] = False,
    yes: Yes = False,
) -> None:
    """Find where a plate lies on the stage, from three wells and a fourth to verify, and the plane of its focus."""
    from scotopic import workflow
    from scotopic.protocol import Problem

    known = {}
    for text in at or ():
        name, _, place = text.partition("=")
        try:
            x, y = map(float, place.split(","))
        except ValueError:
            fail([Problem(f"= {text!r}: allowed: WELL=X,Y, for example A1=12000,8500", key="--at")])
        known[name.strip().upper()] = (x, y)

    def ask(told: str) -> str:
        if yes:
            typer.echo(told)
            return ""
        answer: str = typer.prompt(f"{told}. Enter goes on", default="", show_default=False)
        return answer

    with told_in_one_line():
        let_ending_signals_interrupt()
        workflow.calibrate_plate(
            microscope,
            typer.echo,
            ask,
            plate=plate,
            wells=well or (),
            verify=verify,
            given=known,
            edges=edges,
            focus=focus,
        )


@_calibrate_app.command("illumination")
def calibrate_illumination(
    microscope: ProfileFile,
    channel: Channel = None,
    run_folder: Annotated[
        Path | None, typer.Option("--run", help="Run whose nuclei are taken, instead of a slide.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Measure how even the light is over the field, on an even fluorescent slide or from the images of a plate."""
    from scotopic import workflow

    with told_in_one_line():
        let_ending_signals_interrupt()
        workflow.calibrate_illumination(microscope, typer.echo, _ask(yes), channel=channel, run_path=run_folder)


ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="Model file (.safetensors).")]


@_model_app.command("show")
def model_show(model: ModelFile) -> None:
    """Print what a model says of itself: what it learned from, for which images it is, how good it was."""
    from scotopic import workflow

    with told_in_one_line():
        for name, text in workflow.model_facts(model):
            typer.echo(f"{name:<15} {text}")


@_model_app.command("export")
def model_export(
    model: ModelFile,
    onnx: Annotated[Path | None, typer.Option(help="ONNX file to write.")] = None,
    bioimageio: Annotated[
        Path | None, typer.Option(help="Package (.zip) of the BioImage Model Zoo to write, for one light level.")
    ] = None,
    light: Annotated[str | None, typer.Option(help="Light level of the package, for example 0.2%.")] = None,
    image: Annotated[
        Path | None,
        typer.Option(help="Bright image to compare onnxruntime with torch on, and for the package's example."),
    ] = None,
) -> None:
    """Write a model for other programs: its network as ONNX, if onnxruntime finds the same nuclei with it, or a package of the model zoo."""
    from scotopic import workflow
    from scotopic.protocol import Problem

    if onnx is None and bioimageio is None:
        fail([Problem("one of the two must be given, or both", key="--onnx or --bioimageio")])
    with told_in_one_line():
        if onnx is not None:
            workflow.export_model(model, onnx, image)
            typer.echo(f"onnxruntime finds the same nuclei; wrote {onnx}")
        if bioimageio is not None:
            workflow.export_package(model, bioimageio, light, image)
            typer.echo(f"wrote {bioimageio}")


@app.command()
def check(
    protocol: ProtocolFile,
    microscope: ProfileFile,
    out: Annotated[Path, typer.Option(help="Where the run would be written, for the free disk space.")] = Path(),
    connect: Annotated[
        bool, typer.Option(help="Also load the hardware and compare (no light, no stage move; filters are set).")
    ] = False,
    specimen: Specimen = None,
) -> None:
    """Check a protocol against a microscope before anything moves. Exit code 0 or 2."""
    from scotopic import workflow
    from scotopic.protocol import ProblemsError

    try:
        report = workflow.check(protocol, microscope, connect=connect, specimen=specimen, out=out)
    except ProblemsError as error:
        fail(error.problems)
    _print_report(report)
    if report.problems:
        fail(report.problems)
    typer.echo(
        "Check passed." + (" Hardware compared." if connect else " From the files alone; --connect asks the hardware.")
    )


@app.command()
def snap(
    well: Annotated[str, typer.Argument(metavar="WELL", help="Well, for example B2.")],
    microscope: ProfileFile,
    protocol: Annotated[
        Path | None, typer.Option("--protocol", "-p", help="Protocol with plate, sites and light levels.")
    ] = None,
    site: Annotated[int, typer.Option(help="Number of the site in the well.")] = 0,
    level: Annotated[str | None, typer.Option(help="Light level; all of them without it.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("snap"),
    specimen: Specimen = None,
) -> None:
    """Take one look before a whole run: image, histogram, saturation, focus, signal and dose of one site."""
    from scotopic import workflow

    with told_in_one_line():
        let_ending_signals_interrupt()
        workflow.snap(
            microscope, out, typer.echo, well=well, site=site, level=level, protocol_path=protocol, specimen=specimen
        )


@app.command()
def acquire(
    protocol: ProtocolFile,
    microscope: ProfileFile,
    out: RunOption,
    specimen: Specimen = None,
    model: Annotated[
        Path | None, typer.Option(help="Model file, for a protocol with `live`; the run's latest without it.")
    ] = None,
    view: Annotated[
        bool, typer.Option("--view", help="Show the newest image in a window (`scotopic watch RUN`).")
    ] = False,
) -> None:
    """Acquire a plate into a run folder, or go on where it stopped: the same command continues.

    The first Ctrl-C finishes the site, the second stops before the next exposure; the light is off either way.
    """
    from scotopic import workflow
    from scotopic.display import progress_display

    with told_in_one_line():
        with progress_display(partial(workflow.stage_lines, out, to_the_report=False)) as show:
            result = workflow.acquire(
                protocol, microscope, out, typer.echo, specimen=specimen, model=model, view=view, on_progress=show
            )
    raise typer.Exit(workflow.exit_code(result.end_reason))


@app.command()
def run(protocol: ProtocolFile, microscope: ProfileFile, out: RunOption, specimen: Specimen = None) -> None:
    """Do the whole job: acquire, train, validate, report. The same command goes on after a kill, at any stage.

    Exit code 0: the report is whole; 1: something was skipped or is missing, and is said.
    """
    from scotopic import workflow
    from scotopic.display import progress_display

    with told_in_one_line():
        with progress_display(partial(workflow.stage_lines, out, to_the_report=True)) as show:
            code = workflow.run(protocol, microscope, out, typer.echo, specimen, show)
    raise typer.Exit(code)


@app.command()
def verify(run_folder: StoredRun) -> None:
    """Read a run again, every pixel, and compare it with its ledger. Exit code 0 or 1."""
    from scotopic import workflow

    with told_in_one_line():
        problems = workflow.verify(run_folder)
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    typer.echo("The run is sound and complete." if not problems else counted(problems), err=bool(problems))
    raise typer.Exit(1 if problems else 0)


@app.command()
def segment(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGES...", help="Images, folders of images, or runs (also s3://...).", parser=_path),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for labels, overlays and the table; a run takes its masks itself.")
    ] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="By standard image analysis, of bright images.")
    ] = False,
    microscope: Annotated[
        Path | None, typer.Option("--microscope", "-m", help="Profile, for micrometres and photo-electrons.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Model file: by a network, also of dark images.")] = None,
    light: Annotated[str | None, typer.Option(help="Light level of the images, for example 0.2% (--model).")] = None,
    dose: Annotated[float | None, typer.Option(help="Or their light relative to full light (--model).")] = None,
    rescale: Annotated[
        bool, typer.Option("--rescale", help="Rescale images of other pixels than the model's (--model).")
    ] = False,
    workers: Annotated[int, typer.Option(min=-1, help="Processes; -1: one a core.")] = -1,
    again: Annotated[bool, typer.Option("--again", help="Also where a run has masks already.")] = False,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Begin while the run is acquired, and go on until it is complete (--reference)."),
    ] = False,
    dask: Annotated[
        str | None,
        typer.Option(
            help="Share the wells of runs out to a Dask cluster: address of its scheduler, or local (--reference)."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace labels and tables in --out, whoever made them.")
    ] = False,
) -> None:
    """Find and measure nuclei, by standard image analysis (--reference) or by a network (--model).

    With --reference and without --out the masks and the tables of a run are written into it, and sites that have masks are left alone.
    """
    from scotopic import workflow
    from scotopic.protocol import Problem

    if reference == (model is not None):
        fail(
            [Problem("one of the two must be given: bright images, or a network's file", key="--reference or --model")]
        )
    if model is not None and out is None:
        fail([Problem("must be given with --model: the folder for labels, overlays and table", key="--out")])
    for key, given in (("--follow", follow), ("--dask", dask is not None)):
        if given and out is not None:
            fail([Problem("is for masks that runs take themselves: --reference, without --out", key=key)])
    if workers == 0:
        fail([Problem("= 0; allowed: 1 or more, or -1 for one a core", key="--workers")])
    with told_in_one_line():
        if model is not None and out is not None:
            segmented = workflow.segment_with_model(
                images,
                out,
                typer.echo,
                model_path=model,
                light=light,
                dose=dose,
                profile_path=microscope,
                rescale=rescale,
                overwrite=overwrite,
            )
        elif out is None:
            for run_folder in images:
                if follow:
                    workflow.follow_run(run_folder, workers=workers)
                workflow.segment_run(run_folder, typer.echo, workers=workers, again=again, dask=dask)
            return
        else:
            segmented = workflow.segment(
                images, out, typer.echo, profile_path=microscope, workers=workers, overwrite=overwrite
            )
    for problem in segmented.left_out:
        typer.echo(f"error: {problem}; left out", err=True)
    typer.echo(f"{segmented.nuclei:,} nuclei; wrote {out}")
    raise typer.Exit(1 if segmented.left_out else 0)


@app.command("import")
def import_(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="Folder of images; or an image for each --level, in their order."),
    ],
    out: RunOption,
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            help="Names of the images, for example '{well}_s{site}_{level}.tif' (also {row} {column} {t} {z} {field} {*})."
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Names of a common software, such as scanr, imagexpress, micro-manager, harmony.")
    ] = None,
    listing: Annotated[
        Path | None, typer.Option("--list", help="CSV that lists file, well, site, level, exposure_ms, led_percent.")
    ] = None,
    level: Annotated[
        list[str] | None,
        typer.Option(help="A light level by its name among the images: NAME=EXPOSURE_MS,LED_PERCENT[,CHANNEL]."),
    ] = None,
    protocol: Annotated[
        Path | None, typer.Option("--protocol", "-p", help="Protocol that was imaged, instead of levels and plate.")
    ] = None,
    microscope: Annotated[
        Path | None, typer.Option("--microscope", "-m", help="Profile of the microscope that took them.")
    ] = None,
    plate: Annotated[str | None, typer.Option(help="Plate format, for example 384-well.")] = None,
    channel: Annotated[str, typer.Option(help="Name of the channel.")] = "DAPI",
    transmitted: Annotated[
        list[str] | None, typer.Option(help="Channel in transmitted light (brightfield), without --microscope.")
    ] = None,
    held_out: Annotated[
        int | None, typer.Option(min=0, help="Number of wells that are never trained on; without it, one in 16.")
    ] = None,
    pixel_size_um: Annotated[
        float | None, typer.Option(min=0.001, help="Size of a pixel on the sample, without --microscope.")
    ] = None,
) -> None:
    """Make a run of bright and dark images that other software took, to train on and to judge."""
    from scotopic import workflow
    from scotopic.workflow.importing import ImageSource, parsed_level, patterns_of

    with told_in_one_line():
        source = ImageSource(
            tuple(sources),
            (*(pattern or ()), *(patterns_of(preset) if preset else ())),
            listing,
            {each.name: each for each in map(parsed_level, level or ())},
        )
        imported = workflow.import_images(
            source,
            out,
            typer.echo,
            protocol_path=protocol,
            profile_path=microscope,
            plate=plate,
            channel=channel,
            held_out=held_out,
            pixel_size_um=pixel_size_um,
            transmitted=transmitted or (),
        )
    raise typer.Exit(1 if imported.left_out else 0)


@app.command()
def export(
    run_folder: StoredRun,
    out: Annotated[
        Path | None, typer.Option(help="Empty folder for tables, masks, and what CellProfiler and QuPath import.")
    ] = None,
    source: Annotated[
        str, typer.Option(help="Whose nuclei: reference, live, or the hash of a model that was validated.")
    ] = "reference",
    images: Annotated[bool, typer.Option("--images", help="The images as TIFF too.")] = False,
    into_plate: Annotated[
        bool, typer.Option("--into-plate", help="Tables into the plate, as ngio and Fractal read them.")
    ] = False,
) -> None:
    """Write masks and tables of a run for other programs: CSV, Parquet, TIFF, CellProfiler, QuPath, ngio."""
    from scotopic import workflow
    from scotopic.protocol import Problem

    if out is None and not into_plate:
        fail([Problem("one of the two must be given, or both", key="--out or --into-plate")])
    with told_in_one_line():
        if out is not None:
            workflow.export_run(run_folder, out, typer.echo, source=source, images=images)
        if into_plate:
            workflow.tables_into_plate(run_folder, typer.echo, source=source)


@app.command()
def train(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Budget instead of the protocol's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Budget in steps instead: repeatable.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of weights and crops, instead of the protocol's.")
    ] = None,
    input_level: Annotated[
        list[str] | None,
        typer.Option(help="Light level to learn to look at (may be given several times), instead of the protocol's."),
    ] = None,
    also: Annotated[
        list[Path] | None, typer.Option(help="Another run to learn from too (may be given several times).")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Begin while the run is still acquired, and learn from what comes.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write event files into the run's models/tensorboard.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Train another model although there is one.")] = False,
) -> None:
    """Train the network on a run; the same command goes on after a kill."""
    from scotopic import workflow
    from scotopic.protocol import Problem

    if minutes is not None and steps is not None:
        fail([Problem("only one of the two can be the budget", key="--minutes and --steps")])
    with told_in_one_line():
        let_ending_signals_interrupt()
        has_learned = workflow.train(
            run_folder,
            typer.echo,
            minutes=minutes,
            steps=steps,
            seed=seed,
            input_levels=input_level or (),
            also=also or (),
            follow=follow,
            tensorboard=tensorboard,
            again=again,
        )
    raise typer.Exit(0 if has_learned else 1)


@app.command()
def validate(
    run_folder: StoredRun,
    model: Annotated[Path | None, typer.Option(help="Model file; the run's latest without it.")] = None,
) -> None:
    """Judge a model on the held-out wells: report.json and report.html. Exit code 1 if something is missing."""
    from scotopic import workflow

    with told_in_one_line():
        report = workflow.validate(run_folder, typer.echo, model=model)
    raise typer.Exit(0 if report.is_whole else 1)


@app.command()
def report(
    run_folder: StoredRun,
    figures: Annotated[Path | None, typer.Option(help="Folder for each plot as PDF and PNG, for papers.")] = None,
) -> None:
    """Draw report.html anew, from report.json and the images of the run."""
    from scotopic import workflow

    with told_in_one_line():
        workflow.report(run_folder, typer.echo, figures=figures)


@app.command()
def compare(
    run_folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders with a report.")],
) -> None:
    """Put the reports of several runs side by side."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from scotopic import workflow
    from scotopic.workflow.reporting import COLUMNS

    with told_in_one_line():
        lines = workflow.compare(run_folders)
        table = Table(*COLUMNS, box=None, padding=(0, 2, 0, 0))
        for line in lines:
            table.add_row(*map(escape, line))
        Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


@app.command()
def ask(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    request: Annotated[str, typer.Argument(help="pause, resume, finish (after the site) or cancel.")],
) -> None:
    """Ask a running acquisition to pause between two sites, to resume, to finish after the site, or to cancel."""
    from scotopic import workflow
    from scotopic.protocol import Problem
    from scotopic.store.run_folder import REQUESTS

    known = next((each for each in REQUESTS if each == request), None)
    if known is None:
        fail([Problem(f"= {request!r}; allowed: {', '.join(REQUESTS)}", key="request")])
    with told_in_one_line():
        workflow.ask(run_folder, known)
    typer.echo(f"Asked to {request}; status/acquire.json says what became of it.")


@app.command()
def watch(run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]) -> None:
    """Show the newest image of a run in a window, with contours where nuclei were found live. It only reads."""
    from scotopic import workflow

    with told_in_one_line():
        workflow.watch(run_folder)


@app.command()
def view(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, finished or not.")],
    site: Annotated[str | None, typer.Option(help="Site to show, for example B2_0; the first one without it.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the plate; any free one for 0.")] = 0,
) -> None:
    """Show images and masks of a run in the browser: serves the plate on this computer alone, and prints the addresses."""
    from scotopic import workflow

    with told_in_one_line():
        workflow.view(run_folder, typer.echo, site=site, port=port)


@app.command()
def retake(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    sites: Annotated[list[str], typer.Argument(metavar="SITE...", help="Well and number of a site, for example B2_0.")],
    time_point: Annotated[int, typer.Option(min=0, help="Time point of a time lapse.")] = 0,
) -> None:
    """Give up finished sites, for example damaged ones: the next acquisition into the run takes them anew."""
    from scotopic import workflow

    for site in sites:
        with told_in_one_line():
            workflow.retake(run_folder, site, time_point)
        typer.echo(f"{site} is given up; `scotopic acquire` or `run` with the same files takes it anew.")


@app.command()
def doctor(
    microscope: Annotated[Path | None, typer.Option("--microscope", "-m", help="Profile to look at.")] = None,
    run_folder: Annotated[Path | None, typer.Option("--run", help="Run to look at.")] = None,
) -> None:
    """Say what somebody who is to help must know: versions, computer, adapters, profile, last errors of a run. Nothing is moved or lit."""
    from scotopic import workflow

    with told_in_one_line():
        workflow.doctor(typer.echo, profile_path=microscope, run_path=run_folder)


@app.command()
def guard(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run that is acquired.")],
    microscope: ProfileFile,
    process: Annotated[
        int | None, typer.Option(min=1, help="Process that acquires; the one that the run's status names without it.")
    ] = None,
    hangs_s: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds without a heartbeat after which it is ended.")
    ] = 60,
) -> None:
    """Watch over an acquisition: if its process dies or hangs, switch the light off. Acquisitions on hardware begin one by themselves.

    Exit code 0 if the acquisition ended by itself, 1 if the light had to be switched off.
    """
    from scotopic import workflow

    with told_in_one_line():
        ended = workflow.guard(run_folder, microscope, typer.echo, process=process, hangs_s=hangs_s)
    raise typer.Exit(0 if ended else 1)


@app.command("light-off")
def light_off(
    microscope: ProfileFile,
    force: Annotated[bool, typer.Option("--force", help="Also while another process drives the microscope.")] = False,
) -> None:
    """Switch every light of a microscope off, and do nothing else."""
    from scotopic import workflow

    with told_in_one_line():
        workflow.light_off(microscope, force=force)
    typer.echo("The light is off.")


def _print_report(report: CheckReport) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # Not a terminal: wide enough for a log file, whatever the width of the last terminal was.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    tables: list[tuple[str, tuple[str, ...], Sequence[tuple[str, ...]]]] = [
        ("Devices", ("used for", "device or preset", "from"), report.devices),
        (
            "Light levels, in order of exposure",
            ("level", "exposure", "power", "signal dose", "sample dose"),
            report.levels,
        ),
        ("Run", ("", ""), report.facts),
    ]
    for title, columns, rows in tables:
        if not rows:
            continue
        table = Table(
            *columns, title=title, title_justify="left", show_header=any(columns), box=None, padding=(0, 2, 0, 0)
        )
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
        console.print()
    for warning in report.warnings:
        console.print(f"warning: {warning}", soft_wrap=True, markup=False)
