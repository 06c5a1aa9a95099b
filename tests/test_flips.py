"""One byte of a finished run is changed: `verify` names the file, who would use it refuses in a line, nothing is used without a word.

`benchmarks/flips.py` does the same to random bytes of all files, with all commands.
"""

from __future__ import annotations

import shutil
from functools import partial

import pytest
from typer.testing import CliRunner

from conftest import DATA, load_job, rewrite_json, without_seal
from scotopic.cli import app
from scotopic.microscope import prepare_run
from scotopic.overnight.monitor.run_view import RunView
from scotopic.protocol import ProblemsError
from scotopic.reference import make_references
from scotopic.report.schema import Report
from scotopic.store import RunFolder, verify
from scotopic.store.files import content_hash, replace_bytes, replace_text
from scotopic.store.seals import BLANK, read_json, sealed, sealed_json
from scotopic.workflow import export_run, segment_run
from scotopic.workflow import verify as verify_all
from scotopic.workflow.reporting import read_report
from scotopic.workflow.viewing import served


@pytest.fixture(scope="module")
def whole(segmented_plate, tmp_path_factory):
    """A run with a file of each kind."""
    run = RunFolder(shutil.copytree(segmented_plate, tmp_path_factory.mktemp("whole") / "run"))
    model = (DATA / "model.safetensors").read_bytes()
    replace_text(run.path / "run.log", "")
    run.models_path.mkdir()
    (run.models_path / f"{content_hash(model)}.safetensors").write_bytes(model)
    run.note_latest_model(f"{content_hash(model)}.safetensors", {"100%": 0.9})
    run.write_status("train", state="completed", learned=True)
    report = Report(
        protocol="quickstart", model=None, held_out_wells=("B3",), sites=2, planned_sites=2, levels=(), missing=(),
        timing={}, dose={"sample": 1}, versions={}, specimen=None,
    )  # fmt: skip
    replace_text(run.path / "report.json", sealed_json(report.model_dump(mode="json", by_alias=True)))
    replace_bytes(run.path / "report.html", sealed(f"<html>2 sites<!-- {BLANK} --></html>".encode()))
    assert verify_all(run.path) == []
    return run.path


@pytest.fixture
def run(whole, tmp_path):
    return RunFolder(shutil.copytree(whole, tmp_path / "run"))


def segment(run):
    return segment_run(run.path, lambda _: None, workers=1)


def segment_of_b2(run):
    next(make_references(run, workers=1, again=True))


def export(run):
    return export_run(run.path, run.path.parent / "out", lambda _: None)


def view(run):
    with served(run.path, "B2_0"):
        pass


def resume(run):
    job = load_job("quickstart", "simulated")
    prepare_run(job.protocol_path, job.profile_path, run.read_protocol(), run.read_profile(), run.path)


FIELD = "plate.ome.zarr/B/2/0"
FLIPS = {  # file: (where, as a share of it, what must refuse it, what it makes doubtful)
    "frames.jsonl": (0.5, segment, "which frames were taken, and with which light"),
    "visits.jsonl": (0.5, RunFolder.sample_dose_ms, "the light dose of the sample"),
    "light.jsonl": (0.5, segment, "whether the images got their light"),
    "nuclei/reference/sites.jsonl": (0.5, segment, "which sites are fit to learn from"),
    "nuclei/reference/B2_0.parquet": (0.1, segment, "the nuclei of this site"),
    "nuclei/reference.parquet": (0.9, None, "the table of all nuclei"),
    "nuclei/reference.csv": (0.5, None, "the table of all nuclei"),
    "job.json": (0.5, segment, "protocol and microscope of the run"),
    "protocol.yaml": (0.5, partial(RunFolder.copy, name="protocol.yaml"), "what it says"),
    "simulated.cfg": (0.5, resume, "what it says"),
    "status/train.json": (0.5, partial(RunFolder.read_status, part="train", strict=True), "what became of this stage"),
    "models/latest.json": (0.3, RunFolder.latest_model, "which model is the best"),
    "models/*.safetensors": (0.7, RunFolder.latest_model, "the weights of the network"),
    "report.json": (0.5, lambda run: read_report(run.path), "every figure of the report"),
    "report.html": (0.2, None, "every figure on this page"),
    f"{FIELD}/0/c/0/3/0/0/0": (0.5, segment_of_b2, "0.05% of B2_0, t 0, z 0"),
    f"{FIELD}/1/c/0/3/0/0/0": (0.5, None, "0.05% of B2_0, t 0, z 0"),
    f"{FIELD}/labels/reference/0/c/0/0/0/0": (0.5, export, "the reference masks of this site"),
    f"{FIELD}/labels/reference/1/c/0/0/0/0": (0.5, view, "the reference masks of this site"),
    f"{FIELD}/zarr.json": (0.5, None, "the layout of the images below it"),
    f"{FIELD}/0/zarr.json": (0.5, segment_of_b2, "the layout of the images below it"),
    f"{FIELD}/labels/reference/0/zarr.json": (0.5, export, "the reference masks of this site"),
    "plate.ome.zarr/zarr.json": (0.5, resume, "the layout of the images below it"),
    "plate.ome.zarr/B/2/zarr.json": (0.5, resume, "the layout of the images below it"),
}


@pytest.mark.parametrize("name", FLIPS)
def test_a_changed_byte_is_a_line_that_names_the_file_and_what_it_makes_doubtful(name, run):
    share, refuse, doubt = FLIPS[name]
    (path,) = run.path.glob(name)
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 1
    path.write_bytes(data)
    told = CliRunner().invoke(app, ["verify", str(run.path)])
    assert told.exit_code in {1, 2}, told.output
    assert isinstance(told.exception, SystemExit), "no traceback"
    place = FIELD if "/c/" in name else str(path.relative_to(run.path).as_posix())
    assert any(doubt in line for line in told.output.splitlines()), told.output
    assert place in told.output
    if refuse is not None:
        with pytest.raises(ProblemsError, match=doubt.replace("%", ".")) as refused:
            refuse(run)
        assert len(str(refused.value).splitlines()) == 1


def test_the_page_shows_the_rest_and_names_what_is_damaged(run):
    for name in ("light.jsonl", "frames.jsonl", "nuclei/reference/B3_1.parquet", "status/acquire.json"):
        data = bytearray((run.path / name).read_bytes())
        data[len(data) // 2] ^= 1
        (run.path / name).write_bytes(data)
    told = RunView(run.path).snapshot()
    assert told["state"] == "cannot be read"
    for name in ("frames.jsonl: has a damaged line", "B3_1.parquet: is damaged", "acquire.json: is damaged"):
        assert name in told["message"]
    assert told["sites"]["finished"] == 7


def test_damaged_metadata_of_masks_are_made_again_with_the_masks(run):
    masks = run.plate(run.read_protocol(), run.read_profile()).read_labels("B2", 0, "reference")
    for number in (0, 1):
        path = run.path / FIELD / f"labels/reference/{number}/zarr.json"
        path.write_bytes(path.read_bytes().replace(b"crc32c", b"crc32d"))
    plate = run.plate(run.read_protocol(), run.read_profile())
    with pytest.raises(ProblemsError):
        plate.read_labels("B2", 0, "reference")
    plate.write_labels("B2", 0, "reference", 0, 0, masks)
    assert (plate.read_labels("B2", 0, "reference") == masks).all()
    assert list(plate.damaged_labels("B2", 0)) == []


def test_a_run_of_an_earlier_version_is_read_as_before(run):
    """Without any seal: nothing is refused, and what cannot be read is told all the same."""
    for path in run.path.rglob("*.json"):
        values = without_seal(read_json(path))
        values.get("attributes", {}).pop("scotopic", None)
        values.pop("copies", None)
        rewrite_json(path, values)
    for path in run.path.rglob("*.jsonl"):
        text = path.read_text(encoding="utf-8")
        path.write_text("".join(f"{line[:-32]}}}\n" for line in text.splitlines()), encoding="utf-8")
    assert verify_all(run.path) == verify(run) == []
    assert segment(run) > 0
    rewrite_json(run.path / FIELD / "0/zarr.json", {"zarr_format": 3})
    assert any(problem.file.endswith("0/zarr.json") for problem in verify(run))
